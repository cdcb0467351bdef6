"""Means and intervals out of score sheets, and parts of them."""

import random

from ragkit.evaluation.significance import interval
from ragkit.evaluation.summary import mean_scores, slice_of, summarise

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
