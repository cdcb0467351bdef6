"""OpenChatKit's base models: a file of torch.save for the embedding, each layer and the head.

`pytorch_embs.pt`, `pytorch_0.pt` and so on, and `pytorch_lm_head.pt`, beside config.json and the
tokenizer.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ragkit.checkpoints.folders import weight_files, write_settings
from ragkit.checkpoints.modules import (
    FAMILIES,
    Family,
    Module,
    assembled,
    built,
    checked,
    inner,
    settings_folder,
)
from ragkit.checkpoints.parts import ONLY, Checkpoint, Reading, Writing, only
from ragkit.checkpoints.weights import Weight, contents, write_torch
from ragkit.errors import ModelError

NAME = "openchatkit"
_EMBEDDING, _HEAD = "pytorch_embs.pt", "pytorch_lm_head.pt"
_LAYER = re.compile(r"pytorch_(\d+)\.pt")


def found(path: Path) -> bool:
    """Return whether a folder has files of such a model."""
    return path.is_dir() and any(
        file.name in (_EMBEDDING, _HEAD) or _LAYER.fullmatch(file.name) for file in path.iterdir()
    )


def read(path: Path, reading: Reading) -> Checkpoint:
    """Read a layer-split model.

    Raises:
        ModelError: missing or damaged files, files of more layers than the configuration says, or
            tensors other than it describes.
    """
    files = _files(path)
    settings = settings_folder(path, reading)
    opened = {file: contents(file) for file in files}
    modules = [
        Module(file, file.name, {inner(key): stored for key, stored in one.tensors.items()})
        for file, one in opened.items()
    ]
    return assembled(path, settings, modules, opened)


def _files(path: Path) -> list[Path]:
    """Return the files of a model in the order of its modules."""
    layers = {int(m[1]): f for f in path.iterdir() if (m := _LAYER.fullmatch(f.name))}
    wanted = [_EMBEDDING, *(f"pytorch_{i}.pt" for i in range(max(layers, default=-1) + 1)), _HEAD]
    if missing := [name for name in wanted if not (path / name).is_file()]:
        raise ModelError(f"{path}: expected {len(wanted)} files, missing: {', '.join(missing)}")
    if whole := weight_files(path):
        raise ModelError(
            f"{path}: two models, {_EMBEDDING} with its layers and {whole[0].name}: move one of "
            "them elsewhere"
        )
    return [path / name for name in wanted]


def load(path: Path, reading: Reading, device: str) -> dict[str, PreTrainedModel]:
    """Load a layer-split model."""
    return built(read(path, reading), device)


def adapt(checkpoint: Checkpoint, _: Writing) -> Checkpoint:
    """Return the checkpoint as layer files hold it.

    Raises:
        ModelError: no language model of the families that OpenChatKit has.
    """
    part = only(checkpoint, NAME)
    said = part.config.get("model_type")
    if said not in FAMILIES:
        known = " and ".join(FAMILIES)
        raise ModelError(f"{checkpoint.path}: {NAME} holds {known}, and this is {said}")
    family = FAMILIES[said]
    kinds = part.config.get("architectures") or ["model of no class (architectures)"]
    if family.architecture not in kinds:
        raise ModelError(
            f"{checkpoint.path}: {NAME} holds a {family.architecture}, with its head, and this is "
            f"a {kinds[0]}"
        )
    weights = {family.aliases.get(name, name): w for name, w in part.all_weights.items()}
    config = _with_older_names(part.config, family)
    renamed = replace(part, weights=weights, config=config, dense=())
    adapted = checked(replace(checkpoint, parts={ONLY: renamed}), family)
    if family.headed in adapted.parts[ONLY].weights:
        return adapted
    copied = f"{family.embedded} once more, to which it is tied"
    return replace(adapted, made={**adapted.made, family.headed: copied})


def write(checkpoint: Checkpoint, folder: Path, _: Writing) -> None:
    """Write a file a module, one in memory at a time."""
    part = only(checkpoint, NAME)
    family = FAMILIES[part.config["model_type"]]
    weights = dict(part.weights)
    weights.setdefault(family.headed, weights[family.embedded])  # tied: each file has it
    write_settings(part, folder)
    for name, module in _split(weights, family).items():
        write_torch(module, folder / name)


def _with_older_names(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Return a configuration that says rotary settings as transformers before version 5 reads them.

    OpenChatKit asks for such a version, and that would take its defaults without a word.
    """
    rotary = dict(config.get("rope_parameters") or {})
    older = {old: rotary.pop(new) for new, old in family.rotary.items() if new in rotary}
    kind = rotary.pop("rope_type", "default")
    if kind != "default":
        older["rope_scaling"] = {"type": kind, "rope_type": kind, **rotary}
    return {**config, **older}


def _split(weights: Mapping[str, Weight], family: Family) -> dict[str, dict[str, Weight]]:
    """Return weights by file and by their names in it."""
    files: dict[str, dict[str, Weight]] = {}
    for name, weight in weights.items():
        key = name.removeprefix(family.body)
        file = _EMBEDDING if name == family.embedded else _HEAD
        if key.startswith("layers."):
            _, layer, key = key.split(".", 2)
            file = f"pytorch_{layer}.pt"
        files.setdefault(file, {})[key] = weight
    return files
