"""Chunking: exact offsets, stable ids, never too long, headings as titles."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from ragkit.data.chunking import Chunker, as_passages, make_passage
from ragkit.data.schema import Document, Passage

SENTENCES = "The pump starts. It stops after 3 minutes!\n\n"
MARKDOWN = """# Guide

Before anything.

## Set up

Plug it in.

### Power

Twelve volts.

## Use

- one
- two
"""
PIECES = st.sampled_from(
    ["word", "Größe", "日本語", "e\u0301", "😀", ".", "?", " ", "  ", "\n", "\n\n", "\r\n", "- x",
     "\t", "# T\n", "## U\n\n", "```\n", "a_b", "1.5"]
)  # fmt: skip


@pytest.fixture(scope="session")
def words(word_model: Path) -> Tokenizer:
    """Words and punctuation are the tokens, with [CLS] and [SEP] around them."""
    return Tokenizer.from_file(str(word_model / "tokenizer.json"))


@pytest.fixture(scope="session")
def letters() -> Tokenizer:
    """Bytes are the tokens, a newline among them, and nothing around them."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def cut(
    tokenizer: Tokenizer, document: Document, max_tokens: int, overlap: int = 0
) -> list[Passage]:
    return list(Chunker(tokenizer, max_tokens, overlap).passages(document))


def headed(tokenizer: Tokenizer, text: str, title: str = "file") -> list[tuple[str, str]]:
    document = Document(text, title, doc_id="file.md", markup="markdown", named_by_file=True)
    return [(p.title, p.text) for p in cut(tokenizer, document, 100)]


@settings(deadline=None, max_examples=60)
@given(
    text=st.lists(PIECES, min_size=1, max_size=80).map("".join).filter(str.strip),
    overlap=st.sampled_from([0, 5]),
)
def test_every_passage_is_exactly_its_slice_of_the_document(
    words: Tokenizer, text: str, overlap: int
) -> None:
    for passage in cut(words, Document(text, "A title", doc_id="d"), 20, overlap):
        start, end = passage.meta.get("start", 0), passage.meta.get("end", len(text))
        assert passage.text == text[start:end]


@settings(deadline=None, max_examples=60)
@given(text=st.lists(PIECES, min_size=1, max_size=80).map("".join).filter(str.strip))
def test_every_markdown_passage_with_offsets_is_exactly_its_slice(
    words: Tokenizer, text: str
) -> None:
    for passage in cut(
        words, Document(text, doc_id="d.md", markup="markdown", named_by_file=True), 20
    ):
        start = passage.meta.get("start", 0)
        assert passage.text == text[start : passage.meta.get("end", start + len(passage.text))]


def test_the_words_of_a_document_are_all_in_its_passages_in_order(words: Tokenizer) -> None:
    text = SENTENCES * 30
    joined = " ".join(p.text for p in cut(words, Document(text, doc_id="d"), 25))
    assert joined.split() == text.split()


@pytest.mark.parametrize("text", ["Before.\n\n# A\n\nAfter.\n", "No heading, one newline.\n"])
def test_a_passage_that_is_not_all_of_its_document_has_offsets(words: Tokenizer, text: str) -> None:
    first = cut(words, Document(text, doc_id="d.md", markup="markdown", named_by_file=True), 100)[0]
    assert first.text == text[first.meta["start"] : first.meta["end"]] != text


@pytest.mark.parametrize("title", ["Manual", "Manual > Some section of it"])
@pytest.mark.parametrize("overlap", [0, 8])
def test_no_passage_is_longer_than_max_tokens_with_its_title(
    words: Tokenizer, title: str, overlap: int
) -> None:
    for max_tokens in range(26, 60):
        for passage in cut(words, Document(SENTENCES * 20, title), max_tokens, overlap):
            assert len(words.encode(passage.rendered).ids) <= max_tokens


def test_no_passage_without_a_title_is_longer_than_max_tokens(words: Tokenizer) -> None:
    lengths = {
        len(words.encode(passage.rendered).ids)
        for passage in cut(words, Document("word " * 300, doc_id="d"), 20)
    }
    assert max(lengths) <= 20


def test_the_newline_below_the_title_counts_too(letters: Tokenizer) -> None:
    passages = cut(letters, Document("x" * 500, "Title"), 32)
    assert max(len(letters.encode(p.rendered).ids) for p in passages) <= 32


def test_a_text_that_just_fits_stays_whole_and_one_token_more_is_cut(words: Tokenizer) -> None:
    text = " ".join(f"w{i}" for i in range(18))
    assert [p.text for p in cut(words, Document(text, doc_id="d"), 20)] == [text]
    assert len(cut(words, Document(text + " more w w w", doc_id="d"), 20)) == 2


def test_a_tokenizer_that_truncates_and_pads_is_counted_without_and_left_as_it_was(
    words: Tokenizer,
) -> None:
    cutting = Tokenizer.from_str(words.to_str())
    cutting.enable_truncation(8)
    cutting.enable_padding(length=64)
    document = Document(SENTENCES * 20, "T")
    assert cut(cutting, document, 30) == cut(words, document, 30)
    assert cutting.truncation is not None


def test_neighbours_share_tokens_where_an_overlap_is_asked(words: Tokenizer) -> None:
    text = " ".join(f"w{i}" for i in range(100))
    apart = cut(words, Document(text, "T"), 30)
    shared = cut(words, Document(text, "T"), 30, overlap=6)
    assert all(a.meta["end"] < b.meta["start"] for a, b in zip(apart, apart[1:], strict=False))
    assert all(a.meta["end"] > b.meta["start"] for a, b in zip(shared, shared[1:], strict=False))


