"""Planted answers with a known verdict, by which a judge is tried before it is believed.

A judge that calls everything right, or everything wrong, or answers at random, fails one kind of
them or both. They are made from the test set itself: see `planted` of each criterion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ragkit.evaluation.judging import Case, Criterion, Judgement

_TRIES = 50  # other questions that are looked at for one that makes a pair


@dataclass(frozen=True, slots=True)
class Control:
    """A planted case; right: its score must be high, else low."""

    case: Case
    right: bool

    def holds(self, judged: Judgement) -> bool:
        """Return whether a judgement is on the side where it must be."""
        return judged.score is not None and (
            judged.score > 0.5 if self.right else judged.score < 0.5
        )


def plant(criterion: Criterion, cases: Sequence[Case], n: int, seed: int) -> list[Control]:
    """Return up to n planted cases, half of them right, of questions drawn at random."""
    rng = np.random.default_rng(seed)
    found: list[Control] = []
    for i in rng.permutation(len(cases)):
        if len(found) + 2 > n:
            break
        drawn = rng.choice(len(cases), size=min(_TRIES, len(cases)), replace=False)
        # what is said of another document is surely wrong here; False sorts first
        others = sorted(drawn, key=lambda j: cases[j].document == cases[i].document)  # noqa: B023
        pairs = (criterion.planted(cases[i], cases[j]) for j in others if j != i)
        if pair := next((pair for pair in pairs if pair), None):
            found += [Control(pair[0], True), Control(pair[1], False)]
    return found


def shares(controls: Sequence[Control], judged: Sequence[Judgement]) -> dict[str, list[int]]:
    """Return how many of the right and of the wrong controls hold: {"right": [hold, of], ...}."""
    pairs = list(zip(controls, judged, strict=True))
    return {
        name: [
            sum(c.holds(j) for c, j in pairs if c.right is right),
            sum(c.right is right for c, _ in pairs),
        ]
        for name, right in (("right", True), ("wrong", False))
    }
