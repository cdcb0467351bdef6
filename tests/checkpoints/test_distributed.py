"""Checkpoints of torch.distributed.checkpoint: by one process and by FSDP, read to the bit."""

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from ragkit.checkpoints import distributed
from ragkit.checkpoints.layouts import layout_of
from ragkit.checkpoints.parts import ONLY, Reading
from ragkit.checkpoints.proof import check_used
from ragkit.errors import ModelError

FIRST = "model.layers.0.self_attn.q_proj.weight"


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def saved(state: dict[str, Any], folder: Path) -> Path:
    """Save a state by one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def change(folder: Path, by: Callable[[Metadata], object]) -> None:
    """Change what a checkpoint says of itself."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    by(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.fixture
def weights(tiny_decoder: Path) -> dict[str, Tensor]:
    """The weights of a decoder."""
    return load_file(tiny_decoder / "model.safetensors")


@pytest.fixture
def trainer(weights: dict[str, Tensor], tiny_decoder: Path, tmp_path: Path) -> Path:
    """A Trainer's checkpoint as FSDP leaves it, with a configuration."""
    saved({"model": weights}, tmp_path / "checkpoint-3" / "pytorch_model_fsdp_0")
    shutil.copy(tiny_decoder / "config.json", tmp_path / "checkpoint-3")
    return tmp_path / "checkpoint-3"


def test_the_weights_are_those_that_two_processes_trained(sharded: Path) -> None:
    checkpoint = layout_of(sharded / "fsdp").read(sharded / "fsdp", Reading())
    check_used(checkpoint)
    expected = torch.load(sharded / "fsdp.pt")
    found = {name: weight.read() for name, weight in checkpoint.parts[ONLY].weights.items()}
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)
    # 61 rows: 31 in one file and 30 in the other
    shared = checkpoint.parts[ONLY].weights["model.shared.weight"]
    assert [(s.file.name, s.key, s.shape) for s in shared.sources] == [
        ("__0_0.distcp", "model.model.shared.weight from (0, 0)", (31, 10)),
        ("__1_0.distcp", "model.model.shared.weight from (31, 0)", (30, 10)),
    ]
    assert shared.how == "joined from 2 pieces"


def test_a_checkpoint_becomes_a_folder_and_leaves_the_optimizer_out(
    weights: dict[str, Tensor], tiny_decoder: Path, tmp_path: Path, ragkit: Callable[..., Any]
) -> None:
    moments = {"state": {FIRST: {"exp_avg": torch.ones(3)}}}
    state = {"model": weights, "optimizer": moments, "epoch": 2}
    source, out = saved(state, tmp_path / "dcp"), tmp_path / "out"
    done = ragkit(
        "convert", str(source), "--to", "hf", "-o", str(out), "--base", str(tiny_decoder)
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "left out: 1 (state of the training)" in done.out
    assert "left out: 1 (no tensor)" in done.out
    found = load_file(out / "model.safetensors")
    assert set(found) == set(weights)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert (out / "tokenizer.json").is_file()
    traced = {t["name"]: t for t in json.loads((out / "conversion.json").read_text())["tensors"]}
    assert traced[FIRST]["from"] == [{"file": "__0_0.distcp", "key": f"model.{FIRST}"}]
    assert traced[FIRST]["how"] == "as it is"


@pytest.mark.parametrize("holder", [(), ("model",), ("app", "model")])
def test_a_model_is_found_alone_and_within_a_state(
    holder: tuple[str, ...], weights: dict[str, Tensor], tiny_decoder: Path, tmp_path: Path
) -> None:
    state: dict[str, Any] = {k: v.bfloat16() for k, v in weights.items()}
    for name in reversed(holder):
        state = {name: state}
    checkpoint = distributed.read(saved(state, tmp_path / "dcp"), Reading(base=tiny_decoder))
    assert set(checkpoint.parts[ONLY].weights) == set(weights)
    found = checkpoint.parts[ONLY].weights[FIRST]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.read(), weights[FIRST].bfloat16())


def test_what_is_no_models_is_named(
    weights: dict[str, Tensor], tiny_decoder: Path, tmp_path: Path
) -> None:
    state = {"model": weights, "teacher": {"w": torch.ones(2)}}
    checkpoint = distributed.read(saved(state, tmp_path / "dcp"), Reading(base=tiny_decoder))
    with pytest.raises(ModelError, match=r"teacher.w \(__0_0.distcp\)"):
        check_used(checkpoint)


def test_the_folder_of_an_optimizer_alone_is_named(tiny_decoder: Path, tmp_path: Path) -> None:
    folder = saved({"optimizer": {"state": {"w": torch.ones(2)}}}, tmp_path / "optimizer_0")
    with pytest.raises(ModelError, match=r"optimizer_0: no weights of a model"):
        distributed.read(folder, Reading(base=tiny_decoder))


