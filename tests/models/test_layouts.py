"""What folders say: modules in any place, Dense layers, prompts, lower case, pooled prompts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from ragkit.config.blocks import EncoderOptions
from ragkit.errors import ModelError
from ragkit.models.dense import Dense
from ragkit.models.encoder import Encoder
from ragkit.models.layouts import read_layout

TEXTS = ["which fuse is in the gateway", "a Relay", "the pump stops after thirty minutes", "VALVE"]


@pytest.fixture(scope="module")
def library() -> ModuleType:
    """The reference; importing it takes seconds."""
    return pytest.importorskip("sentence_transformers")


@pytest.fixture
def theirs(tiny_encoder: Path, library: ModuleType) -> Callable[..., Any]:
    """Return a function that builds sentence-transformers' model of the tiny encoder."""

    def build(
        *more: Any,
        prompts: dict[str, str] | None = None,
        folder: Path = tiny_encoder,
        **pooling: Any,
    ) -> Any:
        kinds = library.sentence_transformer.modules
        transformer = kinds.Transformer(str(folder))
        pool = kinds.Pooling(transformer.get_embedding_dimension(), **pooling)
        return library.SentenceTransformer(
            modules=[transformer, pool, *more], prompts=prompts or {}, device="cpu"
        )

    return build


def vectors_of(encoder: Encoder, kind: str = "passage") -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(encoder.encode_as(kind, encoder.tokenize(TEXTS, kind)))


def assert_equal_vectors(encoder: Encoder, model: Any) -> None:
    for kind, encode in (("query", model.encode_query), ("passage", model.encode_document)):
        assert np.abs(vectors_of(encoder, kind) - encode(TEXTS)).max() < 1e-5


def move(folder: Path, places: dict[str, str]) -> None:
    """Move modules to other subfolders; what lies in the root stays for its module."""
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        old, new = module["path"], places.get(module["path"], module["path"])
        if old == "" and new:
            (folder / new).mkdir(parents=True)
            for file in [p for p in folder.iterdir() if p.is_file() and p.name not in _ROOT]:
                file.rename(folder / new / file.name)
        elif old != new:
            (folder / old).rename(folder / new)
        module["path"] = new
    (folder / "modules.json").write_text(json.dumps(modules))


_ROOT = ("modules.json", "config_sentence_transformers.json")


@pytest.mark.parametrize(
    "places", [{"1_Pooling": "pool"}, {"": "0_Transformer", "1_Pooling": "1_Mean_Pooling"}]
)
def test_modules_are_read_where_modules_json_says(
    places: dict[str, str], theirs: Callable[..., Any], library: ModuleType, tmp_path: Path
) -> None:
    theirs(pooling_mode="cls", prompts={"query": "which "}).save(str(tmp_path))
    move(tmp_path, places)
    encoder = Encoder.load(str(tmp_path))
    assert (encoder.settings.pooling, encoder.settings.normalize) == ("cls", False)
    assert_equal_vectors(encoder, library.SentenceTransformer(str(tmp_path), device="cpu"))


def test_a_pooling_whose_config_is_missing_is_named(
    theirs: Callable[..., Any], tmp_path: Path
) -> None:
    theirs(pooling_mode="mean").save(str(tmp_path))
    (tmp_path / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ModelError, match="without 1_Pooling/config.json"):
        Encoder.load(str(tmp_path))


def test_modules_in_another_order_are_refused(
    theirs: Callable[..., Any], library: ModuleType, tmp_path: Path
) -> None:
    kinds = library.sentence_transformer.modules
    theirs(kinds.Normalize(), kinds.Dense(32, 8), pooling_mode="mean").save(str(tmp_path))
    with pytest.raises(ModelError, match="its modules are Transformer, Pooling, Normalize, Dense"):
        Encoder.load(str(tmp_path))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    "layers",
    [
        [{"activation_function": torch.nn.Tanh()}],
        [{"activation_function": torch.nn.Identity(), "bias": False}],
        [{"activation_function": None, "out_features": 64}, {"in_features": 64}],
    ],
)
def test_dense_layers_are_read_computed_trained_and_written(
    layers: list[dict[str, Any]],
    normalize: bool,
    theirs: Callable[..., Any],
    library: ModuleType,
    tmp_path: Path,
) -> None:
    kinds = library.sentence_transformer.modules
    torch.manual_seed(0)
    dense = [kinds.Dense(**{"in_features": 32, "out_features": 8, **layer}) for layer in layers]
    model = theirs(*dense, *[kinds.Normalize()] * normalize, pooling_mode="mean")
    model.save(str(tmp_path / "theirs"))
    encoder = Encoder.load(str(tmp_path / "theirs"))
    assert encoder.dimensions == 8 == vectors_of(encoder).shape[1]
    assert_equal_vectors(encoder, model)
    assert all(p.requires_grad for p in encoder.dense.parameters())
    encoder.save(tmp_path / "ours")
    assert_equal_vectors(encoder, library.SentenceTransformer(str(tmp_path / "ours"), device="cpu"))
    assert Encoder.load(str(tmp_path / "ours")).fingerprint() == encoder.fingerprint()


