"""Retriever training as a whole: it learns, resumes exactly, and keeps the best checkpoint."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ragkit.config.blocks import Dense, EncoderOptions
from ragkit.config.training import Contrastive, TrainLoop
from ragkit.data.schema import Example, Passage, known_positives, qrels_of
from ragkit.errors import DataError, ModelError
from ragkit.evaluation.ranking import evaluate
from ragkit.evaluation.summary import mean_scores
from ragkit.models.encoder import Encoder
from ragkit.retrieval.searchers import DenseSearcher
from ragkit.training.checkpoints import last_checkpoint
from ragkit.training.collate import PairCollator, PairDataset
from ragkit.training.contrastive import ContrastiveModel
from ragkit.training.measuring import Trained, write_summary
from ragkit.training.retriever import train_retriever

FP32 = EncoderOptions(precision="fp32", device="cpu")
# What is asked and what is said have no word in common: only training can connect them.
ASKED = ["gateway", "voltage", "sensor", "relay", "valve", "pump", "fuse", "alarm", "firmware",
         "port", "cable", "battery"]  # fmt: skip
SAID = ["red", "green", "blue", "light", "twelve", "twenty", "thirty", "forty", "volts", "amps",
        "seconds", "minutes"]  # fmt: skip
CORPUS = {f"p{i}": Passage(f"p{i}", f"it holds {word}") for i, word in enumerate(SAID)}
EXAMPLES = [
    Example(f"q{i}", f"which {word}", (), (f"p{i}",), tuple(f"p{(i + j) % 12}" for j in (1, 2, 3)))
    for i, word in enumerate(ASKED)
]
LOOP = {
    "epochs": 3, "batch_size": 4, "learning_rate": 5e-3, "warmup": 0.0, "precision": "fp32",
    "device": "cpu",
}  # fmt: skip


class StoppedError(Exception):
    """Stands for the end of the process."""


class Score:
    """The dev metric on the training questions; counts its calls and can end the process.

    values: instead, the metric of the first encoder it sees, the second, ... An encoder that is
        measured again gets the same again.
    """

    def __init__(self, stop_at_call: int | None = None, values: Sequence[float] = ()) -> None:
        self.calls, self.stop_at_call, self.values = 0, stop_at_call, values
        self.seen: list[Tensor] = []

    def __call__(self, encoder: Encoder) -> Mapping[str, float]:
        self.calls += 1
        if self.calls == self.stop_at_call:
            raise StoppedError
        if self.values:
            return {"ndcg@10": self.values[self._number(encoder)]}
        dense = DenseSearcher(CORPUS, Dense(type="dense", encoder=FP32), encoder)
        found = dense.search([e.question for e in EXAMPLES], 10)
        ranked = {e.id: dict(r) for e, r in zip(EXAMPLES, found, strict=True)}
        return mean_scores(evaluate(qrels_of(EXAMPLES), ranked, ["ndcg@10"]))

    def _number(self, encoder: Encoder) -> int:
        weight = encoder.model.embeddings.word_embeddings.weight.detach().clone()
        for number, other in enumerate(self.seen):
            if torch.allclose(weight, other, rtol=0, atol=1e-6):
                return number
        self.seen.append(weight)
        return len(self.seen) - 1


@pytest.fixture
def fresh(tiny_encoder: Path) -> Callable[[], Encoder]:
    """Return a function that loads the encoder that training starts from."""
    return lambda: Encoder.load(str(tiny_encoder), EncoderOptions(max_length=16))


def train(
    encoder: Encoder,
    folder: Path,
    score: Score | None = None,
    examples: list[Example] = EXAMPLES,
    loss: Mapping[str, Any] | None = None,
    **loop: Any,
) -> Trained:
    return train_retriever(
        encoder,
        examples,
        CORPUS,
        folder,
        loss=Contrastive(**(loss or {})),
        loop=TrainLoop(**{**LOOP, **loop}),
        score=score,
    )


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def weights(encoder: Encoder) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in encoder.named_parameters()}


def assert_same_weights(a: Encoder, b: Encoder) -> None:
    expected = weights(b)
    for name, found in weights(a).items():
        assert torch.equal(found, expected[name]), name


def checkpoints(folder: Path) -> set[str]:
    return {p.name for p in (folder / "checkpoints").iterdir()}


def test_training_lowers_the_loss_and_raises_the_dev_metric(
    fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    encoder = fresh()
    trained = train(encoder, tmp_path, Score(), epochs=10)
    losses = [entry["loss"] for entry in history(tmp_path) if "loss" in entry]
    assert losses[-1] < losses[0] / 4
    assert trained.steps == 30
    assert trained.dev_before is not None and trained.dev_best is not None
    assert trained.dev_best > trained.dev_before + 0.2
    assert Score()(encoder)["ndcg@10"] == pytest.approx(trained.dev_best)


def test_every_evaluation_and_logged_step_is_in_the_history(
    fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    trained = train(fresh(), tmp_path, Score(values=[0.1, 0.2, 0.5, 0.3]))
    entries = history(tmp_path)
    dev = [(e["step"], e["eval_ndcg@10"]) for e in entries if "eval_ndcg@10" in e]
    assert dev == [(0, 0.1), (3, 0.2), (6, 0.5), (9, 0.3)]
    assert [e["step"] for e in entries if "loss" in e] == list(range(1, 10))
    assert trained == Trained(9, trained.seconds, 6, 0.1, 0.5)


def test_the_best_checkpoint_is_kept_and_its_weights_are_what_is_returned(
    fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    best, stopped = fresh(), fresh()
    train(best, tmp_path / "a", Score(values=[0.1, 0.2, 0.5, 0.3]))
    with pytest.raises(StoppedError):  # the same run, ended after the second epoch
        train(stopped, tmp_path / "b", Score(values=[0.1, 0.2, 0.5], stop_at_call=3))
    assert checkpoints(tmp_path / "a") == {"checkpoint-6", "checkpoint-9"}
    assert_same_weights(best, stopped)


def test_without_dev_examples_the_last_step_is_kept(
    fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    encoder = fresh()
    trained = train(encoder, tmp_path)
    assert (trained.best_step, trained.dev_before, trained.dev_best) == (None, None, None)
    best = fresh()
    train(best, tmp_path / "b", Score(values=[0.1, 0.2, 0.3, 0.4]))
    assert_same_weights(encoder, best)


@pytest.mark.parametrize(
    ("loop", "stop_at_call"),
    [
        ({}, 3),  # in the second epoch, with one checkpoint
        ({"dropout": 0.3}, 3),
        pytest.param(
            {"evaluate_every": 2},
            4,  # at step 6 of 9, with a checkpoint of step 4, in the middle of the second epoch
        ),
        ({"gradient_accumulation": 2, "batch_size": 2}, 3),
    ],
    ids=["epochs", "dropout", "steps", "accumulation"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    loop: dict[str, Any], stop_at_call: int, fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    whole = fresh()
    expected = train(whole, tmp_path / "whole", Score(), **loop)
    with pytest.raises(StoppedError):
        train(fresh(), tmp_path / "parts", Score(stop_at_call=stop_at_call), **loop)
    assert last_checkpoint(tmp_path / "parts" / "checkpoints") is not None
    resumed = fresh()
    score = Score()
    found = train(resumed, tmp_path / "parts", score, **loop)
    assert_same_weights(resumed, whole)
    assert (found.steps, found.best_step) == (expected.steps, expected.best_step)
    assert found.dev_best == pytest.approx(expected.dev_best)
    assert found.dev_before == pytest.approx(expected.dev_before)
    losses = [
        {e["step"]: e["loss"] for e in history(tmp_path / run) if "loss" in e}
        for run in ("whole", "parts")
    ]
    assert losses[0] == pytest.approx(losses[1])


def test_a_finished_run_that_is_started_again_trains_no_further(
    fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    first, again = fresh(), fresh()
    expected = train(first, tmp_path, Score())
    found = train(again, tmp_path, Score())
    assert_same_weights(again, first)
    assert replace(found, seconds=0.0) == replace(expected, seconds=0.0)


@pytest.mark.parametrize("stop_at_call", [3, 5])
def test_a_resumed_run_stops_early_where_an_uninterrupted_one_does(
    stop_at_call: int, fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    # before training, then epochs 1 to 5: two in a row without progress end it
    score = Score(values=[0.1, 0.5, 0.4, 0.6, 0.3, 0.2, 0.7])
    options = {"epochs": 6, "patience": 2}
    whole = train(fresh(), tmp_path / "whole", score, **options)
    assert (whole.steps, whole.best_step) == (15, 9)
    score.calls, score.stop_at_call = 0, stop_at_call
    with pytest.raises(StoppedError):
        train(fresh(), tmp_path / "parts", score, **options)
    score.stop_at_call = None
    resumed = train(fresh(), tmp_path / "parts", score, **options)
    assert (resumed.steps, resumed.best_step) == (15, 9)


def test_a_run_that_stopped_early_and_is_started_again_trains_no_further(
    fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    score = Score(values=[0.1, 0.5, 0.4, 0.3, 0.7, 0.8])
    options = {"epochs": 5, "patience": 2}
    expected = train(fresh(), tmp_path, score, **options)
    assert (expected.steps, expected.best_step) == (9, 3)
    found = train(fresh(), tmp_path, score, **options)
    assert (found.steps, found.best_step) == (9, 3)


@pytest.mark.parametrize("state", [None, "", '{"global_step": 15'])
def test_a_half_written_checkpoint_is_ignored(state: str | None, tmp_path: Path) -> None:
    for step in (3, 12):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        (folder / "ragkit.json").write_text("{}")
    half = tmp_path / "checkpoint-15"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"")
    if state is not None:
        (half / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-12"


def test_where_nothing_was_saved_training_begins_anew(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "checkpoints") is None
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    assert last_checkpoint(tmp_path / "checkpoints") is None


def test_training_goes_on_past_a_half_written_checkpoint(
    fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    whole = fresh()
    train(whole, tmp_path / "whole", Score())
    with pytest.raises(StoppedError):
        train(fresh(), tmp_path / "parts", Score(stop_at_call=4))
    half = tmp_path / "parts" / "checkpoints" / "checkpoint-6"
    (half / "ragkit.json").unlink()
    (half / "model.safetensors").write_bytes(b"half")
    resumed = fresh()
    train(resumed, tmp_path / "parts", Score())
    assert_same_weights(resumed, whole)


def test_examples_without_positives_are_an_error(
    fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    unanswerable = [Example("q", "which?", answerable=False)]
    with pytest.raises(DataError, match="no training example has a passage"):
        train(fresh(), tmp_path, examples=unanswerable)


def test_a_loss_that_is_not_a_number_names_its_examples(
    fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    encoder = fresh()
    (broken,) = encoder.tokenizer.convert_tokens_to_ids(["fuse"])
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight[broken] = math.nan
    only = [e for e in EXAMPLES if "fuse" in e.question]
    with pytest.raises(ModelError, match="the loss is nan .* examples q6 "):
        train(encoder, tmp_path, examples=[*only, EXAMPLES[0]], batch_size=1)
    bad = json.loads((tmp_path / "bad-batch.json").read_text())
    assert (bad["example_ids"], bad["passage_ids"][0]) == (["q6"], "p6")
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))


def collate(encoder: Encoder, examples: list[Example]) -> dict[str, Any]:
    """Return the batch of the first epoch's pairs of these examples, without negatives."""
    collator = PairCollator(
        {e.id: ids for e, ids in zip(
            examples, encoder.tokenize([e.question for e in examples], "query"), strict=True)},
        {p.id: encoder.tokenize([p.rendered], "passage")[0] for p in CORPUS.values()},
        known_positives(examples),
    )  # fmt: skip
    dataset = PairDataset(examples, 0, 0)
    return collator([dataset[i] for i in range(len(dataset))])


