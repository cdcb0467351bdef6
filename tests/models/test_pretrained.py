"""Loading a language model: what does not fit together is refused; how answers begin and end."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    RobertaConfig,
)

from ragkit.config.training import Lora
from ragkit.data.files import read_json, write_json
from ragkit.errors import ModelError
from ragkit.models.adapters import with_adapters
from ragkit.models.pretrained import (
    fingerprint,
    load_language_model,
    load_tokenizer_of,
    saved_dtype,
    traits,
)

Build = Callable[[str], Any]


@pytest.fixture
def words(tiny_encoder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_encoder)


@pytest.fixture
def folder(tiny_decoder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny decoder that may be damaged."""
    return Path(shutil.copytree(tiny_decoder, tmp_path / "model"))


def test_a_decoder_says_how_its_answers_end(tiny_decoder: Path) -> None:
    model = load_language_model(str(tiny_decoder))
    tokenizer = load_tokenizer_of(str(tiny_decoder), model)
    found = traits(model, tokenizer)
    assert (found.decoder, found.ends, found.padding) == (True, (2,), 0)
    assert (found.positions, found.answer_positions, found.limit) == (512, 512, 512)
    model.generation_config.eos_token_id = [7, 2, 9]
    # the tokenizer's own end is the usual one
    assert traits(model, tokenizer).ends == (2, 7, 9) and traits(model, tokenizer).end == 2


def test_a_padding_token_that_is_missing_is_the_end(folder: Path, log_lines: list[str]) -> None:
    model = load_language_model(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    loaded = load_tokenizer_of(str(folder), model)
    assert traits(model, loaded).padding == 2
    assert log_lines == [f"{folder} has no padding token; its end token takes its place"]


def test_where_nothing_ends_an_answer_there_is_no_usual_end(folder: Path) -> None:
    model = load_language_model(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = tokenizer.pad_token = None
    model.generation_config.eos_token_id = None
    found = traits(model, tokenizer)
    assert (found.ends, found.padding) == ((), 0)
    with pytest.raises(ModelError, match=f"{folder}: .* no answer could end; add one to either"):
        _ = found.end


def test_an_encoder_is_no_generator(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match=r"no generator: it has no weights for .*method: reader"):
        load_language_model(str(tiny_encoder))


def test_a_tokenizer_of_another_vocabulary_is_refused(folder: Path) -> None:
    model = load_language_model(str(folder))
    model.resize_token_embeddings(300)
    with pytest.raises(ModelError, match="has 464 tokens, and the model knows 300"):
        load_tokenizer_of(str(folder), model)


def test_what_is_missing_or_broken_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_language_model(str(tmp_path / "nowhere"))
    model = load_language_model(str(folder))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
        load_tokenizer_of(str(folder), model)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "model_type": "no such kind"})
    with pytest.raises(ModelError, match="cannot be loaded as a generator"):
        load_language_model(str(folder))


def test_a_decoder_begins_as_the_model_says_else_as_its_kind_does(
    encoder_decoder: Build, words: Any
) -> None:
    assert traits(encoder_decoder("t5"), words).start == 0
    assert traits(encoder_decoder("bert"), words).start == words.cls_token_id
    model = encoder_decoder("t5")
    model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id = None
    model.generation_config.bos_token_id = 7
    assert traits(model, words).start == 7
    model.generation_config.bos_token_id = None
    with pytest.raises(ModelError, match="t5: it names no token that its decoder begins with"):
        traits(model, words)


def test_an_encoder_decoder_ends_as_it_says_or_its_tokenizer_else_by_sep(
    encoder_decoder: Build, words: Any
) -> None:
    model = encoder_decoder("bert")
    assert traits(model, words).ends == (words.sep_token_id,)
    words.eos_token = "."
    assert traits(model, words).ends == (words.eos_token_id,)
    model.generation_config.eos_token_id = [5, 6]  # the usual one is the model's
    assert traits(model, words).ends == (5, 6, words.eos_token_id)
    words.pad_token = None
    assert traits(model, words).padding == 5
    model.generation_config.eos_token_id = words.eos_token = words.sep_token = None
    assert traits(model, words).ends == ()


def test_positions_are_those_of_the_encoder_and_of_the_decoder(
    encoder_decoder: Build, words: Any
) -> None:
    def counts(model: Any) -> tuple[int, int, int]:
        found = traits(model, words)
        return found.positions, found.answer_positions, found.limit

    words.model_max_length = 100
    assert counts(encoder_decoder("bert")) == (128, 128, 100)
    assert counts(encoder_decoder("bart")) == (128, 128, 100)
    assert counts(encoder_decoder("t5")) == (1_000_000, 1_000_000, 100)  # as many as one likes
    sizes = {"vocab_size": 200, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
             "intermediate_size": 8}  # fmt: skip
    decoder = {**sizes, "is_decoder": True, "add_cross_attention": True}
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        RobertaConfig(**sizes, max_position_embeddings=66, pad_token_id=1),  # two are of padding
        BertConfig(**decoder, max_position_embeddings=32),
        decoder_start_token_id=0,
    )
    assert counts(EncoderDecoderModel(config)) == (64, 32, 64)


def test_adapters_around_a_model_say_nothing_else(encoder_decoder: Build, words: Any) -> None:
    model = encoder_decoder("t5")
    expected = traits(model, words)
    assert traits(with_adapters(model, Lora(r=2)), words) == expected


def test_a_fingerprint_is_of_the_weights_and_not_of_the_place(
    tiny_decoder: Path, folder: Path
) -> None:
    here, there = load_language_model(str(tiny_decoder)), load_language_model(str(folder))
    assert fingerprint(here) == fingerprint(there)
    assert isinstance(there, LlamaForCausalLM)
    with torch.no_grad():
        there.lm_head.weight[0, 0] += 1
    assert fingerprint(here) != fingerprint(there)


def test_the_precision_of_the_weights_on_disk(folder: Path) -> None:
    assert saved_dtype(str(folder)) == torch.float32
    load_language_model(str(folder), dtype=torch.bfloat16).save_pretrained(folder)
    assert saved_dtype(str(folder)) == torch.bfloat16
    assert load_language_model(str(folder)).dtype == torch.float32
