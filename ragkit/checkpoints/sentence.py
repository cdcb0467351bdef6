"""Sentence-transformers folders: an encoder with its pooling, its prefixes and its dense layers."""

from dataclasses import replace
from pathlib import Path

from transformers import AutoConfig, PreTrainedModel

from ragkit.checkpoints import folders
from ragkit.checkpoints.parts import ONLY, TOWERS, Checkpoint, Dense, Part, Reading, Writing
from ragkit.checkpoints.vectors import settings, with_settings, without_dpr
from ragkit.checkpoints.weights import contents
from ragkit.data.files import read_json, write_json
from ragkit.errors import ModelError
from ragkit.log import logger
from ragkit.models.layouts import (
    Module,
    TowerLayout,
    read_layout,
    tower_modules,
    write_layout,
    write_tower,
)

_MODULES, _PROMPTS = "modules.json", "config_sentence_transformers.json"
_TOKENIZERS = {
    "tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model",
    "sentencepiece.bpe.model", "spm.model", "source.spm", "bpe.codes", "tekken.json",
}  # fmt: skip
_ROUTES = dict(zip(TOWERS, ("query", "document"), strict=True)) | {ONLY: ""}


def found(path: Path) -> bool:
    """Return whether a folder lists sentence-transformers' modules."""
    return (path / _MODULES).is_file()


def read(path: Path, _: Reading) -> Checkpoint:
    """Read a folder of one tower or of two.

    Raises:
        ModelError: modules that ragkit does not know, missing or damaged files.
    """
    layouts = _layouts(path)
    places = {tower: path / layout.transformer for tower, layout in layouts.items()}
    plain = folders.read_towers(path, places)
    stored, left_out, parts = list(plain.stored), list(plain.left_out), {}
    for tower, layout in layouts.items():
        dense = []
        for name in layout.dense:
            files = folders.weight_files(path / name)
            if not files:
                raise ModelError(f"{path / name}: no weights in it, and {_MODULES} names it")
            opened = [contents(file) for file in files]
            stored += [s for one in opened for s in one.tensors.values()]
            left_out += folders.others(files, opened)
            dense.append(Dense(folders.joined(opened), read_json(path / name / folders.CONFIG)))
        part = plain.parts[tower]
        said = settings(part, layout)
        parts[tower] = replace(part, dense=tuple(dense), settings=said)
    # two towers may share a dense layer
    stored, left_out = list(dict.fromkeys(stored)), list(dict.fromkeys(left_out))
    return Checkpoint(path, parts, tuple(stored), tuple(left_out))


def load(path: Path, _: Reading, device: str) -> dict[str, PreTrainedModel]:
    """Load the transformers of the towers."""
    return {
        tower: folders.load_model(path / layout.transformer, device)
        for tower, layout in _layouts(path).items()
    }


def adapt(checkpoint: Checkpoint, writing: Writing) -> Checkpoint:
    """Return the checkpoint as an encoder with all its settings.

    Raises:
        ModelError: a model that makes no encoder, or towers that do not fit.
    """
    whole = with_settings(without_dpr(checkpoint), writing.vectors)
    if ONLY in whole.parts:
        return folders.without_copies(whole, ONLY)
    query, passage = (whole.parts[tower] for tower in TOWERS)
    assert query.settings is not None and passage.settings is not None
    if query.settings.normalize != passage.settings.normalize:
        raise ModelError(
            f"{checkpoint.path}: one tower's vectors are of length one and the other's are not: "
            "set encoder.normalize"
        )
    for tower in TOWERS:
        whole = folders.without_copies(whole, tower)
    return whole


def write(checkpoint: Checkpoint, folder: Path, writing: Writing) -> None:
    """Write a folder of one tower or of two (a Router)."""
    chains = [
        _write_tower(part, folder, _ROUTES[tower], writing.max_shard_size)
        for tower, part in checkpoint.parts.items()
    ]
    if bare := [part for part in checkpoint.parts.values() if not part.files.keys() & _TOKENIZERS]:
        logger.warning(
            "%s: no tokenizer for %s of %d towers, and none loads without: copy its files beside "
            "the weights",
            checkpoint.path, len(bare), len(checkpoint.parts),
        )  # fmt: skip
    first, last = (list(checkpoint.parts.values())[i].settings for i in (0, -1))
    assert first is not None and last is not None
    write_layout(folder, replace(first, passage_prefix=last.passage_prefix), chains)
    if found(checkpoint.path):
        _keep_prompts(checkpoint.path, folder)


def _keep_prompts(source: Path, folder: Path) -> None:
    """Keep what a source of this layout says of prompts and scores beside the settings.

    Without a word on scores it means cosine.
    """
    file = source / _PROMPTS
    said = read_json(file) if file.is_file() else {}
    own = read_json(folder / _PROMPTS)
    write_json(
        folder / _PROMPTS,
        {
            "prompts": {**(said.get("prompts") or {}), **own["prompts"]},
            "default_prompt_name": said.get("default_prompt_name"),
            "similarity_fn_name": said.get("similarity_fn_name") or "cosine",
        },
    )


def _write_tower(part: Part, folder: Path, route: str, max_shard_size: str) -> list[Module]:
    """Write a tower's modules; return them."""
    assert part.settings is not None
    modules = tower_modules(part.settings, len(part.dense), route)
    for _, name in modules:
        (folder / name).mkdir(exist_ok=True)
    folders.write_part(part, folder / modules[0][1], max_shard_size)
    hidden_size = int(AutoConfig.for_model(**part.config).hidden_size)
    write_tower(folder, part.settings, hidden_size, route)
    names = [name for kind, name in modules if kind == "Dense"]
    for layer, name in zip(part.dense, names, strict=True):
        write_json(folder / name / folders.CONFIG, dict(layer.config))
        folders.write_weights(layer.weights, folder / name, max_shard_size)
    return modules


def _layouts(path: Path) -> dict[str, TowerLayout]:
    layouts = read_layout(str(path))
    return dict(zip(TOWERS if len(layouts) > 1 else (ONLY,), layouts, strict=True))
