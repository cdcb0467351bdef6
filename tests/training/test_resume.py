"""A run that was ended, anywhere and by anything, goes on to the bits it would have come to."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ragkit.data.files import read_json, read_jsonl, write_jsonl
from ragkit.errors import RunError
from ragkit.stages import train_retriever as module
from ragkit.training import callbacks
from ragkit.training.checkpoints import find_checkpoint
from ragkit.training.collate import PairCollator

SCRIPT = Path(__file__).with_name("killed.py")
TOPICS = ["fuse", "relay", "valve", "pump", "sensor", "battery", "cable", "display"]
COLOURS = ["red", "green", "blue", "light", "update", "log", "user", "power"]


@pytest.fixture
def values(tmp_path: Path, tiny_encoder: Path) -> dict[str, Any]:
    """A configuration of 24 examples, 6 batches an epoch, 18 in all."""
    corpus = [{"id": t, "text": f"{c} opens it."} for t, c in zip(TOPICS, COLOURS, strict=True)]
    write_jsonl(tmp_path / "corpus.jsonl", corpus)
    for name, words in (("train", ("what", "when", "how")), ("dev", ("which",))):
        write_jsonl(
            tmp_path / f"{name}.jsonl",
            (
                {
                    "id": f"{name}-{topic}-{word}",
                    "question": f"{word} does the {topic} do",
                    "positive_ids": [topic],
                    "negative_ids": [n for n in TOPICS if n != topic][:4],
                }
                for word in words
                for topic in TOPICS
            ),
        )
    loop = {"batch_size": 4, "learning_rate": 3e-3, "precision": "fp32", "device": "cpu"}
    return {
        "examples": str(tmp_path / "train.jsonl"),
        "model": str(tiny_encoder),
        "loss": {"n_negatives": 2},
        "loop": loop,
    }


def at(values: dict[str, Any], output: Path, **loop: Any) -> dict[str, Any]:
    return {**values, "loop": {**values["loop"], **loop}, "output": str(output)}


def end(values: dict[str, Any], folder: Path, place: str, n: int, signal: str) -> int:
    """Run the command in a process that is ended there; return its exit status."""
    config = folder / "config.json"
    config.write_text(json.dumps(values))
    command = [sys.executable, str(SCRIPT), str(config), place, str(n), signal]
    return subprocess.run(command, capture_output=True, timeout=300, env={**os.environ}).returncode


def assert_same_results(found: Path, expected: Path) -> None:
    ours, theirs = (load_file(p / "model" / "model.safetensors") for p in (found, expected))
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    reports = [read_json(p / "metrics.json") for p in (found, expected)]
    for report in reports:
        report.pop("timings")
    assert reports[0] == reports[1]
    histories = [
        [
            {k: v for k, v in entry.items() if k in ("step", "loss", "grad_norm", "learning_rate")}
            for entry in read_jsonl(p / "history.jsonl")
            if "train_runtime" not in entry
        ]
        for p in (found, expected)
    ]
    assert histories[0] == histories[1]


@pytest.mark.parametrize(
    ("loop", "place", "n", "signal"),
    [
        # the 11th batch is in the middle of the second epoch, between two checkpoints
        ({"evaluate_every": 4, "dropout": 0.2, "patience": 5}, "batch", 11, "SIGKILL"),
        # the third checkpoint has its weights and nothing else
        ({"evaluate_every": 4}, "saving", 3, "SIGKILL"),
        ({"dropout": 0.2, "gradient_accumulation": 2}, "batch", 9, "SIGINT"),
    ],
    ids=["killed-in-an-epoch", "killed-while-saving", "interrupted"],
)
def test_a_run_whose_process_was_ended_goes_on_to_the_same_bits(
    loop: dict[str, Any],
    place: str,
    n: int,
    signal: str,
    values: dict[str, Any],
    stage: Callable[..., Path],
    tmp_path: Path,
    log_lines: list[str],
) -> None:
    whole = stage("train-retriever", **at(values, tmp_path / "whole", **loop))
    log_lines.clear()
    parts = at(values, tmp_path / "parts", **loop)
    assert end(parts, tmp_path, place, n, signal) != 0
    assert not (tmp_path / "parts" / "model").exists()
    resumed = stage("train-retriever", **parts)
    assert any(line.startswith("going on from") for line in log_lines)
    half = [line for line in log_lines if "is half-written" in line]
    assert len(half) == (1 if place == "saving" else 0)
    assert_same_results(resumed, whole)


class StoppedError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("batch", [2, 7, 8, 12, 15])
@pytest.mark.parametrize(
    "loop",
    [
        {"evaluate_every": 2, "dropout": 0.3, "precision": "bf16"},
        {"evaluate_every": 3, "gradient_accumulation": 2, "schedule": "cosine"},
        {"epochs": 2.5, "dropout": 0.1, "schedule": "constant_with_warmup"},
    ],
    ids=["bf16", "accumulation", "part-of-an-epoch"],
)
def test_wherever_it_stops_the_result_is_the_same(
    loop: dict[str, Any],
    batch: int,
    values: dict[str, Any],
    stage: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = stage("train-retriever", **at(values, tmp_path / "whole", **loop))
    inner, calls = PairCollator.__call__, []

    def counted(self: PairCollator, pairs: Any) -> Any:
        calls.append(1)
        if len(calls) == batch:
            raise StoppedError
        return inner(self, pairs)

    parts = at(values, tmp_path / "parts", **loop)
    with monkeypatch.context() as patch:
        patch.setattr(PairCollator, "__call__", counted)
        with pytest.raises(StoppedError):
            stage("train-retriever", **parts)
    assert_same_results(stage("train-retriever", **parts), whole)


def test_a_run_that_was_ended_after_its_last_checkpoint_trains_no_further(
    values: dict[str, Any], stage: Callable[..., Path], tmp_path: Path
) -> None:
    # 1.5 epochs of a rate that does not fall to zero: one step more would show
    settings = at(values, tmp_path / "run", epochs=1.5, schedule="constant_with_warmup",
                  evaluate_every=1)  # fmt: skip
    path = stage("train-retriever", **settings)
    before = load_file(path / "model" / "model.safetensors")
    record = read_json(path / "run.json")
    (path / "run.json").write_text(json.dumps({**record, "status": "running"}))
    again = stage("train-retriever", **settings)
    after = load_file(again / "model" / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert read_json(again / "metrics.json")["steps"] == 9


def test_a_mean_loss_begins_anew_at_a_checkpoint_so_that_resuming_shows_the_same(
    values: dict[str, Any],
    stage: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved: list[bool] = []
    inner = callbacks.Progress.on_step_end

    def spy(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        inner(self, args, state, control, **more)
        saved.append(control.should_save <= control.should_log)

    monkeypatch.setattr(callbacks.Progress, "on_step_end", spy)
    # 60 steps: logged at each third, saved at each tenth
    path = stage("train-retriever", **at(values, tmp_path / "run", epochs=10, evaluate_every=10))
    assert saved and all(saved)
    logged = [e["step"] for e in read_jsonl(path / "history.jsonl") if "loss" in e]
    assert {10, 20, 40, 50} <= set(logged) and 3 in logged and 4 not in logged


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"loop": {"learning_rate": 1e-3}}, "loop.learning_rate: 0.003 (now 0.001)"),
        ({"loss": {"temperature": 0.1}}, "loss.temperature: 0.05 (now 0.1)"),
        ({"seed": 7}, "seed: 0 (now 7)"),
        ({"encoder": {"max_length": 8}}, "model: "),
    ],
    ids=["rate", "loss", "seed", "model"],
)
def test_a_checkpoint_of_another_training_is_refused(
    changed: dict[str, Any],
    said: str,
    values: dict[str, Any],
    stage: Callable[..., Path],
    tmp_path: Path,
) -> None:
    first = stage("train-retriever", **at(values, tmp_path / "first"))
    other = tmp_path / "other"
    mixed = {**at(values, other), **{k: v for k, v in changed.items() if k != "loop"}}
    mixed["loop"] = {**mixed["loop"], **changed.get("loop", {})}
    mixed["loss"] = {**values["loss"], **changed.get("loss", {})}

    # the run directory is another's own; these checkpoints were put there by hand
    read = module.read_sources

    def read_and_mix(*arguments: Any) -> Any:
        os.rename(first / "checkpoints", other / "checkpoints")
        return read(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_sources", read_and_mix)
        with pytest.raises(RunError) as caught:
            stage("train-retriever", **mixed)
    assert "a checkpoint of a different training" in str(caught.value)
    assert said in str(caught.value)
    assert "--restart" in str(caught.value)


def test_checkpoints_of_more_processes_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "trainer_state.json").write_text('{"global_step": 3}')
    (folder / "ragkit.json").write_text('{"processes": 2, "loop": {"epochs": 3.0}}')
    with pytest.raises(RunError, match=r"processes: 2 \(now 1\)"):
        find_checkpoint(tmp_path, {"processes": 1, "loop": {"epochs": 3}})
    assert find_checkpoint(tmp_path, {"processes": 2, "loop": {"epochs": 3.0}}) == folder
