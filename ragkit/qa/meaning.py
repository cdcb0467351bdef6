"""The filters that need an encoder: questions that mean the same, and the round trip.

A training question makes a round trip if a search with it finds its passage again, by BM25 or by
the encoder (the consistency filter of Alberti et al., 2019, with a search in place of a reader).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from ragkit.config.teaching import Filters
from ragkit.data.nearduplicates import figures
from ragkit.data.schema import Passage
from ragkit.models.encoder import Encoder
from ragkit.qa.candidates import Candidate
from ragkit.retrieval.bm25 import Bm25Searcher
from ragkit.retrieval.encode import Vectors, encode
from ragkit.retrieval.index import VectorIndex, build_index
from ragkit.retrieval.searchers import query_text

_TOGETHER = 1024  # candidates encoded and searched for together, whole passages of them
Verdicts = Iterator[tuple[Candidate, str | None]]


class Meaning:
    """The encoder's filters over one corpus; the passages' vectors lie in a file."""

    def __init__(self, config: Filters, corpus: Mapping[str, Passage], folder: Path) -> None:
        """Encode and index the corpus, as far as the configuration asks for it."""
        self.config, self.trip = config, config.round_trip
        self.encoder: Encoder | None = None
        self.index: VectorIndex | None = None
        self.bm25 = Bm25Searcher(corpus) if self.trip else None
        if self.trip and self.trip.model:
            self.encoder = Encoder.load(self.trip.model, self.trip.encoder)
            folder.mkdir(exist_ok=True)
            self.index = build_index(
                self.encoder, corpus, self.trip.model, self.trip.encoder, folder
            )

    def judge(self, candidates: Iterable[Candidate]) -> Verdicts:
        """Yield each candidate with why it is rejected, or None; test questions all pass."""
        block: list[list[Candidate]] = []
        for _, group in groupby(candidates, lambda c: (c.split, c.passage_ids)):
            block.append(list(group))
            if sum(map(len, block)) >= _TOGETHER:
                yield from self._judge(block)
                block = []
        yield from self._judge(block)

    def _judge(self, groups: Sequence[Sequence[Candidate]]) -> Verdicts:
        asked = [c for group in groups for c in group]
        queries = [query_text(c.example) for c in asked]
        vectors = self._encode(queries)
        same = self._same_in_meaning(groups, vectors) if vectors is not None else set()
        left = [i for i, c in enumerate(asked)
                if i not in same and c.split == "train" and c.answerable]  # fmt: skip
        lost = set(left) - self._found(asked, queries, vectors, left)
        for i, candidate in enumerate(asked):
            reason = "near-duplicate in meaning" if i in same else None
            yield candidate, "not found again" if i in lost else reason

    def _encode(self, queries: Sequence[str]) -> Vectors | None:
        if self.encoder is None or self.trip is None or not queries:
            return None
        return encode(self.encoder, queries, "query", self.trip.encoder)

    def _same_in_meaning(self, groups: Sequence[Sequence[Candidate]], vectors: Vectors) -> set[int]:
        """Return the questions that say what an earlier one of their passage says."""
        found: set[int] = set()
        start = 0
        for group in groups:
            unit = vectors[start : start + len(group)]
            unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
            near = unit @ unit.T >= self.config.duplicate_cosine
            # near-misses differ in words with digits: devices, versions, values
            marks = [figures(c.question) for c in group]
            kept: list[int] = []
            for i, candidate in enumerate(group):
                if candidate.split != "test" and any(
                    near[i, j] and marks[j] == marks[i] for j in kept
                ):
                    found.add(start + i)
                else:
                    kept.append(i)
            start += len(group)
        return found

    def _found(
        self,
        asked: Sequence[Candidate],
        queries: Sequence[str],
        vectors: Vectors | None,
        which: Sequence[int],
    ) -> set[int]:
        """Return which of the candidates' searches find one of their passages."""
        if self.trip is None or self.bm25 is None:
            return set(which)
        found: set[int] = set()
        if vectors is not None and self.index is not None and which:
            _, rows = self.index.search(vectors[list(which)], self.trip.top_k)
            for i, row in zip(which, rows, strict=True):
                if {self.index.ids[r] for r in row if r >= 0} & set(asked[i].passage_ids):
                    found.add(i)
        rest = [i for i in which if i not in found]
        searched = self.bm25.search([queries[i] for i in rest], self.trip.top_k)
        found.update(
            i for i, ranking in zip(rest, searched, strict=True)
            if ranking.keys() & set(asked[i].passage_ids)
        )  # fmt: skip
        return found
