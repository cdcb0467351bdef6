"""From scores of single questions to the means and intervals of metrics.json.

A score sheet is {metric: {question id: score}}; a question without a score for a metric is left out
of its mean. Scores are from 0 to 1, and intervals stay in that range.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ragkit.errors import DataError
from ragkit.evaluation.clustered import ROUNDING
from ragkit.evaluation.significance import Interval, intervals

Sheet = Mapping[str, Mapping[str, float]]
RANGE = (0.0, 1.0)


def mean_scores(sheet: Sheet) -> dict[str, float]:
    """Return the mean of each metric that has any scores."""
    return {name: sum(s.values()) / len(s) for name, s in sheet.items() if s}


def summarise(sheet: Sheet, clusters: Mapping[str, str], seed: int = 0) -> dict[str, Any]:
    """Return {metric: {"mean", "ci95", "n", "clusters"}}, intervals clustered by source document.

    clusters: the source document of each question
    Raises:
        DataError: for a score outside the range, or one that is not a number.
    """
    check_scores(sheet)
    cells: dict[str, dict[str, Any]] = {}
    for names in asked_alike(sheet):
        questions = list(sheet[names[0]])
        estimates = intervals(
            scores_of(sheet, names, questions),
            [clusters[q] for q in questions],
            within=RANGE,
            seed=seed,
        )
        cells |= dict(zip(names, map(_cell, estimates), strict=True))
    return {name: cells[name] for name in sheet if name in cells}


def asked_alike(sheet: Sheet) -> list[list[str]]:
    """Return the metrics with scores in groups that have the same questions."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, scores in sheet.items():
        if scores:
            groups.setdefault(tuple(scores), []).append(name)
    return list(groups.values())


def scores_of(sheet: Sheet, names: Iterable[str], questions: Sequence[str]) -> list[list[float]]:
    """Return a row of scores a metric, a column a question."""
    return [[sheet[name][q] for q in questions] for name in names]


def check_scores(sheet: Sheet, whose: str = "") -> None:
    """Raise a DataError that names a score outside the range, or that is not a number.

    whose: the system, for the message
    """
    low, high = RANGE
    for name, scores in sheet.items():
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
