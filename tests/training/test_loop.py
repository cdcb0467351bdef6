"""What the loop does with its settings, and what it says of what it cannot do."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from ragkit import log
from ragkit.config.blocks import EncoderOptions
from ragkit.config.training import Contrastive, TrainLoop
from ragkit.data.schema import Example, Passage
from ragkit.errors import ConfigError
from ragkit.models.encoder import Encoder
from ragkit.training import arguments
from ragkit.training.collate import PairCollator
from ragkit.training.contrastive import ContrastiveModel
from ragkit.training.retriever import train_retriever
from ragkit.training.selection import dev_corpus

WORDS = ["gateway", "voltage", "sensor", "relay", "valve", "pump", "fuse", "alarm", "firmware",
         "port", "cable", "battery"]  # fmt: skip
CORPUS = {f"p{i}": Passage(f"p{i}", f"it holds {w} volts") for i, w in enumerate(WORDS)}
EXAMPLES = [
    Example(f"q{i}", f"which {w}", (), (f"p{i}",), (f"p{(i + 1) % 12}", f"p{(i + 2) % 12}"))
    for i, w in enumerate(WORDS)
]
RATE, WARMUP, DECAY = 2e-3, 0.34, 0.1


@pytest.fixture
def fresh(tiny_encoder: Path) -> Callable[[], Encoder]:
    """Return a function that loads the encoder that training starts from."""
    return lambda: Encoder.load(str(tiny_encoder), EncoderOptions(max_length=16))


def train(encoder: Encoder, folder: Path, examples: list[Example] = EXAMPLES, **loop: Any) -> None:
    options = {
        "epochs": 3, "batch_size": 4, "learning_rate": RATE, "warmup": WARMUP, "precision": "fp32",
        "weight_decay": DECAY, "device": "cpu",
    }  # fmt: skip
    settings = TrainLoop(**{**options, **loop})
    train_retriever(encoder, examples, CORPUS, folder, loss=Contrastive(), loop=settings)


def rate(step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0: up in a line, then down in a line."""
    rising = -(-steps * WARMUP // 1)
    return RATE * (step / rising if step < rising else (steps - step) / (steps - rising))


def by_hand(encoder: Encoder, batches: list[dict[str, Any]], sizes: list[int], norm: float) -> None:
    """Train on the batches, `sizes` of them a step, by AdamW as it is written down."""
    model = ContrastiveModel(encoder, Contrastive())
    state: dict[str, tuple[Tensor, Tensor]] = {}
    remaining = iter(batches)
    for step, size in enumerate(sizes):
        model.zero_grad()
        torch.stack([model(**next(remaining))["loss"] for _ in range(size)]).mean().backward()
        named = {n: p for n, p in model.named_parameters() if p.grad is not None}
        total = torch.stack([p.grad.norm() for p in named.values()]).norm()
        assert total > norm  # the test is of a norm that cuts
        for name, p in named.items():
            gradient = p.grad * (norm / (total + 1e-6))
            m, v = state.get(name, (torch.zeros_like(p), torch.zeros_like(p)))
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            state[name] = (m, v)
            decay = 0 if name.endswith("bias") or "LayerNorm" in name else DECAY
            hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
            with torch.no_grad():
                p -= rate(step, len(sizes)) * (hat[0] / (hat[1].sqrt() + 1e-8) + decay * p)


@pytest.mark.parametrize(
    ("accumulation", "sizes"),
    [(1, [1] * 9), (2, [2, 1] * 3)],  # three batches an epoch: the second step has what is left
    ids=["plain", "accumulated"],
)
def test_steps_clipping_decay_and_schedule_are_those_written_by_hand(
    accumulation: int,
    sizes: list[int],
    fresh: Callable[[], Encoder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: list[dict[str, Any]] = []
    inner = PairCollator.__call__

    def spy(self: PairCollator, pairs: Any) -> dict[str, Any]:
        batches.append(inner(self, pairs))
        return batches[-1]

    monkeypatch.setattr(PairCollator, "__call__", spy)
    trained, expected = fresh(), fresh()
    train(trained, tmp_path, gradient_accumulation=accumulation, max_grad_norm=0.05)
    assert len(batches) == sum(sizes)
    for module in expected.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    by_hand(expected.train(), batches, sizes, 0.05)
    begun = dict(fresh().named_parameters())
    for name, found in trained.named_parameters():
        wanted = dict(expected.named_parameters())[name]
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5, msg=name)
        if found.requires_grad and not name.endswith("key.bias"):  # attention ignores a key's bias
            assert (found - begun[name]).abs().max() > 5e-4, name


def test_a_number_of_steps_takes_the_place_of_epochs(
    fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    options = {"batch_size": 4, "device": "cpu", "precision": "fp32"}
    loop = TrainLoop(**options, max_steps=5)
    trained = train_retriever(
        fresh(), EXAMPLES, CORPUS, tmp_path, loss=Contrastive(), loop=loop
    )  # three steps an epoch
    assert trained.steps == 5
    assert TrainLoop(**loop.model_dump()) == loop  # what a run directory holds can be given again
    with pytest.raises(ValueError, match="max_steps: says how long to train, and so does epochs"):
        TrainLoop(max_steps=5, epochs=2)


def test_a_reporter_that_is_not_installed_is_told_before_training(
    fresh: Callable[[], Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="loop.report_to: trackio is not installed: pip install"):
        train(fresh(), tmp_path, report_to=["trackio"])
    assert not (tmp_path / "history.jsonl").exists()


def test_an_unknown_reporter_is_refused() -> None:
    with pytest.raises(ValueError, match="'tensorboard', 'wandb' or 'trackio'"):
        TrainLoop(report_to=["tensorbord"])


def test_reporters_get_what_is_logged(
    fresh: Callable[[], Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[dict[str, float]] = []

    class Reporter(TrainerCallback):  # type: ignore[misc]
        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            logged.append(logs)

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Reporter)
    monkeypatch.setattr(arguments, "_check_reporters", lambda names: None)
    train(fresh(), tmp_path, report_to=["wandb"])
    assert [e["learning_rate"] for e in logged if "loss" in e] == pytest.approx(
        [rate(step, 9) for step in range(9)]
    )


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
def test_tensorboard_gets_a_folder_of_the_run(fresh: Callable[[], Encoder], tmp_path: Path) -> None:
    train(fresh(), tmp_path, report_to=["tensorboard"])
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_what_is_left_out_and_what_cannot_be_is_said(
    fresh: Callable[[], Encoder], tmp_path: Path, log_lines: list[str]
) -> None:
    unanswered = [Example("u", "which", answerable=False), Example("v", "what", answerable=False)]
    train(fresh(), tmp_path, [*EXAMPLES, *unanswered], batch_size=64, epochs=1)
    assert "2 of 14 examples have no passage that answers them and are left out" in log_lines
    assert "a batch of 64 is more than the 12 examples: each step sees all of them" in log_lines
    assert not any("very text" in line for line in log_lines)


def test_a_question_that_is_its_passage_is_said(
    fresh: Callable[[], Encoder], tmp_path: Path, log_lines: list[str]
) -> None:
    copied = replace(EXAMPLES[0], question=f"{CORPUS['p0'].text}\n")
    train(fresh(), tmp_path, [copied, *EXAMPLES[1:]], epochs=1)
    assert any(line.startswith("1 of 12 examples ask with the very text") for line in log_lines)


def test_negatives_that_answer_their_question_are_left_out_and_said(
    fresh: Callable[[], Encoder], tmp_path: Path, log_lines: list[str]
) -> None:
    again = replace(EXAMPLES[0], id="again", positive_ids=("p1",), negative_ids=("p5",))
    false = replace(EXAMPLES[3], negative_ids=("p3", "p4"))
    train(fresh(), tmp_path / "a", [*EXAMPLES[:3], false, *EXAMPLES[4:], again], epochs=1)
    assert any(line.startswith("2 hard negatives answer their question") for line in log_lines)
    log_lines.clear()
    train(fresh(), tmp_path / "b", epochs=1)
    assert not any("answer their question" in line for line in log_lines)


def test_progress_counts_the_pairs_that_there_are(
    fresh: Callable[[], Encoder],
    tmp_path: Path,
    log_lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "_LINE_EVERY_S", 0)
    train(fresh(), tmp_path, batch_size=5, gradient_accumulation=2, epochs=2)
    shown = [line.split()[1] for line in log_lines if line.startswith("training: ")]
    assert shown[:4] == ["6/24", "12/24", "18/24", "24/24"]


def test_a_sampled_dev_corpus_always_holds_what_dev_names() -> None:
    dev = EXAMPLES[:2]  # p0 and p1 answer, p1, p2, p3 are hard negatives
    for size in (6, 9):
        sample = dev_corpus(CORPUS, dev, size, seed=1)
        assert len(sample) == size
        assert {"p0", "p1", "p2", "p3"} <= set(sample)
        assert list(sample) == [i for i in CORPUS if i in sample]
        assert sample == dev_corpus(CORPUS, dev, size, seed=1)
    assert list(dev_corpus(CORPUS, dev, 2, seed=1)) == ["p0", "p1", "p2", "p3"]
    assert dev_corpus(CORPUS, dev, 99, seed=1) == CORPUS
    assert len({tuple(dev_corpus(CORPUS, dev, 6, seed=s)) for s in range(5)}) > 1
