"""The loop: the same steps however they are cut up, exact resume, memory that runs out."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from ragkit.config.generating import GeneratorLoop
from ragkit.data.files import read_jsonl
from ragkit.errors import ConfigError, ModelError, RunError
from ragkit.models.packing import IMPLEMENTATION
from ragkit.training.causal import CausalObjective
from ragkit.training.fitting import BEST, Model, Objective, fit
from ragkit.training.items import Item
from ragkit.training.measuring import Trained
from ragkit.training.mixture import Mixture, Source

MADE_FROM = {"model": "tiny"}


class StoppedError(Exception):
    """Stands for the end of the process."""


def item(number: int, epoch: int) -> Item:
    """Return an item whose length and words depend on its number, and one of them on the epoch."""
    prompt = tuple(range(5, 8 + number % 5))
    return Item(f"q{number}", (prompt,), (20 + number, 40 + min(epoch, 1), 2))


Train = Callable[..., Trained]


@pytest.fixture
def train(tiny_decoder: Path, tmp_path: Path) -> Train:
    """Train on 16 items into a folder of this name."""

    def run(
        name: str, objective: Objective | None = None, score: Any = None, **options: Any
    ) -> Trained:
        tied = options.pop("tied", False)

        def load() -> tuple[Model, Objective]:
            model = AutoModelForCausalLM.from_pretrained(tiny_decoder)
            if tied:
                config = AutoConfig.from_pretrained(tiny_decoder, tie_word_embeddings=True)
                model = AutoModelForCausalLM.from_config(config)
            model.set_attn_implementation(IMPLEMENTATION)
            return model, objective or CausalObjective(padding=0, offset=0)

        metric = options.pop("metric", "f1")
        loop = {
            "epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "precision": "fp32",
            "device": "cpu",
        }  # fmt: skip
        return fit(
            load, Mixture([Source(16, item)], 0), tmp_path / name,
            loop=GeneratorLoop(**{**loop, **options}), made_from=MADE_FROM, score=score,
            metric=metric,
        )  # fmt: skip

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / BEST / "model.safetensors")


def largest_difference(a: Path, b: Path) -> float:
    ours, theirs = weights(a), weights(b)
    assert set(ours) == set(theirs)
    return max(float((ours[n] - theirs[n]).abs().max()) for n in ours)


def test_accumulated_steps_are_the_steps_of_a_whole_batch(train: Train, tmp_path: Path) -> None:
    """The items differ in length: a mean of means would be another step."""
    whole = train("whole")
    parts = train("parts", batch_size=1, gradient_accumulation=8)
    assert (whole.steps, parts.steps) == (4, 4)
    assert largest_difference(tmp_path / "whole", tmp_path / "parts") < 1e-5


def test_it_learns(train: Train, tmp_path: Path) -> None:
    train("run", epochs=20, learning_rate=1e-2)
    losses = [e["loss"] for e in read_jsonl(tmp_path / "run" / "history.jsonl") if "loss" in e]
    assert losses[-1] < losses[0] / 3


def test_what_is_left_loads_as_it_is(train: Train, tmp_path: Path) -> None:
    train("run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / BEST)
    assert model.config._attn_implementation != IMPLEMENTATION
    state = model.state_dict()
    for name, tensor in weights(tmp_path / "run").items():
        assert torch.equal(state[name], tensor)


class Stopping(CausalObjective):
    """Raises an error in its nth loss."""

    calls: list[int] = []
    at = 0
    error: Exception = StoppedError()

    def loss(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        self.calls.append(len(batch["example_ids"]))
        if len(self.calls) == self.at:
            raise self.error
        return super().loss(model, batch)


def stopping(at: int, error: Exception) -> Stopping:
    objective = Stopping(padding=0, offset=0)
    Stopping.calls, Stopping.at, Stopping.error = [], at, error
    return objective


def test_an_interrupted_run_goes_on_to_the_same_weights(train: Train, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 2, "evaluate_every": 3}
    train("whole", **options)
    with pytest.raises(StoppedError):
        train("parts", stopping(12, StoppedError()), **options)
    assert (tmp_path / "parts" / "checkpoints").exists()
    train("parts", **options)
    assert largest_difference(tmp_path / "whole", tmp_path / "parts") == 0
    # and when all was done already, the same again
    train("parts", **options)
    assert largest_difference(tmp_path / "whole", tmp_path / "parts") == 0


def test_checkpoints_of_another_training_are_refused(train: Train) -> None:
    train("run")
    with pytest.raises(RunError, match="learning_rate"):
        train("run", learning_rate=1e-3)


def test_the_best_checkpoint_is_kept(train: Train, tmp_path: Path) -> None:
    scores = {0: 0.1, 2: 0.5, 4: 0.3}
    found = train("best", score=lambda *given: {"f1": scores[given[2]], "loss": 1.0})
    assert found == Trained(4, found.seconds, 2, 0.1, 0.5)
    train("one", epochs=2, max_steps=None)
    lowest = train("low", score=lambda *given: {"loss": scores[given[2]]}, metric="loss")
    assert (lowest.best_step, lowest.dev_best) == (4, 0.3)
    assert largest_difference(tmp_path / "low", tmp_path / "one") == 0
    assert largest_difference(tmp_path / "best", tmp_path / "one") > 0


def test_weights_that_are_kept_once_are_not_said_to_be_missing(
    train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("transformers.trainer")
    logger.addHandler(caplog.handler)
    train("tied", tied=True, score=lambda *given: {"f1": 1 - given[2] / 10, "loss": 1.0})
    logger.removeHandler(caplog.handler)
    assert not [r for r in caplog.records if "missing keys" in r.getMessage()]


def test_a_run_that_stopped_for_want_of_progress_does_not_go_on(
    train: Train, tmp_path: Path
) -> None:
    asked: list[int] = []

    def score(_: Any, __: Any, step: int) -> dict[str, float]:
        asked.append(step)
        return {"f1": {0: 0.0, 2: 0.9}.get(step, 0.5)}

    first = train("run", score=score, epochs=6, patience=2)
    assert (first.steps, first.best_step) == (6, 2)
    kept = weights(tmp_path / "run")
    again = train("run", score=score, epochs=6, patience=2)
    assert (again.steps, again.best_step) == (6, 2)
    assert asked == [0, 2, 4, 6]
    assert all(torch.equal(kept[n], t) for n, t in weights(tmp_path / "run").items())


def test_where_memory_runs_out_it_is_said_what_to_lower(train: Train) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(ModelError, match=r"8 examples at a time; lower loop\.batch_size.*halve"):
        train("run", stopping(2, error))
    host = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    with pytest.raises(ModelError, match="max_length, passages.k"):
        train("small", stopping(2, host), batch_size=1)
    with pytest.raises(RuntimeError, match="something else"):
        train("other", stopping(2, RuntimeError("something else")))


def test_a_batch_is_halved_to_the_same_steps(
    train: Train, tmp_path: Path, log_lines: list[str]
) -> None:
    train("whole")
    error = torch.OutOfMemoryError("CUDA out of memory")
    found = train("halved", stopping(2, error), halve_batch=True)
    assert Stopping.calls == [8, 8, *[4] * 8]
    assert found.steps == 4
    assert "no memory for 8 examples at a time; going on with 4, and 2 accumulated" in log_lines
    assert largest_difference(tmp_path / "whole", tmp_path / "halved") < 1e-5


def test_a_loss_that_is_no_number_names_the_batch(train: Train, tmp_path: Path) -> None:
    class Broken(CausalObjective):
        def loss(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
            return super().loss(model, batch) * torch.nan

    with pytest.raises(ModelError, match=r"the loss is nan on a batch with the examples q\d"):
        train("run", Broken(padding=0, offset=0))
    assert (tmp_path / "run" / "bad-batch.json").exists()


def test_activations_can_be_computed_twice(train: Train, tmp_path: Path) -> None:
    train("kept")
    train("again", gradient_checkpointing=True)
    assert largest_difference(tmp_path / "kept", tmp_path / "again") < 1e-6


def test_an_optimiser_in_8_bits_needs_a_gpu(train: Train) -> None:
    with pytest.raises(ConfigError, match=r"loop\.optimizer: adamw_8bit needs a CUDA GPU"):
        train("run", optimizer="adamw_8bit")
