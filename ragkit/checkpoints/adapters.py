"""The files of low-rank adapters as peft saves them (LoRA, Hu et al., 2021).

What is no plain LoRA is refused here. `ragkit.checkpoints.lora` adds them to their base.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.utils.other import get_pattern_key

from ragkit.checkpoints.parts import ONLY, TOWERS, some
from ragkit.checkpoints.weights import Contents, Stored, contents
from ragkit.data.files import read_json
from ragkit.errors import ModelError

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."  # peft's, before each name
_SUBFOLDERS = {TOWERS[0]: "query", TOWERS[1]: "document"}

# A factor's module, of an embedding or not, and its side; peft's name for the adapters may stay
_FACTOR = re.compile(r"(.+)\.lora_(?:embedding_)?([AB])(?:\.default)?(?:\.weight)?")
# where peft keeps the weights of a module that it wraps
_WRAPPED = re.compile(r"\.(base_layer|modules_to_save\.default)(?=\.)")

# settings that a merged weight does not depend on, or that are heeded
_PLAIN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout",
    "lora_ga_config", "megatron_core", "modules_to_save", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
    "task_type", "use_rslora",
}  # fmt: skip
# beginnings that leave the base as it is; others take from it what the adapters begin with
_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Adapters:
    """The adapters of one model.

    factors: A, (rank, in), and B, (out, rank), of modules, by the module's name
    whole: what replaces a weight, by the weight's name
    """

    folder: Path
    config: Mapping[str, Any]
    held: Contents
    factors: Mapping[str, Mapping[str, Stored]]
    whole: Mapping[str, Stored]

    def scaling(self, module: str) -> float:
        """Return what B A is multiplied by.

        Raises:
            ModelError: the settings say another rank than the factors have.
        """
        rank = self.factors[module]["A"].shape[0]
        said = self._setting("r", "rank_pattern", module)
        if said != rank:
            raise ModelError(
                f"{self.folder}: {module}: {CONFIG} says rank {said:g}, and its factors have {rank}"
            )
        alpha = self._setting("lora_alpha", "alpha_pattern", module)
        # rank-stabilised LoRA (Kalajdzievski, 2023) divides by the root
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _setting(self, name: str, pattern: str, module: str) -> float:
        patterns: dict[str, float] = self.config.get(pattern) or {}
        found = patterns.get(get_pattern_key(list(patterns), module))
        return float(self.config[name] if found is None else found)


def tower_folders(path: Path) -> dict[str, Path]:
    """Return the folders of adapters by the part that they are for; none: these are none."""
    if (path / CONFIG).is_file():
        return {ONLY: path}
    towers = {tower: path / name for tower, name in _SUBFOLDERS.items()}
    return towers if all((folder / CONFIG).is_file() for folder in towers.values()) else {}


def folder_of(path: Path, tower: str) -> Path:
    """Return where the adapters of a part are to be."""
    return path / _SUBFOLDERS[tower] if tower else path


def open_adapters(folder: Path) -> Adapters:
    """Open the adapters of one model.

    Raises:
        ModelError: no weights, damaged ones, or what is no plain LoRA.
    """
    config = read_config(folder)
    _check_plain(folder / CONFIG, config)
    held = contents(weight_file(folder))
    factors: dict[str, dict[str, Stored]] = {}
    whole: dict[str, Stored] = {}
    for key, stored in held.tensors.items():
        name = key.removeprefix(PREFIX)
        if match := _FACTOR.fullmatch(name):
            factors.setdefault(match[1], {})[match[2]] = stored
        else:
            whole[_WRAPPED.sub("", name)] = stored
    for module, pair in factors.items():
        _check_pair(f"{folder}: {module}", pair)
    return Adapters(folder, config, held, factors, whole)


def weight_file(folder: Path) -> Path:
    """Return the file of adapters' weights.

    Raises:
        ModelError: there is none.
    """
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise ModelError(f"{folder}: adapters without weights ({' or '.join(WEIGHTS)})")
    return file


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return the settings of adapters."""
    settings = read_json(folder / CONFIG)
    if not isinstance(settings, dict):
        raise ModelError(f"{folder / CONFIG}: no mapping of settings")
    return settings


def _check_plain(file: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{file}: peft_type is {kind}; of peft's adapters only LORA is merged")
    if not {"r", "lora_alpha"} <= config.keys():
        raise ModelError(f"{file}: it does not say r and lora_alpha")
    if more := [key for key, value in config.items() if value and key not in _PLAIN]:
        raise ModelError(f"{file}: no plain LoRA: it sets {some(more)}; merge it by peft itself")
    if config.get("init_lora_weights") not in _BEGINNINGS:
        raise ModelError(
            f"{file}: init_lora_weights is {config['init_lora_weights']!r}, which changes the "
            "base, too: save them as plain LoRA (peft's path_initial_model_for_weight_conversion)"
        )


def _check_pair(name: str, pair: Mapping[str, Stored]) -> None:
    if lacking := {"A", "B"} - pair.keys():
        raise ModelError(f"{name}: lora_{next(iter(pair))} without lora_{lacking.pop()}")
    a, b = pair["A"].shape, pair["B"].shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise ModelError(
            f"{name}: lora_A is {a} and lora_B {b}; expected (rank, in) and (out, rank)"
        )
