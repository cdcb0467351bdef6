"""Cutting documents into passages of at most so many tokens.

Paragraphs, lists, code blocks and sentences are respected by `ragkit.data.splitting`; this module
cuts at headings and adds their path as the title, offsets and stable ids. The tokenizer is the
caller's choice.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from tokenizers import Tokenizer

from ragkit.data.files import sha256_text
from ragkit.data.schema import Document, Passage
from ragkit.data.splitting import Splitter

_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t\r]*$", re.MULTILINE)
_FENCE = re.compile(
    r"^ {0,3}(`{3,}|~{3,})(?:.*?^ {0,3}\1[`~]*[ \t\r]*$|.*)", re.MULTILINE | re.DOTALL
)
_RST_TITLE = re.compile(
    r"^(?:(?P<over>([!-/:-@\[-`{-~])\2{2,})[ \t]*\n(?=.*\n(?P=over)[ \t]*$)[ \t]*|(?=\S))"
    r"(?P<title>(?=.*\w).*)\n(?P<under>([!-/:-@\[-`{-~])\5{2,})[ \t\r]*$",
    re.MULTILINE,
)
_SMALLEST_ROOM = 16  # tokens left for the text when a title is very long


class Chunker:
    """Cuts documents into passages of at most `max_tokens` tokens, the title included."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, overlap: int = 0) -> None:
        self.splitter = Splitter(tokenizer)
        self.max_tokens, self.overlap = max_tokens, overlap
        self.added = self.splitter.count("", special_tokens=True)

    def passages(self, document: Document) -> Iterator[Passage]:
        """Yield the passages of a document; one that is short enough stays whole.

        Each passage is exactly `text[start:end]` of its document; the offsets, in characters, are
        in its meta.
        """
        for heading, start, text in _sections(document):
            for offset, chunk in self._split(heading, text, document.markup):
                begin = start + offset
                whole = chunk == document.text
                yield make_passage(document, heading, chunk, begin, whole)

    def _split(self, heading: str, text: str, markup: str) -> Iterator[tuple[int, str]]:
        above = self.splitter.count(f"{heading}\n") if heading else 0
        room = max(self.max_tokens - above - self.added, _SMALLEST_ROOM)
        # reST's paragraphs, lists and indented blocks are those of Markdown
        markdown = markup != "plain"
        return self.splitter.split(text, room, min(self.overlap, room - 1), markdown)


def make_passage(
    document: Document, heading: str, text: str, start: int = 0, whole: bool = True
) -> Passage:
    """Return the passage that is `text` of `document`, with an id that depends on nothing else.

    whole: it is all of the document, whose own id it then keeps
    """
    doc_id = _clean_id(document.doc_id or document.title or document.id)
    if document.id and whole:
        passage_id = document.id
    else:
        passage_id = f"{doc_id[:60] or 'doc'}-{sha256_text(heading, text)[:10]}"
    offsets = {} if whole else {"start": start, "end": start + len(text)}
    return Passage(passage_id, text, heading, doc_id, {**document.meta, **offsets})


def as_passages(documents: Iterable[Document]) -> Iterator[tuple[str, Passage]]:
    """Yield (where it was read, passage) with every document taken whole."""
    for document in documents:
        yield document.where, make_passage(document, document.heading, document.text)


def _sections(document: Document) -> Iterator[tuple[str, int, str]]:
    """Yield (heading path, offset, text) of the parts between headings."""
    text = document.text
    found = list(_HEADINGS[document.markup](text))
    path: list[tuple[int, str]] = [(0, document.heading)] if document.heading else []
    ends = [*(heading.start for heading in found), len(text)]
    yield from _stripped(_join(path), 0, text[: ends[0]])
    for heading, (_, end) in zip(found, pairwise(ends), strict=True):
        own = document.named_by_file or heading.name.casefold() == document.heading.casefold()
        if heading.level == 1 and own and [depth for depth, _ in path] == [0]:
            path = []  # the page's own heading says more than its file name, or the same
        path = [(depth, name) for depth, name in path if depth < heading.level]
        path.append((heading.level, heading.name))
        yield from _stripped(_join(path), heading.end, text[heading.end : end])


class _Heading(NamedTuple):
    start: int
    end: int
    level: int
    name: str


def _no_headings(_: str) -> Iterator[_Heading]:
    return iter(())


def _markdown_headings(text: str) -> Iterator[_Heading]:
    fences = _FENCE.finditer(text)
    fence = next(fences, None)
    for m in _HEADING.finditer(text):
        while fence and fence.end() <= m.start():
            fence = next(fences, None)
        if not fence or m.start() < fence.start():
            yield _Heading(m.start(), m.end(), len(m[1]), m[2])


def _rst_headings(text: str) -> Iterator[_Heading]:
    """Yield the section titles of reStructuredText, whose levels are the order of their styles.

    Source: docutils' specification of sections: a line under the title, or one above and one under
    it, of one punctuation character, at least as long as the title.
    """
    styles: list[tuple[str, bool]] = []
    for m in _RST_TITLE.finditer(text):
        over, title, under = m["over"] or "", m["title"].strip(), m["under"]
        if len(under) < len(title) or (over and over != under) or not title:
            continue
        style = (under[0], bool(over))
        if style not in styles:
            styles.append(style)
        yield _Heading(m.start(), m.end(), styles.index(style) + 1, title)


_HEADINGS: Mapping[str, Callable[[str], Iterator[_Heading]]] = {
    "plain": _no_headings,
    "markdown": _markdown_headings,
    "rst": _rst_headings,
}


def _stripped(heading: str, start: int, text: str) -> Iterator[tuple[str, int, str]]:
    body = text.strip()
    if body:
        yield heading, start + text.index(body), body


def _join(path: list[tuple[int, str]]) -> str:
    return " > ".join(name for _, name in path)


def _clean_id(name: str) -> str:
    """Return a name as an id: NFC, white space replaced (TREC files are split at it)."""
    return re.sub(r"\s+", "-", unicodedata.normalize("NFC", name).strip())
