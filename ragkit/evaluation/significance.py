"""How sure a mean or a difference of two systems is: intervals, paired tests, what can be seen.

Works on one number a question. Questions about one source document stand or fall together, so
documents (clusters), not questions, are what is resampled or counted.

From 1,000 clusters on an interval is a percentile bootstrap (Efron and Tibshirani, 1993, ch. 13),
which assumes least. Under that it is too narrow, above all for means near 0 or 1, and a t interval
with the jackknife's standard error (Cameron and Miller, 2015) stands in; for the mean of a metric
that has a range, that of its logit. How often 95% intervals hold the truth in the simulations of
scripts/results/coverage.py, over means from 0.5 to 0.97:

    documents            14           30           100          1,000
    percentile      60 to 92%    81 to 94%    88 to 94%    94 to 96%
    t of the logit  95 to 98%    94 to 97%    93 to 95%    94 to 96%

Paired differences are 82 to 90, 92 to 93, 93 to 95 and 95% by the percentiles, and 88 to 95, 94 to
95, 94 to 96 and 95% by t.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ragkit.errors import DataError
from ragkit.evaluation.clustered import (
    ROUNDING,
    UNBOUNDED,
    Clustered,
    Floats,
    Range,
    by_cluster,
    check_values,
    opened_at_ends,
    percentile_bounds,
    resampled_means,
    t_bounds,
    t_p_values,
    t_quantile,
    without_rounding,
)

MIN_BOOTSTRAP_CLUSTERS = 1_000


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values in `clusters` clusters; `low` and `high` are None for one cluster."""

    mean: float
    low: float | None
    high: float | None
    n: int
    clusters: int


@dataclass(frozen=True)
class Paired:
    """A comparison of two systems on the same questions; `difference` is the second's gain."""

    difference: Interval
    wins: int
    ties: int
    losses: int
    p_value: float


