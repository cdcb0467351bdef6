"""The vector index: exact search, and which indexes are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ragkit.config.blocks import Dense, EncoderOptions
from ragkit.data.schema import Passage
from ragkit.errors import DataError
from ragkit.models.encoder import Encoder
from ragkit.retrieval.encode import encode
from ragkit.retrieval.index import (
    VectorIndex,
    as_runs,
    build_index,
    check_index,
    corpus_hash,
    kept_index,
)
from ragkit.retrieval.searchers import DenseSearcher

FP32 = EncoderOptions(precision="fp32", device="cpu")
CORPUS = {
    p.id: p
    for p in (
        Passage("p1", "the fuse is in the gateway"),
        Passage("p2", "red light", title="Relay"),
        Passage("p3", "pump"),
    )
}


@pytest.fixture
def encoder(tiny_encoder: Path) -> Encoder:
    return Encoder.load(str(tiny_encoder))


def random_index(n: int, dimensions: int) -> VectorIndex:
    """Return an index of vectors of many lengths: inner product and distance disagree on them."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n, dimensions)) * rng.uniform(0.1, 10, size=(n, 1))
    return VectorIndex([f"p{i}" for i in range(n)], vectors.astype(np.float32), {})


@pytest.mark.parametrize("top_k", [1, 10, 300, 1000])
def test_search_equals_sorting_all_inner_products(top_k: int) -> None:
    index = random_index(300, 16)
    queries = np.random.default_rng(1).normal(size=(20, 16)).astype(np.float32)
    scores, rows = index.search(queries, top_k)
    products = queries @ index.vectors.T
    expected = np.argsort(-products, axis=1)[:, :top_k]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, np.take_along_axis(products, expected, 1), atol=1e-4)


def test_results_become_runs_best_first() -> None:
    scores, rows = np.array([[2.0, 1.0]], np.float32), np.array([[1, 0]])
    (run,) = as_runs(["a", "b"], scores, rows)
    assert list(run.items()) == [("b", 2.0), ("a", 1.0)]


def test_places_that_faiss_leaves_empty_are_no_passages() -> None:
    assert as_runs(["a"], np.array([[2.0, -1.0]], np.float32), np.array([[0, -1]])) == [{"a": 2.0}]


def test_an_index_embeds_the_rendered_passages_in_the_order_of_the_corpus(
    encoder: Encoder,
) -> None:
    index = build_index(encoder, CORPUS, "tiny", FP32)
    texts = ["the fuse is in the gateway", "Relay\nred light", "pump"]
    expected = encode(encoder, texts, "passage", FP32)
    np.testing.assert_allclose(index.vectors, expected, rtol=0, atol=1e-6)
    assert index.ids == ["p1", "p2", "p3"]


def test_an_index_on_disk_comes_back_the_same(encoder: Encoder, tmp_path: Path) -> None:
    built = build_index(encoder, CORPUS, "tiny", FP32, tmp_path)
    loaded = VectorIndex.load(tmp_path)
    assert loaded.ids == ["p1", "p2", "p3"]
    np.testing.assert_array_equal(loaded.vectors, built.vectors)
    assert loaded.manifest == built.manifest
    assert {p.name for p in tmp_path.iterdir()} == {"embeddings.npy", "ids.txt", "manifest.json"}
    check_index(loaded, CORPUS, encoder)
    assert loaded.manifest["model"] == "tiny"


@pytest.mark.parametrize("name", ["embeddings.npy", "ids.txt", "manifest.json"])
def test_a_missing_file_is_named(name: str, encoder: Encoder, tmp_path: Path) -> None:
    build_index(encoder, CORPUS, "tiny", FP32, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"not an index \\({name} is missing\\)"):
        VectorIndex.load(tmp_path)


def test_ids_and_vectors_that_disagree_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    build_index(encoder, CORPUS, "tiny", FP32, tmp_path)
    (tmp_path / "ids.txt").write_text("p1\np2\n")
    with pytest.raises(DataError, match="2 ids and 3 vectors"):
        VectorIndex.load(tmp_path)