def test_the_loss_is_that_of_cosines_over_the_temperature(fresh: Callable[[], Encoder]) -> None:
    encoder = fresh()
    model = ContrastiveModel(encoder, Contrastive(temperature=0.1))
    loss = model(**collate(encoder, EXAMPLES[:4]))["loss"].item()
    queries = encoder(encoder.tokenize([e.question for e in EXAMPLES[:4]], "query"))
    passages = encoder(encoder.tokenize([CORPUS[f"p{i}"].text for i in range(4)], "passage"))
    logits = queries @ passages.T / 0.1
    expected = -(logits.diag() - logits.logsumexp(dim=1)).mean()
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_the_margin_and_the_symmetric_term_reach_the_loss(fresh: Callable[[], Encoder]) -> None:
    encoder = fresh()
    batch = collate(encoder, EXAMPLES[:4])
    losses = {
        name: ContrastiveModel(encoder, Contrastive(**options))(**batch)["loss"].item()
        for name, options in {
            "plain": {},
            "symmetric": {"symmetric": 0.5},
            "no margin": {"false_negative_margin": 0.0},
            "wide margin": {"false_negative_margin": 2.0},
        }.items()
    }
    assert losses["symmetric"] != pytest.approx(losses["plain"])
    assert losses["no margin"] < losses["plain"]  # what is above the positive is left out
    assert losses["wide margin"] == pytest.approx(losses["plain"])


