"""DALM's CSVs: a passage, a question and an answer a row.

The columns are called Passage, Query and Answer, or Abstract, Question and Answer, with or without
a Title; other names are settable. Rows of one passage share its id.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ragkit.data.files import BadLines, atomic_write, sha256_text
from ragkit.data.formats.dataset import (
    Collected,
    Dataset,
    Ids,
    Options,
    count,
    files_in,
    first_line,
    first_record,
    meta_not_held,
    not_held,
    require,
    split_of,
    text_passage,
    with_original,
)
from ragkit.data.rows import read_records
from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError
from ragkit.log import logger

_USUAL = {
    "text": ("passage", "abstract"),
    "title": ("title",),
    "question": ("query", "question"),
    "answers": ("answer",),
    "passage_id": ("passage_id",),
    "question_id": ("question_id",),
}
_SETTABLE = {
    "columns.text": "text",
    "columns.title": "title",
    "columns.id": "passage_id",
    "question_columns.question": "question",
    "question_columns.answers": "answers",
    "question_columns.id": "question_id",
}
_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def looks_like(path: Path) -> bool:
    """Return True for tables with Passage or Abstract beside Query or Question."""
    for file in files_in(path, ".csv", ".tsv", ".jsonl"):
        cells = re.split(r"[,;\t]", first_line(file))
        names = list(first_record(file)) or [cell.strip('" ') for cell in cells]
        lower = {name.lower() for name in names}
        if lower.intersection(_USUAL["text"]) and lower.intersection(_USUAL["question"]):
            return True
    return False


def read(path: Path, options: Options) -> Dataset:
    """Read a table, or all tables of a folder; those without questions add passages.

    Raises:
        DataError: no such table, no column of passages, or malformed rows.
    """
    passages, notes = Collected(options.corpus), []
    found: dict[str, dict[str, Example]] = {}
    passage_ids, question_ids = Ids(), Ids()
    wanted = _wanted(options)
    for file in files_in(path, *_SUFFIXES):
        bad = BadLines(file, options.skip_bad)
        rows = list(read_records(file, options.encoding, options.max_cell_chars, bad))
        names = _columns(list(rows[0][1]) if rows else [], wanted, file)
        split = found.setdefault(split_of(file), {}) if "question" in names else {}
        merged = 0
        for line, row in rows:
            try:
                example = _example(row, names, passages, passage_ids, question_ids)
                if example is not None:
                    merged += example.id in split
                    split[example.id] = _merged(split.get(example.id), example)
            except ValueError as error:
                bad.add(line, str(error), json.dumps(row, ensure_ascii=False)[:1000])
        bad.finish()
        if merged:
            notes.append(
                f"{file.name}: {count(merged, 'row')} of a question that came before (another "
                "answer or passage of it) became one example with that."
            )
        if "question" in names and "answers" not in names:
            notes.append(f"{file.name} has no column of answers.")
    if not passages.by_id:
        raise DataError(f"{path}: no rows of DALM's in it ({', '.join(_SUFFIXES)})")
    splits = {name: list(split.values()) for name, split in found.items() if split}
    notes += [*passage_ids.notes("passage"), *question_ids.notes("question")]
    return Dataset(passages.by_id, splits, notes=[*notes, *passages.notes()])


def write(folder: Path, dataset: Dataset, options: Options) -> list[str]:
    """Write `<split>.csv`, a row a passage and answer, and `corpus.csv` with all passages.

    The columns of text, title, question and answer are called as the options say.
    """
    require(dataset, "DALM")
    names = {
        "title": options.columns.title or "Title",
        "text": options.columns.text or "Passage",
        "question": options.question_columns.question or "Query",
        "answers": options.question_columns.answers or "Answer",
        "passage_id": "passage_id",
        "question_id": "question_id",
    }
    for split, examples in dataset.splits.items():
        rows = (row for e in examples for row in _rows(e, dataset.corpus))
        _write_csv(folder / f"{split}.csv", list(names.values()), rows)
    of_passages = [names[role] for role in ("title", "text", "passage_id")]
    _write_csv(folder / "corpus.csv", of_passages, (_cells(p) for p in dataset.corpus.values()))
    return _losses(dataset)


def _wanted(options: Options) -> dict[str, str | None]:
    """Return the columns that the options name, by what they have.

    Raises:
        DataError: one that DALM's rows do not have.
    """
    blocks = {"columns": options.columns, "question_columns": options.question_columns}
    named = {
        f"{block}.{key}": value
        for block, columns in blocks.items()
        for key, value in columns.model_dump(exclude_none=True).items()
    }
    if unknown := [key for key in named if key not in _SETTABLE]:
        raise DataError(f"{unknown[0]}: DALM's rows have {', '.join(_SETTABLE)}")
    return {role: named.get(key) for key, role in _SETTABLE.items()}


def _columns(row: list[str], wanted: Mapping[str, str | None], file: Path) -> dict[str, str]:
    """Return which column has what; say so in the log.

    Raises:
        DataError: none has the passages, or one that was named is not there.
    """
    lower = {name.lower(): name for name in reversed(row)}
    found = {}
    for role, usual in _USUAL.items():
        name = wanted[role] or next((lower[n] for n in usual if n in lower), None)
        if row and name is not None and name not in row:
            raise DataError(f"{file}: no column {name!r}; there are {', '.join(row)}")
        if name is not None:
            found[role] = name
    if row and "text" not in found:
        raise DataError(
            f"{file}: no column of passages; there are {', '.join(row)}. Name it: "
            "--set columns.text=NAME"
        )
    logger.info("%s: %s", file, ", ".join(f"{role} = {name}" for role, name in found.items()))
    return found


def _example(
    row: Mapping[str, Any],
    names: Mapping[str, str],
    passages: Collected,
    passage_ids: Ids,
    question_ids: Ids,
) -> Example | None:
    """Keep the passage of a row; return its example, or None without a question."""
    cells = {role: "" if row.get(name) is None else str(row[name]) for role, name in names.items()}
    meta = {k: v for k, v in row.items() if k not in names.values() and v not in ("", None)}
    question = cells.get("question", "")
    asked = bool(question.strip())
    passage = text_passage(cells["text"], cells.get("title", ""), **({} if asked else meta))
    if given := cells.get("passage_id"):
        key = passage_ids.clean(given)
        passage = replace(passage, id=key, meta=with_original(passage.meta, given, key))
    passage_id = passages.add(passage)
    if not asked:
        return None
    question_id = sha256_text(passage_id, question)[:16]
    if given := cells.get("question_id"):
        question_id = question_ids.clean(given)
        meta = with_original(meta, given, question_id)
    answer = cells.get("answers", "")
    return Example(
        id=question_id,
        question=question,
        answers=(answer,) if answer.strip() else (),
        positive_ids=(passage_id,),
        meta=meta,
    )


def _merged(first: Example | None, second: Example) -> Example:
    if first is None:
        return second
    if first.question != second.question:
        raise ValueError(f"question_id: {first.id!r} is already that of another question")
    return Example(
        first.id,
        first.question,
        tuple(dict.fromkeys((*first.answers, *second.answers))),
        tuple(dict.fromkeys((*first.positive_ids, *second.positive_ids))),
        meta={**second.meta, **first.meta},
    )


def _rows(example: Example, corpus: Mapping[str, Passage]) -> Iterator[list[str]]:
    for key in example.positive_ids:
        title, text, _ = _cells(corpus[key])
        for answer in example.answers or ("",):
            yield [title, text, example.question, answer, key, example.id]


def _cells(passage: Passage) -> list[str]:
    return [passage.title, passage.text, passage.id]


def _write_csv(path: Path, header: list[str], rows: Iterator[list[str]]) -> None:
    with atomic_write(path) as f:
        writer = csv.writer(f)  # ends lines in \r\n, and so quotes both
        writer.writerow(header)
        writer.writerows(rows)


def _losses(dataset: Dataset) -> list[str]:
    notes = not_held("DALM", dataset, ("negatives", "history", "doc_id"))
    without = [e for e in dataset.examples if not e.positive_ids]
    if without:
        notes.append(
            "DALM's rows are a question with its passage: "
            f"{count(without, 'question')} without a passage left out."
        )
    rows = sum(max(len(e.answers), 1) * len(e.positive_ids) for e in dataset.examples)
    held = len(dataset.examples) - len(without)
    if rows > held:
        notes.append(
            f"{count(held, 'question')} became {count(rows, 'row')}: one for each passage and "
            "answer. To DALM they are different questions; their question_id is the same."
        )
    notes += meta_not_held("DALM", "question", (e.meta for e in dataset.examples))
    return notes + meta_not_held("DALM", "passage", (p.meta for p in dataset.corpus.values()))
