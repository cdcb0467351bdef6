"""Systems that find passages, built from their configuration: bm25, dense, fused.

Each has one method, `search(queries, top_k)`, which returns one {passage id: score} a query, best
first. What is a good ranking is `ragkit.evaluation`'s business.
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from ragkit.config.blocks import Bm25, Dense, Fused, Retriever
from ragkit.data.schema import Conversation, Example, Passage
from ragkit.models.encoder import Encoder
from ragkit.retrieval import fusion
from ragkit.retrieval.bm25 import Bm25Searcher
from ragkit.retrieval.encode import encode
from ragkit.retrieval.index import VectorIndex, as_runs, build_index, check_index

FUSION_DEPTH = 1000  # passages taken from each of the two rankings
_HISTORY_TURNS = 4


class Searcher(Protocol):
    """Finds passages for questions."""

    def search(self, queries: Sequence[str], top_k: int) -> list[dict[str, float]]:
        """Return the best passages of each query, id to score, best first."""


class DenseSearcher:
    """Nearest passages by an encoder's inner product, exact."""

    def __init__(
        self, corpus: Mapping[str, Passage], config: Dense, encoder: Encoder | None = None
    ) -> None:
        self.config = config
        self.encoder = encoder or Encoder.load(config.model, config.encoder)
        if config.index is not None:
            self.index = VectorIndex.load(config.index)
            check_index(self.index, corpus, self.encoder)
        else:
            self.index = build_index(self.encoder, corpus, config.model, config.encoder)

    def search(self, queries: Sequence[str], top_k: int) -> list[dict[str, float]]:
        """Return the nearest passages of each query, id to inner product, best first."""
        if not queries:
            return []
        vectors = encode(self.encoder, queries, "query", self.config.encoder)
        return as_runs(self.index.ids, *self.index.search(vectors, top_k))

    def within(self, ids: Collection[str]) -> "DenseSearcher":
        """Return a searcher of some of the vectors."""
        other = copy.copy(self)
        other.index = self.index.part(ids)
        return other


class FusedSearcher:
    """Dense and BM25 rankings fused; `weight` is the share of dense in the weighted form."""

    def __init__(
        self, dense: Searcher, bm25: Searcher, config: Fused, weight: float | None = None
    ) -> None:
        self.dense, self.bm25, self.config, self.weight = dense, bm25, config, weight

    def search(self, queries: Sequence[str], top_k: int) -> list[dict[str, float]]:
        """Return the best passages of each query, id to fused score, best first."""
        rankings = zip(
            self.dense.search(queries, FUSION_DEPTH),
            self.bm25.search(queries, FUSION_DEPTH),
            strict=True,
        )
        if self.weight is None:
            return [fusion.reciprocal_rank(pair, top_k, self.config.rrf_k) for pair in rankings]
        return [fusion.weighted(d, b, self.weight, top_k) for d, b in rankings]


def build_searcher(
    config: Retriever,
    corpus: Mapping[str, Passage],
    weight_for: Callable[[Searcher, Searcher], float] | None = None,
) -> Searcher:
    """Build the system that a configuration describes over a corpus.

    weight_for: chooses the weight of dense from the two searchers where the configuration says auto
    """
    if isinstance(config, Bm25):
        return Bm25Searcher(corpus, config)
    if isinstance(config, Dense):
        return DenseSearcher(corpus, config)
    dense, bm25 = DenseSearcher(corpus, config.dense), Bm25Searcher(corpus, config.bm25)
    weight = None
    if config.method == "weighted":
        weight = config.weight if config.weight != "auto" else None
        if weight is None:
            assert weight_for is not None, "checked by the stage's configuration"
            weight = weight_for(dense, bm25)
    return FusedSearcher(dense, bm25, config, weight)


def restricted(searcher: Searcher, ids: Collection[str]) -> Searcher:
    """Return the same system, which finds none but these passages; fusion ranks within them."""
    if isinstance(searcher, FusedSearcher):
        dense, bm25 = (restricted(part, ids) for part in (searcher.dense, searcher.bm25))
        return FusedSearcher(dense, bm25, searcher.config, searcher.weight)
    assert isinstance(searcher, DenseSearcher | Bm25Searcher), "what build_searcher builds"
    return searcher.within(ids)


def needs_dev(config: Retriever) -> bool:
    """Return whether a system chooses something on dev examples when it is built."""
    return isinstance(config, Fused) and config.method == "weighted" and config.weight == "auto"


def query_text(example: Example) -> Conversation:
    """Return what is searched for: the question, after the last turns of its conversation."""
    turns = [turn.content for turn in example.history[-_HISTORY_TURNS:]]
    return Conversation([*turns, example.question])
