"""Generators trained by torchrun: DDP and DeepSpeed equal one process, and resume exactly."""

import importlib.util
import json
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ragkit.training.fitting import BEST
from ragkit.training.measuring import Trained

WORKER = Path(__file__).with_name("fit_worker.py")
CONFIGS = Path(__file__).parents[2] / "configs" / "deepspeed"
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)


@pytest.fixture(scope="module")
def alone(tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    """What one process comes to whose batch is that of two."""
    folder = tmp_path_factory.mktemp("alone")
    trained = runpy.run_path(str(WORKER))["train"](str(tiny_decoder), folder, batch_size=4)
    assert trained.steps == 12
    return folder / BEST, trained


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("ddp", DistributedType.MULTI_CPU),
        pytest.param("zero2", DistributedType.DEEPSPEED, marks=needs_deepspeed),
        pytest.param("zero3", DistributedType.DEEPSPEED, marks=needs_deepspeed),
        pytest.param("zero3-offload", DistributedType.DEEPSPEED, marks=needs_deepspeed),
    ],
)
def test_two_processes_train_what_one_does_and_resume_exactly(
    mode: str,
    kind: DistributedType,
    alone: tuple[Path, Trained],
    tiny_decoder: Path,
    tmp_path: Path,
    torchrun: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = torchrun(str(WORKER), mode, str(tiny_decoder), str(tmp_path), str(CONFIGS))
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    best, trained = alone
    assert (told["type"], told["steps"]) == (kind.value, [12, 12])
    # five dev items, in batches of two, among two processes: none is counted twice
    assert told["before"] == pytest.approx(trained.dev_before, rel=1e-5)
    assert told["best"] == pytest.approx([trained.dev_best] * 2, rel=1e-4)
    expected = load_file(best / "model.safetensors")
    whole, parts = (
        load_file(tmp_path / name / BEST / "model.safetensors") for name in ("whole", "parts")
    )
    begun = AutoModelForCausalLM.from_pretrained(tiny_decoder).state_dict()
    assert max((begun[name] - found).abs().max() for name, found in whole.items()) > 1e-3
    assert set(whole) == set(expected)
    for name, found in whole.items():
        torch.testing.assert_close(found, expected[name], rtol=0, atol=1e-5, msg=name)
        assert torch.equal(parts[name], found), name
