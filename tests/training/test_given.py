"""Which passages a training question is given, by each way of giving."""

from collections import Counter
from typing import Any

import pytest

from ragkit.config.generating import Passages
from ragkit.data.schema import Example, Passage
from ragkit.training.given import Given, depth, gold_found

CORPUS = {f"p{i}": Passage(f"p{i}", f"text {i}") for i in range(20)}
RANKED = [f"p{i}" for i in range(16)]
DEEP = Example("deep", "what?", ("x",), ("p9",), ("p3", "p4"))
NEAR = Example("near", "which?", ("x",), ("p1",))
OTHER = Example("other", "What?", ("x",), ("p10",))  # the words of `deep`
UNANSWERABLE = Example("none", "who?", answerable=False)
EXAMPLES = [DEEP, NEAR, OTHER, UNANSWERABLE]


def given(ranked: bool = True, **config: Any) -> Given:
    rankings = {e.id: RANKED for e in EXAMPLES} if ranked else None
    return Given.of(EXAMPLES, CORPUS, Passages(**{"shuffle": False, **config}), rankings, 0)


def ids(passages: list[Passage]) -> list[str]:
    return [p.id for p in passages]


def test_as_retrieved_is_what_the_retriever_finds() -> None:
    found = given(gold="as_retrieved", k=3)
    assert ids(found.training(DEEP, 0)) == ["p0", "p1", "p2"]
    assert ids(found.training(UNANSWERABLE, 0)) == ["p0", "p1", "p2"]


def test_forced_puts_the_right_passage_in_place_of_the_last() -> None:
    found = given(gold="forced", k=3)
    assert ids(found.training(DEEP, 0)) == ["p0", "p1", "p9"]
    assert ids(found.training(NEAR, 0)) == ["p0", "p1", "p2"]
    assert ids(found.training(UNANSWERABLE, 0)) == ["p0", "p1", "p2"]


def test_dev_questions_get_what_they_would_in_use() -> None:
    found = given(gold="forced", k=3, shuffle=True)
    assert ids(found.evaluation(DEEP)) == ["p0", "p1", "p2"]


def test_raft_gives_the_right_passage_as_often_as_it_is_told() -> None:
    found = given(gold="raft", k=3, p_gold=0.7)
    seen = [ids(found.training(NEAR, epoch)) for epoch in range(2000)]
    share = sum("p1" in s for s in seen) / len(seen)
    assert share == pytest.approx(0.7, abs=0.03)
    assert {tuple(s) for s in seen} == {("p0", "p1", "p2"), ("p0", "p2", "p3")}


def test_distractors_of_raft_are_none_that_another_example_calls_right() -> None:
    found = given(gold="raft", k=11, p_gold=0.0)
    assert {"p9", "p10"}.isdisjoint(ids(found.training(DEEP, 0)))
    assert len(found.training(DEEP, 0)) == 11
    assert depth(Passages(k=3, gold="raft")) > 3
    assert depth(Passages(k=3, gold="forced")) == 3


def test_sft_gives_the_right_passages_and_mined_negatives_first() -> None:
    assert ids(given(ranked=False).training(DEEP, 0)) == ["p9"]
    two = ids(given(ranked=False, distractors=2).training(DEEP, 0))
    assert two[0] == "p9" and sorted(two[1:]) == ["p3", "p4"]
    four = ids(given(ranked=False, distractors=4).training(DEEP, 0))
    assert len(set(four)) == 5 and set(four) >= {"p9", "p3", "p4"} and "p10" not in four


def test_an_unanswerable_question_is_given_a_passage_that_does_not_answer() -> None:
    assert len(given(ranked=False).training(UNANSWERABLE, 0)) == 1
    assert len(given(ranked=False, distractors=3).training(UNANSWERABLE, 0)) == 3


def test_the_order_changes_with_the_epoch_and_with_nothing_else() -> None:
    found = given(k=4, shuffle=True)
    orders = Counter(tuple(ids(found.training(DEEP, epoch))) for epoch in range(50))
    assert len(orders) > 10 and {frozenset(o) for o in orders} == {
        frozenset(("p0", "p1", "p2", "p9"))
    }
    again = given(k=4, shuffle=True)
    assert ids(again.training(DEEP, 7)) == ids(found.training(DEEP, 7))


def test_how_often_the_retriever_finds_it() -> None:
    ranked = {e.id: RANKED for e in EXAMPLES}
    assert gold_found(EXAMPLES, ranked, 3) == pytest.approx(1 / 3)
    assert gold_found([UNANSWERABLE], ranked, 3) is None
