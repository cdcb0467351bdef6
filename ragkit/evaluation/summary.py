"""From scores of single questions to the means and intervals of metrics.json.

A score sheet is {metric: {question id: score}}; a question without a score for a metric is left out
of its mean.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ragkit.evaluation.significance import interval

Sheet = Mapping[str, Mapping[str, float]]


def mean_scores(sheet: Sheet) -> dict[str, float]:
    """Return the mean of each metric that has any scores."""
    return {name: sum(s.values()) / len(s) for name, s in sheet.items() if s}


def summarise(sheet: Sheet, clusters: Mapping[str, str], seed: int = 0) -> dict[str, Any]:
    """Return {metric: {"mean", "ci95", "n", "clusters"}}, intervals clustered by source document.

    clusters: the source document of each question
    """
    return {
        name: _cell(list(scores.values()), [clusters[q] for q in scores], seed)
        for name, scores in sheet.items()
        if scores
    }


def slice_of(sheet: Sheet, questions: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return the part of a score sheet that is about the questions named."""
    wanted = set(questions)
    return {
        name: {q: s for q, s in scores.items() if q in wanted} for name, scores in sheet.items()
    }


def _cell(values: list[float], clusters: list[str], seed: int) -> dict[str, Any]:
    estimate = interval(values, clusters, seed=seed)
    bounds = None if estimate.low is None else [estimate.low, estimate.high]
    return {
        "mean": estimate.mean,
        "ci95": bounds,
        "n": estimate.n,
        "clusters": estimate.clusters,
    }
