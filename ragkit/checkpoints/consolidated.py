"""What the checkpoints of trainings in several processes have in common, whoever wrote them.

They hold the weights as the model has them in memory, and often nothing else: the configuration is
that of a Trainer's folder around them, or of the model that the training began with.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ragkit.checkpoints.folders import CONFIG, companions, read_config, skeleton, weight_files
from ragkit.checkpoints.parts import Part, Reading, some
from ragkit.checkpoints.weights import Weight, contents
from ragkit.errors import ModelError

STATE = "state of the training"
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors")
# what stands before the names of a model that was trained within another module
_WRAPPERS = (
    "module.",  # of torch's and DeepSpeed's data parallelism
    "_orig_mod.",  # of torch.compile
    "encoder.model.",  # of ragkit's retriever training
)


def is_whole_beside(path: Path) -> bool:
    """Return whether transformers or peft finds all weights of a folder in fp32.

    In 16 bits they have lost what the states of a training still have.
    """
    files = weight_files(path) if (path / CONFIG).is_file() else []
    config, adapters = (path / name for name in _ADAPTERS)
    if config.is_file() and adapters.is_file():
        files = [adapters]
    stored = [s for file in files for s in contents(file).tensors.values()]
    return {s.dtype for s in stored if s.dtype.is_floating_point} == {torch.float32}


def described(path: Path, home: Path, weights: Mapping[str, Weight], reading: Reading) -> Part:
    """Return the model that weights are of, their names without those of wrappers.

    home: folder that may have the configuration and the tokenizer; else they are the base's
    Raises:
        ModelError: no weights, no configuration, weights that it does not have, or of another
            shape.
    """
    if not weights:
        raise ModelError(f"{path}: no weights of a model in it")
    weights = _unwrapped(weights)
    if adapted := [name for name in weights if ".lora_" in name or ".base_layer." in name]:
        raise ModelError(
            f"{path}: adapters ({some(adapted)}), which mean nothing without their settings: copy "
            f"{' and '.join(_ADAPTERS)} of the same checkpoint to a folder and convert that"
        )
    folders = [folder for folder in (home, reading.base) if folder is not None]
    config = next((folder for folder in folders if (folder / CONFIG).is_file()), None)
    if config is None:
        raise ModelError(
            f"{path}: no {CONFIG} with the weights; say which model was trained (--base MODEL)"
        )
    files = {
        name: file for folder in reversed(folders) for name, file in companions(folder).items()
    }
    return Part(weights, _fitting(weights, read_config(config), path, config / CONFIG), files)


def _unwrapped(weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """Return weights without what stands before the names of all of them."""
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in weights):
            return _unwrapped({name.removeprefix(wrapper): w for name, w in weights.items()})
    return dict(weights)


def _fitting(
    weights: Mapping[str, Weight], config: dict[str, Any], path: Path, file: Path
) -> dict[str, Any]:
    """Return the configuration of the model that has the weights: the one named, or its body.

    A retriever is trained without the head that its base's configuration names.
    """
    named = skeleton(config)
    if named is None:
        return config
    kinds = dict.fromkeys(type(model).__name__ for model in (named, named.base_model))
    for kind in kinds:
        fitting = {**config, "architectures": [kind]}
        model = skeleton(fitting)
        assert model is not None
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if weights.keys() <= shapes.keys():
            break
    else:
        unknown = [name for name in weights if name not in named.state_dict()]
        raise ModelError(
            f"{path}: {len(unknown)} of {len(weights)} weights are not of a "
            f"{type(named).__name__}, which {file} describes: {some(unknown)}"
        )
    for name, weight in weights.items():
        if weight.shape != shapes[name]:
            raise ModelError(
                f"{path}: {name}: {file} ({kind}) expects {shapes[name]}, found {weight.shape}"
            )
    return fitting
