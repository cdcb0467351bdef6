"""The arithmetic of reports, held to values worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragkit.evaluation import report

QRELS = {"a": {"p1": 1}, "b": {"p2": 1, "p3": 1}, "c": {"p4": 1}}
RANKED = {
    "a": {"p1": 0.9, "p2": 0.5, "p3": 0.1},
    "b": {"p1": 0.8, "p3": 0.7, "p4": 0.6},
    "c": {"p1": 0.3, "p2": 0.2, "p3": 0.1},
}


def test_an_axis_goes_from_one_round_number_to_another() -> None:
    axis = report.scale([0.47, 0.93])
    assert axis.ticks == (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert (axis.low, axis.high) == (0.4, 1.0)
    assert report.scale([-0.12, 0.31, 0.0]).ticks == (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4)
    assert report.scale([0, 56], 5).ticks == (0, 20, 40, 60)


def test_an_axis_of_one_value_has_room_on_both_sides() -> None:
    for value in (0.0, 0.333, -3.0, 1000.0):
        axis = report.scale([value])
        assert axis.low < value < axis.high


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5))
def test_an_axis_holds_its_values_with_few_ticks(values: list[float]) -> None:
    axis = report.scale(values)
    rounding = 1e-6 * (axis.high - axis.low)
    assert axis.low <= min(values) + rounding and max(values) <= axis.high + rounding
    assert 2 <= len(axis.ticks) <= 8
    assert all(0 <= axis.share(value) <= 1 for value in values)


def test_a_value_stands_at_its_share_of_the_axis_and_never_outside() -> None:
    axis = report.Scale(0.0, 2.0, (0.0, 1.0, 2.0))
    assert [axis.share(v) for v in (-1, 0, 0.5, 2, 3)] == [0, 0, 0.25, 1, 1]


def test_recall_grows_with_the_passages_looked_at() -> None:
    # a has its one at 1; b one of two at 2, the other nowhere; c has none
    assert report.recall_curve(QRELS, RANKED) == [
        (1, pytest.approx(1 / 3)),
        (2, pytest.approx((1 + 1 / 2) / 3)),
        (3, pytest.approx((1 + 1 / 2) / 3)),
    ]


def test_first_ranks_are_of_the_first_positive_and_none_where_there_is_none() -> None:
    ranks = report.first_ranks(QRELS, RANKED)
    assert ranks == {"a": 1, "b": 2, "c": None}
    assert report.hits(ranks, 1) == pytest.approx(1 / 3)
    assert report.hits(ranks, 5) == pytest.approx(2 / 3)


def test_first_ranks_are_exact_deep_down() -> None:
    ranked = {"a": {f"x{i}": 1000.0 - i for i in range(996)} | {"p1": 1.0}}
    assert report.first_ranks({"a": {"p1": 1}}, ranked) == {"a": 997}


def test_ranks_fall_into_bins_that_end_where_the_rankings_do() -> None:
    counts = report.rank_histogram([1, 1, 2, 4, 5, 11, 12, None], deepest=12)
    assert counts == {
        "1": 2, "2": 1, "3": 0, "4–5": 2, "6–10": 0, "11–12": 2, "not found": 1,
    }  # fmt: skip


def test_scores_of_right_and_other_passages_are_paired_by_question() -> None:
    # c has no positive among its passages
    assert report.separation(QRELS, RANKED) == ([0.9, 0.7], [0.5, 0.8])


def test_a_histogram_counts_values_in_equal_parts() -> None:
    axis = report.Scale(0.0, 1.0, (0.0, 1.0))
    assert report.histogram([0.0, 0.24, 0.25, 0.5, 1.0], axis, 4) == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("interval", "said"),
    [([0.1, 0.2], "better"), ([-0.2, -0.1], "worse"), ([-0.1, 0.1], "unclear"),
     ([0.0, 0.1], "unclear"), (None, "unknown")],
)  # fmt: skip
def test_a_difference_is_told_by_its_interval(interval: list[float] | None, said: str) -> None:
    assert report.verdict({"ci95": interval}) == said


def test_questions_that_changed_most_come_first_and_new_ones_last() -> None:
    before, after = {"a": 1.0, "b": 0.5, "c": 0.2}, {"a": 0.9, "b": 1.0, "c": 0.2, "d": 1.0}
    assert report.changed_most(before, after) == ["b", "a", "c", "d"]


def test_learning_curves_are_the_loss_and_the_dev_metrics_of_the_history() -> None:
    history = [
        {"eval_ndcg@10": 0.5, "epoch": 0, "step": 0},
        {"loss": 2.0, "learning_rate": 1e-5, "step": 2},
        {"loss": 1.5, "learning_rate": 1e-5, "step": 4},
        {"eval_ndcg@10": 0.6, "epoch": 1, "step": 4},
        {"train_loss": 1.7, "train_runtime": 3.0, "step": 4},
    ]
    assert report.learning_curves(history) == {
        "eval_ndcg@10": [(0, 0.5), (4, 0.6)],
        "loss": [(2, 2.0), (4, 1.5)],
    }
