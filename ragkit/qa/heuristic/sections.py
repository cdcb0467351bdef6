"""The `heuristic` teacher's questions from a page's structure: headings, FAQs, lists, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ragkit.qa.heuristic import page, wording
from ragkit.qa.heuristic import patterns as grammar
from ragkit.qa.heuristic.page import Block, Draft, Passage

MAX_LIST_CHARS = 700


def from_headings(passage: Passage) -> Iterator[Draft]:
    blocks = passage.blocks
    titled = passage.section and blocks and blocks[0].kind != "heading"
    if titled and (passage.section != passage.document or _about(passage.section, blocks[0])):
        yield from _about_heading(passage.section, 0, passage)
    for number, block in enumerate(blocks):
        if block.kind == "heading":
            yield from _about_heading(block.text.words, number + 1, passage)
        elif block.kind in ("text", "item"):
            found = page.sentences(block.text)
            for question, answer in zip(found, found[1:], strict=False):
                if page.is_question(question.words) and page.whole(answer.words):
                    yield Draft(_as_asked(question.words), *page.span(answer), "heading", 0, True)


def _as_asked(question: str) -> str:
    if match := re.match(r"How to (.+)", question):
        return f"How do I {match[1]}"
    return question


def _about_heading(heading: str, body: int, passage: Passage) -> Iterator[Draft]:
    words = re.sub(r"^(?:\d+(?:\.\d+)*[.)]?|Step \d+:?)\s+", "", heading).strip(" :*")
    steps = _run(passage.blocks, body)
    span = steps or _opening(passage, body)
    if not span or not words:
        return
    if page.is_question(words):
        kind = "procedure" if steps and words.startswith("How") else "heading"
        yield Draft(_as_asked(words), *span, kind, 1.0, True)
    elif question := _heading_question(words, passage.blocks[body].text.words, passage):
        kind = "list" if steps else "heading"
        kind = "procedure" if steps and question.startswith("How") else kind
        yield Draft(wording.clear(question, words, passage), *span, kind, 0.5)


def _heading_question(words: str, opening: str, passage: Passage) -> str:
    words = words.rstrip("?.!")
    if match := re.match(r"How (?:to|do you) (.+)", words):
        return f"How do I {wording.as_asker(match[1])}?"
    if match := re.match(r"(When|Where|What) to (\w+)(.*)", words):
        aux = "can" if match[1] == "Where" else "should"
        return f"{match[1]} {aux} I {match[2]}{wording.as_asker(match[3])}?"
    if done := grammar.base_of_gerund(words):
        return f"How do I {wording.as_asker(done)}?"
    if grammar.imperative(words):
        return f"How do I {wording.as_asker(words[0].lower() + words[1:])}?"
    name = wording.lowered(words, passage)
    if words.lower() in wording.GENERIC_HEADINGS or not re.fullmatch(r"[\w’'/ .-]{3,60}", words):
        return ""
    if re.search(
        r"(?:requirements|limits|limitations|types|options|benefits|fees|features|"
        r"prerequisites|rules|guidelines|policies|methods)$",
        words,
        re.IGNORECASE,
    ):
        return f"What are the {name}?"
    match = re.match(rf"(An? |The )?{re.escape(words)}(s|es)? (is|are|was|were)\b", opening, re.I)
    if match:
        return f"What {match[3]} {(match[1] or '').lower()}{name}{match[2] or ''}?"
    if opening.lower().startswith(words.lower() + " ") and words.count(" ") < 5:
        return f"How {'do' if grammar.is_plural(words) else 'does'} {name} work?"
    return ""


def _about(section: str, block: Block) -> bool:
    """Tell whether the passage's first words share most content words with its title."""
    title = wording.content(section)
    return len(title) > 1 and len(title & wording.content(block.text.words[:200])) >= 0.6 * len(
        title
    )


def _opening(passage: Passage, number: int) -> tuple[int, int] | None:
    """Return the span of a section's first sentences."""
    blocks = passage.blocks
    if number >= len(blocks) or blocks[number].kind != "text":
        return None
    first = blocks[number].text
    whole = [s for s in page.sentences(first) if s.words[-1] in '.!?:)”"']
    if not whole or first.words[0].islower() or page.is_question(whole[0].words):
        return None
    if whole[-1].words[-1] == ":" and (listed := _run(blocks, number + 1)) and len(whole) < 3:
        return whole[0].at[0], listed[1]
    end = whole[0].at[-1]
    for sentence in whole[1:3]:
        marked = page.has_markup(passage.text[first.at[0] : sentence.at[-1] + 1])
        everything = passage.text[first.at[0] : sentence.at[-1] + 1] == passage.text.strip()
        if everything or marked or sentence.at[-1] - first.at[0] > 400 or sentence.words[-1] == ":":
            break
        end = sentence.at[-1]
    return (first.at[0], end + 1) if whole[0].words[-1] != ":" else None


