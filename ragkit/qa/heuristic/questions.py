"""The `heuristic` teacher: questions and answers from a passage, by rules, with no model at all.

Every answer is a span of the passage, and nothing is better than nonsense. Rules propose drafts;
this module words them to stand alone, drops what `refusals` refuses, and picks the best. The rest,
from the bottom up: `markup` and `lines` leave words and prose, `page` finds blocks and sentences,
`verbs` and `patterns` clauses, `wording` and `topic` word questions; `sections` asks about
headings and lists, `tables` about cells, `rules` and `cloze` about sentences. Checking questions
against the corpus is left to the filters.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ragkit.qa.heuristic import cloze, page, refusals, rules, sections, tables, topic, wording
from ragkit.qa.heuristic import patterns as grammar
from ragkit.qa.heuristic.markup import flatten, whole_code
from ragkit.qa.heuristic.page import Draft, Passage

MAX_GAPS = 1  # "Complete: ..." questions of a passage that gives nothing better

_WORTH = {
    "heading": 10.0,
    "procedure": 9.5,
    "table": 9.0,
    "definition": 8.5,
    "number": 7.5,
    "list": 7.0,
    "condition": 6.5,
    "cloze": 4.0,
}
_LEAST_OF_CLOZE = 3  # words that carry meaning: "What do labels create?" is no question
_REPEAT_COST = 2.5  # of each earlier pair of the same kind, so that kinds vary

_FILLER = re.compile(r"\b(?:also|then|therefore|thus|however|simply|furthermore|even) ")
# The splitter of sentences takes no lower-case name, such as one in code, for a beginning.
_NEXT_SENTENCE = re.compile(
    r"(?<=[a-z`)\"'])(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)(?<!cf)\.\s+(?=[`:_A-Z(])"
)
_REQUIREMENT = re.compile(r"\b(?:MUST|SHOULD|SHALL|MAY|NOT|REQUIRED|RECOMMENDED|OPTIONAL)\b")


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and the span of the passage that answers it."""

    question: str
    answer: str
    start: int
    end: int
    kind: str


def generate(title: str, text: str, n: int, seed: int = 0) -> list[Pair]:
    """Make at most n question-answer pairs from one passage, the best first and varied in kind.

    Args:
        title: "", a title, or a heading path "Document > Section".
        text: the passage; of a very long one the first 20,000 characters are read.
        n: how many pairs at most; noise and other languages give fewer, down to none.
        seed: breaks ties between equally good questions.
    """
    if n <= 0 or not text.strip():
        return []
    passage = _read(title, text)
    drafts = [
        draft
        for draft in (_polished(d, passage) for d in _drafts(passage))
        if refusals.acceptable(draft, text)
    ]
    if not drafts and not sections.APPARATUS.fullmatch(passage.section.lower()):
        drafts = [draft for draft in cloze.gaps(passage) if refusals.acceptable(draft, text)]
        n = min(n, MAX_GAPS)
    return [
        Pair(draft.question, text[draft.start : draft.end], draft.start, draft.end, draft.kind)
        for draft in _choose(drafts, text, n, seed)
    ]


def _read(title: str, text: str) -> Passage:
    parts = [part.strip() for part in re.split(r"\s+>\s+", title[:400]) if part.strip()]
    path = tuple(flatten(part, 0, len(part)).words for part in parts)
    lowercase = frozenset(
        re.findall(r"(?<![\w`./:-])[a-z]+(?![\w`/:-]|\.\w)", text[: page.MAX_CHARS])
    )
    names = frozenset(re.findall(r"(?<=[a-z,] )[A-Z][\w-]*", text[: page.MAX_CHARS]))
    of_document = topic.of_title(path[0]) if path else ""
    return Passage(text, page.blocks(text), of_document, path, lowercase, names)


def _drafts(passage: Passage) -> Iterator[Draft]:
    if sections.APPARATUS.fullmatch(passage.section.lower()):
        return
    yield from sections.from_headings(passage)
    yield from sections.from_lists(passage)
    yield from tables.from_rows(passage)
    for block in passage.blocks:
        if block.kind in ("text", "item", "step"):
            yield from rules.from_term(block, passage)
            if not grammar.is_english(block.text.words):
                continue
            for sentence in page.sentences(block.text):
                if page.whole(sentence.words):
                    yield from rules.from_sentence(sentence, passage)


def _polished(draft: Draft, passage: Passage) -> Draft:
    """Word our own questions as the reader would, name the topic, and mend the answer's edges."""
    text = passage.text
    start, end = whole_code(text, draft.start, draft.end)
    if draft.kind in ("cloze", "definition", "number", "condition") and (
        later := _NEXT_SENTENCE.search(text, start, end)
    ):
        end = later.start() + (draft.kind == "condition")
    end -= len(text[start:end]) - len(text[start:end].rstrip(" ,;:\n"))
    question = " ".join(draft.question.split())
    if draft.as_written:
        question = topic.as_asked(question, passage)
    elif question:
        question = wording.as_asker(_FILLER.sub("", wording.meaning(question)))
        question = _REQUIREMENT.sub(lambda m: m[0].lower(), question)
        poor = draft.kind == "cloze" and passage.path and topic.weight(question) < _LEAST_OF_CLOZE
        question = "" if poor or refusals.is_debris(question) else topic.anchored(question, passage)
    return replace(draft, question=question, start=start, end=end)


def _choose(drafts: list[Draft], text: str, n: int, seed: int) -> list[Draft]:
    """Take the worthiest, each kind worth less the more often it was taken."""
    rng = random.Random(seed)
    worth = [(_WORTH[d.kind] + d.bonus + 0.1 * rng.random(), d) for d in drafts]
    chosen: list[Draft] = []
    taken: Counter[str] = Counter()
    questions: set[str] = set()
    spans: set[tuple[int, int]] = set()
    facts: list[set[str]] = []
    while worth and len(chosen) < n:
        best = max(worth, key=lambda pair: pair[0] - _REPEAT_COST * taken[pair[1].kind])
        worth.remove(best)
        draft = best[1]
        if refusals.flat(draft.question) in questions or (draft.start, draft.end) in spans:
            continue
        fact = wording.content(f"{draft.question} {text[draft.start : draft.end]}")
        if any(len(fact & other) > 0.65 * len(fact | other) for other in facts):
            continue
        chosen.append(draft)
        facts.append(fact)
        taken[draft.kind] += 1
        questions.add(refusals.flat(draft.question))
        spans.add((draft.start, draft.end))
    return chosen
