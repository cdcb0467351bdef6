"""Adapters made of a tuned model and its base: the layout `lora`, written.

Of each linear layer the best approximation of the difference that a rank allows (Eckart and Young,
1936); other modules that differ, and biases, are kept whole.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers.models.auto import modeling_auto
from transformers.pytorch_utils import Conv1D

from ragkit.checkpoints import folders
from ragkit.checkpoints.adapters import (
    PREFIX,
    WEIGHTS,
    folder_of,
    read_config,
    tower_folders,
    weight_file,
)
from ragkit.checkpoints.bases import Base, base_part, check_named, read_base
from ragkit.checkpoints.lora import transposed
from ragkit.checkpoints.parts import Checkpoint, Dense, LeftOut, Part, Reading, Writing, some
from ragkit.checkpoints.weights import Weight, as_stored, contents, write_safetensors
from ragkit.errors import ModelError
from ragkit.log import progress

# of a configuration, what says nothing of the model's numbers
_INCIDENTAL = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
_EXACT = 1024  # the smaller side of matrices that are decomposed whole: some seconds beyond
_MORE, _PASSES = 16, 4  # columns beyond the rank, and iterations, of a decomposition of a part


@dataclass(frozen=True)
class Factors:
    """The best B A of some rank for a difference; kept, total: squared norms, of it and of all."""

    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank)
    kept: float
    total: float

    @property
    def share(self) -> float:
        """How much of the difference is kept."""
        return self.kept / self.total


@dataclass(frozen=True)
class _Difference:
    """What of a model is not as in its base, by names of its class.

    linear: names of weights, by module
    biases: of linear layers, likewise
    whole: modules that are kept whole, and the names of their weights
    """

    linear: dict[str, str]
    biases: dict[str, str]
    whole: dict[str, list[str]]


def adapt(checkpoint: Checkpoint, writing: Writing) -> Checkpoint:
    """Return the difference of a model to its base as adapters, by the names that peft saves.

    Raises:
        ModelError: no base, another model, no difference, or one that adapters cannot have.
    """
    if writing.base is None:
        raise ModelError("adapters are the difference to another model: --base MODEL")
    check_named(writing.base)
    base = read_base(writing.base, trust=False)
    for tower in checkpoint.parts:
        checkpoint = folders.without_copies(checkpoint, tower)
    made, lost = dict(checkpoint.made), list(checkpoint.lost)
    parts, left_out = {}, list(checkpoint.left_out)
    for tower, part in checkpoint.parts.items():
        own, other = Base(part), base_part(base, tower)
        name = f"{checkpoint.path} ({tower})" if tower else str(checkpoint.path)
        parts[tower], told = _extracted(own, other, writing.rank, name)
        made[f"{tower} adapters".strip()] = told
        lost += _lost(own, other)
        left_out += _unused(part, parts[tower])
        if part.settings not in (None, other.part.settings):
            lost.append("the encoder's settings (its base's hold)")
    return replace(
        checkpoint, parts=parts, left_out=tuple(left_out), made=made,
        lost=tuple(dict.fromkeys(lost)),
    )  # fmt: skip


def factors_of(difference: Tensor, rank: int) -> Factors:
    """Return the factors of a matrix that leave the least of it, by its singular values.

    Matrices of both sides beyond 1,024 are decomposed in part (Halko et al., 2011); `kept` is what
    the factors do keep, whatever their quality.

    difference: (out, in)
    """
    rank = min(rank, *difference.shape)
    u, values, v = _decomposed(difference, rank)
    root = values[:rank].sqrt()
    a, b = (v[:, :rank] * root).T.contiguous(), u[:, :rank] * root
    total, rest = (_squared_norm(matrix) for matrix in (difference, difference - b @ a))
    return Factors(a, b, total - rest, total)


def write(checkpoint: Checkpoint, folder: Path, _: Writing) -> None:
    """Write adapters as peft does, those of two towers in a subfolder each."""
    for tower, part in checkpoint.parts.items():
        place = folder_of(folder, tower)
        place.mkdir(parents=True, exist_ok=True)
        LoraConfig(**part.config).save_pretrained(str(place))
        write_safetensors(part.weights, place / WEIGHTS[0])
        for name, file in part.files.items():
            shutil.copyfile(file, place / name)


def written(path: Path, _: Reading) -> Checkpoint:
    """Read adapters as they are stored."""
    parts = {
        tower: Part(
            {key: as_stored(s) for key, s in contents(weight_file(folder)).tensors.items()},
            read_config(folder), folders.companions(folder),
        )
        for tower, folder in tower_folders(path).items()
    }  # fmt: skip
    stored = tuple(s for part in parts.values() for w in part.weights.values() for s in w.sources)
    return Checkpoint(path, parts, stored)


def _decomposed(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, the singular values, the largest first, and V: all of them or the first ones."""
    if min(matrix.shape) <= _EXACT:
        u, values, v = torch.linalg.svd(matrix, full_matrices=False)
        return u, values, v.T
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        columns = min(rank + _MORE, *matrix.shape)
        u, values, v = torch.svd_lowrank(matrix, columns, niter=_PASSES)
    return u, values, v


