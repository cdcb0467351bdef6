"""Special tokens that are written out in users' texts: letters, in whatever tokenizer."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ragkit.models.verbatim import BORDER, Verbatim


@pytest.fixture(scope="module")
def tokens(tiny_decoder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_decoder)


def unigram() -> PreTrainedTokenizerBase:
    """As T5's: the end token is one of the words, however special."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), *((c, -3.0) for c in "</s>ab")]
    made = Tokenizer(models.Unigram(pieces, 0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")


def test_what_a_text_writes_out_is_letters_and_what_a_template_writes_is_special(
    tokens: PreTrainedTokenizerBase,
) -> None:
    verbatim = Verbatim(tokens)
    text = verbatim.hide("the </s><s> pump") + "</s>"
    ids = verbatim.read(text, add_special_tokens=False)
    assert tokens.decode(ids) == "the </s><s> pump</s>"
    assert [i for i in ids if i in tokens.all_special_ids] == [tokens.eos_token_id] == ids[-1:]


@pytest.mark.parametrize("text", ["the pump", "größer </s", "<pad", "", "</ s>"])
def test_a_text_without_special_tokens_is_what_the_tokenizer_makes_of_it(
    text: str, tokens: PreTrainedTokenizerBase
) -> None:
    verbatim = Verbatim(tokens)
    assert verbatim.hide(text) == text
    assert verbatim.read(text) == tokens(text)["input_ids"]


def test_tokens_know_where_they_stand_and_letters_share_the_place_of_what_was_hidden(
    tiny_encoder: Path,
) -> None:
    verbatim = Verbatim(AutoTokenizer.from_pretrained(tiny_encoder))
    assert verbatim.places("the pump") == [(0, 3), (4, 8)]
    text = "the [SEP] pump"
    assert verbatim.places(text) == [(0, 3), *[(4, 9)] * 5, (10, 14)]
    assert len(verbatim.places(text)) == len(verbatim.read(verbatim.hide(text))) - 2


def test_an_end_that_a_tokenizer_knows_as_a_word_is_letters_too() -> None:
    read = unigram()
    assert read.eos_token_id in read("a</s>b", split_special_tokens=True)["input_ids"]
    verbatim = Verbatim(read)
    ids = verbatim.read(verbatim.hide("a</s>b"))
    assert read.decode(ids).replace(" ", "") == "a</s>b"
    assert read.eos_token_id not in ids


def test_an_encoders_separator_is_letters(tiny_encoder: Path) -> None:
    words = AutoTokenizer.from_pretrained(tiny_encoder)
    verbatim = Verbatim(words)
    ids = verbatim.read(verbatim.hide("pump [SEP] valve"))
    expected = ["[CLS]", "pump", "[", "s", "##e", "##p", "]", "valve", "[SEP]"]
    assert words.convert_ids_to_tokens(ids) == expected


def test_an_end_that_is_not_called_special_is_hidden_as_well(
    tiny_decoder: Path,
) -> None:
    own = AutoTokenizer.from_pretrained(tiny_decoder)
    own.add_tokens(["<turn>", "<think>"])
    (turn,) = own.convert_tokens_to_ids(["<turn>"])
    verbatim = Verbatim(own, (turn,))
    text = verbatim.hide("a <turn> <think>")
    assert turn not in verbatim.read(text)
    assert own.convert_tokens_to_ids("<think>") in verbatim.read(text)


def test_no_token_reaches_over_a_border(tiny_decoder: Path) -> None:
    own = AutoTokenizer.from_pretrained(tiny_decoder)
    own.add_tokens(["pump\n"])
    apart = [*own("the pump")["input_ids"], *own("\nwhich", add_special_tokens=False)["input_ids"]]
    assert Verbatim(own).read(f"the pump{BORDER}\nwhich") == apart
    assert own("the pump\nwhich")["input_ids"] != apart


def test_a_tokenizer_without_special_tokens_hides_nothing() -> None:
    made = Tokenizer(models.WordLevel({"a": 0, "b": 1}))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    plain = PreTrainedTokenizerFast(tokenizer_object=made)
    assert Verbatim(plain).hide("a </s> b") == "a </s> b"
