"""A page's structure for the `heuristic` teacher: blocks and sentences that know their offsets.

Turns raw text (Markdown, reST, HTML remains, bare help-centre lines) into headings, paragraphs,
list items, steps and table rows. Their words are free of markup, and each character of them knows
its offset in the raw text. What the words mean is left to `patterns`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ragkit.qa.heuristic import lines
from ragkit.qa.heuristic.markup import Text, flatten

MAX_CHARS = 20_000  # of a passage; what lies beyond is not read, so that time stays bounded

QUESTION_START = re.compile(
    r"(?:How|What|What['’]s|Which|Who|Whose|When|Where|Why|Can|Could|Do|Does|Did|Is|Are|Was|Were|"
    r"Will|Would|Should|May|Must|Has|Have|Am)\b"
)
_SENTENCE_END = re.compile(r"[.!?][\"”’')\]]*\s+(?=[\"“'(\[]?[A-Z0-9])")
_ABBREVIATED = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|al|Figs?|Eqs?|Dr|Mr|Mrs|Ms|No|St|approx|cf|spp?|Inc|Ltd|Ref|Tab)"
    r"|\b[A-Z])\.$"
)
_OPENER = re.compile(r"(?:The|This|These|We|It|In|If|You|When|For|A|An|As|To|Our|There|They)\b")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s+")
_MARKER = re.compile(r"\s{0,12}(?:(?P<number>\(?\d{1,2}[.)]|Step \d{1,2}\s?[:.–-])|[-*+•●◦‣▪–])\s+")
_CONTROL = re.compile(
    r"(?:Select|Click|Tap|Go|Navigate|Enter|Choose|Press|Fill|Scroll|Open|Toggle|Log|Check|Visit|"
    r"View|"
    r"Head|Hit|Type|Follow|See|Note|Learn)\b"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A heading, paragraph ("text"), list "item", numbered "step" or table "row" (with cells)."""

    kind: str
    text: Text
    cells: tuple[Text, ...] = ()
    gap: bool = False  # a blank line comes before


@dataclass(frozen=True, slots=True)
class Draft:
    """A question that a rule proposes, with the offsets of its answer in the raw text."""

    question: str
    start: int
    end: int
    kind: str
    bonus: float = 0.0
    as_written: bool = False  # a question of the author's: not held to the rules for ours


@dataclass(frozen=True, slots=True)
class Passage:
    """What the rules may know of a passage beyond the sentence at hand."""

    text: str
    blocks: list[Block]
    topic: str  # "in Native Histograms", "on the B200", "when creating a campaign" or ""
    path: tuple[str, ...]  # of headings: the document's title first
    lowercase: frozenset[str]  # words seen without a capital
    names: frozenset[str]  # words seen with one inside a sentence

    @property
    def document(self) -> str:
        """Its title, or ""."""
        return self.path[0] if self.path else ""

    @property
    def section(self) -> str:
        """The heading under which the passage stands; the document's title where there is none."""
        return self.path[-1] if self.path else ""


def sentences(text: Text) -> list[Text]:
    """Split a block into sentences; the last may be unfinished."""
    found, start = [], 0
    for match in _SENTENCE_END.finditer(text.words):
        clear = _OPENER.match(text.words, match.end())
        if not clear and _ABBREVIATED.search(
            text.words, max(start, match.start() - 8), match.start() + 1
        ):
            continue
        found.append(text.cut(start, match.end()))
        start = match.end()
    found.append(text.cut(start, len(text.words)))
    return [sentence for sentence in found if sentence.words]


def blocks(raw: str) -> list[Block]:
    """Read headings, paragraphs, items, steps and table rows; code is left out."""
    raw = raw[:MAX_CHARS]
    found: list[tuple[Block, int, int]] = []  # and where its text begins and ends
    tail: Block | None = None
    after_heading = False
    spans = list(lines.prose(raw))
    widest = max((len(line) for line in raw.split("\n")), default=0)
    for start, end, gap in spans:
        gap = gap or after_heading
        following = raw[end + 1 : raw.find("\n", end + 1) if "\n" in raw[end + 1 :] else len(raw)]
        block, begin = _block(raw, start, end, following, gap)
        if not block.text.words:
            continue
        if tail and not gap and _wrapped(found[-1][0], tail, block, raw, widest):
            found[-1] = (*found[-1][:2], end)
        else:
            found.append((block, begin, end))
        tail, after_heading = block, block.kind == "heading"
    whole_blocks = [
        block
        if block.text.at[-1] + 1 >= end or block.kind in ("row", "heading")
        else Block(block.kind, flatten(raw, begin, end), (), block.gap)
        for block, begin, end in found
    ]
    return _bare_headings([block for block in whole_blocks if block.text.words])