@pytest.mark.parametrize(
    "corpus",
    [
        CORPUS | {"p3": Passage("p3", "pumps")},
        CORPUS | {"p3": Passage("p3", "pump", title="Pump")},
        CORPUS | {"p4": Passage("p4", "valve")},
        {"p1": CORPUS["p1"], "p2": CORPUS["p2"]},
        {"p2": CORPUS["p2"], "p1": CORPUS["p1"], "p3": CORPUS["p3"]},
        {"p1": CORPUS["p1"], "p2": CORPUS["p2"], "p9": Passage("p9", "pump")},
    ],
    ids=["text", "title", "one more", "one less", "order", "id"],
)
def test_an_index_of_another_corpus_is_refused(
    corpus: dict[str, Passage], encoder: Encoder, tmp_path: Path
) -> None:
    index = build_index(encoder, CORPUS, "tiny", FP32, tmp_path)
    with pytest.raises(DataError, match="of another corpus"):
        check_index(index, corpus, encoder)


def test_an_index_of_another_model_is_refused_though_its_dimensions_agree(
    encoder: Encoder, tiny_encoder: Path, tmp_path: Path
) -> None:
    build_index(encoder, CORPUS, str(tiny_encoder), FP32, tmp_path)
    trained = Encoder.load(str(tiny_encoder))
    with torch.no_grad():
        trained.model.embeddings.word_embeddings.weight.mul_(-1)
    config = Dense(type="dense", model="trained", index=tmp_path, encoder=FP32)
    with pytest.raises(DataError, match="another model"):
        DenseSearcher(CORPUS, config, trained)


def test_the_hash_of_a_corpus_does_not_depend_on_what_is_not_embedded() -> None:
    corpus = {"p1": Passage("p1", "x", doc_id="d", meta={"page": 1})}
    assert corpus_hash(corpus) == corpus_hash({"p1": Passage("p1", "x")})


def test_kept_vectors_of_the_same_weights_and_texts_are_used_again(
    encoder: Encoder, tmp_path: Path
) -> None:
    built = kept_index(encoder, CORPUS, "m", FP32, tmp_path / "index")
    np.testing.assert_array_equal(built.vectors, build_index(encoder, CORPUS, "m", FP32).vectors)
    encoder.forward = None  # type: ignore[assignment,method-assign]
    again = kept_index(encoder, CORPUS, "m", FP32, tmp_path / "index")
    np.testing.assert_array_equal(again.vectors, built.vectors)
    assert again.ids == list(CORPUS)


@pytest.mark.parametrize("change", ["weights", "settings", "a text", "the order"])
def test_kept_vectors_of_other_weights_or_texts_are_made_again(
    change: str, encoder: Encoder, tiny_encoder: Path, tmp_path: Path
) -> None:
    kept_index(encoder, CORPUS, "m", FP32, tmp_path)
    corpus = CORPUS
    if change == "weights":
        with torch.no_grad():
            encoder.model.embeddings.word_embeddings.weight.mul_(-1)
    elif change == "settings":
        encoder = Encoder.load(str(tiny_encoder), EncoderOptions(pooling="cls"))
    elif change == "a text":
        corpus = CORPUS | {"p3": Passage("p3", "another pump")}
    else:
        corpus = dict(reversed(CORPUS.items()))
    index = kept_index(encoder, corpus, "m", FP32, tmp_path)
    expected = build_index(encoder, corpus, "m", FP32)
    assert index.ids == expected.ids
    np.testing.assert_array_equal(index.vectors, expected.vectors)
    check_index(VectorIndex.load(tmp_path), corpus, encoder)


def test_damaged_files_are_told(encoder: Encoder, tmp_path: Path) -> None:
    build_index(encoder, CORPUS, "tiny", FP32, tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"manifest\.json: model, .* missing"):
        VectorIndex.load(tmp_path)
    whole = (tmp_path / "embeddings.npy").read_bytes()
    for size in (len(whole) - 40, 60, 0):
        (tmp_path / "embeddings.npy").write_bytes(whole[:size])
        with pytest.raises(DataError, match="damaged .* make it again"):
            VectorIndex.load(tmp_path)