def test_ids_do_not_change_when_other_documents_do(words: Tokenizer) -> None:
    chunker = Chunker(words, 30)
    kept = Document(SENTENCES * 10, "Kept")

    def ids(*others: Document) -> list[str]:
        found = [p for d in (*others, kept) for p in chunker.passages(d)]
        return [p.id for p in found if p.title == "Kept"]

    alone = ids()
    assert len(alone) > 3
    assert ids(Document("Other. " * 100, "Other"), Document("New.", "New")) == alone


def test_ids_of_a_section_do_not_change_when_an_earlier_one_grows(words: Tokenizer) -> None:
    def ids(text: str) -> dict[str, str]:
        document = Document(text, "file", doc_id="file.md", markup="markdown", named_by_file=True)
        return {p.title: p.id for p in cut(words, document, 100)}

    before, after = ids(MARKDOWN), ids(MARKDOWN.replace("Plug it in.", "Plug it in, gently."))
    assert {t for t in before if before[t] != after[t]} == {"Guide > Set up"}


def test_ids_have_no_white_space_and_differ_by_title_and_text() -> None:
    found = [
        make_passage(Document("a", title), title, text, whole=False).id
        for title in ("My page", "My other page")
        for text in ("a", "b")
    ]
    assert len(set(found)) == 4
    assert not any(c.isspace() for i in found for c in i)


def test_a_document_that_stays_whole_keeps_its_own_id_and_meta(words: Tokenizer) -> None:
    document = Document("Short.", "T", id="7", doc_id="d", meta={"page": 3})
    assert cut(words, document, 30) == [Passage("7", "Short.", "T", "d", {"page": 3})]


def test_a_document_that_is_cut_gives_every_passage_an_id_of_its_own(words: Tokenizer) -> None:
    passages = cut(words, Document(" ".join(f"w{i}" for i in range(99)), "T", id="7"), 30)
    assert len({p.id for p in passages}) == len(passages) > 2
    assert "7" not in {p.id for p in passages}


def test_without_chunking_every_document_is_one_passage_with_its_place() -> None:
    documents = [Document(SENTENCES * 50, "T", "S", id="7", where="x.csv:2")]
    assert list(as_passages(documents)) == [("x.csv:2", Passage("7", SENTENCES * 50, "T > S", "T"))]


def test_the_title_of_a_markdown_passage_is_the_path_of_its_headings(words: Tokenizer) -> None:
    assert headed(words, MARKDOWN) == [
        ("Guide", "Before anything."),
        ("Guide > Set up", "Plug it in."),
        ("Guide > Set up > Power", "Twelve volts."),
        ("Guide > Use", "- one\n- two"),
    ]


def test_without_a_heading_of_its_own_a_page_is_called_as_its_file(words: Tokenizer) -> None:
    assert headed(words, "Hello.\n\n## Part\n\nText.\n") == [
        ("file", "Hello."),
        ("file > Part", "Text."),
    ]


def test_a_heading_that_skips_levels_and_closing_hashes_are_understood(words: Tokenizer) -> None:
    text = "# A #\n\na\n\n#### Deep ##\n\nb\n\n## Up\n\nc\n"
    assert headed(words, text) == [("A", "a"), ("A > Deep", "b"), ("A > Up", "c")]


def test_hashes_that_make_no_heading_stay_text(words: Tokenizer) -> None:
    text = "# A\n\n#hashtag and\n ####### seven\n"
    assert headed(words, text) == [("A", "#hashtag and\n ####### seven")]


@pytest.mark.parametrize("fence", ["```", "~~~"])
def test_hashes_in_a_code_fence_are_no_headings(words: Tokenizer, fence: str) -> None:
    code = f"{fence}sh\n# a comment\nmake\n## another\n{fence}"
    assert headed(words, f"# A\n\n{code}\n\n## B\n\nText.\n") == [("A", code), ("A > B", "Text.")]


@pytest.mark.parametrize(("start", "end"), [("````", "````"), ("```", "")])
def test_longer_and_unclosed_fences_are_fences(words: Tokenizer, start: str, end: str) -> None:
    code = f"{start}\n# a comment\n{end}".strip()
    assert headed(words, f"# A\n\n{code}\n") == [("A", code)]


def test_windows_line_ends_change_neither_headings_nor_fences(words: Tokenizer) -> None:
    text = "# A\n\n```\n# a comment\n```\n\n## B\n\nText.\n"
    windows = headed(words, text.replace("\n", "\r\n"))
    assert [(title, body.replace("\r\n", "\n")) for title, body in windows] == headed(words, text)


RST = """\
=====
Fuses
=====

What they do.

Slow ones
=========

For motors::

    ======
    no title
    ======

Sizes
-----

===== =====
Size  A
===== =====
1     5
===== =====

Fast ones
=========

For radios.
Too long a title
----
"""


def test_the_sections_of_rst_are_found_and_nothing_else_is_taken_for_one(
    words: Tokenizer,
) -> None:
    document = Document(RST, "file", doc_id="f.rst", markup="rst", named_by_file=True)
    passages = cut(words, document, 100)
    assert [p.title for p in passages] == [
        "Fuses", "Fuses > Slow ones", "Fuses > Slow ones > Sizes", "Fuses > Fast ones",
    ]  # fmt: skip
    assert passages[3].text == "For radios.\nToo long a title\n----"
    for passage in passages:
        assert passage.text == RST[passage.meta["start"] : passage.meta["end"]]


@pytest.mark.parametrize(
    ("title", "expected"), [("Manual", "Manual > Fuses"), ("fuses", "Fuses"), ("", "Fuses")]
)
def test_a_title_of_a_row_stays_above_the_headings_in_its_text(
    words: Tokenizer, title: str, expected: str
) -> None:
    document = Document("# Fuses\n\nText.", title, doc_id="d", markup="markdown")
    assert [p.title for p in cut(words, document, 50)] == [expected]
