"""Means and intervals out of score sheets, and parts of them."""

import math
import random

import pytest

from ragkit.errors import DataError
from ragkit.evaluation.significance import interval
from ragkit.evaluation.summary import mean_scores, slice_of, summarise

SHEET = {
    "recall@1": {"a": 1.0, "b": 0.0, "c": 0.5, "d": 0.75},
    "f1": {"a": 0.25, "c": 0.75},
    "em": {},
}
CLUSTERS = {"a": "x", "b": "x", "c": "y", "d": "z"}


def test_means_are_over_the_questions_that_have_a_score() -> None:
    assert mean_scores(SHEET) == {"recall@1": 0.5625, "f1": 0.5}


def test_a_summary_has_mean_interval_and_sizes_of_every_metric_with_scores() -> None:
    found = summarise(SHEET, CLUSTERS)
    expected = interval([1.0, 0.0, 0.5, 0.75], ["x", "x", "y", "z"], within=(0.0, 1.0))
    assert found["recall@1"] == {
        "mean": 0.5625,
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
    sheet = {"f1": {str(i): rng.random() for i in range(1_000)}}
    clusters = {str(i): str(i) for i in range(1_000)}
    assert summarise(sheet, clusters, 1) == summarise(sheet, clusters, 1)
    assert summarise(sheet, clusters, 1) != summarise(sheet, clusters, 2)


def test_metrics_of_other_questions_do_not_change_a_cell() -> None:
    together = summarise(SHEET, CLUSTERS)
    for name in ("recall@1", "f1"):
        assert summarise({name: SHEET[name]}, CLUSTERS) == {name: together[name]}
    turned = {"em": dict(reversed(SHEET["recall@1"].items()))}
    found = summarise({**SHEET, **turned}, CLUSTERS)
    assert found["em"]["mean"] == together["recall@1"]["mean"]
    assert found["em"]["ci95"] == pytest.approx(together["recall@1"]["ci95"])


def test_intervals_stay_in_the_range_of_scores() -> None:
    clusters = {str(i): str(i) for i in range(5)}
    values = [1.0, 1.0, 1.0, 1.0, 0.5]
    low, high = summarise({"f1": dict(zip(clusters, values, strict=True))}, clusters)["f1"]["ci95"]
    assert 0 < low < 0.9 < high < 1


@pytest.mark.parametrize(
    ("metric", "score", "said"),
    [
        ("f1", math.nan, "f1 of question 'b' is nan; a number from 0 to 1 is needed"),
        ("f1", 57.3, "f1 of question 'b' is 57.3; a number from 0 to 1 is needed"),
        ("em", -1.0, "em of question 'b' is -1.0"),
        ("em", math.inf, "em of question 'b' is inf"),
    ],
)
def test_a_score_outside_the_range_of_its_metric_is_named_with_its_question(
    metric: str, score: float, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        summarise({"em": {"a": 1.0}, metric: {"a": 1.0, "b": score}}, CLUSTERS)


def test_no_scores_give_no_cells() -> None:
    assert summarise({}, {}) == {}
    assert summarise({"f1": {}}, {}) == {}
    assert mean_scores({"f1": {}}) == {}


def test_one_question_has_a_mean_and_no_interval() -> None:
    found = summarise({"f1": {"a": 0.5}}, CLUSTERS)
    assert found == {"f1": {"mean": 0.5, "ci95": None, "n": 1, "clusters": 1}}


def test_a_slice_keeps_its_questions_and_no_others() -> None:
    assert slice_of(SHEET, ["c", "b", "unknown"]) == {
        "recall@1": {"b": 0.0, "c": 0.5},
        "f1": {"c": 0.75},
        "em": {},
    }
