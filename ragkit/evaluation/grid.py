"""A grid of retrievers and answerers: its cells, and the paired differences that tell them apart.

A cell is a retriever with an answerer, or an answerer with gold passages, the ceiling of any
retriever. Running the cells is the stage's business.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragkit.errors import DataError
from ragkit.evaluation.compare import compare
from ragkit.evaluation.significance import holm


@dataclass(frozen=True)
class Cell:
    """An answerer, with the passages of a retriever or, without one, with the gold passages."""

    retriever: str | None
    answerer: str

    @property
    def system(self) -> str:
        """The retriever and the answerer, `base | tuned`; the answerer alone for gold passages."""
        return f"{self.retriever} | {self.answerer}" if self.retriever else self.answerer

    @property
    def name(self) -> str:
        """What it is called in results: `base | tuned | retrieved`, `tuned | gold`."""
        return f"{self.system} | {'retrieved' if self.retriever else 'gold'}"


@dataclass(frozen=True)
class Contrast:
    """Two cells whose difference answers a question.

    kind: what it is the effect of: retriever, answerer, both, or ceiling (gold passages)
    """

    kind: str
    before: Cell
    after: Cell

    @property
    def name(self) -> str:
        """What it is called in results."""
        return f"{self.after.name} - {self.before.name}"


def cells(retrievers: Sequence[str], answerers: Sequence[str]) -> list[Cell]:
    """Return the cells of a grid, gold passages last."""
    return [Cell(r, a) for r in (*retrievers, None) for a in answerers]


def contrasts(retrievers: Sequence[str], answerers: Sequence[str]) -> Iterator[Contrast]:
    """Yield the differences that matter; the first retriever and answerer are the baselines."""
    base, first = retrievers[0], answerers[0]
    for a in answerers:
        for r in retrievers[1:]:
            yield Contrast("retriever", Cell(base, a), Cell(r, a))
    for passages in (*retrievers, None):
        for a in answerers[1:]:
            yield Contrast("answerer", Cell(passages, first), Cell(passages, a))
    if len(retrievers) > 1 and len(answerers) > 1:
        yield Contrast("both", Cell(base, first), Cell(retrievers[-1], answerers[-1]))
    for r in retrievers:
        for a in answerers:
            yield Contrast("ceiling", Cell(r, a), Cell(None, a))


def differences(
    scores: Mapping[Cell, Mapping[str, float]],
    wanted: Sequence[Contrast],
    clusters: Mapping[str, str],
    metric: str,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Return {contrast: {"kind", "before", "after", mean, ci95, wins, ties, losses, p, p_holm}}.

    On the questions that every cell has a score of; p_holm is corrected for all the differences.
    scores: of each cell, question id to score
    clusters: the source document of each question
    Raises:
        DataError: no question is scored in all cells.
    """
    shared = set.intersection(*(set(s) for s in scores.values()))
    if not shared:
        raise DataError(f"no question has a score for {metric} in all cells of the grid")
    questions = sorted(shared)
    sheets = {cell: {metric: {q: s[q] for q in questions}} for cell, s in scores.items()}
    found: dict[str, dict[str, Any]] = {}
    for contrast in wanted:
        pair = {c.name: sheets[c] for c in (contrast.before, contrast.after)}
        compared = compare(pair, clusters, [metric], contrast.before.name, seed)
        names = {
            "kind": contrast.kind,
            "before": contrast.before.name,
            "after": contrast.after.name,
        }
        found[contrast.name] = names | compared["differences"][contrast.after.name][metric]
    for cell, p in zip(found.values(), holm([d["p"] for d in found.values()]), strict=True):
        cell["p_holm"] = p
    return found
