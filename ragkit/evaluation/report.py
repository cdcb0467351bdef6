"""The arithmetic of a report: curves, histograms, scales and choices, as plain functions.

Works on rankings, scores and records wherever they come from, and returns numbers; how they are
drawn and worded is not this module's business.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ragkit.evaluation.ranking import Qrels, Run, evaluate, rank
from ragkit.evaluation.summary import mean_scores

_DEPTHS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
_RANK_BINS = ((1, 1), (2, 2), (3, 3), (4, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, 1000))


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high` with round numbers on it."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Return where a value stands, 0 at `low` and 1 at `high`, held within them."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def scale(values: Iterable[float], most_ticks: int = 6) -> Scale:
    """Return the axis that holds all values, from one round number to another.

    A step is 1, 2 or 5 times a power of ten. A single value gets a step's room on both sides.
    """
    found = list(values)
    low, high = min(found), max(found)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - max(abs(low), 1.0) * 0.05, high + max(abs(high), 1.0) * 0.05
    rough = (high - low) / (most_ticks - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def depth_of(ranked: Run) -> int:
    """Return the length of the longest ranking."""
    return max((len(found) for found in ranked.values()), default=0)


def recall_curve(qrels: Qrels, ranked: Run) -> list[tuple[int, float]]:
    """Return (k, mean recall@k) for growing k, down to the length of the rankings."""
    deepest = depth_of(ranked)
    depths = [k for k in _DEPTHS if k <= deepest]
    means = mean_scores(evaluate(qrels, ranked, [f"recall@{k}" for k in depths]))
    return [(k, means[f"recall@{k}"]) for k in depths if means]


def first_ranks(qrels: Qrels, ranked: Run) -> dict[str, int | None]:
    """Return the rank of each question's first positive; None where it was not retrieved."""
    metric = f"mrr@{max(1, depth_of(ranked))}"
    scores = evaluate(qrels, ranked, [metric])[metric]
    return {q: round(1 / score) if score else None for q, score in scores.items()}


def hits(ranks: Mapping[str, int | None], k: int) -> float:
    """Return the share of questions with a positive among the first k."""
    return sum(rank is not None and rank <= k for rank in ranks.values()) / len(ranks)


def rank_histogram(ranks: Iterable[int | None], deepest: int) -> dict[str, int]:
    """Return how many questions have their first positive at 1, 2, 3, 4-5, ..., or nowhere.

    deepest: length of the rankings; bins below it are left out
    """
    bins = [(low, min(high, deepest)) for low, high in _RANK_BINS if low <= deepest]
    counts = {_bin_name(low, high): 0 for low, high in bins}
    counts["not found"] = 0
    for found in ranks:
        here = (_bin_name(low, high) for low, high in bins if found and low <= found <= high)
        counts[next(here, "not found")] += 1
    return counts


def _bin_name(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def separation(qrels: Qrels, ranked: Run) -> tuple[list[float], list[float]]:
    """Return each question's highest score of a positive, and of another passage.

    Questions whose ranking lacks one of the two are left out, so that the lists are paired.
    """
    positives, others = [], []
    for question, judged in qrels.items():
        order = rank(ranked.get(question, {}))
        right = [p for p in order if judged.get(p, 0) > 0]
        wrong = [p for p in order if judged.get(p, 0) <= 0]
        if right and wrong:
            positives.append(ranked[question][right[0]])
            others.append(ranked[question][wrong[0]])
    return positives, others


def histogram(values: Sequence[float], axis: Scale, bins: int) -> list[int]:
    """Return how many values fall into each of `bins` equal parts of an axis."""
    counts, _ = np.histogram(values, bins=bins, range=(axis.low, axis.high))
    return [int(count) for count in counts]


def verdict(cell: Mapping[str, Any]) -> str:
    """Return better, worse, unclear (the interval has 0 in it) or unknown (there is none)."""
    if cell["ci95"] is None:
        return "unknown"
    low, high = cell["ci95"]
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def changed_most(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Return the questions of `after`, the largest change first; one that is new did not change."""
    return sorted(after, key=lambda q: -abs(after[q] - before.get(q, after[q])))


def learning_curves(history: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return the loss and the dev metrics of a training's logged steps, each as (step, value)."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in history:
        for name, value in record.items():
            if name == "loss" or name.startswith("eval_"):
                curves.setdefault(name, []).append((int(record["step"]), float(value)))
    return curves