def test_accumulated_steps_take_the_mean_of_their_gradients(
    fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    encoder = fresh()
    model = ContrastiveModel(encoder, Contrastive(n_negatives=0))
    losses = {
        frozenset(pair): model(**collate(encoder, [EXAMPLES[i] for i in pair]))["loss"]
        for pair in combinations(range(4), 2)
    }
    # The seed decides which two of the four examples make a batch: all pairings are computed.
    pairings = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    norms = []
    for first, second in pairings:
        mean = (losses[frozenset(first)] + losses[frozenset(second)]) / 2
        found = torch.autograd.grad(
            mean, [p for p in encoder.parameters() if p.requires_grad], retain_graph=True
        )
        norms.append((mean.item(), torch.stack([g.norm() for g in found]).norm().item()))
    loop = {"epochs": 1, "batch_size": 2, "gradient_accumulation": 2, "max_grad_norm": 1e9}
    trained = train(encoder, tmp_path, examples=EXAMPLES[:4], loss={"n_negatives": 0}, **loop)
    (entry,) = [e for e in history(tmp_path) if "grad_norm" in e]
    assert trained.steps == 1
    assert any(
        (entry["loss"], entry["grad_norm"]) == pytest.approx(pair, rel=1e-3) for pair in norms
    )


def test_negatives_are_drawn_afresh_in_each_epoch_of_training(
    fresh: Callable[[], Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[frozenset[tuple[str, ...]]] = []
    inner = PairCollator.__call__

    def spy(self: PairCollator, pairs: list[Any]) -> dict[str, Any]:
        seen.append(frozenset((p.example.id, *p.negative_ids) for p in pairs))
        return inner(self, pairs)

    monkeypatch.setattr(PairCollator, "__call__", spy)
    train(fresh(), tmp_path, batch_size=12)
    assert len(seen) == 3 and len(set(seen)) == 3


def test_the_summary_holds_the_metric_before_and_after(tmp_path: Path) -> None:
    write_summary(tmp_path / "metrics.json", Trained(9, 1.5, 6, 0.1, 0.5), "ndcg@10")
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert {name: m["mean"] for name, m in report["metrics"].items()} == {
        "dev_ndcg@10": 0.5,
        "dev_ndcg@10_before": 0.1,
    }
    assert (report["steps"], report["best_step"], report["timings"]) == (9, 6, {"training_s": 1.5})