def _block(raw: str, start: int, end: int, following: str, gap: bool) -> tuple[Block, int]:
    """Return the block that a line begins, and the offset at which its text does."""
    line = raw[start:end]
    if match := _HEADING.match(line):
        return Block("heading", flatten(raw, start + match.end(), end), (), True), start
    if re.fullmatch(r"\s*([=\-~^])\1{2,}\s*", following) and len(following) > len(line) * 0.6:
        return Block("heading", flatten(raw, start, end), (), True), start
    if line.count("|") > 1 or ("|" in line and "|" in following):
        cells, position = [], start
        for part in line.split("|"):
            cells.append(flatten(raw, position, position + len(part)))
            position += len(part) + 1
        inner = cells[not cells[0].words : len(cells) - (not cells[-1].words)]
        return Block("row", flatten(raw, start, end), tuple(inner), gap), start
    if match := _MARKER.match(line):
        kind = "step" if match["number"] else "item"
        begin = start + match.end()
        return Block(kind, flatten(raw, begin, end), (), gap), begin
    if re.fullmatch(r"\s*\*\*[^*]{3,120}\*\*:?\s*", line):
        return Block("heading", flatten(raw, start, end), (), True), start
    return Block("text", flatten(raw, start, end), (), gap), start


def _wrapped(last: Block, tail: Block, block: Block, raw: str, widest: int) -> bool:
    """Tell whether a line goes on with the paragraph or item of the line before."""
    if block.kind != "text" or last.kind in ("heading", "row"):
        return False
    before = tail.text.words
    if QUESTION_START.match(before) and before.endswith("?") and len(before) < 100:
        return False
    if block.text.words[0].islower() or before[-1] == ",":
        return True
    line_start = raw.rfind("\n", 0, tail.text.at[-1]) + 1
    length = tail.text.at[-1] + 1 - line_start
    first = len(block.text.words.split(" ", 1)[0])
    return length >= 55 and widest <= 130 and length + first + 1 > min(widest, 80) - 4


def _bare_headings(found: list[Block]) -> list[Block]:
    """Mark short unpunctuated lines that introduce text, and lines that are questions."""
    marked: list[Block] = []
    for number, block in enumerate(found):
        words = block.text.words
        short = len(words) <= 80 and 2 <= words.count(" ") + 1 <= 10
        after = found[number + 1].text.words if number + 1 < len(found) else ""
        listed = bool(marked) and not block.gap and marked[-1].text.words[-1:] == ":"
        title = (
            short
            and not listed
            and words[0].isupper()
            and words[-1] not in ".!;,:…*)"
            and (len(after) > 60 and after[:1].isupper())
            and (not marked or block.gap or marked[-1].text.words[-1] in ".!?")
        )
        title = title and not _CONTROL.match(words)
        if block.kind == "text" and (title or (len(words) < 120 and is_question(words))):
            block = Block("heading", block.text, (), True)
        marked.append(block)
    return marked


def is_question(words: str) -> bool:
    """Tell whether the words are one question, as FAQ lines are."""
    return (
        bool(QUESTION_START.match(words))
        and words.endswith("?")
        and words.count("?") == 1
        and (
            words.count(" ") >= 2 and not words.startswith(("Did you know", "Have ", "Are you a "))
        )
    )


def whole(words: str) -> bool:
    """Tell whether the words are a complete sentence of prose."""
    letters = sum(map(str.isalpha, words)) + words.count(" ")
    return (
        20 <= len(words) <= 500
        and (words[0].isupper() or words[0].isdigit() or words[0] in "\"“'(¿")
        and words.rstrip("\"”’')")[-1:] in (".", "!", "。")
        and letters > 0.75 * len(words)
    )
