"""Loading what is to be trained: what does not fit together is refused before any work."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from ragkit.data.files import read_json, write_json
from ragkit.errors import ModelError
from ragkit.models.pretrained import (
    fingerprint,
    load_language_model,
    load_tokenizer_of,
    saved_dtype,
    traits,
)


@pytest.fixture
def folder(tiny_decoder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny decoder that may be damaged."""
    return Path(shutil.copytree(tiny_decoder, tmp_path / "model"))


def test_a_decoder_says_how_its_answers_end(tiny_decoder: Path) -> None:
    model = load_language_model(str(tiny_decoder))
    tokenizer, found = load_tokenizer_of(str(tiny_decoder), model)
    assert (found.decoder, found.ends, found.padding, found.positions) == (True, (2,), 0, 512)
    model.generation_config.eos_token_id = [7, 2, 9]
    # the tokenizer's own end is the usual one
    assert traits("x", model, tokenizer).ends == (2, 7, 9)


def test_a_padding_token_that_is_missing_is_the_end(folder: Path, log_lines: list[str]) -> None:
    model = load_language_model(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    assert traits("here", model, tokenizer).padding == 2
    assert log_lines == ["here has no padding token; its end token takes its place"]


def test_where_nothing_ends_an_answer_it_is_refused(folder: Path) -> None:
    model = load_language_model(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    with pytest.raises(ModelError, match="no answer could end; add one to either"):
        traits("here", model, tokenizer)


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


def test_an_encoder_decoder_ends_as_its_generation_config_says(
    tiny_decoder: Path, tmp_path: Path
) -> None:
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=464, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2,
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )
    )  # fmt: skip
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_decoder).save_pretrained(tmp_path)
    loaded = load_language_model(str(tmp_path))
    _, found = load_tokenizer_of(str(tmp_path), loaded)
    assert (found.decoder, found.ends) == (False, (1, 2))


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
