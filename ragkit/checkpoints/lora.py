"""The layout of adapters, read as the model that they and their base are together.

Each weight is that of the base, W + scaling * B A, or one that was trained whole.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    get_peft_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ragkit.checkpoints import folders
from ragkit.checkpoints.adapters import PREFIX, Adapters, open_adapters, tower_folders
from ragkit.checkpoints.bases import Base, base_part, load_base, named_base, read_base
from ragkit.checkpoints.parts import Checkpoint, LeftOut, Part, Reading, some
from ragkit.checkpoints.weights import PRECISIONS, Weight, as_stored, cast, short
from ragkit.errors import ModelError

Changed = dict[str, Weight]


def found(path: Path) -> bool:
    """Return whether a folder has adapters, of one model or of two towers, and no whole model."""
    return bool(tower_folders(path)) and not folders.found(path)


def read(path: Path, reading: Reading) -> Checkpoint:
    """Read adapters and their base as one model.

    Raises:
        ModelError: no base, one that they do not fit, or what is no plain LoRA.
    """
    if reading.base is not None and reading.base.resolve() == path.resolve():
        raise ModelError(f"{path}: these are the adapters, and no base of their own (--base)")
    opened = {tower: open_adapters(folder) for tower, folder in tower_folders(path).items()}
    of = {tower: reading.base or named_base(one.folder) for tower, one in opened.items()}
    bases = {folder: read_base(folder, reading.trust) for folder in dict.fromkeys(of.values())}
    first = bases[next(iter(of.values()))]
    stored = [s for base in bases.values() for s in base.stored]
    left_out = [left for base in bases.values() for left in base.left_out]
    parts, made = {}, dict(first.made)
    for tower, adapters in opened.items():
        base = base_part(bases[of[tower]], tower)
        parts[tower], gone, separate = _merged(base, adapters)
        stored += adapters.held.tensors.values()
        left_out += gone
        made |= separate
    return replace(
        first, path=path, parts=parts, stored=tuple(stored),
        left_out=tuple(left_out), made=made,
    )  # fmt: skip


def load(path: Path, reading: Reading, device: str) -> dict[str, PreTrainedModel]:
    """Load the base of adapters with peft's own layers in it, not merged, in fp32.

    Raises:
        ModelError: peft has no place for some of the adapters.
    """
    models = {}
    for tower, folder in tower_folders(path).items():
        model = load_base(reading.base or named_base(folder), tower, device)
        models[tower] = _with_adapters(model, open_adapters(folder))
    return models


def transposed(module: nn.Module | None, config: Mapping[str, Any]) -> bool:
    """Return whether a module's weight is the transpose of what B A makes.

    module: None: of a class that is not transformers'
    """
    if module is None:
        return bool(config.get("fan_in_fan_out"))
    return isinstance(module, (Conv1D, nn.Embedding))


def _merged(base: Base, adapters: Adapters) -> tuple[Part, list[LeftOut], dict[str, str]]:
    """Return a model with its adapters in it, what was left out, and what was made."""
    changed: Changed = {}
    _check_places(base, adapters)
    for key, stored in adapters.whole.items():
        name = base.place(key)
        _check_shape(adapters, key, base, base.weight(name).shape, stored.shape)
        changed[name] = replace(as_stored(stored), how="trained whole, beside adapters")
    for module in adapters.factors:
        name = base.place(f"{module}.weight")
        changed[name] = _sum(base, adapters, module, changed.get(name) or base.weight(name))
    weights = {**base.part.weights, **changed}
    left_out = [
        LeftOut(source.file, source.key, "replaced by what was trained whole")
        for name in changed.keys() & base.part.weights.keys()
        for source in base.part.weights[name].sources
        if source not in weights[name].sources
    ]
    copies, separate = _ties(base, changed)
    for copy, first in copies.items():
        left_out += [LeftOut(s.file, s.key, f"tied to {first}") for s in weights.pop(copy).sources]
    for copy in separate:
        weights.setdefault(copy, base.weight(copy))
    config = _apart(base, separate) if separate else base.part.config
    files = {**base.part.files, **folders.companions(adapters.folder)}
    return (
        replace(base.part, weights=weights, config=config, files=files),
        left_out,
        {copy: f"apart from {first}, which it was tied to" for copy, first in separate.items()},
    )


def _sum(base: Base, adapters: Adapters, module: str, before: Weight) -> Weight:
    """Return a weight with what its adapters add, in the precision that it had.

    Raises:
        ModelError: another shape, or numbers that nothing can be added to.
    """
    pair, scaling = adapters.factors[module], adapters.scaling(module)
    a, b = pair["A"], pair["B"]
    turned = transposed(base.module(module)[1], adapters.config)
    shape = (a.shape[1], b.shape[0]) if turned else (b.shape[0], a.shape[1])
    _check_shape(adapters, module, base, before.shape, shape)
    if before.dtype not in (*PRECISIONS.values(), torch.float64):
        raise ModelError(
            f"{adapters.folder}: {module}: its base is quantised ({short(before.dtype)}): give the "
            "one in fp32, bf16 or fp16 that it was made of: --base MODEL"
        )

    def read() -> Tensor:
        change = b.read().float() @ a.read().float()
        change = change.T if turned else change
        return change.mul_(scaling).add_(before.read())

    how = f"merged with LoRA, rank {a.shape[0]}"
    exact = Weight(before.shape, torch.float32, (*before.sources, a, b), read, how)
    return cast(exact, before.dtype, module)


def _ties(base: Base, changed: Changed) -> tuple[dict[str, str], dict[str, str]]:
    """Return the copies that stay tied to weights that changed, and those that no longer are."""
    copies, separate = {}, {}
    for copy, first in base.ties.items():
        one, other = changed.get(base.place(copy)), changed.get(base.place(first))
        if one is None and other is None:
            continue
        if one is not None and other is not None and torch.equal(one.read(), other.read()):
            copies[base.place(copy)] = first
        else:
            separate[base.place(copy)] = first
    return copies, separate


def _apart(base: Base, separate: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration of a model in which weights are no longer tied.

    Raises:
        ModelError: its class ties them whatever its configuration says.
    """
    config = {**base.part.config, "tie_word_embeddings": False}
    tied = folders.tied(config)
    for copy, first in separate.items():
        if copy in tied:
            raise ModelError(
                f"{copy} and {first} are one in {config['architectures'][0]}, and the adapters "
                "change one alone: that is no model without adapters"
            )
    return config


