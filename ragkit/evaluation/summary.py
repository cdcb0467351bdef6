"""From scores of single questions to the means and intervals of metrics.json.

A score sheet is {metric: {question id: score}}; a question without a score for a metric is left out
of its mean. Scores are from 0 to 1, and those of metrics named `*_ms` from 0 up; intervals stay in
that range.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ragkit.errors import DataError
from ragkit.evaluation.clustered import ROUNDING, Range
from ragkit.evaluation.significance import Interval, intervals

Sheet = Mapping[str, Mapping[str, float]]


def mean_scores(sheet: Sheet) -> dict[str, float]:
    """Return the mean of each metric that has any scores."""
    return {name: sum(s.values()) / len(s) for name, s in sheet.items() if s}


def summarise(sheet: Sheet, clusters: Mapping[str, str], seed: int = 0) -> dict[str, Any]:
    """Return {metric: {"mean", "ci95", "n", "clusters"}}, intervals clustered by source document.

    clusters: the source document of each question
    Raises:
        DataError: for a score outside the range of its metric, or one that is not a number.
    """
    check_scores(sheet)
    cells: dict[str, dict[str, Any]] = {}
    for names in asked_alike(sheet):
        questions = list(sheet[names[0]])
        estimates = intervals(
            scores_of(sheet, names, questions),
            [clusters[q] for q in questions],
            within=range_of(names[0]),
            seed=seed,
        )
        cells |= dict(zip(names, map(_cell, estimates), strict=True))
    return {name: cells[name] for name in sheet if name in cells}


def range_of(metric: str) -> Range:
    """Return the least and the greatest score that there can be."""
    return (0.0, math.inf) if metric.endswith("_ms") else (0.0, 1.0)


def asked_alike(sheet: Sheet) -> list[list[str]]:
    """Return the metrics with scores in groups: the same questions, the same range."""
    groups: dict[tuple[Range, tuple[str, ...]], list[str]] = {}
    for name, scores in sheet.items():
        if scores:
            groups.setdefault((range_of(name), tuple(scores)), []).append(name)
    return list(groups.values())


def scores_of(sheet: Sheet, names: Iterable[str], questions: Sequence[str]) -> list[list[float]]:
    """Return a row of scores a metric, a column a question."""
    return [[sheet[name][q] for q in questions] for name in names]


def check_scores(sheet: Sheet, whose: str = "") -> None:
    """Raise a DataError that names a score outside the range of its metric, or not a number.

    whose: the system, for the message
    """
    for name, scores in sheet.items():
        low, high = range_of(name)
        for question, score in scores.items():
            if not (math.isfinite(score) and low - ROUNDING <= score <= high + ROUNDING):
                raise DataError(
                    f"{whose}{': ' if whose else ''}{name} of question {question!r} is {score}; "
                    f"a number from {low:g} to {high:g} is needed"
                )


def slice_of(sheet: Sheet, questions: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return the part of a score sheet that is about the questions named."""
    wanted = set(questions)
    return {
        name: {q: s for q, s in scores.items() if q in wanted} for name, scores in sheet.items()
    }


def _cell(estimate: Interval) -> dict[str, Any]:
    bounds = None if estimate.low is None else [estimate.low, estimate.high]
    return {
        "mean": estimate.mean,
        "ci95": bounds,
        "n": estimate.n,
        "clusters": estimate.clusters,
    }
