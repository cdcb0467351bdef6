"""The records that everything here works on, and how they are checked.

A `Document` is a text as a source has it; a `Passage` is a piece of text that can be retrieved; an
`Example` is a question with its answers and the ids of the passages that answer it. Files are
`ragkit.data.files`'s business.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Self

from ragkit.data.hashes import HashTable
from ragkit.data.strings import Strings
from ragkit.errors import DataError


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text that can be retrieved.

    `doc_id` names the document that it was cut from; `meta` carries whatever else the source had.
    """

    id: str
    text: str
    title: str = ""
    doc_id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rendered(self) -> str:
        """What is embedded and prompted, the same in training, indexing and serving."""
        return f"{self.title}\n{self.text}" if self.title else self.text

    @property
    def source(self) -> str:
        """The document that this passage came from: `doc_id`, or the passage itself."""
        return self.doc_id or self.id

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of this passage, without the empty fields."""
        return _without_empty(
            id=self.id, doc_id=self.doc_id, title=self.title, text=self.text, meta=dict(self.meta)
        )


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be cut into passages, or one that already is a passage.

    id: its own id, or "" where one has to be made
    where: "file:line", for messages
    markup: in which its headings are written: plain (none), markdown or rst
    named_by_file: its title is a file's name, which a heading of its own replaces
    """

    text: str
    title: str = ""
    section: str = ""
    id: str = ""
    doc_id: str = ""
    where: str = ""
    markup: str = "plain"
    named_by_file: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """The title with the section, `Title > Section`."""
        return " > ".join(part for part in (self.title, self.section) if part)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation before the question; role is "user" or "assistant"."""

    role: str
    content: str


class Conversation(str):
    """The turns of a conversation, the question last, as one text with a line each.

    It knows its turns: where it is too long for an encoder the earliest go first, and never the
    question.
    """

    turns: tuple[str, ...]

    def __new__(cls, turns: Sequence[str]) -> Self:
        """Join the turns."""
        self = super().__new__(cls, "\n".join(turns))
        self.turns = tuple(turns)
        return self

    def last_turns(self, fits: Callable[[str], bool]) -> str:
        """Return as many of the last turns as fit, and the question whether it fits or not."""
        turns = self.turns
        while len(turns) > 1 and not fits("\n".join(turns)):
            turns = turns[1:]
        return "\n".join(turns)

    def __getnewargs__(self) -> tuple[tuple[str, ...]]:  # type: ignore[override]
        """Return what a copy is made from."""
        return (self.turns,)


@dataclass(frozen=True, slots=True)
class Example:
    """A question, its reference answers and the passages that answer it.

    `answers` may be empty for retriever-only data. An unanswerable question has no positives.
    `scores` are a teacher's of positives and negatives, {passage id: score}, for distillation.
    """

    id: str
    question: str
    answers: tuple[str, ...] = ()
    positive_ids: tuple[str, ...] = ()
    negative_ids: tuple[str, ...] = ()
    history: tuple[Turn, ...] = ()
    answerable: bool = True
    meta: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def asked(self) -> str:
        """What makes two examples the same question: their history and words."""
        turns = [turn.content for turn in self.history]
        return "\n".join(" ".join(text.lower().split()) for text in (*turns, self.question))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of this example, without the empty fields."""
        record = _without_empty(
            id=self.id,
            question=self.question,
            answers=list(self.answers),
            positive_ids=list(self.positive_ids),
            negative_ids=list(self.negative_ids),
            scores=dict(self.scores),
            history=[{"role": t.role, "content": t.content} for t in self.history],
            meta=dict(self.meta),
        )
        return record if self.answerable else {**record, "answerable": False}


PASSAGE_KEYS = ("id", "text", "title", "doc_id", "meta")
EXAMPLE_KEYS = (
    "id", "question", "answers", "positive_ids", "negative_ids", "scores", "history", "answerable",
    "meta",
)  # fmt: skip


def parse_passage(record: object) -> Passage:
    """Check a JSON object and return its Passage.

    Raises:
        ValueError: with the field, its value and what was expected.
    """
    fields = _object(record, PASSAGE_KEYS)
    text = _string(fields, "text")
    if not text.strip():
        raise ValueError("text: empty")
    return Passage(
        id=_id(fields, "id"),
        text=text,
        title=_string(fields, "title", ""),
        doc_id=_id(fields, "doc_id", ""),
        meta=_mapping(fields, "meta"),
    )


