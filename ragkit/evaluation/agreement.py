"""How far a judge can be trusted: agreement with people, means corrected by people's labels, noise.

Works on one number a question. Questions about one source document stand or fall together, so every
interval here is clustered by document, with a t quantile of one degree of freedom less than there
are documents.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragkit.errors import DataError
from ragkit.evaluation.clustered import UNBOUNDED, Range, t_quantile
from ragkit.evaluation.summary import RANGE, summarise

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    value: None where it is not defined; low, high: None where there is no interval
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Powered:
    """A mean that people's labels and a judge's scores give together.

    power: the share lambda of the judge's scores that is used; 0: labels alone
    drawn_z: standard errors between the judge's mean with labels and without; far from 0, the
        labelled questions are no random draw
    """

    mean: Estimate
    power: float
    drawn_z: float | None


def kappa(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[str] | None = None,
    *,
    quadratic: bool = False,
    level: float = 0.95,
) -> Estimate:
    """Return Cohen's kappa of two raters of the same questions, and its interval.

    1 - observed / expected disagreement (Cohen, 1960); a disagreement counts 1, or, quadratic, the
    square of the distance of the two values (Cohen, 1968). The interval is the jackknife's over
    clusters, within [-1, 1].

    Args:
        a: the values that one rater gave, one a question.
        b: the other's.
        clusters: the source document of each question; None makes each its own cluster.
        quadratic: weigh disagreements by the square of their distance.
        level: share of intervals that are to hold the true value.

    Returns:
        Without a value where both raters gave one and the same value to all.

    Raises:
        DataError: for no values, or lengths that differ.
    """
    _require_equal(a, b, clusters)
    values = np.unique([*a, *b])
    member, count = _members(clusters, len(a))
    k = len(values)
    cells = (member * k + np.searchsorted(values, a)) * k + np.searchsorted(values, b)
    tables = np.bincount(cells, minlength=count * k * k).reshape(count, k, k).astype(np.float64)
    distance = np.abs(values[:, None] - values[None, :])
    weights = distance**2 if quadratic else (distance > 0).astype(np.float64)
    whole = float(_kappas(tables.sum(axis=0), weights))
    if math.isnan(whole):
        return Estimate(None)
    without = _kappas(tables.sum(axis=0) - tables, weights)
    if count < 2 or np.isnan(without).any():
        return Estimate(whole)
    variance = (count - 1) / count * float(((without - without.mean()) ** 2).sum())
    margin = t_quantile((1 + level) / 2, count - 1) * math.sqrt(variance)
    return Estimate(whole, max(whole - margin, -1.0), min(whole + margin, 1.0))


def prediction_powered(
    human: Sequence[float],
    judged: Sequence[float],
    rest: Sequence[float],
    clusters: Sequence[str],
    rest_clusters: Sequence[str],
    *,
    power: float | None = None,
    level: float = 0.95,
) -> Powered:
    """Estimate the mean that people would give, from few labels and a judge's scores of all.

    PPI++ (Angelopoulos, Duchi and Zrnic, 2023): lambda * mean(rest) + mean(human - lambda * judged)
    whatever the judge's errors, if the labelled questions are a random draw. Its variance is that
    of the sums of both parts over clusters, so that a document may have questions in both; lambda
    minimises it, within [0, 1]. lambda = 0 is the mean of the labels with a clustered t interval.

    Args:
        human: people's labels.
        judged: the judge's scores of the same questions.
        rest: the judge's scores of the questions without a label.
        clusters: the source documents of the labelled questions.
        rest_clusters: those of the others.
        power: lambda; None: the best.
        level: share of intervals that are to hold the true mean.

    Raises:
        DataError: for no labels, or lengths that differ.
    """
    _require_equal(human, judged, clusters)
    if len(rest) != len(rest_clusters):
        raise DataError(f"{len(rest)} scores and {len(rest_clusters)} clusters of the rest")
    member, count = _members([*clusters, *rest_clusters], len(human) + len(rest))
    inside, outside = member[: len(human)], member[len(human) :]
    y, f, u = (np.asarray(v, np.float64) for v in (human, judged, rest))
    of_labels = _influence(y, inside, count)
    # what one more unit of lambda adds to the sum of each cluster
    of_judge = -_influence(f, inside, count)
    shift = 0.0
    if len(u):
        of_judge += _influence(u, outside, count)
        shift = float(u.mean() - f.mean())
    spread = float((of_judge**2).sum())
    known = len(np.unique(inside))
    usable = known > 2 and len(u) > 0 and spread > 0
    leverage: Floats | float = 0.0
    if power is None:
        best = -float(of_labels @ of_judge) / spread if usable else 0.0
        power = min(max(best, 0.0), 1.0)
        # a cluster that lambda was fitted to looks too good by it (HC3; MacKinnon and White, 1985)
        leverage = of_judge**2 / spread if power == best and usable else 0.0
    mean = float(y.mean()) + power * shift
    if known < 2:
        return Powered(Estimate(mean), power, None)
    scale = known / (known - 1)
    residuals = (of_labels + power * of_judge) / (1 - leverage)
    error = math.sqrt(scale * float((residuals**2).sum()))
    margin = t_quantile((1 + level) / 2, known - 1) * error
    z = shift / math.sqrt(scale * spread) if usable else None
    return Powered(Estimate(mean, mean - margin, mean + margin), power, z)


def against_people(
    scores: Mapping[str, float],
    labels: Mapping[str, float],
    settled: Collection[str],
    documents: Mapping[str, str],
    seed: int = 0,
) -> dict[str, Any]:
    """Return what people's labels say of a judge's scores, and of their mean.

    scores: of every question with a judgement; labels: of some of them, drawn at random
    settled: questions that were scored without the judge; agreement leaves them out
    documents: the source document of each question
    Returns: {"labels", "agreement": {"raw": cell, "kappa", "kappa_quadratic"?} | None, "ppi"};
        kappa_quadratic only where there are more than two values
    Raises:
        DataError: no label is of a question with a score.
    """
    known = [q for q in labels if q in scores]
    if not known:
        raise DataError("human: no label is of a question that has a judgement")
    rest = [q for q in scores if q not in labels]
    powered = prediction_powered(
        [labels[q] for q in known],
        [scores[q] for q in known],
        [scores[q] for q in rest],
        [documents[q] for q in known],
        [documents[q] for q in rest],
    )
    alone = summarise({"mean": {q: labels[q] for q in known}}, documents, seed)["mean"]
    if len({labels[q] for q in known}) == 1:  # they say nothing of how far the judge is off
        powered = Powered(Estimate(alone["mean"], *(alone["ci95"] or ())), 0.0, powered.drawn_z)
    ppi = {
        "mean": powered.mean.value,
        "ci95": _bounds(powered.mean, RANGE),
        "n": len(known),
        "unlabelled": len(rest),
        "lambda": powered.power,
        "drawn_z": powered.drawn_z,
        "labels_alone": alone,
    }
    compared = [q for q in known if q not in settled]
    return {
        "labels": len(labels),
        "agreement": _agreement(compared, scores, labels, documents, seed) if compared else None,
        "ppi": ppi,
    }


def _agreement(
    questions: Sequence[str],
    scores: Mapping[str, float],
    labels: Mapping[str, float],
    documents: Mapping[str, str],
    seed: int,
) -> dict[str, Any]:
    human, judged = [labels[q] for q in questions], [scores[q] for q in questions]
    clusters = [documents[q] for q in questions]
    same = {"raw": {q: float(scores[q] == labels[q]) for q in questions}}
    kappas = {"kappa": kappa(human, judged, clusters)}
    if len({*human, *judged}) > 2:  # of two values both are the same
        kappas["kappa_quadratic"] = kappa(human, judged, clusters, quadratic=True)
    return {
        **summarise(same, documents, seed),
        **{name: {"value": k.value, "ci95": _bounds(k)} for name, k in kappas.items()},
    }


def _bounds(estimate: Estimate, within: Range = UNBOUNDED) -> list[float] | None:
    if estimate.low is None or estimate.high is None:
        return None
    return [max(estimate.low, within[0]), min(estimate.high, within[1])]


def noise(scores: Sequence[Sequence[float]], questions: int) -> dict[str, float]:
    """Return how much a judge differs from itself.

    scores: of each sampled question, those of the same reply asked for again and again, (Q, R)
    questions: of the mean whose standard deviation is wanted
    Returns: {"changed": share of the sampled questions whose scores are not all equal,
        "sd_of_mean": the square root of the mean variance of a question's scores / questions}
    Raises:
        DataError: no question, or only one score of each.
    """
    asked = np.asarray(scores, np.float64)
    if asked.ndim != 2 or not len(asked) or asked.shape[1] < 2:
        raise DataError("noise needs several scores of each of some questions")
    variance = float(asked.var(axis=1, ddof=1).mean())
    changed = (asked != asked[:, :1]).any(axis=1).mean()
    return {"changed": float(changed), "sd_of_mean": math.sqrt(variance / questions)}


def _kappas(tables: Floats, weights: Floats) -> Floats:
    """Return the kappa of each table of counts (..., K, K); NaN where it is not defined."""
    total = tables.sum(axis=(-2, -1))
    observed = (tables * weights).sum(axis=(-2, -1)) * total
    products = tables.sum(axis=-1)[..., :, None] * tables.sum(axis=-2)[..., None, :]
    expected = (products * weights).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(expected > 0, 1 - observed / expected, np.nan)
    return found


def _influence(values: Floats, member: NDArray[np.intp], count: int) -> Floats:
    """Return what each cluster adds to the mean's distance from its expectation, (count,)."""
    return np.bincount(member, values - values.mean(), minlength=count) / len(values)


def _members(clusters: Sequence[str] | None, n: int) -> tuple[NDArray[np.intp], int]:
    """Return the number of each question's cluster, and how many there are."""
    if clusters is None:
        return np.arange(n), n
    number = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    return np.array([number[c] for c in clusters], np.intp), len(number)


def _require_equal(a: Sequence[float], b: Sequence[float], clusters: Sequence[str] | None) -> None:
    if not len(a):
        raise DataError("no question has values of both")
    if len(a) != len(b) or (clusters is not None and len(clusters) != len(a)):
        clustered = "" if clusters is None else f" and {len(clusters)} clusters"
        raise DataError(f"{len(a)} and {len(b)} values{clustered}; one a question is needed")
