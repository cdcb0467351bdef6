"""Intervals and tests: by hand, against scipy, and by how often a p-value is wrong."""

import math

import numpy as np
import pytest
from scipy import stats

from ragkit.errors import DataError
from ragkit.evaluation.significance import (
    Interval,
    holm,
    interval,
    intervals,
    paired,
    pairs,
    smallest_detectable,
)


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the bootstrap take over at 30 clusters."""
    monkeypatch.setattr("ragkit.evaluation.significance.MIN_BOOTSTRAP_CLUSTERS", 30)


def documents(sizes: list[int]) -> list[str]:
    return [f"doc-{i}" for i, size in enumerate(sizes) for _ in range(size)]


def simulated(rng: np.random.Generator, sizes: list[int]) -> tuple[list[float], list[str]]:
    """Draw values of mean 0.5 that share the luck of their document, as questions do."""
    luck = rng.uniform(0, 1, len(sizes)).repeat(sizes)
    return (rng.random(sum(sizes)) < luck).astype(float).tolist(), documents(sizes)


def test_the_bootstrap_agrees_with_scipy_where_every_value_is_its_own_cluster() -> None:
    values = np.random.default_rng(1).exponential(size=1_000)
    ours = interval(values.tolist(), samples=9_999)
    rng = np.random.default_rng(2)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=9_999, batch=1_000, rng=rng
    )
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.n, ours.clusters) == (1_000, 1_000)
    # The error of a 2.5% quantile of 9,999 means of standard deviation 0.032 is 0.0008.
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.004)
    assert ours.high - ours.low == pytest.approx(2 * 1.96 * theirs.standard_error, rel=0.05)


def test_the_bootstrapped_p_value_agrees_with_scipy_s_test_of_permuted_signs() -> None:
    rng = np.random.default_rng(1)
    gains = stats.zscore(rng.normal(size=1_000)) + 1.5 / math.sqrt(1_000)
    ours = paired([0.0] * 1_000, gains.tolist()).p_value
    theirs = stats.permutation_test(
        (gains,), np.mean, permutation_type="samples", n_resamples=9_999, batch=1_000, rng=rng
    ).pvalue
    assert 0.1 < theirs < 0.2
    assert ours == pytest.approx(theirs, abs=0.02)


def test_clusters_of_one_are_the_same_as_no_clusters() -> None:
    values = np.random.default_rng(1).random(40).tolist()
    assert interval(values, [str(i) for i in range(40)]) == interval(values)


@pytest.mark.parametrize("least", [2, 1_000])
def test_copies_of_a_question_in_its_cluster_do_not_narrow_the_interval(
    least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragkit.evaluation.significance.MIN_BOOTSTRAP_CLUSTERS", least)
    values = np.random.default_rng(1).random(40)
    once = interval(values.tolist())
    copied = interval(values.repeat(5).tolist(), documents([5] * 40))
    assert (copied.n, copied.clusters) == (200, 40)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert copied.low is not None
    naive = interval(values.repeat(5).tolist())
    assert naive.low is not None and copied.low < naive.low


@pytest.mark.usefixtures("bootstrap")
def test_the_bootstrap_of_uneven_clusters_takes_the_ratio_of_the_sums() -> None:
    sizes = [1 + i % 5 for i in range(50)]
    values, clusters = simulated(np.random.default_rng(3), sizes)
    rng = np.random.default_rng(4)
    grouped = [
        [value for value, cluster in zip(values, clusters, strict=True) if cluster == f"doc-{i}"]
        for i in range(50)
    ]
    means = [
        np.mean([value for i in rng.integers(50, size=50) for value in grouped[i]])
        for _ in range(4_000)
    ]
    ours = interval(values, clusters)
    assert ours.mean == pytest.approx(np.mean(values))
    assert (ours.low, ours.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_the_order_of_the_questions_does_not_move_the_t_interval() -> None:
    values, clusters = simulated(np.random.default_rng(5), [3, 1, 4, 1, 5])
    ahead = interval(values, clusters)
    back = interval(values[::-1], clusters[::-1])
    assert (back.low, back.high) == pytest.approx((ahead.low, ahead.high))


@pytest.mark.usefixtures("bootstrap")
def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(1).random(40).tolist()
    assert interval(values, seed=7) == interval(values, seed=7)
    assert interval(values, seed=7) != interval(values, seed=8)


@pytest.mark.usefixtures("bootstrap")
def test_blocks_of_resamples_make_up_the_number_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    values, clusters = simulated(np.random.default_rng(5), [1, 2] * 20)
    whole = interval(values, clusters, samples=999)
    monkeypatch.setattr("ragkit.evaluation.clustered._DRAWS_PER_BLOCK", 7 * 40)
    assert interval(values, clusters, samples=999) == whole


def test_of_few_clusters_the_t_interval_is_that_worked_out_by_hand() -> None:
    # Sums 2, 1, 0 of 2, 2, 1 values: mean 3/5, and without one cluster 1/3, 2/3, 3/4.
    values, clusters = [1.0, 1.0, 1.0, 0.0, 0.0], documents([2, 2, 1])
    error = math.sqrt(2 / 3 * ((3 / 5 - 1 / 3) ** 2 + (3 / 5 - 2 / 3) ** 2 + (3 / 5 - 3 / 4) ** 2))
    margin = 4.302653 * error  # the 0.975 quantile of t with 2 degrees of freedom
    assert interval(values, clusters) == Interval(
        mean=pytest.approx(0.6),
        low=pytest.approx(0.6 - margin),
        high=pytest.approx(0.6 + margin),
        n=5,
        clusters=3,
    )


def test_in_a_range_the_t_interval_is_that_of_the_logit_worked_out_by_hand() -> None:
    # Mean 3/4: logit ln 3, and an error of the mean times 16/3; then back.
    values = [1.0, 1.0, 1.0, 0.0]
    margin = 3.182446 * stats.sem(values) * 16 / 3  # t with 3 degrees of freedom
    odds = [3 * math.exp(-margin), 3 * math.exp(margin)]
    low, high = (o / (1 + o) for o in odds)
    ours = interval(values, within=(0.0, 1.0))
    assert (ours.low, ours.high) == pytest.approx((low, high))
    percent = interval([100 * v for v in values], within=(0.0, 100.0))
    assert (percent.low, percent.high) == pytest.approx((100 * low, 100 * high))


def test_few_unclustered_values_get_the_ordinary_t_interval() -> None:
    values = [0.1, 0.4, 0.4, 0.9, 0.7]
    low, high = stats.t.interval(0.9, 4, np.mean(values), stats.sem(values))
    ours = interval(values, level=0.9)
    assert (ours.low, ours.high) == pytest.approx((low, high))


def test_the_bootstrap_takes_over_at_a_thousand_clusters() -> None:
    values = np.random.default_rng(1).random(1_000).tolist()
    assert interval(values, seed=1) != interval(values, seed=2)
    assert interval(values[1:], seed=1) == interval(values[1:], seed=2)


@pytest.mark.parametrize("n", [3, 20, 1_000])
def test_no_interval_leaves_the_range_of_the_metric(n: int) -> None:
    for values in ([0.99] * (n - 1) + [0.2], [0.0] * (n - 1) + [0.9], [1.0, 0.0] + [1.0] * (n - 2)):
        ours = interval(values, within=(0.0, 1.0))
        assert ours.low is not None and ours.high is not None
        assert 0 <= ours.low < ours.mean < ours.high <= 1
    times = interval([1.0] * (n - 1) + [900.0], within=(0.0, math.inf))
    assert times.low is not None and times.low >= 0
    difference = paired([0.0] * n, [1.0] * (n - 1) + [0.0], within=(0.0, 1.0)).difference
    assert difference.high is not None and difference.mean <= difference.high <= 1


@pytest.mark.parametrize("n", [2, 20, 1_000])
def test_values_that_are_all_at_the_end_of_the_range_do_not_prove_that_all_are(n: int) -> None:
    found = stats.binomtest(n, n).proportion_ci(method="exact")
    ones, zeros = (interval([end] * n, within=(0.0, 1.0)) for end in (1.0, 0.0))
    assert (ones.low, ones.high) == pytest.approx((found.low, 1.0))
    assert (zeros.low, zeros.high) == pytest.approx((0.0, 1 - found.low))


@pytest.mark.parametrize(("n", "bounds"), [(2, None), (5, None), (6, 0.1), (1_000, 0.1)])
def test_a_few_clusters_of_one_mean_show_nothing(n: int, bounds: float | None) -> None:
    expected = bounds and pytest.approx(bounds)
    mean = interval([0.1] * n, within=(0.0, 1.0))
    gain = paired([0.2] * n, [0.3] * n, within=(0.0, 1.0)).difference
    assert (mean.low, mean.high, gain.low, gain.high) == (expected,) * 4
    unchanged = paired([0.2] * n, [0.2] * n, within=(0.0, 1.0)).difference
    assert (unchanged.low, unchanged.high) == (0.0, 0.0)  # no question is different at all


@pytest.mark.parametrize("sizes", [[1, 4, 2] * 10, [1] * 1_000, [3, 1] * 500])
def test_several_metrics_at_once_are_each_as_it_is_alone(sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 4, sum(sizes)))
    names = documents(sizes)
    assert intervals(a, names, within=(0, 1), seed=3) == [
        interval(row, names, within=(0, 1), seed=3) for row in a.tolist()
    ]
    assert pairs(a, b, names, seed=3) == [
        paired(before, after, names, seed=3)
        for before, after in zip(a.tolist(), b.tolist(), strict=True)
    ]


@pytest.mark.parametrize(("values", "clusters"), [([0.5], None), ([0.0, 1.0], ["d", "d"])])
def test_one_cluster_has_a_mean_and_no_interval(
    values: list[float], clusters: list[str] | None
) -> None:
    assert interval(values, clusters) == Interval(0.5, None, None, len(values), 1)
    assert smallest_detectable(values, clusters) is None
    assert paired([0.0] * len(values), values, clusters).p_value == 1.0


def test_a_bad_value_is_named() -> None:
    with pytest.raises(DataError, match=r"values\[1\] is nan"):
        interval([0.0, math.nan, math.inf])
    with pytest.raises(DataError, match=r"values\[1\] is 1.5, outside 0 to 1"):
        interval([0.0, 1.5], within=(0.0, 1.0))
    with pytest.raises(DataError, match=r"values\[0\] is -1, outside 0 to inf"):
        paired([1.0], [-1.0], within=(0.0, math.inf))
    with pytest.raises(DataError, match=r"values\[0\] is nan"):
        paired([0.5], [math.nan])
    with pytest.raises(DataError, match="no values"):
        interval([])
    with pytest.raises(DataError, match="2 values but 1 clusters"):
        interval([0.0, 1.0], ["d"])


def test_a_paired_comparison_is_of_the_second_system_with_the_first() -> None:
    result = paired([0.0, 1.0, 0.5, 0.2], [1.0, 0.0, 0.5, 0.9])
    assert result.difference.mean == pytest.approx((1 - 1 + 0 + 0.7) / 4)
    assert (result.wins, result.ties, result.losses) == (2, 1, 1)


@pytest.mark.usefixtures("bootstrap")
def test_rounding_is_a_tie() -> None:
    result = paired([0.3] * 40, [0.1 + 0.2] * 40)
    assert (result.wins, result.ties, result.losses) == (0, 40, 0)
    assert result.p_value == 1.0
    assert (result.difference.low, result.difference.high) == (0.0, 0.0)


@pytest.mark.usefixtures("bootstrap")
def test_the_interval_of_a_difference_is_that_of_the_differences() -> None:
    rng = np.random.default_rng(1)
    for n in (20, 60):
        a, b = rng.random((2, n))
        result = paired(a.tolist(), b.tolist(), seed=3)
        assert result.difference == interval((b - a).tolist(), seed=3)


@pytest.mark.usefixtures("bootstrap")
def test_exchanging_the_systems_turns_the_result_around() -> None:
    rng = np.random.default_rng(1)
    for n in (20, 60):
        a, b = rng.random((2, n)).tolist()
        there, back = paired(a, b), paired(b, a)
        assert there.p_value == pytest.approx(back.p_value)
        assert there.difference.mean == -back.difference.mean
        assert (there.wins, there.losses) == (back.losses, back.wins)


def test_few_pairs_get_the_p_value_of_the_t_test() -> None:
    a, b = np.random.default_rng(1).random((2, 20))
    expected = stats.ttest_rel(b, a)
    assert paired(a.tolist(), b.tolist()).p_value == pytest.approx(expected.pvalue)


@pytest.mark.usefixtures("bootstrap")
def test_many_pairs_get_about_the_p_value_of_the_t_test() -> None:
    rng = np.random.default_rng(1)
    a = rng.random(200)
    for errors_from_zero in (0.5, 1.3, 2.0):
        noise = stats.zscore(rng.normal(size=200), ddof=1)
        b = a + noise + errors_from_zero / math.sqrt(200)
        expected = stats.ttest_rel(b, a).pvalue
        assert paired(a.tolist(), b.tolist()).p_value == pytest.approx(expected, abs=0.02)


@pytest.mark.usefixtures("bootstrap")
def test_a_p_value_below_the_level_means_an_interval_without_zero() -> None:
    rng = np.random.default_rng(2)
    verdicts = set()
    for _ in range(60):
        n = int(rng.choice([10, 50]))
        a, b = rng.random(n), rng.random(n) + 0.2 * rng.random()
        result = paired(a.tolist(), b.tolist(), samples=2_000)
        low, high = result.difference.low, result.difference.high
        assert low is not None and high is not None
        if not 0.045 < result.p_value < 0.055:
            assert (result.p_value < 0.05) == (low > 0 or high < 0)
            verdicts.add(result.p_value < 0.05)
    assert verdicts == {True, False}


@pytest.mark.usefixtures("bootstrap")
def test_a_p_value_is_never_zero() -> None:
    rng = np.random.default_rng(1)
    for n in (29, 40):
        noise = (1e-3 * rng.random(n)).tolist()
        p_value = paired(noise, [1.0] * n, samples=500).p_value
        assert 1 / 501 <= p_value <= 2 / 501


def test_the_same_gain_in_each_of_few_clusters_is_no_more_than_so_many_coins() -> None:
    assert paired([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]).p_value == 1 / 4
    assert paired([0.0] * 6, [0.1] * 6, documents([1, 2, 3])).p_value == 1 / 4


def test_systems_on_different_questions_cannot_be_paired() -> None:
    with pytest.raises(DataError, match="2 and 1 scores cannot be paired"):
        paired([0.0, 1.0], [1.0])


def test_holm_is_that_worked_out_by_hand() -> None:
    # Ascending 0.01 0.02 0.03 0.04 times 4 3 2 1 is 0.04 0.06 0.06 0.04, never falling.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_the_smallest_detectable_difference_is_that_worked_out_by_hand() -> None:
    # Standard error 1 / sqrt(3); t with 2 degrees: 4.302653 at 0.975 and 1.060660 at 0.8.
    expected = (4.302653 + 1.060660) / math.sqrt(3)
    assert smallest_detectable([-1.0, 0.0, 1.0]) == pytest.approx(expected)
    clustered = smallest_detectable([-1.0, -1.0, 0.0, 0.0, 1.0, 1.0], documents([2, 2, 2]))
    assert clustered == pytest.approx(expected)


def test_a_difference_of_the_smallest_detectable_size_is_found_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 25))
    size = smallest_detectable(stats.zscore(rng.normal(size=25), ddof=1).tolist(), power=0.8)
    assert size is not None
    found = np.mean([paired([0.0] * 25, (row + size).tolist()).p_value < 0.05 for row in noise])
    assert 0.75 <= found <= 0.85


def test_differences_that_do_not_vary_say_nothing_about_what_can_be_seen() -> None:
    assert smallest_detectable([0.1] * 50) is None
    assert smallest_detectable([0.0] * 50) is None
