"""Encoders of Cerebras' Model Zoo, such as DocChat's two towers: weights in a `.mdl`, and a YAML.

The file is what torch.save makes of `{"model": state dict}`. The names are those of Cerebras' BERT
behind `question_encoder.` and `ctx_encoder.`; a single encoder is behind the first of them.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from filecmp import cmp
from pathlib import Path
from typing import Any

from transformers import BertConfig

from ragkit.checkpoints import folders
from ragkit.checkpoints.bert import bare_bert, check_weights, plain_config
from ragkit.checkpoints.cerebras_params import (
    BLOCKS,
    PARAMS,
    encoder_config,
    held,
    params_file,
    pooling,
    read_params,
    settings_held,
    untranslated,
    write_params,
)
from ragkit.checkpoints.parts import (
    ONLY,
    TOWERS,
    Checkpoint,
    LeftOut,
    Part,
    Reading,
    Writing,
    check_layers,
    some,
)
from ragkit.checkpoints.vectors import assumed, given
from ragkit.checkpoints.weights import Contents, Weight, as_stored, contents, write_torch
from ragkit.data.files import read_json
from ragkit.errors import ModelError
from ragkit.log import logger
from ragkit.models.layouts import EncoderSettings

WEIGHTS = "model.mdl"

_PREFIXES = {"query": "question_encoder.", "passage": "ctx_encoder.", ONLY: "question_encoder."}
# `model` of the file, and again what the Model Zoo wraps its models in
_KEY = re.compile(r"(?:model\.){0,2}(question_encoder\.|ctx_encoder\.)(.+)\.(weight|bias)")
_TRAINING = re.compile(r"(optimizer|lr_schedulers?|schedulers|grad_scaler|dataloader)\.")
_HDF5 = b"\x89HDF\r\n\x1a\n"

_OUTER = {
    "embedding_layer.word_embeddings": "embeddings.word_embeddings",
    "embedding_layer.position_embeddings.embed": "embeddings.position_embeddings",
    "embedding_layer.segment_embeddings": "embeddings.token_type_embeddings",
    "embed_ln_f": "embeddings.LayerNorm",
}
_INNER = {
    "self_attn.proj_q_dense_layer": "attention.self.query",
    "self_attn.proj_k_dense_layer": "attention.self.key",
    "self_attn.proj_v_dense_layer": "attention.self.value",
    "self_attn.proj_output_dense_layer": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "ffn.ffn.0.linear_layer": "intermediate.dense",
    "ffn.ffn.1.linear_layer": "output.dense",
    "norm2": "output.LayerNorm",
}
_OUTER_BACK = {ours: theirs for theirs, ours in _OUTER.items()}
_INNER_BACK = {ours: theirs for theirs, ours in _INNER.items()}


def found(path: Path) -> bool:
    """Return whether a path is a `.mdl`, or a folder with one."""
    return path.suffix == ".mdl" if path.is_file() else any(path.glob("*.mdl"))


def read(path: Path, reading: Reading) -> Checkpoint:
    """Read a `.mdl` and the YAML beside it, or `reading.base` where there is none.

    Raises:
        ModelError: no configuration, a damaged file, no BERT, or weights that are not those of the
            configuration.
    """
    file = _weights_file(path)
    inside = _contents(file)
    weights, left_out = _towers(inside, file)
    params = params_file(file)
    if params is None:
        configs = {tower: _base_config(reading.base, tower, file) for tower in weights}
        said = "cls"
    else:
        configs, said, unsaid = _configs(params, list(weights), file)
        left_out += unsaid
    for tower, tensors in weights.items():
        where = f"{file}: {_PREFIXES[tower][:-1]}"
        check_layers(Part(tensors, configs[tower]), where)
        check_weights(tensors, configs[tower], where)
    files = _tokenizer(file, reading.base)
    parts = {
        tower: Part(
            tensors, configs[tower], files,
            settings=EncoderSettings(said, normalize=False, max_length=_positions(configs[tower])),
        )
        for tower, tensors in weights.items()
    }  # fmt: skip
    return Checkpoint(path, parts, tuple(inside.tensors.values()), tuple(left_out))


def adapt(checkpoint: Checkpoint, writing: Writing) -> Checkpoint:
    """Return the checkpoint as plain BERTs with the settings that a YAML has words for.

    Raises:
        ModelError: a part is no BERT.
    """
    lost: list[str] = []
    for tower in checkpoint.parts:
        checkpoint = bare_bert(checkpoint, tower)
        part = checkpoint.parts[tower]
        config, unsaid = held(part.config, tower)
        wanted = _settings(part, writing)
        settings, more = settings_held(wanted, _positions(part.config))
        lost += [*unsaid, *more]
        kept = replace(part, config=config, settings=settings)
        made = {**checkpoint.made}
        if part.settings is None:
            made |= assumed(kept, writing.vectors)
        checkpoint = replace(checkpoint, parts={**checkpoint.parts, tower: kept}, made=made)
    pooled = {part.settings.pooling for part in checkpoint.parts.values() if part.settings}
    if len(pooled) > 1:
        raise ModelError(
            f"{checkpoint.path}: its towers are pooled in two ways ({', '.join(sorted(pooled))}), "
            "and a YAML of Cerebras says one: set encoder.pooling"
        )
    lost += _other_files(checkpoint)
    return replace(checkpoint, lost=tuple(dict.fromkeys((*checkpoint.lost, *lost))))


def write(checkpoint: Checkpoint, folder: Path, _: Writing) -> None:
    """Write the weights, all in memory at once if they are not mapped, the YAML, the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        _PREFIXES[tower] + _theirs(name): weight
        for tower, part in checkpoint.parts.items()
        for name, weight in part.weights.items()
    }
    write_torch(weights, folder / WEIGHTS, key="model")
    write_params(checkpoint, folder / PARAMS)
    for name, file in next(iter(checkpoint.parts.values())).files.items():
        shutil.copyfile(file, folder / name)


