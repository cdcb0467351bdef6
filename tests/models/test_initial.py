"""Initial generators: texts come back from tokens, weights from seeds, layers from an encoder."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors import safe_open
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerBase,
)

from ragkit.config.initial import T5, Causal, EncoderDecoder
from ragkit.errors import ModelError
from ragkit.models.initial import Pair, fit, make_initial

TEXTS = [
    f"The pump P-{n} draws {n}.5 A at 24 V; it isn't started before valve {n % 7} has opened."
    for n in range(60)
]
SIZES = {"vocabulary": 300, "hidden_size": 32, "layers": 2, "heads": 2}
CAUSAL = Causal(type="causal", positions=64, **SIZES)
SMALL_T5 = T5(type="t5", **SIZES)
Saved = Callable[[Pair], Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Return a function that saves a model with its tokenizer in a new folder."""

    def save(made: Pair) -> Path:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        for part in made:
            part.save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def warm(tiny_encoder: Path) -> EncoderDecoder:
    return EncoderDecoder(type="encoder-decoder", encoder=str(tiny_encoder))


def loaded(folder: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a folder as anybody would; every weight must be in it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    seq2seq = '"is_encoder_decoder": true' in (folder / "config.json").read_text()
    kind = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    model, said = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(said.values())
    return model, tokenizer


@pytest.mark.parametrize("architecture", [CAUSAL, SMALL_T5], ids=["causal", "t5"])
def test_any_text_comes_back_from_its_tokens(architecture: Causal | T5, saved: Saved) -> None:
    _, tokenizer = loaded(saved(make_initial(architecture, TEXTS, 0)))

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    def comes_back(text: str) -> None:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text

    comes_back()
    assert "ĠV" in tokenizer.get_vocab()  # learnt from the texts


def test_a_causal_model_reads_its_first_token_first(saved: Saved) -> None:
    model, tokenizer = loaded(saved(make_initial(CAUSAL, TEXTS, 0)))
    ids = tokenizer(["A", "The pump"], padding=True, return_tensors="pt")["input_ids"]
    assert ids[1, 0] == tokenizer.bos_token_id == model.generation_config.bos_token_id == 1
    assert ids[0, 0] == tokenizer.pad_token_id == model.generation_config.pad_token_id == 0
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == 2
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 64
    assert model.config.vocab_size == len(tokenizer) == 300
    assert model.generate(ids, max_new_tokens=3).shape == (2, ids.shape[1] + 3)
    assert tokenizer.chat_template is None


def test_a_t5_reads_texts_with_their_end_and_answers_from_padding(saved: Saved) -> None:
    model, tokenizer = loaded(saved(make_initial(SMALL_T5, TEXTS, 0)))
    batch = tokenizer(["valve", "The pump draws"], padding=True, return_tensors="pt")
    assert batch["input_ids"][1, -1] == tokenizer.eos_token_id == 1
    assert model.generation_config.eos_token_id == 1
    assert model.generation_config.decoder_start_token_id == tokenizer.pad_token_id == 0
    assert model.config.is_gated_act
    assert model.generate(**batch, max_new_tokens=3)[:, 0].tolist() == [0, 0]


def test_a_chat_template_is_there_where_it_is_asked_for() -> None:
    asked = CAUSAL.model_copy(update={"chat_template": True})
    _, tokenizer = make_initial(asked, TEXTS, 0)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<s>system\nBe brief.</s>\n<s>user\nWhy?</s>\n<s>assistant\n"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert (ids.count(tokenizer.bos_token_id), ids.count(tokenizer.eos_token_id)) == (3, 2)


@pytest.mark.parametrize("architecture", [CAUSAL, SMALL_T5], ids=["causal", "t5"])
def test_the_same_seed_gives_the_same_bytes(architecture: Causal | T5, saved: Saved) -> None:
    first, again, other = (saved(make_initial(architecture, TEXTS, seed)) for seed in (3, 3, 4))
    files = sorted(file.name for file in first.iterdir())
    assert {"config.json", "generation_config.json", "model.safetensors"} < set(files)
    for name in files:
        assert (first / name).read_bytes() == (again / name).read_bytes()
    weights = "model.safetensors"
    assert (first / weights).read_bytes() != (other / weights).read_bytes()


def test_a_corpus_that_repeats_nothing_gives_bytes_alone() -> None:
    model, tokenizer = make_initial(CAUSAL, ["abc"], 0)
    assert len(tokenizer) == model.config.vocab_size == 256 + 3


def test_the_encoder_is_the_source_as_it_was(
    warm: EncoderDecoder, tiny_encoder: Path, saved: Saved
) -> None:
    model, tokenizer = loaded(saved(make_initial(warm, [], 0)))
    source, words = AutoModel.from_pretrained(tiny_encoder), AutoTokenizer.from_pretrained
    texts = ["the valve opens", "twelve volts for the red pump"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    its_own = words(tiny_encoder)(texts, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], its_own["input_ids"])
    with torch.no_grad():
        states, expected = (m(**batch).last_hidden_state for m in (model.encoder, source))
    assert torch.equal(states, expected)


def test_the_decoder_is_the_encoder_where_there_is_one_token_and_nothing_to_cross_to(
    warm: EncoderDecoder, tiny_encoder: Path
) -> None:
    model, _ = make_initial(warm, [], 0)
    source = AutoModel.from_pretrained(tiny_encoder)
    tokens = torch.tensor([[2], [50]])
    with torch.no_grad():
        states, expected = (m(tokens).last_hidden_state for m in (model.decoder.bert, source))
    torch.testing.assert_close(states, expected)


def test_the_decoder_does_not_see_what_comes_later(warm: EncoderDecoder) -> None:
    model, tokenizer = make_initial(warm, [], 0)
    batch = tokenizer(["the valve opens"], return_tensors="pt")
    with torch.no_grad():
        one, other = (
            model(**batch, decoder_input_ids=torch.tensor([[2, 50, last]])).logits
            for last in (60, 61)
        )
    torch.testing.assert_close(one[:, :2], other[:, :2])
    assert not torch.allclose(one[:, 2], other[:, 2])


def test_a_shorter_decoder_has_layers_from_the_first_to_the_last(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    config = BertConfig.from_pretrained(tiny_encoder, num_hidden_layers=5)
    source = BertModel(config)
    source.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    wanted = EncoderDecoder(type="encoder-decoder", encoder=str(tmp_path), decoder_layers=3)
    model, _ = make_initial(wanted, [], 0)
    assert (model.config.encoder.num_hidden_layers, model.config.decoder.num_hidden_layers) == (
        5,
        3,
    )
    for layer, chosen in zip(model.decoder.bert.encoder.layer, (0, 2, 4), strict=True):
        own = source.encoder.layer[chosen].state_dict()
        for name, value in layer.state_dict().items():
            assert torch.equal(value, own[name.removeprefix("cross")]), name


def test_the_words_of_the_decoder_stay_tied_to_its_embeddings_alone(
    warm: EncoderDecoder, saved: Saved
) -> None:
    folder = saved(make_initial(warm, [], 0))
    model, _ = loaded(folder)
    embeddings = model.decoder.bert.embeddings.word_embeddings.weight
    assert model.decoder.cls.predictions.decoder.weight is embeddings
    assert model.encoder.embeddings.word_embeddings.weight is not embeddings
    assert torch.equal(model.encoder.embeddings.word_embeddings.weight, embeddings)
    with safe_open(folder / "model.safetensors", "pt") as file:
        lengths = [file.get_slice(name).get_shape()[0] for name in file.keys()]  # noqa: SIM118
    assert lengths.count(len(embeddings)) == 3  # embeddings twice, and the head's bias


def test_the_prediction_head_passes_on_what_it_gets(warm: EncoderDecoder) -> None:
    model, _ = make_initial(warm, [], 0)
    states = 0.3 * torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        passed = model.decoder.cls.predictions.transform(states)
    expected = torch.nn.functional.layer_norm(states, (32,))
    assert torch.cosine_similarity(passed, expected).min() > 0.99


def test_a_decoder_expects_what_is_frequent_in_the_texts(
    warm: EncoderDecoder, saved: Saved
) -> None:
    model, tokenizer = loaded(saved(make_initial(warm, ["the pump", "the"], 0)))
    bias, size = model.get_output_embeddings().bias, len(tokenizer)  # 5 tokens, ends included
    often = tokenizer.convert_tokens_to_ids(["the", "[SEP]", "pump", "valve", "[CLS]"])
    shares = [2 / 5, 2 / 5, 1 / 5, 0, 0]
    expected = [math.log(0.9 * share * size + 0.1) for share in shares]
    assert bias[often].tolist() == pytest.approx(expected)


def test_a_warm_start_answers_from_its_first_token_and_names_no_place(
    warm: EncoderDecoder, tiny_encoder: Path, saved: Saved
) -> None:
    folder = saved(make_initial(warm, [], 0))
    model, tokenizer = loaded(folder)
    batch = tokenizer(["the valve", "the pump stops"], padding=True, return_tensors="pt")
    assert model.generate(**batch, max_new_tokens=3)[:, 0].tolist() == [tokenizer.cls_token_id] * 2
    ends = (model.generation_config.eos_token_id, tokenizer.eos_token_id)
    assert ends == (tokenizer.sep_token_id,) * 2
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.model_max_length == 128
    assert str(tiny_encoder) not in (folder / "config.json").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "it costs $5.08, not 1,234,567 (a 50% rise).",
        "in 1990, 120 pumps; in 1991, 12.",
        "the well-known pump doesn't start at 10:30 a.m. and/or 11",
        "set max_mb to 9 in [network]!",
        "u.s. law: john's valve",
        "it stops. it starts.",
    ],
)
def test_texts_of_a_warm_start_come_back_with_the_spaces_they_had(
    text: str, warm: EncoderDecoder, saved: Saved
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(saved(make_initial(warm, [], 0)))
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_a_decoder_cannot_have_more_layers_than_the_encoder(warm: EncoderDecoder) -> None:
    wanted = warm.model_copy(update={"decoder_layers": 3})
    with pytest.raises(ModelError, match="decoder_layers: 3 is more than the 2 layers of"):
        make_initial(wanted, [], 0)


@pytest.mark.parametrize(("architecture", "name"), [(CAUSAL, "LlamaModel"), (SMALL_T5, "T5Enc")])
def test_what_is_no_bert_is_named(architecture: Causal | T5, name: str, saved: Saved) -> None:
    folder = saved(make_initial(architecture, TEXTS, 0))
    wanted = EncoderDecoder(type="encoder-decoder", encoder=str(folder))
    with pytest.raises(ModelError, match=rf"architecture.encoder: {folder} is a {name}"):
        make_initial(wanted, [], 0)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"vocabulary": 258}, "vocabulary: 258 is below 259, the 256 bytes"),
        ({"hidden_size": 32, "heads": 3}, "heads: 3 do not divide hidden_size: 32"),
        ({"hidden_size": 12, "heads": 4}, "heads: 4 do not divide hidden_size: 12"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(values: dict[str, int], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Causal(type="causal", **values)


def test_words_tokens_and_what_is_unknown_are_counted(tiny_encoder: Path) -> None:
    counted = fit(AutoTokenizer.from_pretrained(tiny_encoder), ["the pump ©", "the pumps"])
    assert (counted.words, counted.tokens, counted.unknown) == (5, 6, 1)
