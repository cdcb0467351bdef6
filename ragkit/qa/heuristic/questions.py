"""The `heuristic` teacher: questions and answers from a passage, by rules, with no model at all.

Every answer is a span of the passage, and nothing is better than nonsense. Rules propose drafts;
this module refuses the poor ones and picks the best. The rest, from the bottom up:
`page` finds blocks and sentences, `patterns` clauses, `wording` words
questions; `sections` asks about headings, lists and tables, `rules` and
`cloze` about sentences. Checking questions against the corpus is left to the filters.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ragkit.qa.heuristic import cloze, page, rules, sections, wording
from ragkit.qa.heuristic import patterns as grammar
from ragkit.qa.heuristic.page import Draft, Passage

MAX_QUESTION_WORDS = 30
MIN_QUESTION_WORDS = 4
MAX_ANSWER_CHARS = 700
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
_REPEAT_COST = 2.5  # of each earlier pair of the same kind, so that kinds vary

_QUESTION_DEBRIS = re.compile(
    r"[|<>{}=\[\]\\*#~^]|https?:|www\.|&[a-z]+;|\b(\w+) \1\b|[,;:.?]\s*\?|\s[.,;]|\?."
    r"|\b(?:and|or|the|an?|of|that|as|which|is|are|even|only|not) ?\?"
)
_FILLER = re.compile(r"\b(?:also|then|therefore|thus|however|simply|furthermore|even) ")
_EMPTY_QUESTION = re.compile(
    r"\b(?:learn (?:more|how)|find out more|get started|reach out|do so|do this|for example)\b"
)
_EMPTY_ANSWER = re.compile(
    r"(?:and|or|also|\w+ing$|as follows|(?:please )?(?:follow|see|refer to|read) .*"
    r"(?:below|above|steps|instructions|section|guide|page)\b)",
    re.IGNORECASE,
)


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
        for draft in (_polished(d, text) for d in _drafts(passage))
        if _acceptable(draft, text)
    ]
    if not drafts:
        drafts = [draft for draft in cloze.gaps(passage) if _acceptable(draft, text)]
        n = min(n, MAX_GAPS)
    return [
        Pair(draft.question, text[draft.start : draft.end], draft.start, draft.end, draft.kind)
        for draft in _choose(drafts, text, n, seed)
    ]


def _read(title: str, text: str) -> Passage:
    path = [part.strip() for part in re.split(r"\s+>\s+", title[:400]) if part.strip()]
    document = page.flatten(path[0], 0, len(path[0])).words if path else ""
    section = page.flatten(path[-1], 0, len(path[-1])).words if path else ""
    lowercase = frozenset(
        re.findall(r"(?<![\w`./:-])[a-z]+(?![\w`/:-]|\.\w)", text[: page.MAX_CHARS])
    )
    names = frozenset(re.findall(r"(?<=[a-z,] )[A-Z][\w-]*", text[: page.MAX_CHARS]))
    blocks = page.blocks(text)
    return Passage(text, blocks, _topic(document), section, document, lowercase, names)


def _topic(document: str) -> str:
    """Turn a document's title into the phrase that makes a vague question clear, or into ""."""
    if document.count(" ") > 7:
        return ""
    words = re.split(r":| - | – |\[", document)[0].strip().rstrip("?.!")
    words = re.sub(
        r"^(?:Understanding|Introducing|Introduction to|About|Overview of|Exploring) ", "", words
    )
    if match := re.match(r"What (?:is|are) (?:the |an? )?(.+)", words):
        words = match[1]
    elif match := re.match(r"(?:How (?:do|can|should) I|How to|Can I) (\w+) (.+)", words):
        gerund = grammar.GERUND_OF.get(match[1])
        return (
            wording.as_asker(f"when {gerund} {match[2]}") if gerund and " or " not in words else ""
        )
    elif grammar.base_of_gerund(words):
        return wording.as_asker(f"when {words[0].lower()}{words[1:]}")
    elif grammar.imperative(words):
        verb, _, rest = words.partition(" ")
        return wording.as_asker(f"when {grammar.GERUND_OF[verb.lower()]} {rest}")
    if (
        not 3 <= len(words) <= 60
        or words.count(" ") > 5
        or words.lower() in wording.GENERIC_HEADINGS
    ):
        return ""
    if (
        grammar.is_past(words.split()[-1].lower())
        or page.QUESTION_START.match(words)
        or grammar.clause(words)
    ):
        return ""
    if re.search(r"\d", words) and " " not in words:
        return f"on the {words}"
    if words[1:].islower() and " " in words:
        plain = words[0].lower() + words[1:]
        return f"in {plain}" if grammar.is_plural(plain) else f"in the {plain}"
    return f"in {words}"