def test_an_encoder_with_another_dense_layer_is_another_encoder(
    theirs: Callable[..., Any], library: ModuleType, tmp_path: Path
) -> None:
    theirs(library.sentence_transformer.modules.Dense(32, 8)).save(str(tmp_path))
    encoder = Encoder.load(str(tmp_path))
    before = encoder.fingerprint()
    with torch.no_grad():
        encoder.dense[0].linear.bias.add_(1.0)
    assert encoder.fingerprint() != before


def test_a_dense_layer_saved_before_safetensors_is_read(
    theirs: Callable[..., Any], library: ModuleType, tmp_path: Path
) -> None:
    theirs(library.sentence_transformer.modules.Dense(32, 8)).save(str(tmp_path))
    expected = vectors_of(Encoder.load(str(tmp_path)))
    weights = tmp_path / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "2_Dense" / "pytorch_model.bin")
    weights.unlink()
    np.testing.assert_array_equal(vectors_of(Encoder.load(str(tmp_path))), expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_function", "my.Swish"),
        ("module_input_name", "token_embeddings"),
        ("use_residual", True),
    ],
)
def test_a_dense_layer_that_computes_something_else_is_refused(
    key: str, value: object, theirs: Callable[..., Any], library: ModuleType, tmp_path: Path
) -> None:
    theirs(library.sentence_transformer.modules.Dense(32, 8)).save(str(tmp_path))
    file = tmp_path / "2_Dense" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(ModelError, match=f"2_Dense has {key}"):
        Encoder.load(str(tmp_path))


def test_a_dense_layer_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="2_Dense"):
        Dense.load(str(tmp_path), "2_Dense")


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_prompts_that_are_not_pooled(
    pooling: str, theirs: Callable[..., Any], library: ModuleType, tmp_path: Path
) -> None:
    prompts = {"query": "when does it: ", "document": "the "}
    model = theirs(pooling_mode=pooling, include_prompt=False, prompts=prompts)
    model.save(str(tmp_path / "theirs"))
    encoder = Encoder.load(str(tmp_path / "theirs"))
    assert_equal_vectors(encoder, model)
    encoder.save(tmp_path / "ours")
    assert_equal_vectors(
        Encoder.load(str(tmp_path / "ours")),
        library.SentenceTransformer(str(tmp_path / "ours"), device="cpu"),
    )
    queries, passages = (encoder.tokenize(TEXTS, kind) for kind in ("query", "passage"))
    together = encoder([*queries, *passages], len(queries)).detach().numpy()
    np.testing.assert_allclose(
        together,
        np.concatenate([vectors_of(encoder, "query"), vectors_of(encoder, "passage")]),
        atol=1e-6,
    )
    with pytest.raises(ValueError, match="n_queries"):
        encoder(queries)


@pytest.mark.parametrize(
    ("prompts", "prefixes"),
    [
        ({"query": "q: ", "document": "d: ", "passage": "p: "}, ("q: ", "d: ")),
        ({"query": "q: ", "passage": "p: "}, ("q: ", "p: ")),
        ({"query": "q: ", "document": "", "passage": "p: "}, ("q: ", "p: ")),
        ({"query": None, "corpus": "c: "}, ("", "c: ")),
        ({}, ("", "")),
    ],
)
def test_prefixes_are_found_under_their_usual_names(
    prompts: dict[str, str | None],
    prefixes: tuple[str, str],
    theirs: Callable[..., Any],
    tmp_path: Path,
) -> None:
    theirs().save(str(tmp_path))
    file = tmp_path / "config_sentence_transformers.json"
    file.write_text(json.dumps({"prompts": prompts}))
    settings = Encoder.load(str(tmp_path)).settings
    assert (settings.query_prefix, settings.passage_prefix) == prefixes