def _squared_norm(matrix: Tensor) -> float:
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2


def _extracted(own: Base, base: Base, rank: int, name: str) -> tuple[Part, str]:
    """Return the adapters of one model, and what they keep."""
    _check_comparable(own, base, name)
    difference = _difference(own, base, name)
    weights: dict[str, Weight] = {}
    ranks: dict[str, int] = {}
    found: dict[str, Factors] = {}
    layers = progress(difference.linear.items(), "factors", len(difference.linear), "layers")
    for module, key in layers:
        one, other = own.part.weights[key], base.weight(key)
        change = one.read().float() - other.read().float()
        turned = transposed(own.module(module)[1], {})
        found[module] = factors = factors_of(change.T if turned else change, rank)
        ranks[module] = factors.a.shape[0]
        for side, factor in (("A", factors.a), ("B", factors.b)):
            weights[f"{PREFIX}{module}.lora_{side}.weight"] = _factor(one, other, factor, factors)
    for module, key in difference.biases.items():
        wrapped = ".base_layer" if module in difference.linear else ""
        weights[f"{PREFIX}{module}{wrapped}.bias"] = own.part.weights[key]
    for module, keys in difference.whole.items():
        for key in keys:
            weights[f"{PREFIX}{module}.{key.rpartition('.')[2]}"] = _own(own.weight(key))
    config = _config(own, base, difference, ranks, rank)
    return Part(weights, config, own.part.files), _told(found, difference, rank)


def _check_comparable(own: Base, base: Base, name: str) -> None:
    """Refuse two models that are not one but for their numbers."""
    if own.model is None:
        raise ModelError(
            f"{name}: its class is none of transformers', so that nothing says which of its "
            "weights are linear layers"
        )
    if new := [key for key in own.part.weights if not base.has(key)]:
        raise ModelError(f"{name}: the base has no {some(new)}: adapters cannot add weights")
    for key, weight in own.part.weights.items():
        if weight.shape != (expected := base.weight(key).shape):
            raise ModelError(f"{name}: {key} is {weight.shape}, and the base's is {expected}")
    dense = own.part.dense, base.part.dense
    if len(dense[0]) != len(dense[1]) or any(map(_differ, *dense)):
        raise ModelError(f"{name}: its dense layers are not its base's: adapters cannot hold them")


def _differ(one: Dense, other: Dense) -> bool:
    if one.weights.keys() != other.weights.keys():
        return True
    return any(_differs(weight, other.weights[name]) for name, weight in one.weights.items())


def _differs(weight: Weight, base: Weight) -> bool:
    """Return whether a weight is not its base's; rounding to its precision is no difference."""
    if weight.shape != base.shape:
        return True
    return not torch.equal(weight.read(), base.read().to(weight.dtype))


def _difference(own: Base, base: Base, name: str) -> _Difference:
    """Sort the weights that are not the base's by what adapters can do with them.

    Raises:
        ModelError: there are none, none of a linear layer, or some that have no place.
    """
    keys = progress(own.part.weights, "comparing", len(own.part.weights), "tensors")
    differing = [key for key in keys if _differs(own.part.weights[key], base.weight(key))]
    if not differing:
        raise ModelError(f"{name}: no weight differs from its base's: there is nothing to extract")
    linear: dict[str, str] = {}
    biases: dict[str, str] = {}
    whole: list[str] = []
    homeless: list[str] = []
    tied = {own.place(first) for first in own.ties.values()}
    for key in differing:
        inside, _, kind = key.rpartition(".")
        module, found = own.module(inside)
        if isinstance(found, (nn.Linear, Conv1D)) and key not in tied:
            (linear if kind == "weight" else biases)[module] = key
        elif found is not None and kind in dict(found.named_parameters(recurse=False)):
            whole.append(module)
        else:
            homeless.append(key)
    if homeless or not linear:
        reason = (
            f"{some(homeless)}: of no module that adapters can hold"
            if homeless
            else f"{some(differing)}, and adapters need a linear layer that does"
        )
        raise ModelError(f"{name}: these differ from the base's: {reason}")
    return _Difference(linear, biases, _whole(own, whole))


