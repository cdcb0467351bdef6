"""What a checkpoint is, whatever its layout: models of transformers', one or a pair of towers.

Weights have the names that transformers gives them; what a layout cannot hold is kept count of.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ragkit.checkpoints.weights import Stored, Weight, cast
from ragkit.config.blocks import Vectors
from ragkit.errors import ModelError
from ragkit.models.layouts import EncoderSettings

ONLY = ""  # the name of a checkpoint's part where it has but one
TOWERS = ("query", "passage")
_NAMED = 5

# how many layers a model has, by the names that configurations use
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|block|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Reading:
    """What reading a checkpoint may need beside its files.

    base: folder of the model that it was made from: it gives configuration and tokenizer where the
        checkpoint has none, and the weights that adapters are for
    passages: folder of the passages' tower, where the two are apart
    trust: load what could run code
    """

    base: Path | None = None
    passages: Path | None = None
    trust: bool = False


@dataclass(frozen=True)
class Writing:
    """How a checkpoint is wanted.

    vectors: an encoder's settings, where the source does not say them
    max_shard_size: of a file of weights, such as 2GB
    base, rank: adapters are the difference to this folder's model, of so many dimensions
    """

    vectors: Vectors = Vectors()
    max_shard_size: str = "2GB"
    base: Path | None = None
    rank: int = 16


@dataclass(frozen=True)
class Dense:
    """A linear layer that an encoder has behind its pooling: its weights and its config.json."""

    weights: Mapping[str, Weight]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A model of transformers': its weights by name, and the files that go with them.

    config: its config.json
    files: of its tokenizer, its chat template and the like, by name
    dense: of an encoder, behind its pooling
    settings: of an encoder, where the layout says them
    """

    weights: Mapping[str, Weight]
    config: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    dense: tuple[Dense, ...] = ()
    settings: EncoderSettings | None = None

    @property
    def all_weights(self) -> dict[str, Weight]:
        """Its weights, and after them those of its dense layers."""
        behind = {
            f"dense.{i}.{name}": weight
            for i, layer in enumerate(self.dense)
            for name, weight in layer.weights.items()
        }
        return {**self.weights, **behind}


@dataclass(frozen=True)
class LeftOut:
    """A tensor, or another value, of the source's files that the target does not have, and why."""

    file: Path
    key: str
    reason: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: its parts by name (ONLY, or TOWERS), not yet read.

    stored: all tensors of its files
    left_out: of them, and of other values there, what is in no part
    made: names of weights that are in no file, and what they are made of
    lost: settings that the layout to be written cannot hold
    """

    path: Path
    parts: Mapping[str, Part]
    stored: tuple[Stored, ...]
    left_out: tuple[LeftOut, ...] = ()
    made: Mapping[str, str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    def named(self) -> dict[str, Weight]:
        """All weights, those of two towers with the name of the tower before theirs."""
        return {
            f"{tower}.{name}" if tower else name: weight
            for tower, part in self.parts.items()
            for name, weight in part.all_weights.items()
        }

    def without(self, names: Mapping[str, str], tower: str) -> "Checkpoint":
        """Return the checkpoint with weights of a part left out; names: and why."""
        part = self.parts[tower]
        kept = {name: weight for name, weight in part.weights.items() if name not in names}
        gone = tuple(
            LeftOut(source.file, source.key, reason)
            for name, reason in names.items()
            for source in part.weights[name].sources
        )
        parts = {**self.parts, tower: replace(part, weights=kept)}
        left_out = tuple(dict.fromkeys((*self.left_out, *gone)))
        return replace(self, parts=parts, left_out=left_out)

    def cast(self, dtype: torch.dtype) -> "Checkpoint":
        """Return the checkpoint with its numbers in another precision.

        Raises:
            ModelError: it is quantised, so that its numbers stand for others.
        """
        if any(part.config.get("quantization_config") for part in self.parts.values()):
            raise ModelError(
                f"{self.path}: it is quantised (quantization_config), and its scales are as exact "
                "as they are: leave --dtype away"
            )
        parts = {tower: _cast_part(part, dtype) for tower, part in self.parts.items()}
        return replace(self, parts=parts)


def only(checkpoint: Checkpoint, layout: str) -> Part:
    """Return the only part of a checkpoint.

    Raises:
        ModelError: it has two towers.
    """
    if ONLY not in checkpoint.parts:
        raise ModelError(
            f"{checkpoint.path}: it has two towers, and {layout} holds one model; convert one of "
            "them alone: its folder, which hf-dual has (q_encoder/, ctx_encoder/)"
        )
    return checkpoint.parts[ONLY]


def check_layers(part: Part, name: str) -> None:
    """Compare the layers that there are weights of with what the configuration says.

    name: of the part, for messages
    Raises:
        ModelError: another number of layers, or a gap among them.
    """
    said = next((int(part.config[key]) for key in _LAYERS if part.config.get(key)), None)
    stacks: dict[str, set[int]] = {}
    for weight in part.weights:
        if match := _LAYER.search(weight):
            stacks.setdefault(weight[: match.start(1)], set()).add(int(match[1]))
    for stack, found in stacks.items():
        if gap := set(range(max(found) + 1)) - found:
            listed = ", ".join(map(str, sorted(gap)))
            raise ModelError(f"{name}: {stack}: no weights of layer {listed}, but of {max(found)}")
    if part.config.get("is_encoder_decoder") or len(stacks) != 1 or said is None:
        return
    (count,) = (max(found) + 1 for found in stacks.values())
    if count != said:
        raise ModelError(
            f"{name}: its configuration says {said} layers, and there are weights of {count}"
        )


def some(names: Sequence[str]) -> str:
    """Return the first few of many names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def with_precision(config: Mapping[str, Any], weights: Mapping[str, Weight]) -> dict[str, Any]:
    """Return a config.json that says the precision of the weights: that of most numbers."""
    sizes: dict[torch.dtype, int] = {}
    for weight in weights.values():
        if weight.dtype.is_floating_point:
            sizes[weight.dtype] = sizes.get(weight.dtype, 0) + weight.bytes
    plain = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    if not sizes:
        return plain
    return {**plain, "dtype": str(max(sizes, key=lambda d: sizes[d])).removeprefix("torch.")}


def _cast_part(part: Part, dtype: torch.dtype) -> Part:
    def changed(weights: Mapping[str, Weight]) -> dict[str, Weight]:
        return {name: cast(weight, dtype, name) for name, weight in weights.items()}

    dense = tuple(replace(layer, weights=changed(layer.weights)) for layer in part.dense)
    return replace(part, weights=changed(part.weights), dense=dense)
