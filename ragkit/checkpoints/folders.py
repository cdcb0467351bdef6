"""Folders as transformers' `from_pretrained` reads them: config.json, weights in shards, the rest.

Read from safetensors, else from torch files; always written as safetensors, a shard at a time.
"""

import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import split_state_dict_into_shards_factory
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from ragkit.checkpoints import adapters
from ragkit.checkpoints.parts import (
    ONLY,
    TOWERS,
    Checkpoint,
    LeftOut,
    Part,
    Reading,
    Writing,
    only,
    some,
    with_precision,
)
from ragkit.checkpoints.vectors import without_settings
from ragkit.checkpoints.weights import (
    Contents,
    Stored,
    Weight,
    as_stored,
    contents,
    write_safetensors,
)
from ragkit.data.files import read_json, write_json
from ragkit.errors import ModelError
from ragkit.log import hushed
from ragkit.models.layouts import DAMAGED
from ragkit.models.loading import REPORTS

CONFIG = "config.json"

# the weights of a folder: the first of these that is there
_STEMS = ("model.safetensors", "pytorch_model.bin")
# what else belongs to a model, beside files of a tokenizer; not what belongs to its training
_COMPANIONS = (
    "generation_config.json", "generator.json", "chat_template.jinja", "chat_template.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "spm.model", "source.spm", "target.spm", "target_vocab.json",
    "bpe.codes", "tekken.json", "dict.txt", "vocab-src.json", "vocab-tgt.json",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip


def found(path: Path) -> bool:
    """Return whether a folder has a model's configuration and weights."""
    return (path / CONFIG).is_file() and bool(weight_files(path))


def read(path: Path, reading: Reading) -> Checkpoint:
    """Read the folder of one model, or two folders of a tower each.

    Raises:
        ModelError: no weights, missing or damaged files, a tensor that is in two of them.
    """
    return read_towers(path, _places(path, reading))


def _places(path: Path, reading: Reading) -> dict[str, Path]:
    if reading.passages is None:
        return {ONLY: path}
    return dict(zip(TOWERS, (path, reading.passages), strict=True))


def read_towers(path: Path, places: Mapping[str, Path]) -> Checkpoint:
    """Read the folders of a checkpoint's parts.

    places: of each part, by its name
    Raises:
        ModelError: as `read`.
    """
    parts, stored, left_out = {}, list[Stored](), list[LeftOut]()
    for tower, place in places.items():
        parts[tower], tensors, more = read_part(place)
        stored += tensors
        left_out += more
    return Checkpoint(path, parts, tuple(stored), tuple(left_out))


def read_part(path: Path) -> tuple[Part, tuple[Stored, ...], tuple[LeftOut, ...]]:
    """Return the model in a folder, the tensors in its files, and what of them is left out."""
    files = weight_files(path)
    if not files:
        raise ModelError(f"{path}: no weights in it ({', '.join(_STEMS)}, or shards with an index)")
    if (path / adapters.CONFIG).is_file():
        raise ModelError(
            f"{path}: a model and adapters ({adapters.CONFIG}) in one folder, which transformers "
            "loads together: give each a folder of its own, and the model as --base"
        )
    config = read_config(path)
    opened = [contents(file) for file in files]
    weights = joined(opened)
    _check_index(path, opened)
    stored = tuple(s for one in opened for s in one.tensors.values())
    return Part(weights, config, companions(path)), stored, others(files, opened)


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings of the model in a folder.

    Raises:
        ModelError: they are no mapping.
    """
    config = read_json(path / CONFIG)
    if not isinstance(config, dict):
        raise ModelError(f"{path / CONFIG}: no mapping of settings")
    return config


def joined(opened: list[Contents]) -> dict[str, Weight]:
    """Return the tensors of several files as weights, by key.

    Raises:
        ModelError: one key in two files.
    """
    weights: dict[str, Weight] = {}
    for one in opened:
        for key, stored in one.tensors.items():
            if key in weights:
                first = weights[key].sources[0].file.name
                raise ModelError(f"{stored.file}: {key} is in {first} as well")
            weights[key] = as_stored(stored)
    return weights


def others(files: list[Path], opened: list[Contents]) -> tuple[LeftOut, ...]:
    """Return what is no tensor in files of weights."""
    return tuple(
        LeftOut(file, key, f"no tensor ({kind})")
        for file, one in zip(files, opened, strict=True)
        for key, kind in one.others.items()
    )


def companions(path: Path) -> dict[str, Path]:
    """Return the files that go with the weights of a folder, by name."""
    return {name: path / name for name in _COMPANIONS if (path / name).is_file()}


def weight_files(path: Path) -> list[Path]:
    """Return the files of a folder's weights, in the order of its index; none: it has none.

    Raises:
        ModelError: the index names a file that is not there.
    """
    for stem in _STEMS:
        if (path / stem).is_file():
            return [path / stem]
        index = path / f"{stem}.index.json"
        if index.is_file():
            named = dict.fromkeys(_weight_map(index).values())
            missing = [name for name in named if not (path / name).is_file()]
            if missing:
                raise ModelError(
                    f"{path}: {len(missing)} of the {len(named)} files that {index.name} names "
                    f"are missing: {', '.join(missing[:5])}"
                )
            return [path / name for name in named]
    return []


def _weight_map(index: Path) -> dict[str, str]:
    """Return the names of the files that an index has tensors in, by tensor."""
    held = read_json(index)
    names = held.get("weight_map") if isinstance(held, dict) else None
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{index}: no weight_map, which says in which file each tensor is")
    return names


def _check_index(path: Path, opened: list[Contents]) -> None:
    """Make sure that each tensor is in the file that an index has it in, and in no other."""
    index = next((i for stem in _STEMS if (i := path / f"{stem}.index.json").is_file()), None)
    if index is None or any((path / stem).is_file() for stem in _STEMS):
        return
    said = _weight_map(index)
    held = {
        key: str(stored.file.relative_to(path))
        for one in opened
        for key, stored in one.tensors.items()
    }
    for key in [*said, *held]:
        if held.get(key) != said.get(key):
            raise ModelError(
                f"{index}: {key}: expected in {said.get(key, 'no file')}, found in "
                f"{held.get(key, 'none')}: are files of two checkpoints mixed?"
            )


def load(path: Path, reading: Reading, device: str) -> dict[str, PreTrainedModel]:
    """Load the model of a folder, or of two, as transformers does."""
    places = _places(path, reading)
    return {tower: load_model(place, device) for tower, place in places.items()}


def load_model(folder: Path, device: str) -> PreTrainedModel:
    """Load a folder by the class that its configuration names, in fp32.

    device: "meta" for names and shapes alone
    Raises:
        ModelError: it cannot be loaded, or weights are missing or of another shape.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
        named = (config.architectures or [""])[0]
        kind: Any = getattr(transformers, named, AutoModel)
        with hushed(REPORTS):
            model, report = kind.from_pretrained(
                folder, config=config, dtype=torch.float32, device_map={"": device},
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
    except (*DAMAGED, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{folder}: transformers cannot load it: {reason}") from error
    # no vector of ours comes from an encoder's pooler, and most layouts do without; heads do not
    bare = getattr(model, "base_model", None) is model
    missing = [k for k in sorted(report["missing_keys"]) if not (bare and "pooler." in k)]
    if missing:
        raise ModelError(
            f"{folder}: {type(model).__name__} expects {len(missing)} weights that are not "
            f"there: {some(missing)}"
        )
    if report["mismatched_keys"]:
        key, held, expected = sorted(report["mismatched_keys"])[0]
        raise ModelError(
            f"{folder}: {key}: its configuration expects {tuple(expected)}, found {tuple(held)}"
        )
    assert isinstance(model, PreTrainedModel)
    if config.model_type == "dpr":  # read as the BERT within, as elsewhere
        inner: Any = getattr(model, model.base_model_prefix)
        model = inner.bert_model
        assert isinstance(model, PreTrainedModel)
    return model  # `from_pretrained` has put it into evaluation already


def adapt(checkpoint: Checkpoint, writing: Writing) -> Checkpoint:
    """Return the checkpoint as a folder holds it: tied weights once, no settings of an encoder.

    Raises:
        ModelError: two towers, dense layers, weights that the configuration ties and that differ.
    """
    only(checkpoint, "hf")
    return without_copies(without_settings(checkpoint, "hf", writing.vectors), ONLY)


def without_copies(checkpoint: Checkpoint, tower: str) -> Checkpoint:
    """Return the checkpoint without the second of two weights that are one in its model.

    Raises:
        ModelError: they differ.
    """
    part, copies = checkpoint.parts[tower], {}
    for name, first in tied(part.config).items():
        if name in part.weights and first in part.weights:
            one, other = part.weights[name], part.weights[first]
            if not torch.equal(one.read(), other.read()):
                raise ModelError(
                    f"{checkpoint.path}: {name} and {first} differ, and by its configuration they "
                    "are one (tie_word_embeddings): set that to false in config.json if they "
                    "are to be two"
                )
            copies[name] = f"tied to {first}"
    return checkpoint.without(copies, tower)


def tied(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the weights of a model that are other weights of it, and which.

    By the names that its modules have, and by those of its files where they differ.
    """
    model = skeleton(config)
    if model is None:
        return {}
    names: dict[str, str] = dict(model.all_tied_weights_keys)
    in_files = {_in_files(name, model): _in_files(first, model) for name, first in names.items()}
    return {**names, **in_files}


def _in_files(name: str, model: PreTrainedModel) -> str:
    """Return the name that transformers writes for a weight: GPT-NeoX's head has an older one."""
    (written,) = revert_weight_conversion(model, {name: torch.empty(0)})
    return str(written)


def skeleton(config: Mapping[str, Any]) -> PreTrainedModel | None:
    """Return the model that a configuration describes, without numbers; None: not transformers'.

    Raises:
        ModelError: the class cannot be made of it.
    """
    if not config.get("architectures"):
        return None
    kind: Any = getattr(transformers, config["architectures"][0], None)
    if kind is None:
        return None
    own = deepcopy(dict(config))  # the class adds to the mappings in it
    try:
        with torch.device("meta"):
            model = kind(kind.config_class.from_dict(own))
    except (*DAMAGED, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"its configuration describes no {kind.__name__}: {reason}") from error
    assert isinstance(model, PreTrainedModel)
    return model


def write(checkpoint: Checkpoint, folder: Path, writing: Writing) -> None:
    """Write the folder of one model."""
    write_part(only(checkpoint, "hf"), folder, writing.max_shard_size)


def write_part(part: Part, folder: Path, max_shard_size: str) -> None:
    """Write a model's weights in shards, its configuration, and what goes with it."""
    write_settings(part, folder)
    write_weights(part.weights, folder, max_shard_size)


def write_settings(part: Part, folder: Path) -> None:
    """Write a model's configuration, and the files that go with it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, with_precision(part.config, part.weights))
    for name, file in part.files.items():
        shutil.copyfile(file, folder / name)


def write_weights(weights: Mapping[str, Weight], folder: Path, max_shard_size: str) -> None:
    """Write weights as safetensors, with one shard in memory at a time."""
    split = split_state_dict_into_shards_factory(
        dict(weights),
        get_storage_size=lambda weight: weight.bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    for name, keys in split.filename_to_tensors.items():
        write_safetensors({key: weights[key] for key in keys}, folder / name)
    if split.is_sharded:
        index: dict[str, Any] = {
            "metadata": split.metadata,
            "weight_map": split.tensor_to_filename,
        }
        write_json(folder / "model.safetensors.index.json", index)
