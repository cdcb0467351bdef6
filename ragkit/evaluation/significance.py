"""How sure a mean or a difference of two systems is: intervals, paired tests, what can be seen.

Works on one number a question. Questions about one source document stand or fall together, so
documents (clusters), not questions, are what is resampled. The mean over questions is then a ratio
of two sums over clusters, the values and their count.

From 30 clusters on the interval is a percentile bootstrap (Efron and Tibshirani, 1993, ch. 13).
Under 30 the bootstrap is too narrow, and a t interval with the linearised variance of a ratio
stands in (Cochran, 1977, ch. 6; Cameron and Miller, 2015).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragkit.errors import DataError

MIN_BOOTSTRAP_CLUSTERS = 30
# Drawn at once: 1M cluster numbers with their two gathered columns take about 25 MB.
_DRAWS_PER_BLOCK = 1_000_000
# Differences below this are rounding, not wins: metrics are of the order of 1.
_ROUNDING = 1e-12

Floats = NDArray[np.float64]


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
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Estimate the mean of `values` and its confidence interval.

    A percentile bootstrap over clusters; under 30 clusters a cluster-t interval, which may leave
    the range of the metric; for a single cluster no interval: `low` and `high` are None.

    Args:
        values: one finite number a question.
        clusters: the source document of each question; None makes each its own cluster.
        level: share of intervals that are to hold the true mean.
        samples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: for no values, one that is not finite, or lengths that differ.
    """
    sums, counts = _by_cluster(np.asarray(values, np.float64), clusters)
    if len(sums) < MIN_BOOTSTRAP_CLUSTERS:
        return _t_interval(sums, counts, level)
    return _percentile_interval(sums, counts, level, _resampled_means(sums, counts, samples, seed))


def paired(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> Paired:
    """Compare system `b` with system `a` on the same questions in the same order.

    The two-sided p-value belongs to the interval of the difference: from the bootstrap it is twice
    the share of resamples on the far side of zero (one counted in advance, so it is never 0), and
    under 30 clusters that of the t statistic, at least 1 / (samples + 1). One cluster proves
    nothing: its p-value is 1.

    Args:
        a: the scores of the first system, one a question.
        b: the scores of the second.
        clusters: as in `interval`, like the other settings.
        level: share of intervals that are to hold the true difference.
        samples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: for no values, one that is not finite, or lengths that differ.
    """
    if len(a) != len(b):
        raise DataError(
            f"{len(a)} and {len(b)} scores cannot be paired; "
            "both systems must be scored on the same questions"
        )
    gains = _without_rounding(np.asarray(b, np.float64) - np.asarray(a, np.float64))
    sums, counts = _by_cluster(gains, clusters)
    if len(sums) < MIN_BOOTSTRAP_CLUSTERS:
        difference = _t_interval(sums, counts, level)
        p_value = max(_t_p_value(sums, counts), 1 / (samples + 1))
    else:
        means = _resampled_means(sums, counts, samples, seed)
        difference = _percentile_interval(sums, counts, level, means)
        p_value = _bootstrap_p_value(means)
    return Paired(
        difference=difference,
        wins=int((gains > 0).sum()),
        ties=int((gains == 0).sum()),
        losses=int((gains < 0).sum()),
        p_value=p_value,
    )


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
    gains = _without_rounding(np.asarray(differences, np.float64))
    sums, counts = _by_cluster(gains, clusters)
    if len(sums) < 2:
        return None
    error = _standard_error(sums, counts)
    if error == 0:
        return None
    degrees = len(sums) - 1
    return (_t_quantile((1 + level) / 2, degrees) + _t_quantile(power, degrees)) * error


def _by_cluster(values: Floats, clusters: Sequence[str] | None) -> tuple[Floats, Floats]:
    """Return the sum and the number of the values of each cluster, in order of appearance."""
    if not len(values):
        raise DataError("no values to take a mean of")
    if not np.isfinite(values).all():
        at = int((~np.isfinite(values)).argmax())
        raise DataError(f"values[{at}] is {values[at]}; a mean needs finite numbers")
    if clusters is None:
        return values, np.ones(len(values))
    if len(clusters) != len(values):
        raise DataError(f"{len(values)} values but {len(clusters)} clusters; one each is needed")
    number = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    members = np.array([number[cluster] for cluster in clusters])
    sums, counts = np.bincount(members, values), np.bincount(members)
    return sums.astype(np.float64), counts.astype(np.float64)


def _without_rounding(gains: Floats) -> Floats:
    return np.where(np.abs(gains) < _ROUNDING, 0.0, gains)


def _resampled_means(sums: Floats, counts: Floats, samples: int, seed: int) -> Floats:
    """Return the mean of each bootstrap resample of the clusters, (samples,)."""
    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS_PER_BLOCK // len(sums))
    equal_sizes = bool((counts == counts[0]).all())
    means = np.empty(samples)
    for start in range(0, samples, rows):
        shape = (min(rows, samples - start), len(sums))
        drawn = rng.integers(len(sums), size=shape, dtype=np.int32)
        totals = sums[drawn].sum(axis=1)
        sizes = counts.sum() if equal_sizes else counts[drawn].sum(axis=1)
        means[start : start + rows] = totals / sizes
    return means


def _percentile_interval(sums: Floats, counts: Floats, level: float, means: Floats) -> Interval:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return _interval(sums, counts, low, high)


def _t_interval(sums: Floats, counts: Floats, level: float) -> Interval:
    if len(sums) < 2:
        return _interval(sums, counts, None, None)
    mean = float(sums.sum() / counts.sum())
    margin = _t_quantile((1 + level) / 2, len(sums) - 1) * _standard_error(sums, counts)
    return _interval(sums, counts, mean - margin, mean + margin)


def _interval(sums: Floats, counts: Floats, low: float | None, high: float | None) -> Interval:
    mean = float(sums.sum() / counts.sum())
    return Interval(mean=mean, low=low, high=high, n=int(counts.sum()), clusters=len(sums))


def _standard_error(sums: Floats, counts: Floats) -> float:
    """Return the linearised standard error of sum(sums) / sum(counts), with G / (G - 1)."""
    clusters = len(sums)
    residuals = _without_rounding(sums - counts * (sums.sum() / counts.sum()))
    variance = clusters / (clusters - 1) * float((residuals**2).sum())
    return math.sqrt(variance) / float(counts.sum())


def _bootstrap_p_value(means: Floats) -> float:
    below, above = int((means <= _ROUNDING).sum()), int((means >= -_ROUNDING).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(means) + 1))


def _t_p_value(sums: Floats, counts: Floats) -> float:
    mean = abs(float(sums.sum() / counts.sum()))
    if len(sums) < 2 or mean < _ROUNDING:
        return 1.0
    error = _standard_error(sums, counts)
    if error == 0:
        # Every cluster gained the same: t is infinite, but G fair coins all fall on one side, too.
        return 2.0 ** (1 - len(sums))
    return 2 * float(_scipy_special().stdtr(len(sums) - 1, -mean / error))


def _t_quantile(probability: float, degrees: int) -> float:
    return float(_scipy_special().stdtrit(degrees, probability))


def _scipy_special() -> Any:
    # scipy.stats has the same two functions and takes a second to import.
    from scipy import special  # type: ignore[import-untyped]

    return special
