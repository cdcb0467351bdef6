"""Means over clusters of questions: their standard errors, resamples and bounds.

Works on M metrics of the same N questions, which fall into G clusters. A mean over questions is a
ratio of two sums over clusters, the values and their count. Which bounds to trust, and what they
say of two systems, is left to `significance`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragkit.errors import DataError

UNBOUNDED = (-math.inf, math.inf)
# Differences below this are rounding, not wins: metrics are of the order of 1.
ROUNDING = 1e-12
# Drawn at once: what is counted of them stays in a processor's cache.
_DRAWS_PER_BLOCK = 100_000

Floats = NDArray[np.float64]
Range = tuple[float, float]


@dataclass(frozen=True)
class Clustered:
    """The values of M metrics, added up within G clusters.

    sums: (M, G) of the values; counts: (G,) how many
    """

    sums: Floats
    counts: Floats

    @property
    def means(self) -> Floats:
        """Return the mean over all values of each metric, (M,)."""
        return np.asarray(self.sums.sum(axis=1) / self.counts.sum())

    @property
    def errors(self) -> Floats:
        """Return the jackknife's standard error of each mean, (M,), from two clusters on.

        A mean without cluster g differs from the mean m by (s_g - n_g m) / (n - n_g). With clusters
        of one size this is the usual standard error of a mean.
        """
        size, clusters = self.counts.sum(), len(self.counts)
        residuals = without_rounding(self.sums - self.counts * self.means[:, None])
        squares = (residuals / (size - self.counts)) ** 2
        return np.asarray(np.sqrt((clusters - 1) / clusters * squares.sum(axis=1)))


def by_cluster(
    values: Floats, clusters: Sequence[str] | None, within: Range = UNBOUNDED
) -> Clustered:
    """Add up the values (M, N) of each cluster, the clusters in order of appearance."""
    check_values(values, within)
    n = values.shape[1]
    if clusters is None:
        return Clustered(values, np.ones(n))
    if len(clusters) != n:
        raise DataError(f"{n} values but {len(clusters)} clusters; one each is needed")
    number = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    members = np.array([number[cluster] for cluster in clusters])
    sums = np.stack([np.bincount(members, row, len(number)) for row in values])
    return Clustered(sums.astype(np.float64), np.bincount(members).astype(np.float64))


def check_values(values: Floats, within: Range) -> None:
    if not values.size:
        raise DataError("no values to take a mean of")
    low, high = within
    bad = ~(np.isfinite(values) & (values >= low - ROUNDING) & (values <= high + ROUNDING))
    if bad.any():
        row, at = np.argwhere(bad)[0].tolist()
        value = float(values[row, at])
        wrong = f", outside {low:g} to {high:g}" if math.isfinite(value) else ""
        raise DataError(f"values[{at}] is {value:g}{wrong}; a mean needs finite numbers in range")


def without_rounding(gains: Floats) -> Floats:
    return np.where(np.abs(gains) < ROUNDING, 0.0, gains)


def resampled_means(grouped: Clustered, samples: int, seed: int) -> Floats:
    """Return the means of each bootstrap resample of the clusters, (M, samples)."""
    rng = np.random.default_rng(seed)
    sums, counts = grouped.sums, grouped.counts
    clusters, equal_sizes = len(counts), bool((counts == counts[0]).all())
    columns = sums if equal_sizes else np.vstack([sums, counts])
    totals = np.empty((len(columns), samples))
    rows = max(1, _DRAWS_PER_BLOCK // clusters)
    for start in range(0, samples, rows):
        n = min(rows, samples - start)
        drawn = rng.integers(clusters, size=(n, clusters))
        drawn += np.arange(n)[:, None] * clusters  # each resample is counted on its own
        times = np.bincount(drawn.ravel(), minlength=n * clusters).astype(np.float64)
        for column, total in zip(columns, totals, strict=True):
            # BLAS would share this out to threads that wait for each other on a busy machine, and
            # add up in an order that depends on the number of metrics.
            np.einsum("g,rg->r", column, times.reshape(n, clusters), out=total[start : start + n])
    return np.asarray(totals[: len(sums)] / (counts.sum() if equal_sizes else totals[-1]))


def percentile_bounds(means: Floats, level: float) -> Floats:
    """Return the bounds of each metric, (2, M)."""
    return np.asarray(np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=1))


def t_bounds(grouped: Clustered, level: float, within: Range = UNBOUNDED) -> Floats:
    """Return the bounds of each metric, (2, M): t intervals, of the mean's logit in a range.

    Near the end of a range a mean is skewed; its logit is less so. The error of a logit is that of
    the share divided by share (1 - share) (the delta method). NaN for one cluster.
    """
    degrees, (low, high) = len(grouped.counts) - 1, within
    if not degrees:
        return np.full((2, len(grouped.sums)), math.nan)
    margins = t_quantile((1 + level) / 2, degrees) * grouped.errors
    if not math.isfinite(high - low):
        return np.stack([grouped.means - margins, grouped.means + margins])
    shares = np.clip((grouped.means - low) / (high - low), 1e-12, 1 - 1e-12)
    logits = np.log(shares / (1 - shares))
    margins = margins / (high - low) / (shares * (1 - shares))
    ends = np.stack([logits - margins, logits + margins])
    return np.asarray(low + (high - low) * _scipy_special().expit(ends))


def opened_at_ends(bounds: Floats, grouped: Clustered, level: float, within: Range) -> Floats:
    """Return the bounds (2, M), opened where all values of a metric are at one end of its range.

    Such values do not vary, but they do not prove that none will be elsewhere: the other bound is
    Clopper and Pearson's (1934) for as many trials as there are clusters.
    """
    low, high = within
    clusters = len(grouped.counts)
    if clusters < 2 or not math.isfinite(high - low):
        return bounds
    missed = (high - low) * (1 - ((1 - level) / 2) ** (1 / clusters))
    all_low, all_high = (
        (np.abs(grouped.sums - end * grouped.counts) < ROUNDING).all(axis=1) for end in within
    )
    return np.stack(
        [np.where(all_high, high - missed, bounds[0]), np.where(all_low, low + missed, bounds[1])]
    )


def t_p_values(grouped: Clustered) -> list[float]:
    """Return the two-sided p-value of each mean being 0 (Student's t); 1 for a single cluster."""
    clusters = len(grouped.counts)
    errors = grouped.errors if clusters > 1 else np.zeros(len(grouped.sums))
    found = []
    for mean, error in zip(np.abs(grouped.means).tolist(), errors.tolist(), strict=True):
        if clusters < 2 or mean < ROUNDING:
            found.append(1.0)
        elif error == 0:
            # Every cluster gained the same: t is infinite, but G fair coins all fall on one side.
            found.append(2.0 ** (1 - clusters))
        else:
            found.append(2 * float(_scipy_special().stdtr(clusters - 1, -mean / error)))
    return found


def t_quantile(probability: float, degrees: int) -> float:
    return float(_scipy_special().stdtrit(degrees, probability))


def _scipy_special() -> Any:
    # scipy.stats has the same functions and takes a second to import.
    from scipy import special  # type: ignore[import-untyped]

    return special
