"""Comparing systems on the same questions: means, intervals and paired differences.

Works on score sheets, {metric: {question id: score}}, wherever they come from.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ragkit.errors import DataError
from ragkit.evaluation.report import verdict
from ragkit.evaluation.significance import Paired, holm, pairs, smallest_detectable
from ragkit.evaluation.summary import (
    RANGE,
    Sheet,
    asked_alike,
    check_scores,
    scores_of,
    slice_of,
    summarise,
)

_SURE = 0.05  # largest corrected p-value of a difference that is claimed


def compare(
    systems: Mapping[str, Sheet],
    clusters: Mapping[str, str],
    metrics: Sequence[str],
    baseline: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Return each system's metrics and its paired difference from the baseline.

    A question that some system has no score of for a metric is left out of that metric, as is a
    question that a system declined for what only answers have; `n` says how many are left.

    systems: score sheet of each system, in the order of the table
    clusters: the source document of each question
    metrics: what to compare; every system has scores of each
    Returns: {"baseline", "comparisons", "systems": {name: {metric: {mean, ci95, ...}}},
        "differences": {name: {metric: {mean, ci95, wins, ties, losses, p, p_holm, detectable}}}};
        p_holm is corrected for all differences, of all systems and metrics, and "comparisons" is
        their number; detectable is the smallest that this test set can show
    Raises:
        DataError: an unknown baseline, a metric without a question that all systems have a score
            of, or a score outside the range.
    """
    if baseline not in systems:
        raise DataError(f"baseline: no system {baseline!r}; there are {', '.join(systems)}")
    for name, sheet in systems.items():
        check_scores({m: sheet.get(m, {}) for m in metrics}, name)
    shared = {m: _shared(systems, m) for m in metrics}
    sheets = {
        name: {m: {q: sheet[m][q] for q in shared[m]} for m in metrics}
        for name, sheet in systems.items()
    }
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


def compare_slices(
    systems: Mapping[str, Sheet],
    slices: Mapping[str, Collection[str]],
    clusters: Mapping[str, str],
    metric: str,
    baseline: str,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Return `compare` by a metric in each slice, but for those of all questions or of none.

    What counts are the questions that all systems have a score of.
    """
    common = set(_shared(systems, metric))
    return {
        name: compare(
            {label: slice_of(sheet, ids) for label, sheet in systems.items()},
            clusters,
            [metric],
            baseline,
            seed,
        )
        for name, ids in slices.items()
        if set() < common & set(ids) < common
    }


def is_shown(cell: Mapping[str, Any]) -> bool:
    """Return True for a gain that the test set shows, corrected for having made several tests."""
    return verdict(cell) == "better" and float(cell["p_holm"]) < _SURE


def leading(
    differences: Mapping[str, Mapping[str, Any]],
    metric: str,
    baseline: str,
    ceilings: Iterable[str] = (),
) -> str:
    """Return the system that gains most on the baseline, ceilings apart; alone, the baseline.

    One whose gain is shown goes before one with a larger gain that may be chance.

    differences: as `compare` returns them
    """
    left_out = set(ceilings)
    others = [name for name in differences if name not in left_out]
    shown = [name for name in others if is_shown(differences[name][metric])]
    gains = {name: float(differences[name][metric]["mean"]) for name in shown or others}
    return max(gains, key=gains.__getitem__) if gains else baseline


def losses(
    before: Mapping[str, float], after: Mapping[str, float], most: int
) -> list[tuple[str, float, float]]:
    """Return (question, score before, score after) where a system lost, the largest loss first."""
    both = ((q, score, after[q]) for q, score in before.items() if q in after)
    changed = ((now - score, q, score) for q, score, now in both if now < score)
    return [(q, score, after[q]) for _, q, score in sorted(changed)[:most]]


def shared_metrics(systems: Mapping[str, Sheet], wanted: Sequence[str]) -> list[str]:
    """Return the wanted metrics of which some question has a score by every system."""
    return [m for m in wanted if _common(systems, m)]


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
    found = pairs(a, b, groups, within=RANGE, seed=seed)
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


def _shared(systems: Mapping[str, Sheet], metric: str) -> list[str]:
    if found := _common(systems, metric):
        return found
    raise DataError(f"{metric}: no question that {', '.join(systems)} all have a score of")


def _common(systems: Mapping[str, Sheet], metric: str) -> list[str]:
    """Return the questions that all systems have a score of, in the order of the first."""
    first, *others = (sheet.get(metric, {}) for sheet in systems.values())
    return [q for q in first if all(q in other for other in others)]
