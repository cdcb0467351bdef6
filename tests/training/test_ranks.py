"""Training by torchrun: DDP and DeepSpeed equal one process, resume exactly, decide as one."""

import importlib.util
import json
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch import Tensor

from ragkit.config.blocks import EncoderOptions
from ragkit.config.training import Contrastive, Guide, TrainLoop
from ragkit.errors import ConfigError, RunError
from ragkit.models import ranks
from ragkit.models.encoder import Encoder
from ragkit.training.arguments import deepspeed_settings, shards_weights, training_arguments
from ragkit.training.guide import guide_vectors
from ragkit.training.retriever import train_retriever

WORKER = Path(__file__).with_name("ranks_worker.py")
CONFIGS = Path(__file__).parents[2] / "configs"
Torchrun = Callable[..., subprocess.CompletedProcess[str]]
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)


@pytest.fixture(scope="module")
def alone(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of one process whose batch is that of two."""
    encoder = Encoder.load(str(tiny_encoder), EncoderOptions(max_length=16))
    folder = tmp_path_factory.mktemp("alone")
    trained = runpy.run_path(str(WORKER))["train"](encoder, folder, str(tiny_encoder), batch_size=4)
    assert (trained.steps, trained.best_step) == (8, 4)
    return encoder.state_dict()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("ddp", DistributedType.MULTI_CPU),
        pytest.param("zero2", DistributedType.DEEPSPEED, marks=needs_deepspeed),
        pytest.param("zero3", DistributedType.DEEPSPEED, marks=needs_deepspeed),
    ],
)
def test_two_processes_train_what_one_does_and_resume_exactly(
    mode: str,
    kind: DistributedType,
    alone: dict[str, Tensor],
    tiny_encoder: Path,
    tmp_path: Path,
    torchrun: Torchrun,
) -> None:
    done = torchrun(str(WORKER), mode, str(tiny_encoder), str(tmp_path), str(CONFIGS / "deepspeed"))
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    # patience ends it at step 8 of 12 in both processes; the best is of step 4
    assert told == {"type": kind.value, "steps": [8, 8], "best_step": [4, 4]}
    whole, parts = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert set(whole) == set(alone)
    begun = Encoder.load(str(tiny_encoder)).state_dict()
    assert max((begun[name] - found).abs().max() for name, found in whole.items()) > 1e-3
    for name, found in whole.items():
        torch.testing.assert_close(found, alone[name], rtol=0, atol=1e-5, msg=name)
        assert torch.equal(parts[name], found), name


def test_where_one_process_fails_all_end(
    tiny_encoder: Path, tmp_path: Path, torchrun: Torchrun
) -> None:
    done = torchrun(
        str(WORKER), "rank-1-fails", str(tiny_encoder), str(tmp_path), str(CONFIGS), timeout=120
    )
    assert done.returncode != 0
    assert "StoppedError" in done.stderr
    assert not (tmp_path / "told.json").exists()


def test_the_command_writes_one_run_directory(
    tiny_encoder: Path, tmp_path: Path, torchrun: Torchrun
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    worker = runpy.run_path(str(WORKER))
    (data / "corpus.jsonl").write_text(
        "".join(json.dumps({"id": p.id, "text": p.text}) + "\n" for p in worker["CORPUS"].values())
    )
    lines = [json.dumps(e.to_json()) + "\n" for e in worker["EXAMPLES"]]
    (data / "train.jsonl").write_text("".join(lines) + '{"question": 5}\n')
    (data / "dev.jsonl").write_text("".join(lines[:5]))
    command = [
        "-m", "ragkit", "train-retriever", str(data / "train.jsonl"), "-m", str(tiny_encoder),
        "-o", str(tmp_path / "run"), "--skip-bad",
        "--set", "loop.batch_size=2", "--set", "loop.epochs=1", "--set", "loop.device=cpu",
    ]  # fmt: skip
    done = torchrun(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 steps in") == 1
    assert done.stderr.count("training in 2 processes") == 1
    assert done.stderr.count("bad lines set aside: 1") == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["processes"], len(record["starts"])) == ("done", 2, 1)
    assert (tmp_path / "run" / "log.txt").read_text().count("training in 2 processes") == 1
    trained = Encoder.load(str(tmp_path / "run"))
    assert trained.dimensions == 32
    # what rank 0 refuses is said once, and ends both
    refused = torchrun(*command, "--set", "loop.epochs=2")
    assert refused.returncode != 0
    assert refused.stderr.count("made by a different run") == 1


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of rank 0 of two, by halves."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_processes_that_cannot_meet_are_refused(two: pytest.MonkeyPatch) -> None:
    two.setenv("RANK", "0")
    with pytest.raises(RunError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set.*torchrun"):
        ranks.count()
    two.setenv("WORLD_SIZE", "two")
    with pytest.raises(RunError, match="WORLD_SIZE: 'two' is not a number"):
        ranks.count()


def test_one_process_decides_for_itself() -> None:
    assert ranks.count() == 1
    assert ranks.decided(lambda: "this") == "this"


def test_fsdp_is_refused_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    loop = TrainLoop(device="cpu", fsdp=CONFIGS / "fsdp.json")
    with pytest.raises(ConfigError, match="loop.fsdp: needs GPUs, and this would train on cpu"):
        training_arguments(tmp_path, loop, 10, 0)


def test_one_way_to_shard_at_a_time() -> None:
    with pytest.raises(ValueError, match="deepspeed, fsdp: one of them"):
        TrainLoop(fsdp=CONFIGS / "fsdp.json", deepspeed=CONFIGS / "deepspeed" / "zero2.json")


def test_gradient_caching_is_refused_where_weights_are_taken_apart(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    encoder = Encoder.load(str(tiny_encoder))
    worker = runpy.run_path(str(WORKER))
    for loop in (
        TrainLoop(fsdp=CONFIGS / "fsdp.json"),
        TrainLoop(deepspeed=CONFIGS / "deepspeed" / "zero3.json"),
    ):
        with pytest.raises(ConfigError, match="loss.cached: needs the whole weights"):
            train_retriever(
                encoder, worker["EXAMPLES"], worker["CORPUS"], tmp_path,
                loss=Contrastive(cached=True), loop=loop,
            )  # fmt: skip
    assert not shards_weights(TrainLoop(deepspeed=CONFIGS / "deepspeed" / "zero2.json"))


@needs_deepspeed
def test_deepspeed_without_torchrun_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    loop = TrainLoop(device="cpu", deepspeed=CONFIGS / "deepspeed" / "zero2.json")
    with pytest.raises(ConfigError, match="loop.deepspeed: start with `torchrun"):
        training_arguments(tmp_path, loop, 10, 0)


@needs_deepspeed
def test_a_deepspeed_file_may_not_contradict_the_loop(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"gradient_clipping": 2, "optimizer": {}, "zero_optimization": {"stage": 3}}')
    with pytest.raises(ConfigError) as caught:
        deepspeed_settings(file, bf16=False)
    assert [p.split(": ")[2] for p in caught.value.problems] == [
        "gradient_clipping",
        "optimizer",
        "zero_optimization.stage3_gather_16bit_weights_on_model_save",
    ]
    file.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        deepspeed_settings(file, bf16=False)
    file.write_text("[]")
    with pytest.raises(ConfigError, match="holds a list, not a mapping"):
        deepspeed_settings(file, bf16=False)


@needs_deepspeed
def test_bf16_under_deepspeed_keeps_the_weights_in_fp32(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}')
    assert "torch_autocast" not in deepspeed_settings(file, bf16=False)
    settings = deepspeed_settings(file, bf16=True)
    assert settings["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert settings["zero_optimization"] == {"stage": 2}
    file.write_text('{"bf16": {"enabled": "auto"}}')
    assert "torch_autocast" not in deepspeed_settings(file, bf16=True)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="it is installed")
def test_where_deepspeed_is_missing_that_is_said() -> None:
    from ragkit.errors import MissingExtraError

    with pytest.raises(MissingExtraError, match=r"pip install 'ragkit\[deepspeed\]'"):
        deepspeed_settings(CONFIGS / "deepspeed" / "zero2.json", bf16=False)


@needs_deepspeed
@pytest.mark.parametrize("idle", [{"enabled": False}, {"enabled": "auto"}])
def test_a_precision_that_is_off_does_not_keep_bf16_out(
    idle: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"fp16": idle}))
    settings = deepspeed_settings(file, bf16=True)
    assert settings["torch_autocast"]["enabled"] and "fp16" not in settings
    file.write_text('{"bf16": {"enabled": false}}')
    assert deepspeed_settings(file, bf16=True)["torch_autocast"]["enabled"]


@needs_deepspeed
def test_a_precision_that_contradicts_the_loop_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"fp16": {"enabled": true}, "bf16": {"enabled": true}}')
    with pytest.raises(ConfigError) as caught:
        deepspeed_settings(file, bf16=False)
    assert [p.split(": ")[2] for p in caught.value.problems] == ["fp16", "bf16"]
    file.write_text('{"bf16": {"enabled": true}}')
    assert deepspeed_settings(file, bf16=True)["bf16"] == {"enabled": True}


def test_a_guide_is_refused_where_processes_are_on_several_machines(
    tmp_path: Path, as_first_rank: Callable[[int, int], None]
) -> None:
    as_first_rank(4, 2)
    with pytest.raises(ConfigError, match=r"loss\.guide: .* several"):
        guide_vectors(Guide(model="embedded"), [], {}, tmp_path)
