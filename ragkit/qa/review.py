"""Questions for a person to correct, as a CSV for any spreadsheet, and what came back.

One row is one question. `keep` is yes or no; question and answer may be rewritten; a row with an
empty id is a new question, about the passage that it names.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ragkit.data.files import atomic_write, read_text, sha256_text
from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError

COLUMNS = ("id", "split", "keep", "question", "answer", "passage_id", "title", "passage")
SPLITS = ("train", "dev", "test")
_FORMULA = ("=", "+", "-", "@")
_YES, _NO = ("yes", "y", "1", "true", "ja", "oui", "x"), ("no", "n", "0", "false", "nein", "non")


@dataclass
class Corrections:
    """What a person decided, by the id of the question.

    dropped: not to be kept; changed: with another question or answer; added: by split
    """

    dropped: set[str] = field(default_factory=set)
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    added: dict[str, list[Example]] = field(default_factory=dict)

    def apply(self, split: str, examples: Iterable[Example]) -> Iterable[Example]:
        """Yield the examples of a split as they were corrected, and the new ones."""
        for example in examples:
            if example.id in self.dropped:
                continue
            if example.id in self.changed:
                example = _rewritten(example, *self.changed[example.id])
            yield example
        yield from self.added.get(split, ())

    @property
    def line(self) -> str:
        """The corrections in numbers."""
        added = sum(map(len, self.added.values()))
        return f"{len(self.dropped)} dropped, {len(self.changed)} rewritten, {added} added"


def _rewritten(example: Example, question: str, answer: str) -> Example:
    """Return an example in a person's words; one that was given an answer has one."""
    answers = (answer, *example.answers[1:]) if answer else ()
    meta = {**example.meta, "reviewed": True}
    if answer and not example.answerable:
        ids = (str(meta.pop("about")),)
        example = replace(example, answerable=True, positive_ids=ids)
    return replace(example, question=question, answers=answers, meta=meta)


def write_review(
    path: Path, examples: Iterable[tuple[str, Example]], corpus: Mapping[str, Passage]
) -> int:
    """Write (split, example) rows with their passages; return how many.

    A cell that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    count = 0
    with atomic_write(path) as f:
        f.write("\ufeff")  # by which spreadsheets know UTF-8
        rows = csv.writer(f, lineterminator="\n")
        rows.writerow(COLUMNS)
        for count, (split, e) in enumerate(examples, start=1):  # noqa: B007
            passage_id = str(e.meta.get("about", "")) or next(iter(e.positive_ids), "")
            passage = corpus[passage_id]
            answer = e.answers[0] if e.answers else ""
            turns = "".join(f"[{t.role}: {t.content}] " for t in e.history)
            cells = [e.question, answer, passage_id, passage.title, f"{turns}{passage.text}"]
            rows.writerow([e.id, split, "yes", *map(_not_a_formula, cells)])
    return count


def _not_a_formula(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _as_written(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def read_review(
    path: Path,
    examples: Iterable[Example],
    corpus: Mapping[str, Passage],
    split_of: Mapping[str, str],
) -> Corrections:
    """Read a corrected file; what is not in it any more stays as it was.

    examples: those that the file was written for
    split_of: of each document
    Raises:
        DataError: all that cannot be understood, with its line.
    """
    known = {e.id: (e.question, e.answers[0] if e.answers else "") for e in examples}
    found, problems = Corrections(), []
    for line, row in _rows(path):
        try:
            _read_row(row, known, corpus, split_of, found)
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
    if problems:
        raise DataError("\n".join(problems[:10]))
    return found


def _read_row(
    row: Mapping[str, str],
    known: Mapping[str, tuple[str, str]],
    corpus: Mapping[str, Passage],
    split_of: Mapping[str, str],
    found: Corrections,
) -> None:
    name, question, answer = row["id"].strip(), row["question"].strip(), row["answer"].strip()
    keep = row["keep"].strip().lower()
    if keep not in (*_YES, *_NO):
        raise ValueError(f"keep: {row['keep']!r} is neither yes nor no")
    if name and name not in known:
        raise ValueError(f"id: {name!r} is no question of this run (a new one has an empty id)")
    if keep in _NO:
        if name:
            found.dropped.add(name)
        return
    if not question:
        raise ValueError("question: empty (keep: no drops a question)")
    if name and (question, answer) != known[name]:
        found.changed[name] = question, answer
    elif not name:
        new = _new(row, question, answer, corpus, split_of)
        if new.id in known or any(new.id == e.id for added in found.added.values() for e in added):
            raise ValueError(f"question: {question!r} is asked about this passage already")
        found.added.setdefault(row["split"].strip(), []).append(new)


def _new(
    row: Mapping[str, str],
    question: str,
    answer: str,
    corpus: Mapping[str, Passage],
    split_of: Mapping[str, str],
) -> Example:
    passage_id, split = row["passage_id"].strip(), row["split"].strip()
    if split not in SPLITS:
        raise ValueError(f"split: {row['split']!r} is none of {', '.join(SPLITS)}")
    if passage_id not in corpus:
        raise ValueError(f"passage_id: {passage_id!r} is not in the corpus")
    if (own := split_of[corpus[passage_id].source]) != split:
        raise ValueError(f"split: {split!r}, and the document of {passage_id!r} is for {own!r}")
    return Example(
        id=sha256_text(passage_id, question)[:16],
        question=question,
        answers=(answer,) if answer else (),
        positive_ids=(passage_id,),
        meta={"style": "written", "doc_id": corpus[passage_id].source, "reviewed": True},
    )


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    text = read_text(path)
    header = text.split("\n", 1)[0]
    delimiter = max((",", ";", "\t"), key=header.count)  # spreadsheets write what their country has
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if missing := [c for c in COLUMNS[:6] if c not in names]:
            raise DataError(f"{path}:1: no column {', '.join(missing)}")
        found = []
        for row in reader:
            if any(cell.strip() for cell in row):
                cells = [*map(_as_written, row), *[""] * (len(names) - len(row))]
                found.append((reader.line_num, dict(zip(names, cells, strict=False))))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from error
    return found
