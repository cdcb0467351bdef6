"""Splitting: the pieces of the library that counts every piece anew, and never one too long."""

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ragkit.data.splitting import Splitter

PROSE = [
    "The pump starts when the valve opens, at 3.5 bar; it stops again after 20 minutes.",
    "Don't open the lid! Größe und Gewicht: 5 kg.",
    "水泵在阀门打开时启动。请先检查电源。",
    "Read https://example.com/a_b/c?x=1#frag or internationalisation😀 first.",
]
PIECES = st.sampled_from(
    [*PROSE, "word ", "Größe", "日本語", "e\u0301", "😀", ". ", "? ", " ", "\n", "\n\n", "\r\n\r\n",
     "- item\n", "\t", "# T\n", "```\ncode here\n```\n", "a_b", "1.5", "x" * 40, "| a | b |\n"]
)  # fmt: skip
TEXTS = st.lists(PIECES, min_size=1, max_size=80).map("".join).map(str.strip).filter(bool)
# glued to another word a known one may be an unknown one: one token, of which a part has more
SPACED = st.lists(PIECES, min_size=1, max_size=80).map(" ".join).map(str.strip).filter(bool)


def trained(kind: str) -> Tokenizer:
    corpus = PROSE * 5
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: object = trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=150, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=250, special_tokens=["[UNK]"], show_progress=False
        )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram", "words"])
def tokenizer(request: pytest.FixtureRequest, word_model: Path) -> Tokenizer:
    if request.param == "words":
        return Tokenizer.from_file(str(word_model / "tokenizer.json"))
    return trained(request.param)


@settings(deadline=None, max_examples=60)
@given(text=SPACED, markdown=st.booleans(), overlap=st.sampled_from([0, 7]))
def test_pieces_are_those_of_counting_every_piece(
    tokenizer: Tokenizer, text: str, markdown: bool, overlap: int
) -> None:
    splitter = Splitter(tokenizer)
    kind = MarkdownSplitter if markdown else TextSplitter
    expected = kind.from_huggingface_tokenizer(tokenizer, 24, overlap).chunk_indices(text)
    assume(all(splitter.count(piece) <= 24 for _, piece in expected))  # it fails so, now and then
    found = list(splitter.split(text, 24, overlap, markdown))
    assert found == (expected if splitter.count(text) > 24 else [(0, text)])


@settings(deadline=None, max_examples=60)
@given(text=TEXTS, size=st.integers(16, 40))
def test_no_piece_has_more_tokens_than_asked_and_each_is_a_slice(
    tokenizer: Tokenizer, text: str, size: int
) -> None:
    splitter = Splitter(tokenizer)
    for offset, piece in splitter.split(text, size):
        assert text[offset : offset + len(piece)] == piece
        assert splitter.count(piece) <= size


def test_a_piece_that_cuts_a_long_token_into_many_is_counted_as_it_is() -> None:
    """Tokens of 2, 4, ... 4096 letters: 4095 of them are 12 tokens, of which a whole one has 1."""
    runs = ["a" * 2**i for i in range(13)]
    merges = [(run, run) for run in runs[:-1]]
    tokenizer = Tokenizer(models.BPE({run: i for i, run in enumerate(runs)}, merges))
    splitter = Splitter(tokenizer)
    text = "a" * 2**17
    expected = TextSplitter.from_huggingface_tokenizer(tokenizer, 16).chunk_indices(text[: 2**16])
    pieces = list(splitter.split(text, 16))
    assert max(splitter.count(piece) for _, piece in pieces) <= 16
    assert pieces[: len(expected)] == expected
    assert "".join(piece for _, piece in pieces) == text


@pytest.mark.parametrize("mark", ["\n\n", "\n", " ", ""])
def test_a_long_text_is_split_in_parts_and_nothing_of_it_is_lost(
    word_model: Path, mark: str
) -> None:
    splitter = Splitter(Tokenizer.from_file(str(word_model / "tokenizer.json")))
    text = mark.join(f"word{i}." for i in range(25_000))
    assert len(text) > 200_000
    pieces = list(splitter.split(text, 100))
    assert "".join("".join(piece for _, piece in pieces).split()) == "".join(text.split())
    assert all(text[at : at + len(piece)] == piece == piece.strip() for at, piece in pieces)


def test_a_short_rest_of_a_long_text_has_no_white_space_around_it(word_model: Path) -> None:
    splitter = Splitter(Tokenizer.from_file(str(word_model / "tokenizer.json")))
    text = "word. " * 10_900 + "\n\n The end." + " " * 70_000 + "."
    *_, (at, before), (last, end) = splitter.split(text, 100)
    assert (before, text[at : at + 8], end, text[last]) == ("The end.", "The end.", ".", ".")
