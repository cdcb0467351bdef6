"""Dev metrics while training: means by hand, losses of targets, samples a person can read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ragkit.config.generating import Watching
from ragkit.data.files import read_jsonl
from ragkit.data.schema import Example
from ragkit.errors import DataError
from ragkit.training.causal import CausalObjective
from ragkit.training.items import Item
from ragkit.training.watching import Dev, answer_scores, dev_loss

EXAMPLES = [
    Example("a", "what?", ("the red pump",), ("p",)),
    Example("b", "when?", ("now", "at once"), ("p",)),
    Example("c", "who?", answerable=False),
    Example("d", "why?", answerable=False),
]
ITEMS = [
    Item("a", ((5, 6, 7),), (8, 9, 2)),
    Item("b", ((10, 11),), (12, 2)),
    Item("c", ((13,),), (2,)),
]
OBJECTIVE = CausalObjective(padding=0)


def test_means_are_of_answerable_questions_and_a_refusal_is_no_answer() -> None:
    said = [("red pump", False), ("at once", True), ("I do not know", True), ("me", False)]
    found = answer_scores(list(zip(EXAMPLES, said, strict=True)))
    assert found == {"em": 0.5, "f1": 0.5, "rouge_l": pytest.approx(0.4), "refused": 0.5}


def test_the_loss_is_the_mean_over_targets_however_they_are_batched(tiny_decoder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    with torch.no_grad():
        expected = float(OBJECTIVE.loss(model, OBJECTIVE.collate(ITEMS))) / 6
    for size in (1, 2, 3, 8):
        assert dev_loss(model, OBJECTIVE, ITEMS, size) == pytest.approx(expected, rel=1e-5)


def test_samples_show_what_is_said_at_each_evaluation(
    tiny_decoder: Path, tmp_path: Path, log_lines: list[str]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    answers = {"a": "a pump", "b": "later", "c": "", "d": "me"}
    dev = Dev(
        EXAMPLES, Watching(samples=2), lambda _, asked: [(answers[e.id], False) for e in asked],
        ITEMS, 2, tmp_path,
    )  # fmt: skip
    scores = dev(model, OBJECTIVE, 0)
    assert set(scores) == {"loss", "em", "f1", "rouge_l", "refused"}
    dev(model, OBJECTIVE, 10)
    answers["a"] = "the red pump"
    dev(model, OBJECTIVE, 10)  # measured again after a stop
    records = read_jsonl(tmp_path / "samples.jsonl")
    assert [(r["step"], r["id"], r["answer"]) for r in records] == [
        (0, "a", "a pump"), (0, "b", "later"), (10, "a", "the red pump"), (10, "b", "later"),
    ]  # fmt: skip
    assert records[0]["references"] == ["the red pump"]
    assert "  what?\n    -> the red pump\n    reference: the red pump" in log_lines


@pytest.mark.parametrize(
    ("metric", "examples", "items", "message"),
    [
        ("f1", EXAMPLES[2:], ITEMS, "none of its 2 questions has a reference answer"),
        ("em", [Example("e", "where?", (), ("p",))], ITEMS, "of which selection.metric: em"),
        ("loss", EXAMPLES, [], "of none of its 4 questions can a loss be computed"),
    ],
)
def test_dev_questions_that_say_nothing_of_the_metric_are_refused(
    metric: Any, examples: list[Example], items: list[Item], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        Dev(examples, Watching(metric=metric), lambda *_: [], items, 2, tmp_path)


def test_a_loss_of_nothing_is_not_told(tiny_decoder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    dev = Dev(EXAMPLES, Watching(samples=0), lambda *_: [("x", False)] * 4, [], 2, tmp_path)
    assert "loss" not in dev(model, OBJECTIVE, 1)


def test_where_the_loss_decides_samples_alone_are_generated(
    tiny_decoder: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    asked: list[int] = []

    def answer(_: object, examples: object) -> list[tuple[str, bool]]:
        asked.append(len(list(examples)))  # type: ignore[call-overload]
        return [("x", False)] * asked[-1]

    for samples in (2, 0):
        dev = Dev(EXAMPLES, Watching(metric="loss", samples=samples), answer, ITEMS, 2, tmp_path)
        assert set(dev(model, OBJECTIVE, 1)) == {"loss"}
    assert asked == [2]