def test_one_tensor_is_read_at_a_time(trainer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def load(state: dict[str, Any], **arguments: Any) -> None:
        asked.append(list(state))
        dcp.load(state, **arguments)

    monkeypatch.setattr(distributed, "load", load)
    weights = distributed.read(trainer, Reading()).parts[ONLY].weights
    assert asked == []
    for weight in weights.values():
        weight.read()
    assert asked == [[f"model.{name}"] for name in weights]


def test_a_trainers_checkpoint_is_read_from_either_folder(
    trainer: Path, weights: dict[str, Tensor], tiny_decoder: Path
) -> None:
    for path in (trainer, trainer / "pytorch_model_fsdp_0"):
        layout = layout_of(path)
        assert layout.name == "distributed"
        assert set(layout.read(path, Reading()).parts[ONLY].weights) == set(weights)
    shutil.copy(tiny_decoder / "model.safetensors", trainer)
    assert layout_of(trainer).name == "hf"


@pytest.mark.parametrize("within", [False, True])
def test_code_in_the_metadata_is_named_and_does_not_run(
    within: bool, trainer: Path, tmp_path: Path
) -> None:
    folder, evil = trainer / "pytorch_model_fsdp_0", Touch(tmp_path / "ran")
    if within:
        change(folder, lambda metadata: metadata.planner_data.update(more=evil))
    else:
        (folder / ".metadata").write_bytes(pickle.dumps(evil))
    with pytest.raises(ModelError, match=r"\.metadata: refused: .*(builtins.getattr|pathlib.Path)"):
        distributed.read(trainer, Reading())
    assert not (tmp_path / "ran").exists()


class Got:
    """Pickled as what `getattr` finds in a class, as Python 3.11.2 does with enumerations."""

    def __init__(self, kind: type, name: str) -> None:
        self.found = kind, name

    def __reduce__(self) -> Any:
        return getattr, self.found


def test_members_of_enumerations_alone_are_got_from_a_class(trainer: Path) -> None:
    folder = trainer / "pytorch_model_fsdp_0"
    member = Got(_MEM_FORMAT_ENCODING, "TORCH_PRESERVE_FORMAT")
    change(folder, lambda metadata: metadata.planner_data.update(more=member))
    assert distributed.read(trainer, Reading()).parts[ONLY].weights
    method = Got(Metadata, "__init__")
    change(folder, lambda metadata: metadata.planner_data.update(more=method))
    with pytest.raises(ModelError, match=r"refused: .* builtins\.getattr of '__init__'"):
        distributed.read(trainer, Reading())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not there; .*was the saving finished"),
        (b"", "cannot be read"),
        (pickle.dumps({"a": 1}), "holds a dict"),
        (pickle.dumps(Metadata({}))[:-20], "cannot be read"),
        (pickle.dumps(Metadata({})), "no places of tensors"),
    ],
)
def test_damaged_metadata_is_named(content: bytes | None, message: str, trainer: Path) -> None:
    file = trainer / "pytorch_model_fsdp_0" / ".metadata"
    file.unlink() if content is None else file.write_bytes(content)
    assert layout_of(trainer).name == "distributed"
    with pytest.raises(ModelError, match=rf"\.metadata: .*{message}"):
        distributed.read(trainer, Reading())


def test_a_missing_or_truncated_file_is_named(sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded / "fsdp", tmp_path / "fsdp"))
    file = folder / "pytorch_model_fsdp_0" / "__1_0.distcp"
    file.write_bytes(file.read_bytes()[:50_000])
    with pytest.raises(ModelError, match=r"__1_0.distcp: model\..* it has 50,000 bytes"):
        distributed.read(folder, Reading())
    file.unlink()
    with pytest.raises(ModelError, match=r"__1_0.distcp: model\..* not there"):
        distributed.read(folder, Reading())


def test_a_spoilt_tensor_is_named_when_it_is_read(trainer: Path) -> None:
    file = trainer / "pytorch_model_fsdp_0" / "__0_0.distcp"
    file.write_bytes(bytes(file.stat().st_size))
    weight = distributed.read(trainer, Reading()).parts[ONLY].weights[FIRST]
    with pytest.raises(ModelError, match=rf"model.{FIRST} in __0_0.distcp: cannot be read"):
        weight.read()


def test_pieces_that_are_not_the_whole_tensor_are_named(sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded / "fsdp", tmp_path / "fsdp"))
    inner, key = folder / "pytorch_model_fsdp_0", "model.model.shared.weight"
    change(inner, lambda metadata: metadata.state_dict_metadata[key].chunks.pop())  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=rf"{key}: its pieces have 310 numbers, expected 610"):
        distributed.read(folder, Reading())
    change(inner, lambda metadata: metadata.storage_data.clear())
    with pytest.raises(ModelError, match=r"no place of its piece"):
        distributed.read(folder, Reading())


def test_a_configuration_of_other_shapes_is_named(trainer: Path) -> None:
    config = json.loads((trainer / "config.json").read_text())
    (trainer / "config.json").write_text(json.dumps({**config, "intermediate_size": 80}))
    with pytest.raises(ModelError, match=r"mlp.*expects \(.*80.*\), found \(.*64.*\)"):
        distributed.read(trainer, Reading())
