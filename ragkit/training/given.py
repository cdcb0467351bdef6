"""Which passages a training question is given: the right ones, what a frozen retriever finds.

What is drawn by lot depends on the seed, the epoch and the example alone.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ragkit.config.generating import Passages
from ragkit.data.schema import Example, Passage, known_positives

_TRIES = 10  # passages drawn for one that is no right one

Rankings = Mapping[str, Sequence[str]]  # of each example, by its id: passage ids, best first


@dataclass(frozen=True)
class Given:
    """The passages that questions are given.

    ranked: what the retriever finds; None: the right passages and `distractors` (SFT)
    known: all known positives of each question, by `Example.asked`
    """

    corpus: Mapping[str, Passage]
    config: Passages
    known: Mapping[str, frozenset[str]]
    ranked: Rankings | None = None
    seed: int = 0

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        corpus: Mapping[str, Passage],
        config: Passages,
        ranked: Rankings | None,
        seed: int,
    ) -> "Given":
        """Return what gives passages to these examples."""
        return cls(corpus, config, known_positives(examples), ranked, seed)

    def training(self, example: Example, epoch: int) -> list[Passage]:
        """Return the passages of an example in an epoch, in the order of the prompt."""
        lot = random.Random(f"{self.seed}:passages:{epoch}:{example.id}")
        ids = self._beside(example, lot) if self.ranked is None else self._found(example, lot)
        if self.config.shuffle:
            lot.shuffle(ids)
        return [self.corpus[i] for i in ids]

    def evaluation(self, example: Example) -> list[Passage]:
        """Return the passages of a dev example: as in use, best first; in SFT the right ones."""
        if self.ranked is None:
            ids = self._beside(example, random.Random(f"{self.seed}:dev:{example.id}"))
        else:
            ids = list(self.ranked[example.id][: self.config.k])
        return [self.corpus[i] for i in ids]

    @cached_property
    def ids(self) -> list[str]:
        """Those of the corpus, in its order."""
        return list(self.corpus)

    def _beside(self, example: Example, lot: random.Random) -> list[str]:
        """Return the positives and distractors; of an unanswerable question one at least."""
        right = list(dict.fromkeys(example.positive_ids))
        wanted = max(self.config.distractors, 0 if right else 1)
        wrong = [i for i in example.negative_ids if not self._is_right(example, i)]
        drawn = lot.sample(wrong, min(wanted, len(wrong)))
        others = self.ids if len(drawn) < wanted else []
        for other in lot.sample(others, min(len(others), _TRIES * wanted)):
            if len(drawn) < wanted and other not in drawn and not self._is_right(example, other):
                drawn.append(other)
        return [*right, *drawn]

    def _found(self, example: Example, lot: random.Random) -> list[str]:
        assert self.ranked is not None
        ranked, k = list(self.ranked[example.id]), self.config.k
        if not example.positive_ids or self.config.gold == "as_retrieved":
            return ranked[:k]
        if self.config.gold == "raft" and lot.random() >= self.config.p_gold:
            return [i for i in ranked if not self._is_right(example, i)][:k]
        top = ranked[:k]
        if not any(i in example.positive_ids for i in top):
            top[k - 1 :] = [example.positive_ids[0]]
        return top

    def _is_right(self, example: Example, passage_id: str) -> bool:
        return passage_id in self.known[example.asked]


def depth(config: Passages) -> int:
    """Return how deep to search: for raft enough for `k` passages that do not answer, too."""
    return 2 * config.k + 10 if config.gold == "raft" else config.k


def gold_found(examples: Sequence[Example], ranked: Rankings, k: int) -> float | None:
    """Return the share of questions with positives of which one is among the first `k`."""
    asked = [e for e in examples if e.positive_ids]
    hits = [any(i in e.positive_ids for i in ranked[e.id][:k]) for e in asked]
    return sum(hits) / len(hits) if hits else None
