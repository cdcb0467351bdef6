"""The `heuristic` teacher's questions from a page's structure: headings, FAQs, lists."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ragkit.qa.heuristic import page, topic, verbs, wording
from ragkit.qa.heuristic import patterns as grammar
from ragkit.qa.heuristic.markup import has_markup, offsets
from ragkit.qa.heuristic.page import Block, Draft, Passage

MAX_LIST_CHARS = 700
APPARATUS = re.compile(
    r"(?:copyright|references?|acknowledge?ments?|footnotes?|links|licen[cs]e|thanks|credits|"
    r"authors?|acceptance|pep acceptance|version history|change ?log|change history|"
    r"discussions?(?: and .*)?|see also|"
    r"further reading|table of contents|recorded talks|podcasts.*|articles|tutorials|books|"
    r"resources|bibliography|contact)"
)
# What a section is about whose heading says nothing without the document's title.
_ABOUT_DOCUMENT = {
    "abstract": "What is {quoted} about?",
    "overview": "What is {quoted} about?",
    "introduction": "What is {quoted} about?",
    "motivation": "What is the motivation for {}?",
    "rationale": "What is the rationale for {}?",
    "goals": "What are the goals of {}?",
    "background": "What is the background of {}?",
    "limitations": "What are the limitations of {}?",
    "requirements": "What are the requirements of {}?",
    "prerequisites": "What are the prerequisites for {}?",
    "backwards compatibility": "How {does} {} affect backwards compatibility?",
    "backward compatibility": "How {does} {} affect backward compatibility?",
    "security implications": "What are the security implications of {}?",
    "security considerations": "What are the security considerations for {}?",
    "performance implications": "How {does} {} affect performance?",
    "performance": "How {does} {} affect performance?",
    "how to teach this": "How should {} be taught?",
}
_NO_PROCEDURE = re.compile(
    r"reject|alternative|open (?:issue|question)|defer|discuss|motivation|rationale|histor|"
    r"background|consider|appendix|future|comparison|learning|recap|interview|survey|proposal",
    re.IGNORECASE,
)
_REPORTED = re.compile(
    r"\b(?:[Ww]e (?:considered|decided|chose|rejected)|was (?:considered|rejected|proposed|"
    r"suggested)|"
    r"were (?:considered|rejected)|(?:would|could) have|rejected|[Tt]his PEP|[Tt]his proposal)\b"
)
_INSTRUCTS = re.compile(
    r"\bTo [a-z]+ |\b[Yy]ou (?:can|should|must|may|need|will|have)\b|\bby \w+ing\b|\b[Uu]se\b"
)
_IS = re.compile(
    r"(s|es)? (is|are|was|were) (?=(?:an?|the|one|any)\b|"
    r"(?:[\w-]+ ){1,3}(?:that|which|of|for|in|to|with|from|between|consisting)\b)"
)
_NO_OPENING = re.compile(
    r"(?:It|They|He|She|However|But|Also|Similarly|Likewise|Additionally|Moreover|Furthermore|"
    r"Therefore|Thus|Hence|Otherwise|Instead|Sorry|Certainly|See|This (?:section|chapter|page)|"
    r"The (?:second|other|latter|former|first|third|next|last) (?:is|was|one|of)|That is|"
    r"This\s+(?:is|was|works|means|can|could|would|will|has|makes|"
    r"allows|leads|causes|also|seems|might|may|includes)|These are|Below|"
    r"(?:The )?[Ff]ollowing|Another|For example|For instance|In (?:addition|contrast|particular)|"
    r"As "
    r"(?:noted|mentioned|discussed|described|explained|stated|above))\b"
)


def from_headings(passage: Passage) -> Iterator[Draft]:
    blocks = passage.blocks
    titled = passage.section and blocks and blocks[0].kind != "heading"
    if titled and _begins(passage):
        yield from _about_heading(passage.section, 0, passage)
    for number, block in enumerate(blocks):
        if block.kind == "heading":
            yield from _about_heading(block.text.words, number + 1, passage)
        elif block.kind in ("text", "item"):
            found = page.sentences(block.text)
            for question, answer in zip(found, found[1:], strict=False):
                if (
                    page.is_question(question.words)
                    and page.whole(answer.words)
                    and not _NO_OPENING.match(answer.words)
                ):
                    yield Draft(_as_asked(question.words), *offsets(answer), "heading", 0, True)


def _begins(passage: Passage) -> bool:
    """Tell whether the passage begins its section: a later piece does not answer the heading."""
    section, first = passage.section, passage.blocks[0]
    if section.lower() in _ABOUT_DOCUMENT:
        return True
    if passage.section != passage.document and _run(passage.blocks, 0):
        return True
    opening = first.text.words
    instructs = _commands(opening) or _INSTRUCTS.search(opening[:300])
    if passage.section != passage.document and instructs:
        return True
    told = page.is_question(section) or not (
        grammar.base_of_gerund(section) or grammar.imperative(section)
    )
    return _about(section, opening, 0.5 if told else 0.9)


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
    opening = passage.blocks[body].text.words
    if page.is_question(words):
        kind = "procedure" if steps and words.startswith("How") else "heading"
        yield Draft(_as_asked(words), *span, kind, 1.0, True)
    elif not passage.blocks or APPARATUS.fullmatch(words.lower()):
        return
    elif asked := _ABOUT_DOCUMENT.get(words.lower()):
        span = _opening(passage, body)
        if not span:
            return  # a list in the middle of the section
        document = topic.subject(passage.document)
        if document and words != passage.document:
            many = not document.startswith('"') and grammar.is_plural(document)
            does = (
                "do"
                if many and " " in document and not document.split()[0].endswith("ing")
                else "does"
            )
            question = asked.format(document, does=does, quoted=topic.quoted(passage.document))
            yield Draft(question, *span, "heading", 0.5)
    elif question := _heading_question(words, opening, bool(steps), passage):
        kind = "list" if steps else "heading"
        kind = "procedure" if steps and question.startswith("How") else kind
        yield Draft(question, *span, kind, 0.5)
    elif words.count(" ") and _about(words, opening) and passage.topic:
        name = wording.lowered(words, passage)
        if re.fullmatch(r"[\w’'/ .()-]{3,60}", words) and words != passage.document:
            yield Draft(f"What is said about {name} {passage.topic}?", *span, "heading", -5.0)


def _heading_question(words: str, opening: str, listed: bool, passage: Passage) -> str:
    words = words.rstrip("?.!")
    if match := re.match(r"How (?:to|do you) (.+)", words):
        return f"How do I {wording.as_asker(match[1])}?"
    if match := re.match(r"(When|Where|What) to (\w+)(.*)", words):
        aux = "can" if match[1] == "Where" else "should"
        return f"{match[1]} {aux} I {match[2]}{wording.as_asker(match[3])}?"
    told = not any(_NO_PROCEDURE.search(part) for part in passage.path[:-1])
    told = told and not _REPORTED.search(opening[:400])
    told = told and not re.match(r"Introduc|Recommend|Understand|Announc|Explor|Conclud", words)
    if (
        (done := grammar.base_of_gerund(words))
        and told
        and (listed or _commands(opening) or _is_done(words, done, passage))
    ):
        return f"How do I {wording.as_asker(done)}?"
    if grammar.imperative(words) and told:
        return f"How do I {wording.as_asker(words[0].lower() + words[1:])}?"
    name = wording.lowered(words, passage)
    if words.lower() in wording.GENERIC_HEADINGS or not re.fullmatch(r"[\w’'/ .-]{3,60}", words):
        return ""
    told = _about(words, opening, 0.3) and not re.search(r"(?:types|methods|options)$", words, re.I)
    if (listed or told) and re.search(
        r"(?:requirements|limits|limitations|types|options|benefits|fees|features|"
        r"prerequisites|rules|guidelines|policies|methods)$",
        words,
        re.IGNORECASE,
    ):
        return f"What are the {name}?"
    start = opening[: len(words) + 20].lower()
    for article in ("", "a ", "an ", "the "):
        after = len(article) + len(words)
        if start.startswith(article + words.lower()) and (match := _IS.match(opening, after)):
            return f"What {match[2]} {article}{name}{match[1] or ''}?"
    return ""


def _commands(opening: str) -> bool:
    return opening.split(" ", 1)[0].lower() in verbs.BASES


def _is_done(heading: str, command: str, passage: Passage) -> bool:
    """Tell "Creating campaigns" from "Closing words": the text, too, uses the verb."""
    verb, _, rest = command.partition(" ")
    gerund = heading.split(" ", 1)[0].lower()
    first = rest.split(" ", 1)[0]
    named = first.lower() in grammar.DETERMINERS or not (first.islower() or first.istitle())
    return named or bool({verb, gerund, gerund[:-3] + "ed", verb + "d"} & passage.lowercase)


def _about(section: str, opening: str, share: float = 0.5) -> bool:
    """Tell whether a text's first words share this part of the content words of its title."""
    title = {wording.stem(word) for word in wording.content(section.replace("-", " "))}
    opening = opening[:200].replace("-", " ")
    shared = title & {wording.stem(word) for word in wording.content(opening)}
    return bool(title) and len(shared) >= share * len(title)


def _opening(passage: Passage, number: int) -> tuple[int, int] | None:
    """Return the span of a section's first sentences."""
    blocks = passage.blocks
    if number >= len(blocks) or blocks[number].kind != "text":
        return None
    first = blocks[number].text
    whole = [s for s in page.sentences(first) if s.words[-1] in '.!?:)”"']
    if not whole or first.words[0].islower() or page.is_question(whole[0].words):
        return None
    if _NO_OPENING.match(whole[0].words) or (len(whole) < 2 and len(whole[0].words) < 30):
        return None
    if whole[-1].words[-1] == ":" and (listed := _run(blocks, number + 1)) and len(whole) < 3:
        return whole[0].at[0], listed[1]
    end = whole[0].at[-1]
    for sentence in whole[1:3]:
        marked = has_markup(passage.text[first.at[0] : sentence.at[-1] + 1])
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
            if kind == "procedure" and not _instructs(blocks[number + 1]):
                continue
            yield Draft(question, *span, kind)


def _instructs(block: Block) -> bool:
    return block.kind == "step" or _commands(block.text.words)


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
