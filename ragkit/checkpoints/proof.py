"""Proof that a written checkpoint holds what its source holds.

Every tensor of the source's files must have been used or left out for a reason, and every tensor of
the target, read again by its own layout's reader, must be the same to the bit. Where transformers
loads the target, it must miss nothing, and give the source's outputs.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ragkit.checkpoints.parts import ONLY, Checkpoint, some
from ragkit.checkpoints.weights import Weight, checksum, short
from ragkit.errors import ModelError

_PROBED = 16  # tokens of a row of random ones
_SMALL_BYTES = 2 << 30
_EXACT = 1e-4  # of the largest output: what another order of summing may make


@dataclass(frozen=True)
class Traced:
    """A tensor of the target: what it is, and where it comes from.

    how: what was done to its sources; "": nothing
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    sources: tuple[tuple[str, str], ...]  # file and key
    how: str

    def to_json(self) -> dict[str, Any]:
        """Return a record of it."""
        sources = [{"file": file, "key": key} for file, key in self.sources]
        return {
            "name": self.name, "shape": list(self.shape), "dtype": self.dtype,
            "sha256": self.sha256, "from": sources, "how": self.how or "as it is",
        }  # fmt: skip


def check_used(checkpoint: Checkpoint) -> None:
    """Make sure that every tensor of the source's files is used, or left out for a reason.

    Raises:
        ModelError: naming the tensors that are neither.
    """
    used = {(s.file, s.key) for weight in checkpoint.named().values() for s in weight.sources}
    known = used | {(left.file, left.key) for left in checkpoint.left_out}
    unused = [f"{s.key} ({s.file.name})" for s in checkpoint.stored if (s.file, s.key) not in known]
    if unused:
        raise ModelError(
            f"{checkpoint.path}: {len(unused)} of its {len(checkpoint.stored)} tensors belong to "
            f"no layer that ragkit knows of this layout: {some(unused)}"
        )


def trace(source: Checkpoint, target: Checkpoint) -> Iterator[Traced]:
    """Yield each tensor of the target once it was found equal to what it was made of.

    Two tensors are in memory at a time.

    source: as it was adapted to the target's layout
    target: as it was read again from what was written
    Raises:
        ModelError: tensors that are missing, that nobody asked for, or that differ.
    """
    wanted, written = source.named(), target.named()
    if missing := wanted.keys() - written.keys():
        raise ModelError(f"{target.path}: not written: {some(sorted(missing))}")
    if more := written.keys() - wanted.keys():
        raise ModelError(f"{target.path}: in no source: {some(sorted(more))}")
    for name, weight in written.items():
        yield _compare(name, wanted[name], weight, source.path)


def _compare(name: str, wanted: Weight, written: Weight, path: Path) -> Traced:
    if (wanted.shape, wanted.dtype) != (written.shape, written.dtype):
        raise ModelError(
            f"{name}: expected {short(wanted.dtype)} {wanted.shape}, "
            f"written {short(written.dtype)} {written.shape}"
        )
    expected, found = checksum(wanted.read()), checksum(written.read())
    if expected != found:
        raise ModelError(
            f"{name}: what was written is not what it was made of (SHA-256 {found[:12]}, "
            f"expected {expected[:12]})"
        )
    sources = tuple((_below(s.file, path), s.key) for s in wanted.sources)
    return Traced(name, wanted.shape, short(wanted.dtype), found, sources, wanted.how)


class NotRunError(Exception):
    """A model asks for more than tokens."""


def outputs_of(models: Mapping[str, PreTrainedModel]) -> dict[str, Tensor]:
    """Return what each model makes of random tokens, the same each time, in one row.

    Of a model with heads all their logits, of another the states of its last layer; no pooler's.

    Raises:
        NotRunError: a model that does not take them as they are.
    """
    return {tower: _outputs(model, _tokens(model)) for tower, model in models.items()}


def largest_difference(
    source: Mapping[str, Tensor], target: Mapping[str, Tensor], exact: bool
) -> float | None:
    """Return by how much the outputs of two sides differ at most; None: no output is finite.

    exact: their weights are the same to the bit
    Raises:
        ModelError: outputs that are no numbers on one side alone, or differ where they must not.
    """
    differences = []
    for tower, after in target.items():
        before = source[tower if tower in source else ONLY]  # one tower may have been made two
        known = before.isfinite() & after.isfinite()
        difference, largest = (
            values[known].abs().max().item() if known.any() else 0.0
            for values in (before - after, before)
        )
        same = torch.equal(before.isfinite(), after.isfinite())
        if not same or (exact and difference > _EXACT * largest):
            raise ModelError(
                f"{tower or 'the model'}: its outputs on random tokens are "
                f"{difference if same else math.nan:g} apart before and after: what was written is "
                "not the same model"
            )
        if known.any():
            differences.append(difference)
    return max(differences, default=None)


def is_small(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint's models, in fp32, take little memory to be run."""
    return 4 * parameters(checkpoint) <= _SMALL_BYTES


def _tokens(model: PreTrainedModel) -> Tensor:
    """Return two rows of tokens, the same each time."""
    embeddings: Any = model.get_input_embeddings()  # peft's layer, where it has adapters
    vocabulary = len(embeddings.weight)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (2, _PROBED), generator=generator)


def _outputs(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    found: list[Tensor] = []
    # some models take several rows only where they know what padding is
    for row in (tokens[:1], tokens[1:]):
        given = {"input_ids": row, "attention_mask": torch.ones_like(row)}
        if model.config.is_encoder_decoder:
            given["decoder_input_ids"] = row
        try:
            with torch.no_grad():
                output = model(**given)
        except (ValueError, TypeError, RuntimeError, IndexError, AssertionError) as error:
            reason = str(error).strip().split("\n")[0]
            raise NotRunError(f"{type(model).__name__} of random tokens: {reason}") from error
        found += [
            value.flatten()
            for name, value in output.items()
            if isinstance(value, Tensor) and value.is_floating_point() and name != "pooler_output"
        ]
    return torch.cat(found)


def parameters(checkpoint: Checkpoint) -> int:
    """Return how many numbers a checkpoint's weights have."""
    return sum(math.prod(weight.shape) for weight in checkpoint.named().values())


def _below(file: Path, path: Path) -> str:
    """Return a file's name within the source, or its whole path where it lies elsewhere."""
    folder = path if path.is_dir() else path.parent
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)
