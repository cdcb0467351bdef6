"""From examples to batches of tokens for contrastive training.

Each distinct passage of a batch is encoded once; who is whose positive, and which candidates must
not count as negatives, is worked out here from ids. Which texts are drawn in which epoch depends on
the seed, the epoch and the example alone.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ragkit.data.schema import Example

TokenIds = Sequence[int]


@dataclass(frozen=True)
class Pair:
    """One question with one of its positives and the negatives drawn for this epoch."""

    example: Example
    positive_id: str
    negative_ids: tuple[str, ...]


class PairDataset(Dataset[Pair]):
    """Examples as training pairs, drawn afresh each epoch.

    n_negatives: hard negatives a question; an example that has fewer gives what it has
    """

    def __init__(self, examples: Sequence[Example], n_negatives: int, seed: int) -> None:
        self.examples = [e for e in examples if e.positive_ids]
        self.n_negatives, self.seed = n_negatives, seed
        self.epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Choose the epoch whose positives and negatives are drawn.

        Not called `set_epoch`: data loaders call that with a count of their own, which a resumed
        run begins anew.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Pair:
        example = self.examples[index]
        rng = random.Random(f"{self.seed}:{self.epoch}:{example.id}")
        pool = example.negative_ids
        return Pair(
            example,
            rng.choice(example.positive_ids),
            tuple(rng.sample(pool, min(self.n_negatives, len(pool)))),
        )


@dataclass(frozen=True)
class PairCollator:
    """Turns pairs into the encoder's input and the loss's targets.

    queries: token ids by example id; passages: token ids by passage id
    known: all positives of each question (`known_positives`), over the whole training set
    """

    queries: Mapping[str, TokenIds]
    passages: Mapping[str, TokenIds]
    known: Mapping[str, frozenset[str]]

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Return what `ContrastiveModel` takes: queries first, then distinct passages."""
        wanted = [p.positive_id for p in pairs] + [n for p in pairs for n in p.negative_ids]
        ids = list(dict.fromkeys(wanted))
        column = {passage_id: i for i, passage_id in enumerate(ids)}
        positive = torch.tensor([column[p.positive_id] for p in pairs])
        return {
            "token_ids": [
                *(self.queries[p.example.id] for p in pairs),
                *(self.passages[passage_id] for passage_id in ids),
            ],
            "n_queries": len(pairs),
            "positive": positive,
            "ignore": self._ignore(pairs, column),
            "example_ids": [p.example.id for p in pairs],
        }

    def _ignore(self, pairs: Sequence[Pair], column: Mapping[str, int]) -> Tensor:
        """Mask every other known positive of each query: it is no negative of it."""
        ignore = torch.zeros(len(pairs), len(column), dtype=torch.bool)
        for row, pair in enumerate(pairs):
            for passage_id in self.known[pair.example.asked]:
                if passage_id in column and passage_id != pair.positive_id:
                    ignore[row, column[passage_id]] = True
        return ignore
