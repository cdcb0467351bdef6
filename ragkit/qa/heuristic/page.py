"""A page's structure for the `heuristic` teacher: blocks and sentences that know their offsets.

Turns raw text (Markdown, reST, HTML remains, bare help-centre lines) into headings, paragraphs,
list items, steps and table rows. Their words are free of markup, and each character of them knows
its offset in the raw text. What the words mean is left to `patterns`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CHARS = 20_000  # of a passage; what lies beyond is not read, so that time stays bounded

QUESTION_START = re.compile(
    r"(?:How|What|What['’]s|Which|Who|Whose|When|Where|Why|Can|Could|Do|Does|Did|Is|Are|Was|Were|"
    r"Will|Would|Should|May|Must|Has|Have|Am)\b"
)
_MARKUP = re.compile(
    r"(?P<code>`[^`\n]{1,120}`)"
    r"|!?\[(?=[^\[\]]{1,200}\][(\[])|\](?:\([^)\s]{0,500}\)|\[[^\]\s]{0,80}\])"
    r"|<!--.{0,500}?-->|</?[a-zA-Z][^<>\n]{0,200}>"
    r"|\s?\[\d{1,3}(?:\s?[,–-]\s?\d{1,3}){0,12}\]|\s?\([^()]{0,120}et al[^()]{0,120}\)"
    r"|(?<=\S)\*{1,3}|\*{1,3}(?=\S)|`+|(?<!\w)__?(?=[A-Za-z])|(?<=[a-z.])__?(?!\w)"
    r"|(?P<space>\s+)|[\u200b-\u200f\u2060\ufeff]+",
    re.DOTALL,
)
_SENTENCE_END = re.compile(r"[.!?][\"”’')\]]*\s+(?=[\"“'(\[]?[A-Z0-9])")
_ABBREVIATED = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|al|Figs?|Eqs?|Dr|Mr|Mrs|Ms|No|St|approx|cf|spp?|Inc|Ltd|Ref|Tab)"
    r"|\b[A-Z])\.$"
)
_OPENER = re.compile(r"(?:The|This|These|We|It|In|If|You|When|For|A|An|As|To|Our|There|They)\b")
_LEFTOVER = re.compile(
    r"\]\(|\]\[|</?[a-zA-Z][^<>]*>|\*\*|`{3}|\||^#|\n#|https?://\S*$|&[a-z]{2,6};|\{\{|(?<!\w)_\w+_(?!\w)"
)
_HEADING = re.compile(r"\s{0,3}#{1,6}\s+")
_MARKER = re.compile(r"\s{0,12}(?:(?P<number>\(?\d{1,2}[.)]|Step \d{1,2}\s?[:.–-])|[-*+•●◦‣▪–])\s+")
_CONTROL = re.compile(
    r"(?:Select|Click|Tap|Go|Navigate|Enter|Choose|Press|Fill|Scroll|Open|Toggle|Log|Check|Visit|View|"
    r"Head|Hit|Type|Follow|See|Note|Learn)\b"
)
_RULE = re.compile(r"\s*[-=~^_*#|:+ ]{3,}\s*$")
_INLINE_BREAK = re.compile(r"[^\S\n]{2,}(?=[A-Z“])")


@dataclass(frozen=True, slots=True)
class Text:
    """Words without markup; `at[i]` is the offset in the passage of character i."""

    words: str
    at: tuple[int, ...]

    def cut(self, start: int, end: int) -> Text:
        """Return the words from start to end, outer blanks dropped."""
        piece = self.words[start:end]
        start += len(piece) - len(piece.lstrip())
        end -= len(piece) - len(piece.rstrip())
        return Text(self.words[start:end], self.at[start:end])


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
    section: str
    document: str
    lowercase: frozenset[str]  # words seen without a capital
    names: frozenset[str]  # words seen with one inside a sentence


def flatten(raw: str, start: int, end: int) -> Text:
    """Return raw[start:end] without markup, its blanks collapsed."""
    words: list[str] = []
    at: list[int] = []

    def keep(i: int, j: int) -> None:
        words.append(raw[i:j])
        at.extend(range(i, j))

    position = start
    for match in _MARKUP.finditer(raw, start, end):
        keep(position, match.start())
        if match["code"]:
            keep(match.start() + 1, match.end() - 1)
        elif match["space"]:
            words.append(" ")
            at.append(match.start())
        position = match.end()
    keep(position, end)
    return Text("".join(words), tuple(at)).cut(0, len(at))


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
    found: list[tuple[Block, int]] = []
    tail: Block | None = None
    fenced, gap, spans = False, True, _lines(raw[:MAX_CHARS])
    widest = max((end - start for start, end in spans), default=0)
    for number, (start, end) in enumerate(spans):
        line = raw[start:end]
        following = raw[slice(*spans[number + 1])] if number + 1 < len(spans) else ""
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        if fenced or not line.strip() or _RULE.match(line) or line.lstrip().startswith("```"):
            gap = True
            continue
        if re.match(r" {4}|\t", line) and gap and not _MARKER.match(line):
            continue
        block = _block(raw, start, end, following, gap)
        if not block.text.words:
            continue
        if tail and not gap and _wrapped(found[-1][0], tail, block, raw, widest):
            found[-1] = (found[-1][0], end)
        else:
            found.append((block, end))
        tail, gap = block, block.kind == "heading"
    whole_blocks = [
        block
        if block.text.at[-1] + 1 >= end or block.kind in ("row", "heading")
        else Block(block.kind, flatten(raw, block.text.at[0], end), (), block.gap)
        for block, end in found
    ]
    return _bare_headings([block for block in whole_blocks if block.text.words])


def _lines(raw: str) -> list[tuple[int, int]]:
    spans = []
    start = 0
    for line in raw.split("\n"):
        end, begin = start + len(line), start
        if "|" not in line:
            for match in _INLINE_BREAK.finditer(raw, start, end):
                if raw[begin : match.start()].strip():
                    spans.append((begin, match.start()))
                    begin = match.end()
        spans.append((begin, end))
        start = end + 1
    return spans


def _block(raw: str, start: int, end: int, following: str, gap: bool) -> Block:
    line = raw[start:end]
    if match := _HEADING.match(line):
        return Block("heading", flatten(raw, start + match.end(), end), (), True)
    if re.fullmatch(r"\s*([=\-~^])\1{2,}\s*", following) and len(following) > len(line) * 0.6:
        return Block("heading", flatten(raw, start, end), (), True)
    if line.count("|") > 1 or ("|" in line and "|" in following):
        cells, position = [], start
        for part in line.split("|"):
            cells.append(flatten(raw, position, position + len(part)))
            position += len(part) + 1
        inner = cells[not cells[0].words : len(cells) - (not cells[-1].words)]
        return Block("row", flatten(raw, start, end), tuple(inner), gap)
    if match := _MARKER.match(line):
        kind = "step" if match["number"] else "item"
        return Block(kind, flatten(raw, start + match.end(), end), (), gap)
    if re.fullmatch(r"\s*\*\*[^*]{3,120}\*\*:?\s*", line):
        return Block("heading", flatten(raw, start, end), (), True)
    return Block("text", flatten(raw, start, end), (), gap)


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


def has_markup(raw: str) -> bool:
    """Tell whether a span of the raw text would show markup or half of it."""
    return bool(
        _LEFTOVER.search(raw)
        or raw.count("[") != raw.count("]")
        or raw.count("`") % 2
        or len(re.findall(r"(?m)(?<!^)\*", raw)) % 2
    )


def span(text: Text) -> tuple[int, int]:
    """Return start and end of the text in the passage."""
    return (text.at[0], text.at[-1] + 1) if text.at else (0, 0)


def whole(words: str) -> bool:
    """Tell whether the words are a complete sentence of prose."""
    letters = sum(c.isalpha() or c == " " for c in words)
    return (
        20 <= len(words) <= 500
        and (words[0].isupper() or words[0].isdigit() or words[0] in "\"“'(¿")
        and words.rstrip("\"”’')")[-1:] in (".", "!", "。")
        and letters > 0.75 * len(words)
    )
