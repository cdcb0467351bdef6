"""From examples to batches of tokens for contrastive training.

Each distinct passage of a batch is encoded once. Passages and known positives get the numbers of
their rows in a table that is the same in every process; what follows from them is worked out in
`ragkit.training.candidates`. Which texts are drawn in which epoch depends on the seed, the epoch
and the example alone, or, where negatives are drawn for a whole batch, on its examples.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ragkit.config.training import Contrastive
from ragkit.data.schema import Example
from ragkit.training.candidates import NOTHING, Rows

TokenIds = Sequence[int]


@dataclass(frozen=True)
class Pair:
    """One question with one of its positives and the negatives drawn for this epoch.

    draw: names the example's draw in this epoch: the seed of what is drawn for the batch
    """

    example: Example
    positive_id: str
    negative_ids: tuple[str, ...]
    draw: str = ""


class PairDataset(Dataset[Pair]):
    """Examples as training pairs, drawn afresh each epoch.

    n_negatives: hard negatives a question; an example that has fewer gives what it has; None: all,
        from which the collator draws for the batch
    """

    def __init__(self, examples: Sequence[Example], n_negatives: int | None, seed: int) -> None:
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
        draw = f"{self.seed}:{self.epoch}:{example.id}"
        rng = random.Random(draw)
        positive, pool = rng.choice(example.positive_ids), example.negative_ids
        if self.n_negatives is not None:
            pool = tuple(rng.sample(pool, min(self.n_negatives, len(pool))))
        return Pair(example, positive, pool, draw)


@dataclass(frozen=True)
class PairCollator:
    """Turns pairs into the encoder's input and the loss's targets.

    queries: token ids by example id; passages: token ids by passage id, in the table's order
    known: all positives of each question (`known_positives`), over the whole training set
    loss: what the batch is for: whether negatives are drawn for it, whether teachers are asked
    batch_size: of each process; needed where several train together
    guide: vectors of another encoder, rows in the order of `queries` and of `passages`
    """

    queries: Mapping[str, TokenIds]
    passages: Mapping[str, TokenIds]
    known: Mapping[str, frozenset[str]]
    loss: Contrastive = Contrastive()
    batch_size: int | None = None
    guide: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Return what `ContrastiveModel` takes: queries first, then distinct passages."""
        positives = [p.positive_id for p in pairs]
        ids = list(dict.fromkeys([*positives, *self._negatives(pairs)]))
        column = {passage_id: i for i, passage_id in enumerate(ids)}
        batch = {
            "token_ids": [
                *(self.queries[p.example.id] for p in pairs),
                *(self.passages[passage_id] for passage_id in ids),
            ],
            "n_queries": len(pairs),
            "rows": Rows(
                passages=torch.tensor([self._row[i] for i in ids]),
                positive=torch.tensor([column[i] for i in positives]),
                known=torch.tensor([self._known_rows(p.example) for p in pairs]),
                limits=self._limits,
            ),
            "example_ids": [p.example.id for p in pairs],
            "passage_ids": ids,
        }
        if self.loss.distillation:
            batch["teacher"] = _teacher(pairs, column)
        if self.guide:
            queries, passages = self.guide
            vectors = [queries[[self._query_row[p.example.id] for p in pairs]],
                       passages[[self._row[i] for i in ids]]]  # fmt: skip
            batch["guide"] = torch.from_numpy(np.concatenate(vectors))
        return batch

    def _negatives(self, pairs: Sequence[Pair]) -> Sequence[str]:
        """Return the pairs' negatives, or as many of them as the batch is to have."""
        every = [n for p in pairs for n in p.negative_ids]
        ratio = self.loss.hard_neg_ratio
        if ratio is None:
            return every
        positives = {p.positive_id for p in pairs}
        pool = [i for i in dict.fromkeys(every) if i not in positives]
        rng = random.Random("|".join(p.draw for p in pairs))
        return rng.sample(pool, min(_pooled(ratio, len(pairs)), len(pool)))

    @property
    def _row(self) -> dict[str, int]:
        """The passages' rows; where negatives are mined again, more come at the end."""
        for passage_id in islice(self.passages, len(self._rows), None):
            self._rows[passage_id] = len(self._rows)
        return self._rows

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {}

    @cached_property
    def _query_row(self) -> dict[str, int]:
        return {example_id: i for i, example_id in enumerate(self.queries)}

    @cached_property
    def _most_known(self) -> int:
        """The most positives that any question has: every process pads to it."""
        return max(map(len, self.known.values()))

    def _known_rows(self, example: Example) -> list[int]:
        rows = sorted(self._row[i] for i in self.known[example.asked])
        return rows + [NOTHING] * (self._most_known - len(rows))

    @property
    def _limits(self) -> tuple[int, int] | None:
        """Queries and passages that a process's batch can have at most."""
        if self.batch_size is None:
            return None
        ratio, size = self.loss.hard_neg_ratio, self.batch_size
        negatives = self.loss.n_negatives * size if ratio is None else _pooled(ratio, size)
        return size, size + negatives


def _pooled(ratio: float, n_pairs: int) -> int:
    """Return how many hard negatives a batch has that draws a share of its size: at least one."""
    return max(round(ratio * n_pairs), 1)


def _teacher(pairs: Sequence[Pair], column: Mapping[str, int]) -> Tensor:
    """Return the teacher's score of each candidate for each query, (B, P), NaN where there is none.

    A query whose positive has no score, or no other candidate, has none at all.
    """
    scores = torch.full((len(pairs), len(column)), math.nan)
    for row, pair in enumerate(pairs):
        given = {column[i]: s for i, s in pair.example.scores.items() if i in column}
        if column[pair.positive_id] in given and len(given) > 1:
            scores[row, list(given)] = torch.tensor(list(given.values()))
    return scores


def passage_table(examples: Sequence[Example]) -> list[str]:
    """Return the ids of all passages that training can meet, in the same order everywhere."""
    return list(dict.fromkeys(i for e in examples for i in (*e.positive_ids, *e.negative_ids)))
