"""What proves a conversion: no tensor unused, none else written, and the same outputs."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ragkit.checkpoints.parts import ONLY, Checkpoint, LeftOut, Part
from ragkit.checkpoints.proof import check_used, largest_difference, trace
from ragkit.checkpoints.weights import as_stored, contents
from ragkit.errors import ModelError


def test_outputs_are_compared_where_they_are_numbers() -> None:
    one = torch.tensor([1.0, math.nan, -4.0])
    assert largest_difference({"": one}, {"": one + 0.5}, exact=False) == 0.5
    with pytest.raises(ModelError, match=r"0\.5 apart before and after"):
        largest_difference({"": one}, {"": one + 0.5}, exact=True)
    with pytest.raises(ModelError, match="nan apart before and after"):
        largest_difference({"": one}, {"": torch.ones(3)}, exact=False)


def test_outputs_of_which_none_is_a_number_prove_nothing() -> None:
    nothing = torch.full((3,), math.nan)
    assert largest_difference({"": nothing}, {"": nothing}, exact=True) is None


def checkpoint(file: Path, **tensors: Tensor) -> Checkpoint:
    """A checkpoint of one file with these tensors, all of them used."""
    save_file(tensors, file)
    stored = contents(file).tensors
    part = Part({key: as_stored(tensor) for key, tensor in stored.items()}, {})
    return Checkpoint(file.parent, {ONLY: part}, tuple(stored.values()))


def test_a_tensor_is_used_or_left_out_for_a_reason(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path / "a.safetensors", kept=torch.ones(2), odd=torch.ones(2))
    check_used(whole)
    kept = {"kept": whole.parts[ONLY].weights["kept"]}
    forgetful = replace(whole, parts={ONLY: Part(kept, {})})
    with pytest.raises(ModelError, match=r"1 of its 2 tensors belong to no layer .*odd \(a\.safe"):
        check_used(forgetful)
    check_used(replace(forgetful, left_out=(LeftOut(whole.stored[1].file, "odd", "a buffer"),)))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"w": torch.ones(2)}, "not written: v"),
        ({"w": torch.ones(2), "v": torch.ones(1), "u": torch.ones(1)}, "in no source: u"),
        ({"w": torch.ones(3), "v": torch.ones(1)}, r"w: expected fp32 \(2,\), written fp32 \(3,\)"),
        ({"w": torch.ones(2).half(), "v": torch.ones(1)}, "w: expected fp32 .* written fp16"),
        ({"w": torch.tensor([1.0, 2.0]), "v": torch.ones(1)}, "w: what was written is not what"),
    ],
)
def test_what_was_written_is_held_against_its_source(
    written: dict[str, Tensor], said: str, tmp_path: Path
) -> None:
    source = checkpoint(tmp_path / "a.safetensors", w=torch.ones(2), v=torch.ones(1))
    assert len(list(trace(source, source))) == 2
    with pytest.raises(ModelError, match=said):
        list(trace(source, checkpoint(tmp_path / "b.safetensors", **written)))
