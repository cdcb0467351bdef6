"""What a foreign format is read into and written from, and the sentences about what it cannot hold.

The formats themselves are the other modules of this folder.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ragkit.config.blocks import Columns, QuestionColumns
from ragkit.data.chunking import make_passage
from ragkit.data.files import BadLines, check_encoding, raw_lines, sha256_text
from ragkit.data.schema import Document, Example, Passage, Turn
from ragkit.errors import DataError

_SPLIT = re.compile(r"(?<![a-z])(train|dev|val|valid|validation|eval|test)(?![a-z])")
_SPLITS = {"train": "train", "test": "test"}  # all the others are dev
_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "agent", "bot", "ai"), "assistant"),
}


@dataclass(frozen=True)
class Chat:
    """A conversation; roles are user and assistant, and system for what stands above it."""

    id: str
    messages: tuple[Turn, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of this conversation, without an empty meta."""
        messages = [{"role": turn.role, "content": turn.content} for turn in self.messages]
        record: dict[str, Any] = {"id": self.id, "messages": messages}
        return {**record, "meta": dict(self.meta)} if self.meta else record


@dataclass
class Dataset:
    """All that a folder of a format can hold; most hold a part of it.

    splits: examples by the name of their file: train, dev, test, or examples where none is known
    qrels, runs: TREC files by name
    notes: what was guessed or could not be held, a sentence each
    """

    corpus: dict[str, Passage] = field(default_factory=dict)
    splits: dict[str, list[Example]] = field(default_factory=dict)
    chats: list[Chat] = field(default_factory=list)
    qrels: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    runs: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def examples(self) -> list[Example]:
        """The examples of all splits."""
        return [example for examples in self.splits.values() for example in examples]


@dataclass(frozen=True)
class Options:
    """How foreign files are read and written.

    corpus: passages that were given apart, by id
    skip_bad: the file in which malformed lines are set aside, instead of an error
    """

    columns: Columns = Columns()
    question_columns: QuestionColumns = QuestionColumns()
    corpus: Mapping[str, Passage] = field(default_factory=dict)
    encoding: str = "utf-8"
    max_cell_chars: int = 1_000_000
    skip_bad: Path | None = None

    def with_corpus(self, corpus: Mapping[str, Passage]) -> "Options":
        """Return the same with passages that were given apart."""
        return replace(self, corpus=corpus)


class Collected:
    """Passages that are named again and again: equal texts become one.

    A passage of `corpus`, given apart, lends its id to the same title and text found elsewhere.
    """

    def __init__(self, corpus: Mapping[str, Passage]) -> None:
        self.by_id = dict(corpus)
        self._known = {(p.title, p.text): p.id for p in corpus.values()}
        self._differing: set[str] = set()

    def add(self, passage: Passage) -> str:
        """Keep a passage, if it is new; return the id under which it is kept.

        Raises:
            ValueError: its id is that of another text.
        """
        key = self._known.get((passage.title, passage.text))
        first = self.by_id.setdefault(key or passage.id, passage)
        if (first.title, first.text) != (passage.title, passage.text):
            raise ValueError(f"id: {passage.id!r} is already the id of another text")
        if key is None and first.to_json() != passage.to_json():
            self._differing.add(first.id)
        return first.id

    def notes(self) -> Iterator[str]:
        """Yield what was lost."""
        if self._differing:
            yield (
                f"{count(self._differing, 'passage')} came several times with the same text and "
                "different fields beside it; the first one's were kept."
            )


def text_passage(text: str, title: str = "", doc_id: str = "", **meta: Any) -> Passage:
    """Return the passage of a text, with an id made from it; ValueError where it is empty."""
    if not text.strip():
        raise ValueError("the text of a passage is empty")
    passage = make_passage(Document(text, title, doc_id=doc_id, meta=meta), title, text)
    if not doc_id:
        return replace(passage, doc_id="")  # the title is not the name of a document
    if passage.doc_id != doc_id:
        return replace(passage, meta={**meta, "original_doc_id": doc_id})
    return passage


class Ids:
    """Makes ids without white space, each once; knows how many had to be changed."""

    def __init__(self) -> None:
        self.changed: dict[str, str] = {}
        self._taken: set[str] = set()

    def clean(self, wanted: object) -> str:
        """Return a given id as ragkit can hold it; ValueError where it is none."""
        if isinstance(wanted, bool) or not isinstance(wanted, str | int) or not str(wanted).strip():
            raise ValueError(f"id: text or a whole number was expected, not {wanted!r}")
        key = clean_id(str(wanted))
        if key != str(wanted):
            self.changed[str(wanted)] = key
        return key

    def take(self, wanted: object) -> str:
        """Return a given id as ragkit can hold it.

        Raises:
            ValueError: no id, or one that was taken before.
        """
        key = self.clean(wanted)
        if key in self._taken:
            raise ValueError(f"id: {key!r} came before")
        self._taken.add(key)
        return key

    def make(self, *parts: str) -> str:
        """Return an id made from texts; a second one of the same texts ends in -2."""
        base, n = sha256_text(*parts)[:16], 1
        key = base
        while key in self._taken:
            n += 1
            key = f"{base}-{n}"
        self._taken.add(key)
        return key

    def notes(self, what: str) -> Iterator[str]:
        """Yield what was changed."""
        if self.changed:
            old, new = next(iter(self.changed.items()))
            yield (
                f"{count(self.changed, f'{what} id')} had white space, which became '-' "
                f"({old!r} is {new!r} now); what it was is in meta.original_id."
            )


def clean_id(name: str) -> str:
    """Return a name without white space, which ids cannot have."""
    return "-".join(name.split())


