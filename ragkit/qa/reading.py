"""Reading-comprehension tasks mined from a passage by pattern, for generator training.

After AdaptLLM (Cheng et al., 2024, "Adapting Large Language Models via Reading Comprehension"): a
raw text becomes the text followed by tasks about it. A pattern proposes only what the text gives
for certain, so noise, code, tables and other languages give fewer tasks, down to none. This
module asks about the passage as a whole, words the prompts and chooses; `reading_sentences` asks
about sentences, `reading_lists` about lists and tables. Tasks that a teacher writes are the
teachers' business.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ragkit.data.files import sha256_text
from ragkit.qa.heuristic import markup, page, wording
from ragkit.qa.heuristic.page import Block
from ragkit.qa.reading_lists import from_lists, from_tables
from ragkit.qa.reading_sentences import (
    Draft,
    between,
    definition,
    fits,
    is_clean,
    is_english,
    number_statement,
    telling_words,
    within,
)

MAX_ANSWER_CHARS = 700
MIN_REST_CHARS = 60  # of a completion

WORDINGS = {
    "title": (
        "What is this text about? Answer with a title.",
        "Which title fits this text?",
        "Give the text a heading.",
    ),
    "outline": (
        "Which headings divide the text? Give them in order.",
        "Outline the text by its headings.",
    ),
    "completion": ("Continue this text:", "How does this text go on?", "Complete the text:"),
    "words": (
        "In one sentence, what does the text say about {x}?",
        "Write a sentence with these words, as the text has it: {x}.",
        "Which statement of the text brings these together: {x}?",
    ),
    "definition": (
        "How does the text explain “{x}”?",
        "What is meant by “{x}”?",
        "Define “{x}” as the text does.",
    ),
    "paraphrase": ("How else does the text put this: “{x}”?", "Say in other words: “{x}”"),
    "cause": (
        "What reason does the text give for this: “{x}”?",
        "The text says: “{x}” Why?",
        "“{x}” Why is that so, according to the text?",
    ),
    "effect": (
        "The text says: “{x}” What follows from this?",
        "What is the consequence of this: “{x}”?",
        "What does the text conclude from this: “{x}”?",
    ),
    "contrast": (
        "The text says: “{x}” What does it say in contrast to that?",
        "What does the text set against this: “{x}”?",
        "“{x}” Which reservation or contrast comes with this?",
    ),
    "instead": (
        "The text says: “{x}” What instead?",
        "“{x}” What does the text name as the alternative?",
    ),
    "example": (
        "Which example does the text give for this: “{x}”?",
        "“{x}” Give the example that the text has for this.",
    ),
    "condition": (
        "According to the text, what happens or applies {x}?",
        "What does the text say to do or to expect {x}?",
    ),
    "purpose": (
        "What is the first thing to do, according to the text, to {x}?",
        "What does the text tell you to do first in order to {x}?",
    ),
    "truth": (
        "Is this true according to the text? “{x}”",
        "Does the text say so? “{x}”",
        "Check this statement against the text: “{x}”",
    ),
    "list": (
        "What does the text list after “{x}”?",
        "Name the items that the text gives here: “{x}”",
        "Complete with what the text lists: “{x}”",
    ),
    "order": (
        "Put these steps into the order of the text:\n{x}",
        "In which order are these steps to be done?\n{x}",
    ),
    "next": ("Which step comes after this one: “{x}”?", "“{x}” What is the next step?"),
    "term": (
        "Which entry of the list does the text describe so: “{x}”?",
        "What does this describe: “{x}”?",
    ),
    "cell": ("According to the table, what is the {x}?", "Look up in the table: the {x}."),
}
_LAST = ("words", "outline")  # chosen where the more telling kinds do not suffice
_AT_MOST = {"words": 2, "cell": 2, "term": 2}  # a passage


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked about a passage, and its answer; `kind` is a key of WORDINGS."""

    kind: str
    prompt: str
    answer: str


