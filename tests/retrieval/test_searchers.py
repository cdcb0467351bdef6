"""Searchers: what dense, BM25 and fused systems return, and what a question is searched by."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ragkit.config.blocks import Bm25, Dense, EncoderOptions, Fused
from ragkit.data.schema import Example, Passage, Turn
from ragkit.models.encoder import Encoder
from ragkit.retrieval import fusion, searchers
from ragkit.retrieval.bm25 import Bm25Searcher
from ragkit.retrieval.encode import encode
from ragkit.retrieval.index import build_index
from ragkit.retrieval.searchers import (
    DenseSearcher,
    FusedSearcher,
    build_searcher,
    needs_dev,
    query_text,
)

FP32 = EncoderOptions(precision="fp32", device="cpu")
CORPUS = {
    p.id: p
    for p in (
        Passage("p1", "the fuse is in the gateway"),
        Passage("p2", "red light", title="Relay"),
        Passage("p3", "pump"),
        Passage("p4", "a valve opens after thirty seconds and closes"),
    )
}
QUERIES = ["which fuse", "the"]


class Fixed:
    """A searcher that finds the same for every question."""

    def __init__(self, ranking: dict[str, float]) -> None:
        self.ranking = ranking

    def search(self, queries: Sequence[str], top_k: int) -> list[dict[str, float]]:
        return [dict(list(self.ranking.items())[:top_k]) for _ in queries]


@pytest.fixture
def dense(tiny_encoder: Path) -> Dense:
    return Dense(type="dense", model=str(tiny_encoder), encoder=FP32)


def test_dense_search_ranks_by_inner_product_also_where_vectors_have_lengths(dense: Dense) -> None:
    options = FP32.model_copy(update={"normalize": False, "query_prefix": "a "})
    config = dense.model_copy(update={"encoder": options})
    encoder = Encoder.load(config.model, options)
    passages = encode(encoder, [p.rendered for p in CORPUS.values()], "passage", options)
    products = encode(encoder, QUERIES, "query", options) @ passages.T
    for found, row in zip(DenseSearcher(CORPUS, config).search(QUERIES, 3), products, strict=True):
        order = np.argsort(-row)[:3]
        assert list(found) == [f"p{i + 1}" for i in order]
        assert list(found.values()) == pytest.approx(row[order].tolist(), rel=1e-4)


def test_an_index_on_disk_finds_what_encoding_now_finds(dense: Dense, tmp_path: Path) -> None:
    build_index(Encoder.load(dense.model), CORPUS, dense.model, FP32, tmp_path)
    on_disk = DenseSearcher(CORPUS, dense.model_copy(update={"index": tmp_path}))
    now = DenseSearcher(CORPUS, dense)
    for a, b in zip(on_disk.search(QUERIES, 4), now.search(QUERIES, 4), strict=True):
        assert list(a) == list(b) and a == pytest.approx(b, abs=1e-6)


def test_more_passages_than_there_are_cannot_be_found(dense: Dense) -> None:
    assert [len(found) for found in DenseSearcher(CORPUS, dense).search(QUERIES, 99)] == [4, 4]


def test_no_questions_find_nothing(dense: Dense) -> None:
    assert DenseSearcher(CORPUS, dense).search([], 3) == []


def test_fused_search_is_the_fusion_of_its_two_rankings(dense: Dense) -> None:
    a, b = DenseSearcher(CORPUS, dense), Bm25Searcher(CORPUS)
    rankings = list(zip(a.search(QUERIES, 1000), b.search(QUERIES, 1000), strict=True))
    by_rank = FusedSearcher(a, b, Fused(type="fused", rrf_k=3)).search(QUERIES, 2)
    assert by_rank == [fusion.reciprocal_rank(pair, 2, 3) for pair in rankings]
    by_score = FusedSearcher(a, b, Fused(type="fused", method="weighted"), 0.3).search(QUERIES, 2)
    assert by_score == [fusion.weighted(d, w, 0.3, 2) for d, w in rankings]


def test_fusion_looks_deeper_than_top_k(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = Fixed({"x": 0.9, "m": 0.8}), Fixed({"y": 9.0, "m": 8.0})
    assert list(FusedSearcher(a, b, Fused(type="fused")).search(["q"], 1)[0]) == ["m"]
    monkeypatch.setattr(searchers, "FUSION_DEPTH", 1)
    assert list(FusedSearcher(a, b, Fused(type="fused")).search(["q"], 1)[0]) == ["y"]


def test_a_system_is_built_from_its_configuration(dense: Dense) -> None:
    assert isinstance(build_searcher(Bm25(type="bm25"), CORPUS), Bm25Searcher)
    assert isinstance(build_searcher(dense, CORPUS), DenseSearcher)
    fused = build_searcher(Fused(type="fused", dense=dense), CORPUS)
    assert isinstance(fused, FusedSearcher) and fused.weight is None


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 0.0), (0.25, 0.25), ("auto", 0.7)])
def test_a_weight_is_chosen_only_where_none_is_given(
    weight: float | str, expected: float, dense: Dense
) -> None:
    config = Fused(type="fused", method="weighted", weight=weight, dense=dense)
    searcher = build_searcher(config, CORPUS, lambda a, b: 0.7)
    assert isinstance(searcher, FusedSearcher) and searcher.weight == expected
    assert needs_dev(config) == (weight == "auto")


@pytest.mark.parametrize("config", [Bm25(type="bm25"), Dense(type="dense"), Fused(type="fused")])
def test_only_a_weight_to_be_chosen_needs_dev_examples(config: Bm25 | Dense | Fused) -> None:
    assert not needs_dev(config)


def test_a_conversation_is_searched_by_its_newest_turns() -> None:
    history = tuple(Turn(("user", "assistant")[i % 2], f"turn {i}") for i in range(6))
    example = Example("q", "and then?", history=history)
    assert query_text(example) == "turn 2\nturn 3\nturn 4\nturn 5\nand then?"
    assert query_text(Example("q", "and then?")) == "and then?"
