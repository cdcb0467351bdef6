"""What the queries of a process are compared with, and which of it does not count against them.

Passages are known by their row in a table that all processes share; so the passages that several
processes bring are told apart, and the known positives of a query are found wherever they stand.
Letters: B queries of this process, N passages and M queries of all, K known positives, D dims.
"""

from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch import Tensor

from ragkit.training.distributed import (
    gather,
    gather_with_gradient,
    padded,
    rank,
    share_of,
    world_size,
)

NOTHING = -1  # a row that stands for no passage


class Rows(TypedDict):
    """A process's batch by rows of the passage table.

    passages: (P,) of the distinct passages
    positive: (B,) column of each query's positive among them
    known: (B, K) of each query's known positives, padded with `NOTHING`
    limits: queries and passages that the batch of any process can have at most
    """

    passages: Tensor
    positive: Tensor
    known: Tensor
    limits: tuple[int, int] | None


@dataclass(frozen=True)
class Candidates:
    """What this process's queries compete over: the passages and queries of all processes.

    positive: (B,) columns of their positives; ignore: (B, N) passages that are no negatives
    own: (B,) columns of themselves among all queries; ignore_queries: (B, M) queries that are no
        negatives of their positives
    all_positive: (M,) columns of the positives of all queries
    local_positive: (B,) columns of their positives among this process's own passages, the first of
        which is column `first`
    limits: rows that each process's queries and passages are padded to
    share: what the mean over this process's queries counts in the mean over processes; None: the
        process is alone
    """

    positive: Tensor
    ignore: Tensor
    own: Tensor
    ignore_queries: Tensor
    all_positive: Tensor
    local_positive: Tensor
    first: int = 0
    limits: tuple[int, int] = (0, 0)
    share: Tensor | None = None

    def passages(self, vectors: Tensor) -> Tensor:
        """Return the passages of all processes, (N, D), from this one's, with gradient."""
        return self._all(vectors, self.limits[1])

    def queries(self, vectors: Tensor) -> Tensor:
        """Return the queries of all processes, (M, D), from this one's, with gradient."""
        return self._all(vectors, self.limits[0])

    def _all(self, vectors: Tensor, rows: int) -> Tensor:
        if self.share is None:
            return vectors
        return gather_with_gradient(padded(vectors, rows, 0.0))

    def without(self, passages: Tensor, queries: Tensor) -> "Candidates":
        """Leave out more: (B, N) passages and (B, M) queries, but none's own partner."""
        return replace(
            self,
            ignore=(self.ignore | passages).scatter(1, self.positive[:, None], False),
            ignore_queries=(self.ignore_queries | queries).scatter(1, self.own[:, None], False),
        )


def candidates(batch: Rows, cross_device: bool = True) -> Candidates:
    """Work out who competes with whom, over all processes or in this one alone.

    A passage that several processes bring counts once, as in one process with the whole batch.
    """
    rows, positive, known = batch["passages"], batch["positive"], batch["known"]
    own = torch.arange(len(positive), device=rows.device)
    spread: dict[str, Any] = {}
    absent = torch.zeros_like(positive, dtype=torch.bool)
    if cross_device and world_size() > 1:
        assert batch["limits"] is not None, "the collator must be told the batch size"
        most_queries, most_passages = batch["limits"]
        first = rank() * most_passages
        spread = {
            "first": first,
            "limits": batch["limits"],
            "share": share_of(own.new_full((), len(own))),
        }
        own = own + rank() * most_queries
        rows = gather(padded(rows, most_passages, NOTHING))
        known = gather(padded(known, most_queries, NOTHING))
        positive = gather(padded(positive + first, most_queries, NOTHING))
        absent = positive == NOTHING
        positive = positive.clamp(min=0)
    same = first_columns(rows)
    repeated = same != torch.arange(len(rows), device=rows.device)
    positive = same[positive]
    alone = Candidates(
        positive=positive[own],
        ignore=torch.zeros(len(own), len(rows), dtype=torch.bool, device=rows.device),
        own=own,
        ignore_queries=torch.zeros(len(own), len(positive), dtype=torch.bool, device=rows.device),
        all_positive=positive,
        local_positive=batch["positive"],
        **spread,
    )
    return alone.without(
        members(known[own], rows) | repeated | (rows == NOTHING),
        members(known, rows[positive[own]]).T | absent,
    )


def first_columns(rows: Tensor) -> Tensor:
    """Return for each column the first with the same row, (N,); nothing waits for the device."""
    ordered, order = rows.sort(stable=True)
    return torch.empty_like(order).scatter(0, order, order[_run_starts(ordered)])


def members(sets: Tensor, rows: Tensor) -> Tensor:
    """Return (Q, N), True where a set has a row in it; nothing waits for the device.

    sets: (Q, K) rows, padded with `NOTHING`
    rows: (N,)
    """
    ordered, order = rows.sort(stable=True)
    starts = _run_starts(ordered)
    place = torch.searchsorted(ordered, sets).clamp(max=len(rows) - 1)
    place = torch.where(ordered[place] == sets, place, len(rows))
    found = torch.zeros(len(sets), len(rows) + 1, dtype=torch.bool, device=rows.device)
    found = found.scatter(1, place, True)
    return found[:, torch.empty_like(order).scatter(0, order, starts)] & (rows != NOTHING)


def _run_starts(ordered: Tensor) -> Tensor:
    """Return for each element of a sorted tensor where the run of its equals begins."""
    places = torch.arange(len(ordered), device=ordered.device)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    return torch.where(begins, places, 0).cummax(0).values