def mine(title: str, text: str, n: int, seed: int = 0) -> list[Task]:
    """Return at most n tasks about one passage, varied in kind; the same for the same arguments.

    title: "", a title, or a heading path "Document > Section"
    text: the passage; of a very long one the first 20,000 characters are read
    seed: draws among tasks, wordings, and true and false statements
    """
    text = text[: page.MAX_CHARS]
    rng = random.Random(sha256_text(str(seed), title, text))
    by_kind: defaultdict[str, list[Draft]] = defaultdict(list)
    for draft in _drafts(title, text, rng) if n > 0 else ():
        by_kind[draft.kind].append(draft)
    kinds = sorted(by_kind)
    rng.shuffle(kinds)
    kinds.sort(key=_LAST.__contains__)
    for kind in kinds:
        rng.shuffle(by_kind[kind])
        by_kind[kind] = by_kind[kind][: _AT_MOST.get(kind)]
    chosen: list[Task] = []
    sources: set[str] = set()
    while len(chosen) < n and any(by_kind.values()):
        for kind in kinds:
            fresh = [draft for draft in by_kind[kind] if draft.source not in sources]
            by_kind[kind] = fresh[1:]
            if fresh and len(chosen) < n:
                chosen.append(Task(kind, _prompt(fresh[0], rng), fresh[0].answer))
                sources.add(fresh[0].source)
    return chosen


def messages(title: str, text: str, tasks: Sequence[Task]) -> list[dict[str, str]]:
    """Return the chat that trains a generator on a passage's tasks, two turns a task.

    The first turn holds the passage with its title, unless a task asks for the title. A completion
    comes first, and the passage then only as far as it is given: its answer is the rest.
    """
    ordered = sorted(tasks, key=lambda task: task.kind != "completion")
    shown = "" if any(task.kind == "title" for task in tasks) else title
    turns: list[dict[str, str]] = []
    for task in ordered:
        prompt = task.prompt
        if not turns:
            body = prompt if task.kind == "completion" else f"{text}\n\n{prompt}"
            prompt = f"{shown}\n{body}" if shown else body
        turns += [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": task.answer},
        ]
    return turns


def _prompt(draft: Draft, rng: random.Random) -> str:
    worded = rng.choice(WORDINGS[draft.kind]).replace("{x}", draft.x)
    return f"{worded}\n\n{draft.x}" if draft.kind == "completion" else worded


def _drafts(title: str, text: str, rng: random.Random) -> Iterator[Draft]:
    blocks = page.blocks(text)
    prose = [b for b in blocks if b.kind in ("text", "item", "step") and is_english(b.text.words)]
    found = [[s.words for s in page.sentences(block.text)] for block in prose]
    clean = [s for sentences in found for s in sentences if is_clean(s)]
    if not clean:
        return
    known = set(clean)
    yield from _from_headings(title, text, blocks)
    yield from _completion(text, blocks, rng)
    for sentences in found:
        for before, sentence in pairwise(sentences):
            if before in known and sentence in known:
                yield from between(before, sentence)
    for sentence in clean:
        yield from within(sentence)
        yield from definition(sentence)
        yield from number_statement(sentence, text, rng)
    yield from telling_words(clean, rng)
    yield from from_lists(text, blocks, rng)
    yield from from_tables(blocks, rng)


def _from_headings(title: str, text: str, blocks: list[Block]) -> Iterator[Draft]:
    """The title, where the text shows it to be its own; the headings, where there are several."""
    path = [part.strip() for part in re.split(r"\s+>\s+", title[:400]) if part.strip()]
    while len(path) > 1 and path[-1].lower() in wording.GENERIC_HEADINGS:
        path.pop()
    name = markup.flatten(path[-1], 0, len(path[-1])).words if path else ""
    stems = {word[:5] for word in wording.content(name)}
    body = " ".join(b.text.words for b in blocks if b.kind != "heading").lower()
    known = sum(stem in body for stem in stems)
    if len(stems) > 1 and known >= 0.6 * len(stems) and len(body) > 150 and fits(name, 5, 120):
        yield Draft("title", "", name, "title")
    headings = [b.text.words for b in blocks if b.kind == "heading"]
    if 2 <= len(headings) <= 12 and all(fits(h, 3, 120) and ":" not in h for h in headings):
        yield Draft("outline", "", "\n".join(f"- {h}" for h in headings), "outline")


def _completion(text: str, blocks: list[Block], rng: random.Random) -> Iterator[Draft]:
    """The end of a passage that ends in plain prose, from some sentence on."""
    last = blocks[-1].text
    found = page.sentences(last) if blocks[-1].kind == "text" else []
    if not all(is_clean(s.words) for s in found) or text[last.at[-1] + 1 :].strip(" \n\"'*”"):
        return
    ways = []
    for sentence in found:
        rest = last.words[-(len(last.words) - last.at.index(sentence.at[0])) :]
        if (
            MIN_REST_CHARS <= len(rest) <= MAX_ANSWER_CHARS
            and sentence.at[0] >= len(rest)
            and not markup.has_markup(text[sentence.at[0] :])
        ):
            ways.append((text[: sentence.at[0]].rstrip(), rest))
    if ways:
        yield Draft("completion", *rng.choice(ways), "completion")