def test_prompts_of_other_names_are_told(
    theirs: Callable[..., Any], tmp_path: Path, log_lines: list[str]
) -> None:
    theirs(prompts={"web_search_query": "Instruct: find\nQuery: "}).save(str(tmp_path))
    Encoder.load(str(tmp_path))
    assert any("web_search_query" in line and "query_prefix" in line for line in log_lines)


def test_lower_case_is_honoured_and_written(
    tiny_encoder: Path, theirs: Callable[..., Any], library: ModuleType, tmp_path: Path
) -> None:
    cased = tmp_path / "cased"
    shutil.copytree(tiny_encoder, cased)
    tokenizer = json.loads((cased / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (cased / "tokenizer.json").write_text(json.dumps(tokenizer))
    theirs(folder=cased).save(str(tmp_path / "saved"))
    plain = Encoder.load(str(tmp_path / "saved"))
    file = tmp_path / "saved" / "sentence_bert_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "do_lower_case": True}))
    encoder = Encoder.load(str(tmp_path / "saved"))
    assert encoder.tokenize(["VALVE"], "query") == plain.tokenize(["valve"], "query")
    assert encoder.tokenize(["VALVE"], "query") != plain.tokenize(["VALVE"], "query")
    assert_equal_vectors(
        encoder, library.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    )
    encoder.save(tmp_path / "ours")
    assert_equal_vectors(encoder, library.SentenceTransformer(str(tmp_path / "ours"), device="cpu"))
    np.testing.assert_array_equal(
        vectors_of(Encoder.load(str(tmp_path / "ours"))), vectors_of(encoder)
    )


def test_a_transformer_for_another_task_is_refused(
    theirs: Callable[..., Any], tmp_path: Path
) -> None:
    theirs().save(str(tmp_path))
    file = tmp_path / "sentence_bert_config.json"
    config = {**json.loads(file.read_text()), "transformer_task": "fill-mask"}
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="fill-mask"):
        Encoder.load(str(tmp_path))


def test_a_hub_models_files_come_from_the_cache(
    theirs: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of huggingface_hub's cache, as its documentation draws it."""
    snapshot = tmp_path / "hub" / "models--maker--model" / "snapshots" / ("0" * 40)
    theirs(pooling_mode="cls").save(str(snapshot))
    move(snapshot, {"": "0_Transformer", "1_Pooling": "pool"})
    references = tmp_path / "hub" / "models--maker--model" / "refs"
    references.mkdir()
    (references / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    layout = read_layout("maker/model")
    assert (len(layout), layout[0].transformer, layout[0].said["pooling"]) == (
        1,
        "0_Transformer",
        "cls",
    )
    np.testing.assert_array_equal(
        vectors_of(Encoder.load("maker/model")), vectors_of(Encoder.load(str(snapshot)))
    )


@pytest.mark.parametrize(("kind", "route"), [("Question", "question"), ("Context", "ctx")])
def test_a_dpr_encoder_is_its_bert_at_the_first_token(
    kind: str, route: str, tiny_encoder: Path, tmp_path: Path, library: ModuleType
) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.DPRConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    model = getattr(transformers, f"DPR{kind}Encoder")(config).eval()
    model.save_pretrained(tmp_path / "dpr")
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.save_pretrained(tmp_path / "dpr")
    encoder = Encoder.load(str(tmp_path / "dpr"))
    with torch.no_grad():
        expected = [model(**tokenizer(t, return_tensors="pt")).pooler_output[0] for t in TEXTS]
    assert np.abs(vectors_of(encoder) - torch.stack(expected).numpy()).max() < 1e-5
    encoder.save(tmp_path / "ours")
    assert type(AutoModel.from_pretrained(tmp_path / "ours")).__name__ == "BertModel"
    assert_equal_vectors(encoder, library.SentenceTransformer(str(tmp_path / "ours"), device="cpu"))


def test_unset_options_leave_what_the_folder_says(
    theirs: Callable[..., Any], tmp_path: Path
) -> None:
    theirs(pooling_mode="cls", prompts={"query": "q "}).save(str(tmp_path))
    settings = Encoder.load(str(tmp_path), EncoderOptions(normalize=True)).settings
    assert (settings.pooling, settings.normalize, settings.query_prefix) == ("cls", True, "q ")