def interval(
    values: Sequence[float],
    clusters: Sequence[str] | None = None,
    *,
    within: Range = UNBOUNDED,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Estimate the mean of `values` and its confidence interval.

    A percentile bootstrap over clusters; under 1,000 clusters a cluster-t interval, of the mean's
    logit where `within` has two ends. For a single cluster there is no interval (`low` and `high`
    are None), nor for up to five clusters that all have the same mean.
    Where every value is at one end of the range, the interval still has a width, by the number of
    clusters.

    Args:
        values: one finite number a question.
        clusters: the source document of each question; None makes each its own cluster.
        within: the least and the greatest value that there can be; no interval goes beyond.
        level: share of intervals that are to hold the true mean.
        samples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: for no values, one that is not finite or not within the range, or lengths that
            differ.
    """
    return intervals([values], clusters, within=within, level=level, samples=samples, seed=seed)[0]


def intervals(
    values: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    within: Range = UNBOUNDED,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> list[Interval]:
    """Estimate several means over the same questions, each as `interval` does alone.

    The resamples of the clusters are drawn once for all.

    Args:
        values: (M, N) finite numbers, a row a metric, a column a question.
        clusters: as in `interval`, like the other settings.
        within: the range of all metrics.
        level: share of intervals that are to hold the true mean.
        samples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: as `interval`.
    """
    grouped = by_cluster(np.asarray(values, np.float64), clusters, within)
    if len(grouped.counts) < MIN_BOOTSTRAP_CLUSTERS:
        bounds = t_bounds(grouped, level, within)
    else:
        bounds = percentile_bounds(resampled_means(grouped, samples, seed), level)
    bounds = opened_at_ends(bounds, grouped, level, within)
    bounds[:, _too_few(grouped, level) & (bounds[0] == bounds[1])] = math.nan
    return _intervals(grouped, bounds, within)


def paired(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[str] | None = None,
    *,
    within: Range = UNBOUNDED,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> Paired:
    """Compare system `b` with system `a` on the same questions in the same order.

    The interval is that of the differences, cut to what two scores can differ by.

    The two-sided p-value belongs to the interval of the difference: from the bootstrap it is twice
    the share of resamples on the far side of zero (one counted in advance, so it is never 0), and
    under 1,000 clusters that of the t statistic, at least 1 / (samples + 1). One cluster proves
    nothing: its p-value is 1.

    Args:
        a: the scores of the first system, one a question.
        b: the scores of the second.
        clusters: as in `interval`, like the other settings.
        within: the least and the greatest score that there can be.
        level: share of intervals that are to hold the true difference.
        samples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: for no values, one that is not finite or not within the range, or lengths that
            differ.
    """
    return pairs([a], [b], clusters, within=within, level=level, samples=samples, seed=seed)[0]


def pairs(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    within: Range = UNBOUNDED,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> list[Paired]:
    """Make several comparisons over the same questions, each as `paired` does alone.

    Args:
        a: (M, N) the scores of the first system of each comparison, a column a question.
        b: (M, N) the scores of the second.
        clusters: as in `interval`, like the other settings.
        within: the range of all scores.
        level: share of intervals that are to hold the true difference.
        samples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: as `paired`.
    """
    before, after = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if before.shape != after.shape:
        raise DataError(
            f"{before.shape[-1]} and {after.shape[-1]} scores cannot be paired; "
            "both systems must be scored on the same questions"
        )
    check_values(before, within)
    check_values(after, within)
    gains = without_rounding(after - before)
    grouped = by_cluster(gains, clusters)
    if len(grouped.counts) < MIN_BOOTSTRAP_CLUSTERS:
        bounds = t_bounds(grouped, level)
        p_values = [max(p, 1 / (samples + 1)) for p in t_p_values(grouped)]
    else:
        means = resampled_means(grouped, samples, seed)
        bounds = percentile_bounds(means, level)
        p_values = [_bootstrap_p_value(row) for row in means]
    bounds[:, _too_few(grouped, level) & (gains != 0).any(axis=1)] = math.nan
    span = within[1] - within[0]
    differences = _intervals(grouped, bounds, (-span, span))
    return [
        Paired(
            difference=difference,
            wins=int((row > 0).sum()),
            ties=int((row == 0).sum()),
            losses=int((row < 0).sum()),
            p_value=p_value,
        )
        for difference, row, p_value in zip(differences, gains, p_values, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for having made several comparisons (Holm, 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    ascending = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for tested, i in enumerate(ascending):
        largest = max(largest, min(1.0, (len(p_values) - tested) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def smallest_detectable(
    differences: Sequence[float],
    clusters: Sequence[str] | None = None,
    power: float = 0.8,
    level: float = 0.95,
) -> float | None:
    """Return the true difference that so many questions would show with probability `power`.

    It is (t_(1 - alpha/2) + t_power) standard errors of the mean difference, with one degree of
    freedom less than there are clusters (Bloom, 1995).

    Args:
        differences: the gain of one system on another, one a question.
        clusters: as in `interval`.
        power: probability of seeing such a difference.
        level: 1 - alpha of the two-sided test.

    Returns:
        The difference, or None for one cluster or differences that do not vary.

    Raises:
        DataError: for no values, one that is not finite, or lengths that differ.
    """
    gains = without_rounding(np.asarray([differences], np.float64))
    grouped = by_cluster(gains, clusters)
    degrees = len(grouped.counts) - 1
    error = float(grouped.errors[0]) if degrees else 0.0
    if error == 0:
        return None
    return (t_quantile((1 + level) / 2, degrees) + t_quantile(power, degrees)) * error


def _too_few(grouped: Clustered, level: float) -> NDArray[np.bool_]:
    """Return which means are the same in all clusters, and these too few to show anything by it.

    G fair coins all fall on one side with probability 2^(1 - G).
    """
    clusters = len(grouped.counts)
    if clusters < 2 or 2.0 ** (1 - clusters) <= 1 - level:
        return np.zeros(len(grouped.sums), bool)
    return np.asarray(grouped.errors == 0)


def _intervals(grouped: Clustered, bounds: Floats, within: Range) -> list[Interval]:
    """Put means and bounds (2, M) together, cut to the range; each interval holds its mean."""
    means, n, clusters = grouped.means, int(grouped.counts.sum()), len(grouped.counts)
    lows = np.minimum(means, np.maximum(bounds[0], within[0])).tolist()
    highs = np.maximum(means, np.minimum(bounds[1], within[1])).tolist()
    return [
        Interval(mean, None, None, n, clusters)
        if math.isnan(low)
        else Interval(mean, low, high, n, clusters)
        for mean, low, high in zip(means.tolist(), lows, highs, strict=True)
    ]


def _bootstrap_p_value(means: Floats) -> float:
    below, above = int((means <= ROUNDING).sum()), int((means >= -ROUNDING).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(means) + 1))