def parse_example(record: object) -> Example:
    """Check a JSON object and return its Example.

    Raises:
        ValueError: with the field, its value and what was expected.
    """
    fields = _object(record, EXAMPLE_KEYS)
    question = _string(fields, "question")
    if not question.strip():
        raise ValueError("question: empty")
    answerable = fields.get("answerable", True)
    if not isinstance(answerable, bool):
        raise ValueError(f"answerable: true or false, not {answerable!r}")
    positives = _strings(fields, "positive_ids")
    if not answerable and positives:
        raise ValueError("answerable: false, but it has positive_ids")
    answers = _strings(fields, "answers")
    if not all(answer.strip() for answer in answers):
        raise ValueError("answers: an empty answer; an example without reference has an empty list")
    return Example(
        id=_id(fields, "id"),
        question=question,
        answers=answers,
        positive_ids=positives,
        negative_ids=_strings(fields, "negative_ids"),
        scores=_scores(fields),
        history=_history(fields),
        answerable=answerable,
        meta=_mapping(fields, "meta"),
    )


def unique_passages(passages: Iterable[tuple[str, Passage]]) -> dict[str, Passage]:
    """Index passages by id; the same passage twice is kept once.

    passages: (where it was read, passage)
    Raises:
        DataError: an id that two different texts share.
    """
    kept: dict[str, tuple[str, Passage]] = {}
    for where, passage in passages:
        first = kept.setdefault(passage.id, (where, passage))
        if first[1].rendered != passage.rendered:
            raise DataError(
                f"{where}: id: {passage.id!r} is already the id of another text ({first[0]}: "
                f"{_short(first[1].rendered)!r}; here: {_short(passage.rendered)!r}); "
                "ids must be unique in a corpus"
            )
    return {key: passage for key, (_, passage) in kept.items()}


def distinct_passages(passages: Iterable[tuple[str, Passage]]) -> Iterator[Passage]:
    """Yield passages as they come, the same passage once; keeps hashes of them, not their texts.

    passages: (where it was read, passage)
    Raises:
        DataError: an id that two different texts share.
    """
    places = Strings()
    last = ""
    rows, texts, place_of = HashTable(), array("Q"), array("I")
    for where, passage in passages:
        if where != last or not places:
            places.append(where)
            last = where
        key, text = _hash(passage.id), _hash(passage.rendered)
        first = rows.get(key)
        if first is None:
            rows.add(key, len(texts))
            texts.append(text)
            place_of.append(len(places) - 1)
            yield passage
        elif texts[first] != text:
            raise DataError(
                f"{where}: id: {passage.id!r} is already the id of another text "
                f"({places[place_of[first]]}; here: {_short(passage.rendered)!r}); "
                "ids must be unique in a corpus"
            )


def qrels_of(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    """Return the relevance judgements that the examples' positives make."""
    return {e.id: dict.fromkeys(e.positive_ids, 1) for e in examples if e.positive_ids}


def known_positives(examples: Iterable[Example]) -> dict[str, frozenset[str]]:
    """Return the positives of each question, by `Example.asked`, over all examples that ask it."""
    found: dict[str, set[str]] = {}
    for example in examples:
        found.setdefault(example.asked, set()).update(example.positive_ids)
    return {key: frozenset(ids) for key, ids in found.items()}


def _object(record: object, keys: Sequence[str]) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object was expected, not {_short(repr(record))}")
    if unknown := [key for key in record if key not in keys]:
        raise ValueError(
            f"{unknown[0]}: unknown field (known are {', '.join(keys)}; "
            "put others under meta, or bring foreign files in with ragkit import)"
        )
    return record


def _string(fields: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = fields.get(key, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"{key}: missing" if value is None else f"{key}: a string, not {value!r}")
    return value


def _id(fields: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = fields.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or (default is None and not value):
        raise ValueError(f"{key}: missing" if not value else f"{key}: a string, not {value!r}")
    if any(c.isspace() for c in value):
        raise ValueError(f"{key}: {value!r} has white space in it (TREC files cannot hold it)")
    return value


def _strings(fields: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = fields.get(key) or []
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ValueError(f"{key}: a list of strings, not {_short(repr(value))}")
    return tuple(value)


def _scores(fields: Mapping[str, Any]) -> dict[str, float]:
    scores = _mapping(fields, "scores")
    for passage_id, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not isfinite(score):
            raise ValueError(f"scores: {passage_id}: a number was expected, not {score!r}")
    return {passage_id: float(score) for passage_id, score in scores.items()}


def _mapping(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = fields.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{key}: an object, not {_short(repr(value))}")
    return value


def _history(fields: Mapping[str, Any]) -> tuple[Turn, ...]:
    turns = fields.get("history") or []
    if not isinstance(turns, list):
        raise ValueError(f"history: a list, not {_short(repr(turns))}")
    return tuple(_turn(turn) for turn in turns)


def _turn(turn: object) -> Turn:
    if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
        raise ValueError(f"history: each turn is {{role, content}}, not {_short(repr(turn))}")
    if turn["role"] not in ("user", "assistant") or not isinstance(turn["content"], str):
        raise ValueError(f"history: role is user or assistant, not {turn['role']!r}")
    return Turn(turn["role"], turn["content"])


def _without_empty(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in ("", [], {})}


def _hash(text: str) -> int:
    """Return 64 bits, the same in every process."""
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