def _weights_file(path: Path) -> Path:
    files = [path] if path.is_file() else sorted(path.glob("*.mdl"))
    if len(files) > 1:
        listed = ", ".join(file.name for file in files)
        raise ModelError(f"{path}: which of its files ({listed})? Name one")
    return files[0]


def _contents(file: Path) -> Contents:
    """Return what a `.mdl` holds; HDF5, which Cerebras' own library writes, is refused."""
    try:
        with file.open("rb") as f:
            start = f.read(len(_HDF5))
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}") from error
    if start == _HDF5:
        raise ModelError(
            f"{file}: an HDF5 file, as cerebras.pytorch saves it, and ragkit reads those of "
            "torch.save; where that library is installed, torch.save(cerebras.pytorch.load("
            f"'{file.name}'), 'torch.mdl') makes one"
        )
    return contents(file)


def _towers(inside: Contents, file: Path) -> tuple[dict[str, dict[str, Weight]], list[LeftOut]]:
    """Return the weights of a file by tower and transformers' names, and what is left out.

    Raises:
        ModelError: no encoder of questions, or a weight that is there twice.
    """
    towers: dict[str, dict[str, Weight]] = {tower: {} for tower in TOWERS}
    left_out = list(folders.others([file], [inside]))
    for key, stored in inside.tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            if _TRAINING.match(key):
                left_out.append(LeftOut(file, key, "of training"))
            continue
        if match[2].startswith("pooler."):
            left_out.append(LeftOut(file, key, "the pooler: vectors are made without"))
        elif name := _ours(match[2]):
            weights = towers[TOWERS[match[1] == _PREFIXES["passage"]]]
            if weights.setdefault(f"{name}.{match[3]}", as_stored(stored)).sources != (stored,):
                raise ModelError(f"{file}: {match[1]}{match[2]}.{match[3]} is there twice")
    if not towers["query"]:
        held = some(list(inside.tensors)) or "no tensors"
        raise ModelError(f"{file}: no question_encoder among its weights ({held})")
    return (towers if towers["passage"] else {ONLY: towers["query"]}), left_out


def _configs(
    params: Path, towers: list[str], file: Path
) -> tuple[dict[str, dict[str, Any]], str, list[LeftOut]]:
    """Return what a YAML says: each tower's config.json, the pooling, and what is left out.

    Raises:
        ModelError: it says another number of encoders than there are weights of.
    """
    model = read_params(params)
    said, held = 1 if model.get("use_biencoder") is False else 2, len(towers)
    if said != held:
        raise ModelError(
            f"{params}: it says {said} encoder{'s' * (said > 1)} (use_biencoder), and there are "
            f"weights of {held} in {file.name}"
        )
    configs = {tower: encoder_config(model, tower, params) for tower in towers}
    return configs, pooling(model, params), untranslated(model, towers, params)


def _base_config(base: Path | None, tower: str, file: Path) -> dict[str, Any]:
    """Return a tower's config.json from the model that it was made from, or from its half of it."""
    if base is None:
        raise ModelError(
            f"{file}: no {PARAMS} beside it: give the model that it was made from (--base MODEL)"
        )
    half = base / BLOCKS[tower]
    folder = half if (half / folders.CONFIG).is_file() else base
    return plain_config(Part({}, read_json(folder / folders.CONFIG)), str(folder))


def _tokenizer(file: Path, base: Path | None) -> dict[str, Path]:
    """Return the files of the tokenizer: those beside the weights, else the base's."""
    places = [file.parent, *([base, base / BLOCKS["query"]] if base else [])]
    found = next((files for place in places if (files := folders.companions(place))), {})
    if not found:
        logger.warning("%s: no tokenizer beside it; --base MODEL adds one", file)
    return found


def _settings(part: Part, writing: Writing) -> EncoderSettings:
    """Return a part's settings as wanted, as said, or as DocChat's are."""
    docchat = EncoderSettings("cls", normalize=False, max_length=_positions(part.config))
    return given(part.settings or docchat, writing.vectors)


def _positions(config: Mapping[str, Any]) -> int:
    default = BertConfig().max_position_embeddings
    return int(config.get("max_position_embeddings", default))


def _other_files(checkpoint: Checkpoint) -> list[str]:
    """Return the files of the passages' tokenizer that are not the questions' too."""
    first, *others = (part.files for part in checkpoint.parts.values())
    return [
        f"passage: {name}, of another tokenizer"
        for files in others
        for name, file in files.items()
        if name not in first or not cmp(first[name], file, shallow=False)
    ]


def _ours(layer: str) -> str | None:
    """Return transformers' name of a layer of Cerebras' BERT; None: it has none."""
    if match := re.fullmatch(r"transformer_encoder\.layers\.(\d+)\.(.+)", layer):
        inner = _INNER.get(match[2])
        return inner and f"encoder.layer.{match[1]}.{inner}"
    return _OUTER.get(layer)


def _theirs(name: str) -> str:
    """Return Cerebras' name of a weight of a plain BERT."""
    layer, _, kind = name.rpartition(".")
    if match := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", layer):
        return f"transformer_encoder.layers.{match[1]}.{_INNER_BACK[match[2]]}.{kind}"
    return f"{_OUTER_BACK[layer]}.{kind}"