def _whole(own: Base, modules: list[str]) -> dict[str, list[str]]:
    """Return modules to be kept whole, and all their weights.

    With those that are tied to them, as peft copies modules; and with those that peft takes for
    them, since their names end alike.
    """
    for copy, first in own.ties.items():
        if first.rpartition(".")[0] in modules:
            modules.append(copy.rpartition(".")[0])
    alike = [m for m in own.modules if any(m.endswith(name) for name in modules)]
    return {
        module: [
            f"{module}.{kind}"
            for kind, _ in own.modules[module].named_parameters(recurse=False)
        ]
        for module in alike
    }  # fmt: skip


def _factor(weight: Weight, base: Weight, factor: Tensor, factors: Factors) -> Weight:
    how = f"of the difference to the base, {factors.share:.2%} kept by rank {factors.a.shape[0]}"
    sources = (*weight.sources, *base.sources)
    return Weight(tuple(factor.shape), factor.dtype, sources, lambda: factor, how)


def _own(weight: Weight) -> Weight:
    """Return a weight that is read into a memory of its own: two of a file may be one tensor."""
    return replace(weight, read=lambda: weight.read().clone())


def _config(
    own: Base, base: Base, difference: _Difference, ranks: Mapping[str, int], rank: int
) -> dict[str, Any]:
    """Return the settings of LoraConfig that say where the factors belong; they are scaled by 1."""
    fewer = {module: found for module, found in ranks.items() if found != rank}
    kinds = (own.modules[module] for module in ranks)
    return {
        "r": rank, "lora_alpha": rank, "rank_pattern": fewer, "alpha_pattern": fewer,
        "target_modules": sorted(ranks), "modules_to_save": sorted(difference.whole) or None,
        "bias": "all" if difference.biases else "none", "task_type": _task(own.part.config),
        "fan_in_fan_out": any(isinstance(kind, Conv1D) for kind in kinds),
        "base_model_name_or_path": _reference(base.part), "inference_mode": True,
    }  # fmt: skip


def _task(config: Mapping[str, Any]) -> str | None:
    """Return peft's name of what a class is for; None: one for which peft would want a head."""
    named = config["architectures"][0]
    if named in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return "CAUSAL_LM"
    if named in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values():
        return "SEQ_2_SEQ_LM"
    encodes = named in modeling_auto.MODEL_MAPPING_NAMES.values()
    return "FEATURE_EXTRACTION" if encodes else None


def _reference(base: Part) -> str:
    """Return the folder of a base's weights, or its name on the hub where it is of hub's cache."""
    folder = next(iter(base.weights.values())).sources[0].file.parent
    cached = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/")
    return str(folder.resolve())


def _told(found: Mapping[str, Factors], difference: _Difference, rank: int) -> str:
    """Return what adapters keep of a difference, in words."""
    share = sum(f.kept for f in found.values()) / sum(f.total for f in found.values())
    least = min(found, key=lambda module: found[module].share)
    told = (
        f"rank {rank} of {len(found)} linear layers keeps {share:.2%} of their difference's "
        f"squared norm (least {found[least].share:.2%}: {least})"
    )
    whole = [*difference.whole, *(f"{module}.bias" for module in difference.biases)]
    return f"{told}; whole: {some(whole)}" if whole else told


def _lost(own: Base, base: Base) -> list[str]:
    """Return what adapters do not hold: other settings than the base's, and weights it has more."""
    config, other = _whole_config(own), _whole_config(base)
    lost = [
        f"config.json: {key}: {config.get(key)} (its base: {other.get(key)})"
        for key in sorted((config.keys() | other.keys()) - _INCIDENTAL)
        if config.get(key) != other.get(key)
    ]
    more = [name for name in base.part.weights if not own.has(name)]
    return [*lost, f"that weights of its base are gone: {some(more)}"] if more else lost


def _whole_config(model: Base) -> Mapping[str, Any]:
    """Return a configuration with what its class adds: two may say as much in fewer words."""
    return model.model.config.to_dict() if model.model is not None else model.part.config


def _unused(part: Part, adapters: Part) -> list[LeftOut]:
    """Return the tensors of a model that are its base's own."""
    used = {source for weight in adapters.weights.values() for source in weight.sources}
    sources = (s for weight in part.all_weights.values() for s in weight.sources)
    return [LeftOut(s.file, s.key, "as in its base") for s in sources if s not in used]
