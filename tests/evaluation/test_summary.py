"""Means, intervals and slices out of score sheets, and leaks between test and training."""

import random

import pytest

from ragkit.data.nearduplicates import overlap_f1, words
from ragkit.data.schema import Example
from ragkit.evaluation.significance import interval
from ragkit.evaluation.summary import leaks, mean_scores, slice_of, slices_by, summarise

SHEET = {
    "recall@1": {"a": 1.0, "b": 0.0, "c": 0.5, "d": 0.5},
    "f1": {"a": 0.25, "c": 0.75},
    "em": {},
}
CLUSTERS = {"a": "x", "b": "x", "c": "y", "d": "z"}


def test_means_are_over_the_questions_that_have_a_score() -> None:
    assert mean_scores(SHEET) == {"recall@1": 0.5, "f1": 0.5}


def test_a_summary_has_mean_interval_and_sizes_of_every_metric_with_scores() -> None:
    found = summarise(SHEET, CLUSTERS)
    expected = interval([1.0, 0.0, 0.5, 0.5], ["x", "x", "y", "z"])
    assert found["recall@1"] == {
        "mean": 0.5,
        "ci95": [expected.low, expected.high],
        "n": 4,
        "clusters": 3,
    }
    assert (found["f1"]["n"], found["f1"]["clusters"]) == (2, 2)
    assert set(found) == {"recall@1", "f1"}


def test_one_document_has_a_mean_and_no_interval() -> None:
    found = summarise({"f1": {"a": 1.0, "b": 0.0}}, CLUSTERS)
    assert found == {"f1": {"mean": 0.5, "ci95": None, "n": 2, "clusters": 1}}


def test_the_seed_draws_the_interval_of_many_documents() -> None:
    rng = random.Random(0)
    sheet = {"f1": {str(i): rng.random() for i in range(60)}}
    clusters = {str(i): str(i) for i in range(60)}
    assert summarise(sheet, clusters, 1) == summarise(sheet, clusters, 1)
    assert summarise(sheet, clusters, 1) != summarise(sheet, clusters, 2)


def test_a_slice_keeps_its_questions_and_no_others() -> None:
    assert slice_of(SHEET, ["c", "b", "unknown"]) == {
        "recall@1": {"b": 0.0, "c": 0.5},
        "f1": {"c": 0.75},
        "em": {},
    }


def test_slices_by_metadata_name_key_and_value() -> None:
    examples = [
        Example("a", "?", meta={"kind": "how-to", "hard": True}),
        Example("b", "?", meta={"kind": "fact"}),
        Example("c", "?", meta={"kind": "fact", "hard": False}),
    ]
    assert slices_by(examples, ["kind", "hard"]) == {
        "hard=(none)": ["b"],
        "hard=False": ["c"],
        "hard=True": ["a"],
        "kind=fact": ["b", "c"],
        "kind=how-to": ["a"],
    }
    assert slices_by(examples, []) == {}


def asked(*questions: str) -> list[Example]:
    return [Example(f"{i}", question) for i, question in enumerate(questions)]


def test_a_question_stands_in_training_whatever_its_case_and_marks() -> None:
    test, train = asked("How long does it hold?"), asked("Other.", "how long DOES it hold")
    assert leaks(test, train, 1.0) == [(test[0], train[1])]


def test_the_limit_is_reached_by_the_longest_common_order_of_words() -> None:
    test, train = asked("one two three four"), asked("one two three five")  # F1 is 0.75
    assert leaks(test, train, 0.75) == [(test[0], train[0])]
    assert leaks(test, train, 0.751) == []
    assert leaks(test, asked("four three two one"), 0.3) == []  # F1 is 0.25: order counts


def test_a_leaked_question_is_counted_once() -> None:
    test, train = asked("one two three", "four five six"), asked("one two three", "one two three")
    assert leaks(test, train, 0.8) == [(test[0], train[0])]


def test_leaks_are_those_of_a_search_through_all_pairs() -> None:
    rng = random.Random(0)

    def sentences(count: int) -> list[Example]:
        return asked(*(" ".join(rng.choices("abcde", k=rng.randint(1, 6))) for _ in range(count)))

    test, train = sentences(60), sentences(40)
    for limit in (0.5, 0.8, 1.0):
        slow = [
            next(
                (e for e in train if overlap_f1(words(t.question), words(e.question)) >= limit),
                None,
            )
            for t in test
        ]
        expected = [(t, e) for t, e in zip(test, slow, strict=True) if e]
        assert leaks(test, train, limit) == expected
        assert len(expected) > 0


@pytest.mark.parametrize(("test", "train"), [([], ["a"]), (["a"], []), (["?!"], ["?!"])])
def test_nothing_leaks_from_or_into_nothing(test: list[str], train: list[str]) -> None:
    assert leaks(asked(*test), asked(*train), 0.1) == []
