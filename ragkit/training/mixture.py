"""A data set mixed from several sources, each with its share of an epoch."""

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ragkit.training.fitting import Learned


@dataclass(frozen=True)
class Source:
    """What can be learned from, and its weight among others.

    item: makes an item from its number and the epoch's
    where: the file that it is from
    """

    size: int
    item: Callable[[int, int], Any]
    weight: float = 1.0
    where: str = ""


class Mixture(Learned):
    """As many items an epoch as the sources have together, shared out by their weights.

    A source gives its items in turns by lot: none a second time before each was there once, over
    the bounds of epochs. A single source gives each item once an epoch.
    """

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        self.sources, self.seed, self.epoch = list(sources), seed, 0
        self.counts = shares([s.size for s in sources], [s.weight for s in sources])
        self._ends = list(accumulate(self.counts))
        self._turns: dict[tuple[int, int], list[int]] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, place: int) -> Any:
        """Return an item of the epoch that has begun."""
        number = bisect_right(self._ends, place)
        within = place - (self._ends[number] - self.counts[number])
        source = self.sources[number]
        if len(self.sources) == 1:
            return source.item(within, self.epoch)
        turn, step = divmod(self.epoch * self.counts[number] + within, source.size)
        return source.item(self._order(number, turn)[step], self.epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Draw anew."""
        self.epoch = epoch
        self._turns.clear()

    def account(self) -> str:
        """Return what an epoch has of each source."""
        parts = (
            f"{count} ({count / len(self):.1%}) from the {source.size} of {source.where}"
            for source, count in zip(self.sources, self.counts, strict=True)
        )
        return f"an epoch has {len(self)} items: {', '.join(parts)}"

    def _order(self, number: int, turn: int) -> list[int]:
        """Return the order in which a source gives its items for the so-manieth time."""
        if (number, turn) not in self._turns:
            order = list(range(self.sources[number].size))
            random.Random(f"{self.seed}:mixture:{number}:{turn}").shuffle(order)
            self._turns[number, turn] = order
        return self._turns[number, turn]


def shares(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Return how many items of each source an epoch has, by largest remainders.

    Their sum is that of the sizes. However small its weight, a source gives one at least.
    """
    total, weight = sum(sizes), sum(weights)
    exact = [total * w / weight for w in weights]
    counts = [int(e) for e in exact]
    left = total - sum(counts)
    by_rest = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_rest[:left]:
        counts[i] += 1
    for i in range(len(counts)):
        if not counts[i]:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return counts