def _drafts(passage: Passage) -> Iterator[Draft]:
    yield from sections.from_headings(passage)
    yield from sections.from_lists(passage)
    yield from sections.from_rows(passage)
    for block in passage.blocks:
        if block.kind in ("text", "item", "step"):
            yield from rules.from_term(block, passage)
            if not grammar.is_english(block.text.words):
                continue
            for sentence in page.sentences(block.text):
                if page.whole(sentence.words):
                    yield from rules.from_sentence(sentence, passage)


def _polished(draft: Draft, text: str) -> Draft:
    """Say "my order" for "your order" in our own questions; do not cut a code span in two."""
    start, end = draft.start, draft.end
    if "`" in text[start:end] and start and text[start - 1] == "`" == text[end : end + 1]:
        start, end = start - 1, end + 1
    elif text.count("`", start, end) % 2:
        if start and text[start - 1] == "`":
            start -= 1
        elif text[end : end + 1] == "`":
            end += 1
    end -= len(text[start:end]) - len(text[start:end].rstrip(" ,;:\n"))
    question = " ".join(draft.question.split())
    if not draft.as_written and not question.startswith("Complete:"):
        question = wording.as_asker(_FILLER.sub("", question))
    return replace(draft, question=question, start=start, end=end)


def _acceptable(draft: Draft, text: str) -> bool:
    answer = text[draft.start : draft.end]
    question = draft.question
    count = len(question.split())
    least = 2 if draft.as_written else MIN_QUESTION_WORDS
    if not least <= count <= MAX_QUESTION_WORDS or not re.search(r"\w", answer):
        return False
    if len(answer) > MAX_ANSWER_CHARS or answer.strip() == text.strip() or page.has_markup(answer):
        return False
    if (
        _QUESTION_DEBRIS.search(question)
        or question.count('"') % 2
        or (
            question.count("“") != question.count("”") or question.count("(") != question.count(")")
        )
    ):
        return False
    asked, told = _flat(question), _flat(answer)
    if (
        not told
        or f" {told} " in f" {asked} "
        or (wording.content(answer) and wording.content(answer) <= wording.content(question))
    ):
        return False
    if draft.as_written or question.startswith("Complete:"):
        return True
    if _EMPTY_ANSWER.match(answer) or _EMPTY_QUESTION.search(question):
        return False
    if draft.kind == "cloze" and re.match(r"(?:this|these|it|them|those|that one)\b", answer, re.I):
        return False
    least = 2 if draft.kind == "cloze" else 1
    return not wording.is_unclear(question) and len(wording.content(question)) >= least


def _flat(words: str) -> str:
    return " ".join(re.findall(r"\w+", words.lower()))


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
        if _flat(draft.question) in questions or (draft.start, draft.end) in spans:
            continue
        fact = wording.content(f"{draft.question} {text[draft.start : draft.end]}")
        if any(len(fact & other) > 0.65 * len(fact | other) for other in facts):
            continue
        chosen.append(draft)
        facts.append(fact)
        taken[draft.kind] += 1
        questions.add(_flat(draft.question))
        spans.add((draft.start, draft.end))
    return chosen