def _check_places(base: Base, adapters: Adapters) -> None:
    names = [*adapters.whole, *(f"{module}.weight" for module in adapters.factors)]
    if strange := [name for name in names if not base.has(name)]:
        known = some(sorted(base.part.weights))
        raise ModelError(
            f"{adapters.folder}: {len(strange)} of its {len(names)} weights are not its base's: "
            f"{some(strange)}; the base has {known}: is it the model that they were trained on "
            "(--base MODEL)?"
        )


def _check_shape(
    adapters: Adapters, name: str, base: Base, expected: tuple[int, ...], found: tuple[int, ...]
) -> None:
    if expected != found:
        raise ModelError(
            f"{adapters.folder}: {name}: the base's weight is {expected}, and the adapters are for "
            f"{found}: is it the model that they were trained on (--base MODEL)?"
        )


def _with_adapters(model: PreTrainedModel, adapters: Adapters) -> PreTrainedModel:
    """Put peft's layers into a model, in place, and into them what was saved."""
    config = PeftConfig.from_pretrained(str(adapters.folder))
    tensors = load_peft_weights(str(adapters.folder), device="cpu")
    rename = _renaming(model, adapters)
    if any(rename(module) != module for module in adapters.factors):
        assert isinstance(config, LoraConfig)
        config.target_modules = [rename(module) for module in adapters.factors]
        tensors = {PREFIX + rename(k.removeprefix(PREFIX)): v for k, v in tensors.items()}
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is checked here
            loaded: Any = set_peft_model_state_dict(get_peft_model(model, config), tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{adapters.folder}: peft cannot load it: {reason}") from error
    missing = [key for key in loaded.missing_keys if ".lora_" in key]
    if strange := [*loaded.unexpected_keys, *missing]:
        raise ModelError(f"{adapters.folder}: peft has no place, or no tensor, for {some(strange)}")
    model.train(False)
    return model


def _renaming(model: PreTrainedModel, adapters: Adapters) -> Callable[[str], str]:
    """Return how names of adapters become those of a model's class."""
    modules, prefix = dict(model.named_modules()), f"{model.base_model_prefix}."
    for rename in (str, prefix.__add__, methodcaller("removeprefix", prefix)):
        if all(rename(module) in modules for module in adapters.factors):
            return rename
    return str
