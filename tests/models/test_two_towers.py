"""Encoders with a tower for queries and one for passages."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from ragkit.config.blocks import Dense, EncoderOptions
from ragkit.data.schema import Passage
from ragkit.errors import DataError, ModelError
from ragkit.models.encoder import Encoder
from ragkit.models.resolve import load_tokenizer
from ragkit.retrieval.encode import encode
from ragkit.retrieval.index import build_index
from ragkit.retrieval.searchers import DenseSearcher

TEXTS = ["which fuse is in the gateway", "a relay", "the pump stops after thirty minutes", "valve"]
CPU = EncoderOptions(device="cpu")


@pytest.fixture(scope="module")
def library() -> ModuleType:
    """The reference; importing it takes seconds."""
    return pytest.importorskip("sentence_transformers")


@pytest.fixture
def other(tiny_encoder: Path, tmp_path: Path) -> Path:
    """The folder of a second random BERT, with the same tokenizer and other weights and depth."""
    torch.manual_seed(1)
    config = BertConfig.from_pretrained(tiny_encoder, num_hidden_layers=1)
    BertModel(config).save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


@pytest.fixture
def load(tiny_encoder: Path, other: Path) -> Callable[..., Encoder]:
    """Return a function that loads the two as towers of one encoder."""

    def load(**options: Any) -> Encoder:
        options = {"device": "cpu", "passage_model": str(other), **options}
        return Encoder.load(str(tiny_encoder), EncoderOptions(**options))

    return load


def vectors_of(encoder: Encoder, kind: str) -> np.ndarray:
    return np.asarray(encode(encoder, TEXTS, kind, CPU))


def test_each_kind_of_text_goes_through_its_own_tower(
    load: Callable[..., Encoder], tiny_encoder: Path, other: Path
) -> None:
    options = {"query_prefix": "which ", "passage_prefix": "the ", "pooling": "cls"}
    encoder = load(**options)
    for kind, folder in (("query", tiny_encoder), ("passage", other)):
        alone = Encoder.load(str(folder), EncoderOptions(**options))
        np.testing.assert_array_equal(vectors_of(encoder, kind), vectors_of(alone, kind))


def test_one_call_encodes_the_first_texts_as_queries_and_the_rest_as_passages(
    load: Callable[..., Encoder],
) -> None:
    encoder = load()
    queries, passages = (encoder.tokenize(TEXTS, kind) for kind in ("query", "passage"))
    together = encoder([*queries[:3], *passages], 3).detach().numpy()
    np.testing.assert_allclose(together[:3], vectors_of(encoder, "query")[:3], atol=1e-6)
    np.testing.assert_allclose(together[3:], vectors_of(encoder, "passage"), atol=1e-6)
    with pytest.raises(ValueError, match="n_queries"):
        encoder(queries)


def test_gradients_reach_both_towers(load: Callable[..., Encoder]) -> None:
    encoder = load()
    ids = encoder.tokenize(TEXTS, "query")
    vectors = encoder(ids, 2)
    (vectors[:2] @ vectors[2:].T).sum().backward()
    for tower in (encoder.model, encoder.tower("passage").model):
        assert tower.embeddings.word_embeddings.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("normalize", [True, False])
def test_two_towers_are_saved_as_a_router_that_sentence_transformers_loads(
    normalize: bool, load: Callable[..., Encoder], library: ModuleType, tmp_path: Path
) -> None:
    encoder = load(
        normalize=normalize, query_prefix="which ", passage_prefix="the ", pooling="cls",
        max_length=9,
    )  # fmt: skip
    encoder.save(tmp_path / "model")
    model = library.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert type(model[0]).__name__ == "Router"
    assert model.similarity_fn_name == ("cosine" if normalize else "dot")
    saved = Encoder.load(str(tmp_path))  # as a run directory
    assert saved.fingerprint() == encoder.fingerprint()
    for kind, theirs in (("query", model.encode_query), ("passage", model.encode_document)):
        found = vectors_of(encoder, kind)
        np.testing.assert_array_equal(vectors_of(saved, kind), found)
        assert np.abs(theirs(TEXTS) - found).max() < 1e-5


@pytest.mark.parametrize("shape", ["all in the routes", "the rest after them", "routes at the end"])
def test_what_sentence_transformers_saves_with_a_router_is_read(
    shape: str, tiny_encoder: Path, other: Path, library: ModuleType, tmp_path: Path
) -> None:
    kinds = library.sentence_transformer.modules
    torch.manual_seed(2)
    query, passage = (kinds.Transformer(str(folder)) for folder in (tiny_encoder, other))
    pool, unit = kinds.Pooling(32, "mean"), kinds.Normalize()
    if shape == "all in the routes":
        routes = [query, pool, unit], [passage, kinds.Pooling(32, "cls"), kinds.Normalize()]
        modules = [kinds.Router.for_query_document(*routes)]
    elif shape == "the rest after them":
        modules = [kinds.Router.for_query_document([query], [passage]), pool, unit]
    else:
        routes = [kinds.Dense(32, 8)], [kinds.Dense(32, 8)]
        modules = [query, pool, kinds.Router.for_query_document(*routes), unit]
    model = library.SentenceTransformer(
        modules=modules, device="cpu", prompts={"query": "which ", "document": "the "}
    )
    model.save(str(tmp_path / "theirs"))
    encoder = Encoder.load(str(tmp_path / "theirs"))
    for kind, theirs in (("query", model.encode_query), ("passage", model.encode_document)):
        assert np.abs(theirs(TEXTS) - vectors_of(encoder, kind)).max() < 1e-5


def test_two_routes_of_the_same_modules_are_one_tower(
    tiny_encoder: Path, library: ModuleType, tmp_path: Path
) -> None:
    kinds = library.sentence_transformer.modules
    shared = [kinds.Transformer(str(tiny_encoder)), kinds.Pooling(32, "mean")]
    router = kinds.Router.for_query_document(shared, shared)
    library.SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path))
    assert Encoder.load(str(tmp_path)).passage_tower is None


@pytest.mark.parametrize(
    "change",
    [
        {"structure": {"text": [], "image": []}},
        {"parameters": {"route_mappings": {"('query', None)": "document"}}},
    ],
)
def test_routes_that_are_not_query_and_document_are_refused(
    change: dict[str, Any], load: Callable[..., Encoder], tmp_path: Path
) -> None:
    load().save(tmp_path / "model")
    file = tmp_path / "model" / "router_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ModelError, match="Router has the routes"):
        Encoder.load(str(tmp_path))


def test_towers_of_other_dimensions_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    config = BertConfig.from_pretrained(tiny_encoder, hidden_size=16)
    BertModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="queries get 32 dimensions.*passages 16 dimensions"):
        Encoder.load(str(tiny_encoder), EncoderOptions(passage_model=str(tmp_path)))


def test_a_second_tower_from_the_same_model_is_a_copy_that_learns_by_itself(
    tiny_encoder: Path,
) -> None:
    encoder = Encoder.load(str(tiny_encoder)).with_passage_tower()
    np.testing.assert_array_equal(vectors_of(encoder, "query"), vectors_of(encoder, "passage"))
    before = vectors_of(encoder, "query")
    with torch.no_grad():
        encoder.tower("passage").model.embeddings.word_embeddings.weight.mul_(2.0)
    np.testing.assert_array_equal(vectors_of(encoder, "query"), before)
    assert not np.allclose(vectors_of(encoder, "passage"), before)


def test_an_index_by_two_towers_is_searched_by_them_and_by_no_other(
    load: Callable[..., Encoder], tiny_encoder: Path, tmp_path: Path
) -> None:
    corpus = {str(i): Passage(id=str(i), text=text) for i, text in enumerate(TEXTS)}
    load().save(tmp_path / "two" / "model")
    (tmp_path / "index").mkdir()
    two = str(tmp_path / "two")
    build_index(Encoder.load(two), corpus, two, CPU, tmp_path / "index")
    dense = Dense(type="dense", model=two, index=tmp_path / "index", encoder=CPU)
    searcher = DenseSearcher(corpus, dense)
    expected = vectors_of(load(), "query") @ vectors_of(load(), "passage").T
    found = searcher.search(TEXTS, top_k=4)
    for row, scores in zip(expected, found, strict=True):
        np.testing.assert_allclose([scores[i] for i in corpus], row, atol=1e-5)
    for others in (
        Dense(type="dense", model=str(tiny_encoder), index=tmp_path / "index", encoder=CPU),
        Dense(
            type="dense", model=two, index=tmp_path / "index",
            encoder=EncoderOptions(device="cpu", passage_model=str(tiny_encoder)),
        ),
    ):  # fmt: skip
        with pytest.raises(DataError, match="another model"):
            DenseSearcher(corpus, others)


def test_the_tokenizer_that_cuts_a_corpus_is_the_passages(
    load: Callable[..., Encoder], tiny_encoder: Path, tmp_path: Path
) -> None:
    load().save(tmp_path / "model")
    found = load_tokenizer(str(tmp_path)).encode("a relay").ids
    assert found == load_tokenizer(str(tiny_encoder)).encode("a relay").ids