def _run(blocks: list[Block], number: int) -> tuple[int, int] | None:
    """Return the span of two or more list items or commands, perhaps after a line ending in ":"."""
    if (
        number < len(blocks)
        and blocks[number].kind == "text"
        and blocks[number].text.words[-1] == ":"
    ):
        number += 1
    first = number
    while number < len(blocks) and _is_item(blocks[number], number == first, blocks[first]):
        if blocks[number].text.at[-1] - blocks[first].text.at[0] > MAX_LIST_CHARS:
            break
        number += 1
    if number - first < 2:
        return None
    return blocks[first].text.at[0], blocks[number - 1].text.at[-1] + 1


def _is_item(block: Block, is_first: bool, first: Block) -> bool:
    if block.kind in ("item", "step"):
        return is_first or block.kind == first.kind
    bare = block.kind == "text" and len(block.text.words) < 160
    return bare and first.kind == "text" and grammar.imperative(block.text.words)


def from_lists(passage: Passage) -> Iterator[Draft]:
    blocks = passage.blocks
    for number, block in enumerate(blocks[:-1]):
        if block.kind != "text" or block.text.words[-1] != ":":
            continue
        intro = page.sentences(block.text)[-1].words[:-1]
        span = _run(blocks, number + 1) or _bare_run(blocks, number + 1)
        question = _list_question(intro, passage)
        if span and question:
            kind = "procedure" if question.startswith("How do I") else "list"
            yield Draft(wording.clear(question, intro, passage), *span, kind)


def _bare_run(blocks: list[Block], number: int) -> tuple[int, int] | None:
    """Return the span of short lines of one shape that follow a line ending in ":"."""
    first, gap = number, number < len(blocks) and blocks[number].gap
    while number < len(blocks) and blocks[number].kind == "text":
        words = blocks[number].text.words
        odd = number > first + 1 and blocks[number].gap != gap
        if len(words) > 120 or words[-1] in ".?!:" or not words[0].isupper() or odd:
            break
        number += 1
    if not 2 <= number - first <= 12:
        return None
    return blocks[first].text.at[0], blocks[number - 1].text.at[-1] + 1


def _list_question(intro: str, passage: Passage) -> str:
    intro = re.sub(
        r"(?:,? ?(?:as follows|the following(?: \w+)?|by|these|below|based on))$", "", intro
    )
    if match := re.match(r"(?:To|In order to) ([^,]+)(?:$|, )", intro):
        return f"How do I {wording.as_asker(match[1])}?"
    if match := re.match(
        r"There are (?:\w+ ){1,2}?(ways|options|reasons|types|kinds|methods|cases) (.+)", intro
    ):
        return f"What are the {match[1]} {wording.as_asker(match[2])}?"
    found = grammar.clause(intro + " x")
    if not found:
        return ""
    subject, verb = wording.lowered(found.subject, passage), found.verb or ""
    if found.rest == "x" and found.auxiliary in ("can", "may", "must", "should", "cannot"):
        return f"What {found.auxiliary} {subject} do?"
    if found.rest == "x" and found.auxiliary not in ("has", "have", "had"):
        return f"What {found.auxiliary} {subject} {verb}".rstrip() + "?"
    return ""


def from_rows(passage: Passage) -> Iterator[Draft]:
    header: Block | None = None
    for block in passage.blocks:
        if block.kind != "row":
            header = None
        elif header is None or len(block.cells) != len(header.cells):
            named = all(re.fullmatch(r"\w[\w /-]{0,30}", cell.words) for cell in block.cells)
            header = block if named and len(block.cells) > 1 else None
        else:
            for name, cell in zip(header.cells[1:], block.cells[1:], strict=True):
                if (
                    0 < len(block.cells[0].words) < 60
                    and re.search(r"\w", cell.words)
                    and name.words
                ):
                    key = block.cells[0].words
                    if not re.search(r"[^\W\d_]", key):
                        key = f"{header.cells[0].words.lower()} {key}"
                    question = _cell_question(name.words.lower(), key)
                    yield Draft(
                        wording.clear(question, question, passage), *page.span(cell), "table"
                    )


def _cell_question(column: str, key: str) -> str:
    if column in ("meaning", "means", "definition"):
        return f"What does {key} mean?"
    if column in ("description", "explanation"):
        return (
            f"What is {key}?" if re.search(r"[_.-]|^[a-z]", key) else f"What does {key} describe?"
        )
    if column in ("purpose", "use", "usage"):
        return f"What is {key} used for?"
    if column == "type":
        return f"What type is {key}?"
    return f"What {'are' if grammar.is_plural(column) else 'is'} the {column} of {key}?"
