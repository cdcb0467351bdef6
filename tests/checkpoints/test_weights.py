"""Tensors of files: lazily, safely, and one at a time."""

import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ragkit.checkpoints.parts import Checkpoint, Part
from ragkit.checkpoints.weights import (
    as_stored,
    cast,
    checksum,
    contents,
    write_safetensors,
    write_torch,
)
from ragkit.errors import ModelError


class Code:
    """What a pickle of it would do when it is loaded: make a folder."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.proof,)


def test_a_safetensors_file_is_described_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2])}, file)
    tensors = contents(file).tensors
    assert {k: (s.shape, s.dtype) for k, s in tensors.items()} == {
        "a": ((2, 3), torch.float32),
        "b": ((2,), torch.int64),
    }
    assert tensors["a"].read().tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("zipped", [True, False])
def test_mappings_within_a_torch_file_are_gone_into(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "model.mdl"
    state = {"model": {"w": torch.ones(2, dtype=torch.bfloat16)}, "step": 3}
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    found = contents(file)
    assert found.others == {"step": "int"}
    assert found.tensors["model.w"].read().tolist() == [1, 1]
    assert found.tensors["model.w"].dtype == torch.bfloat16


def test_code_in_a_pickle_is_named_and_never_runs(tmp_path: Path) -> None:
    file, ran = tmp_path / "model.bin", tmp_path / "ran"
    torch.save({"w": torch.ones(2), "evil": Code(ran)}, file)
    with pytest.raises(
        ModelError, match=r"model\.bin: refused: beside tensors it holds posix\.mkdir"
    ):
        contents(file)
    assert not ran.exists()
    # the fixture can fail: loaded the careless way, it does run
    torch.load(file, weights_only=False)
    assert ran.exists()


def test_a_plain_pickle_with_code_never_runs_either(tmp_path: Path) -> None:
    file, ran = tmp_path / "model.pt", tmp_path / "ran"
    file.write_bytes(pickle.dumps({"evil": Code(ran)}))
    with pytest.raises(ModelError, match=r"model\.pt"):
        contents(file)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    tensors = {"w": torch.ones(1000)}
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ModelError, match=rf"{name}: cannot be read \(.* bytes; .*whole"):
        contents(file)


def test_a_file_that_is_not_there_or_no_torch_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.bin: No such file"):
        contents(tmp_path / "gone.bin")
    with pytest.raises(ModelError, match=r"gone\.safetensors: cannot be read \(no such file"):
        contents(tmp_path / "gone.safetensors")
    (tmp_path / "text.bin").write_text("not weights")
    with pytest.raises(ModelError, match=r"text\.bin: no file of torch\.save"):
        contents(tmp_path / "text.bin")


def test_numbers_are_cast_and_whole_numbers_are_not(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.tensor([1.0, 1.001]), "ids": torch.tensor([300, 70000])}, file)
    tensors = {k: as_stored(s) for k, s in contents(file).tensors.items()}
    half = cast(tensors["w"], torch.bfloat16, "w")
    assert half.read().tolist() == [1.0, 1.0]
    assert (half.dtype, half.how, half.bytes) == (torch.bfloat16, "fp32 to bf16", 4)
    assert cast(tensors["ids"], torch.bfloat16, "ids") is tensors["ids"]
    assert cast(tensors["w"], torch.float32, "w") is tensors["w"]


def test_a_value_beyond_a_precision_is_an_error_and_an_infinity_stays(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.tensor([1.0, -70000.0]), "mask": torch.tensor([-torch.inf])}, file)
    tensors = {k: as_stored(s) for k, s in contents(file).tensors.items()}
    with pytest.raises(ModelError, match=r"w: its largest value, 70000, is beyond fp16"):
        cast(tensors["w"], torch.float16, "w").read()
    assert cast(tensors["mask"], torch.float16, "mask").read().tolist() == [-torch.inf]


def test_a_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    import hashlib

    tensor = torch.arange(6.0).view(2, 3)
    assert checksum(tensor) == hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    assert checksum(tensor.t()) == checksum(tensor.t().contiguous()) != checksum(tensor)
    assert checksum(torch.tensor(1.0)) == checksum(torch.ones(1))


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    for value in (1.0, 2.0):
        torch.save({"w": torch.full((100,), value)}, file)
        assert contents(file).tensors["w"].read()[0].item() == value


def test_a_full_disk_is_an_error_of_the_system_whatever_writes(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(100_000)}, file)
    weights = {"a": as_stored(contents(file).tensors["a"])}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        for write, name in ((write_torch, "b.pt"), (write_safetensors, "b.safetensors")):
            with pytest.raises(OSError, match=rf"{name}: .*(disk|too large)"):
                write(weights, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_numbers_that_need_a_scale_are_not_cast(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2).to(torch.float8_e4m3fn), "b": torch.tensor(3.0)}, file)
    held = contents(file).tensors
    with pytest.raises(ModelError, match=r"a: float8_e4m3fn: it is quantised"):
        cast(as_stored(held["a"]), torch.bfloat16, "a")
    assert cast(as_stored(held["b"]), torch.bfloat16, "b").read() == 3
    checkpoint = Checkpoint(tmp_path, {"": Part({}, {"quantization_config": {"bits": 4}})}, ())
    with pytest.raises(ModelError, match="quantised .quantization_config."):
        checkpoint.cast(torch.bfloat16)
