"""Comparing systems on the same questions: means, intervals and paired differences.

Works on score sheets, {metric: {question id: score}}, wherever they come from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ragkit.errors import DataError
from ragkit.evaluation.significance import holm, paired, smallest_detectable
from ragkit.evaluation.summary import Sheet, summarise


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
    Returns: {"baseline", "systems": {name: {metric: {mean, ci95, ...}}}, "differences": {name:
        {metric: {mean, ci95, wins, ties, losses, p, p_holm, detectable}}}}; p_holm is corrected
        for all differences of the metric, detectable is the smallest that this test set can show
    Raises:
        DataError: an unknown baseline, or systems that were asked different questions.
    """
    if baseline not in systems:
        raise DataError(f"baseline: no system {baseline!r}; there are {', '.join(systems)}")
    _check_same_questions(systems, metrics)
    others = [name for name in systems if name != baseline]
    differences: dict[str, dict[str, Any]] = {name: {} for name in others}
    for metric in metrics:
        for name in others:
            differences[name][metric] = _difference(
                systems[baseline][metric], systems[name][metric], clusters, seed
            )
        corrected = holm([differences[name][metric]["p"] for name in others])
        for name, p in zip(others, corrected, strict=True):
            differences[name][metric]["p_holm"] = p
    return {
        "baseline": baseline,
        "systems": {
            name: summarise({m: sheet[m] for m in metrics}, clusters, seed)
            for name, sheet in systems.items()
        },
        "differences": differences,
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


def _difference(
    a: Mapping[str, float], b: Mapping[str, float], clusters: Mapping[str, str], seed: int
) -> dict[str, Any]:
    questions = list(a)
    before, after = [a[q] for q in questions], [b[q] for q in questions]
    groups = [clusters[q] for q in questions]
    result = paired(before, after, groups, seed=seed)
    gain = result.difference
    return {
        "mean": gain.mean,
        "ci95": None if gain.low is None else [gain.low, gain.high],
        "wins": result.wins,
        "ties": result.ties,
        "losses": result.losses,
        "p": result.p_value,
        "detectable": smallest_detectable(np.subtract(after, before).tolist(), groups),
    }


def _check_same_questions(systems: Mapping[str, Sheet], metrics: Sequence[str]) -> None:
    names = list(systems)
    for metric in metrics:
        first = set(systems[names[0]][metric])
        for name in names[1:]:
            other = set(systems[name][metric])
            if other != first:
                odd = sorted(first ^ other)[0]
                raise DataError(
                    f"{names[0]} and {name} were not asked the same questions "
                    f"({metric}: {len(first)} and {len(other)}; {odd!r} is in one only)"
                )
