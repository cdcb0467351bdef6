"""Comparing systems on the same questions: means, intervals and paired differences.

Works on score sheets, {metric: {question id: score}}, wherever they come from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ragkit.errors import DataError
from ragkit.evaluation.significance import Paired, holm, pairs, smallest_detectable
from ragkit.evaluation.summary import (
    Sheet,
    asked_alike,
    check_scores,
    range_of,
    scores_of,
    summarise,
)


def compare(
    systems: Mapping[str, Sheet],
    clusters: Mapping[str, str],
    metrics: Sequence[str],
    baseline: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Return each system's metrics and its paired difference from the baseline.

    systems: score sheet of each system, in the order of the table
    clusters: the source document of each question
    metrics: what to compare; every system has scores of each
    Returns: {"baseline", "comparisons", "systems": {name: {metric: {mean, ci95, ...}}},
        "differences": {name: {metric: {mean, ci95, wins, ties, losses, p, p_holm, detectable}}}};
        p_holm is corrected for all differences, of all systems and metrics, and "comparisons" is
        their number; detectable is the smallest that this test set can show
    Raises:
        DataError: an unknown baseline, systems that were asked different questions, or a score
            outside the range of its metric.
    """
    if baseline not in systems:
        raise DataError(f"baseline: no system {baseline!r}; there are {', '.join(systems)}")
    _check_same_questions(systems, metrics)
    sheets = {name: {m: sheet[m] for m in metrics} for name, sheet in systems.items()}
    for name, sheet in sheets.items():
        check_scores(sheet, name)
    means = {name: summarise(sheet, clusters, seed) for name, sheet in sheets.items()}
    before = sheets.pop(baseline)
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for alike in asked_alike(before):
        cells |= _differences(before, sheets, alike, clusters, seed)
    corrected = holm([cell["p"] for cell in cells.values()])
    for cell, p_holm in zip(cells.values(), corrected, strict=True):
        cell["p_holm"] = p_holm
    return {
        "baseline": baseline,
        "comparisons": len(cells),
        "systems": means,
        "differences": {name: {m: cells[name, m] for m in metrics} for name in sheets},
    }


def losses(
    before: Mapping[str, float], after: Mapping[str, float], most: int
) -> list[tuple[str, float, float]]:
    """Return (question, score before, score after) where a system lost, the largest loss first."""
    changed = ((after[q] - score, q, score) for q, score in before.items() if after[q] < score)
    return [(q, score, after[q]) for _, q, score in sorted(changed)[:most]]


def shared_metrics(systems: Mapping[str, Sheet], wanted: Sequence[str]) -> list[str]:
    """Return the wanted metrics that every system has scores of."""
    return [m for m in wanted if all(sheet.get(m) for sheet in systems.values())]


def _differences(
    before: Sheet,
    after: Mapping[str, Sheet],
    metrics: Sequence[str],
    clusters: Mapping[str, str],
    seed: int,
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the difference of each system in each of the metrics, which have the same questions.

    Returns: {(system, metric): the cell of the table, but for p_holm}
    """
    questions = list(before[metrics[0]])
    groups = [clusters[q] for q in questions]
    rows = [(name, metric) for name in after for metric in metrics]
    if not rows:
        return {}
    a = np.array(scores_of(before, metrics, questions) * len(after))
    b = np.array([row for s in after.values() for row in scores_of(s, metrics, questions)])
    found = pairs(a, b, groups, within=range_of(metrics[0]), seed=seed)
    return {
        row: _cell(result, smallest_detectable(gains, groups))
        for row, result, gains in zip(rows, found, (b - a).tolist(), strict=True)
    }


def _cell(result: Paired, detectable: float | None) -> dict[str, Any]:
    gain = result.difference
    return {
        "mean": gain.mean,
        "ci95": None if gain.low is None else [gain.low, gain.high],
        "wins": result.wins,
        "ties": result.ties,
        "losses": result.losses,
        "p": result.p_value,
        "detectable": detectable,
    }


def _check_same_questions(systems: Mapping[str, Sheet], metrics: Sequence[str]) -> None:
    names = list(systems)
    for metric in metrics:
        if missing := [name for name in names if not systems[name].get(metric)]:
            raise DataError(f"{missing[0]}: no scores of {metric}")
        first = set(systems[names[0]][metric])
        for name in names[1:]:
            other = set(systems[name][metric])
            if other != first:
                odd = sorted(first ^ other)[0]
                raise DataError(
                    f"{names[0]} and {name} were not asked the same questions "
                    f"({metric}: {len(first)} and {len(other)}; {odd!r} is in one only)"
                )