def original_id(meta: Mapping[str, Any], key: str) -> str:
    """Return the id that a record had before it was cleaned."""
    return str(meta.get("original_id", key))


def with_original(meta: Mapping[str, Any], wanted: object, key: str) -> dict[str, Any]:
    """Return the meta of a record, with its id where that had to be changed."""
    return dict(meta) if str(wanted) == key else {**meta, "original_id": str(wanted)}


def split_of(path: Path) -> str:
    """Return the split that a file's name tells: train, dev, test, else examples."""
    found = _SPLIT.search(path.name.lower())
    return _SPLITS.get(found[1], "dev") if found else "examples"


def role_of(name: object) -> str:
    """Return user or assistant for the names that formats have for them; ValueError for others."""
    if not isinstance(name, str) or name.lower() not in _ROLES:
        raise ValueError(f"no role that is known: {name!r} (known are {', '.join(_ROLES)})")
    return _ROLES[name.lower()]


def distinct(answers: Sequence[str], starts: object) -> tuple[tuple[str, ...], list[Any] | None]:
    """Return the answers without empty and repeated ones, and the starts that go with them.

    starts: one of each answer, or anything else where there are none
    """
    places = starts if isinstance(starts, list) and len(starts) == len(answers) else None
    first: dict[str, int] = {}
    for i, answer in enumerate(answers):
        if answer.strip():
            first.setdefault(answer, i)
    return tuple(first), [places[i] for i in first.values()] if places is not None else None


def files_in(path: Path, *suffixes: str) -> list[Path]:
    """Return the file, or the files with such a suffix in the folder, by name."""
    if not path.is_dir():
        return [path] if path.name.lower().endswith(suffixes) else []
    return [
        p
        for p in sorted(path.iterdir())
        if p.is_file() and p.name[0] != "." and p.name.lower().endswith(suffixes)
    ]


def numbered_lines(path: Path, options: Options, bad: BadLines) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of a text file's lines that are not empty; note undecodable ones."""
    check_encoding(options.encoding)
    for number, raw in enumerate(raw_lines(path), start=1):
        encoding = "utf-8-sig" if options.encoding == "utf-8" and number == 1 else options.encoding
        try:
            line = raw.decode(encoding).rstrip("\r\n")
        except UnicodeDecodeError as error:
            reason = f"byte 0x{raw[error.start]:02x} is not {options.encoding.upper()}"
            bad.add(number, reason, raw.decode(encoding, "replace"))
            continue
        if line.strip():
            yield number, line


def first_line(path: Path) -> str:
    """Return a file's first line that is not empty, however it is encoded."""
    lines = (line.decode("utf-8-sig", "replace").strip() for line in raw_lines(path))
    return next((line for line in lines if line), "")


def first_record(path: Path) -> dict[str, Any]:
    """Return the first object of a JSONL file, and nothing where it is none."""
    try:
        record = json.loads(first_line(path))
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def count(things: Collection[Any] | int, name: str) -> str:
    """Return a number with its noun: 1 passage, 2 passages."""
    n = things if isinstance(things, int) else len(things)
    return f"{n:,} {name}" if n == 1 else f"{n:,} {re.sub('y$', 'ie', name)}s"


# What a format may not hold: which records have it, and how that is said.
_OF_EXAMPLES: Mapping[str, tuple[Callable[[Example], bool], str]] = {
    "answers": (lambda e: bool(e.answers), "answers"),
    "second_answers": (lambda e: len(e.answers) > 1, "answers after the first"),
    "positives": (lambda e: bool(e.positive_ids), "positive_ids"),
    "second_positives": (lambda e: len(e.positive_ids) > 1, "positive_ids after the first"),
    "negatives": (lambda e: bool(e.negative_ids), "negative_ids"),
    "history": (lambda e: bool(e.history), "history"),
    "unanswerable": (lambda e: not e.answerable, "that it is unanswerable"),
}
_OF_PASSAGES: Mapping[str, tuple[Callable[[Passage], bool], str]] = {
    "title": (lambda p: bool(p.title), "title"),
    "doc_id": (lambda p: bool(p.doc_id), "doc_id"),
}


def not_held(format_name: str, dataset: Dataset, fields: Iterable[str]) -> list[str]:
    """Return a sentence for each field that a format does not hold and that the data has."""
    said = []
    for name in fields:
        if name in _OF_EXAMPLES:
            has, what = _OF_EXAMPLES[name]
            number = count(sum(map(has, dataset.examples)), "question")
        else:
            passage_has, what = _OF_PASSAGES[name]
            number = count(sum(map(passage_has, dataset.corpus.values())), "passage")
        if not number.startswith("0 "):
            said.append(f"{format_name} does not hold {what}: lost of {number}.")
    return said


def meta_not_held(
    format_name: str, what: str, metas: Iterable[Mapping[str, Any]], held: Collection[str] = ()
) -> list[str]:
    """Return a sentence about the keys of meta that a format does not hold.

    held: the keys that it does
    """
    keys = Counter(key for meta in metas for key in meta if key not in held)
    if not keys:
        return []
    named = ", ".join(f"{key} ({n:,})" for key, n in sorted(keys.items()))
    return [f"{format_name} does not hold the meta of {what}s: lost are {named}."]


def require(dataset: Dataset, format_name: str) -> None:
    """Refuse to write examples where there are none.

    Raises:
        DataError: with what is there.
    """
    if not dataset.examples:
        there = "conversations" if dataset.chats else "no questions"
        raise DataError(f"{format_name} is made from questions; there are {there} here")
