"""Tables of questions and of passages, CSV, TSV, JSONL or Parquet, their columns found or named.

Questions name their passages by id. In a CSV a list is a JSON array in one cell; one plain text is
a list of one.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ragkit.config.blocks import Columns, QuestionColumns
from ragkit.data.files import BadLines, atomic_write, parse_json
from ragkit.data.formats.dataset import (
    Collected,
    Dataset,
    Ids,
    Options,
    count,
    distinct,
    files_in,
    original_id,
    role_of,
    split_of,
    text_passage,
    with_original,
)
from ragkit.data.rows import USUAL_NAMES, find_columns, read_records
from ragkit.data.schema import Example, Passage, parse_example
from ragkit.errors import DataError
from ragkit.log import logger

SUFFIXES = (".csv", ".tsv", ".jsonl", ".jsonl.zst", ".parquet")
USUAL_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "question": ("question", "query", "claim"),
    "id": ("id", "question_id", "query_id", "_id"),
    "answers": ("answers", "answer", "gold_answer", "response", "answer_span", "answer_long"),
    "positive_ids": ("positive_ids", "passage_ids", "passage_id", "cited_doc_ids"),
    "negative_ids": ("negative_ids", "hard_negative_ids"),
    "history": ("history", "messages"),
}
_SAYS_ANSWERABLE = {"answerable": True, "is_impossible": False}
_PASSAGE_HEADER = ("id", "doc_id", "title", "text", "meta")
_EXAMPLE_HEADER = (
    "id", "question", "answers", "positive_ids", "negative_ids", "history", "answerable", "meta",
)  # fmt: skip
Row = tuple[int, dict[str, Any]]


def looks_like(path: Path) -> bool:
    """Return True for tables; what is more special is asked first."""
    return bool(files_in(path, *SUFFIXES))


def read(path: Path, options: Options) -> Dataset:
    """Read a table of questions or passages, or the tables of both kinds in a folder.

    Where a folder has files called corpus or passages, other texts in it are left out.

    Raises:
        DataError: no such table, columns that are not there, malformed rows, unknown passages.
    """
    files = files_in(path, *SUFFIXES)
    if not files:
        raise DataError(f"{path}: no table in it ({', '.join(SUFFIXES)})")
    tables = [(file, *_rows(file, options)) for file in files]
    asked = [t for t in tables if _has(t[2], options.question_columns.question, "question")]
    texts = [t for t in tables if t not in asked and _has(t[2], options.columns.text, "text")]
    named = [t for t in texts if t[0].name.lower().startswith(("corpus", "passages"))]
    passages, ids, found = Collected(options.corpus), Ids(), Dataset()
    question_ids: dict[str, Ids] = {}
    for file, bad, rows in named or texts:
        _read_passages(file, bad, rows, passages, ids, options.columns)
    for file, bad, rows in asked:
        split = split_of(file)
        taken = question_ids.setdefault(split, Ids())
        questions = _read_questions(file, bad, rows, passages.by_id, ids, taken, options, found)
        found.splits[split] = [*found.splits.get(split, []), *questions]
    used = {t[0] for t in (*asked, *(named or texts))}
    if unused := [file.name for file in files if file not in used]:
        found.notes.append(f"Left out, neither questions nor the corpus: {', '.join(unused)}.")
    if not any(rows for _, _, rows in tables):
        raise DataError(f"{path}: no rows in it")
    if not used:
        raise DataError(
            f"{path}: no column of questions and none of texts; there are "
            f"{', '.join(_names(tables[0][2]))}. Name them: --set question_columns.question=NAME, "
            "--set columns.text=NAME"
        )
    found.corpus = passages.by_id
    found.notes += [note for taken in question_ids.values() for note in taken.notes("question")]
    found.notes += [*ids.notes("passage"), *passages.notes()]
    return found


def write(folder: Path, dataset: Dataset, options: Options) -> list[str]:
    """Write `corpus.csv` and `<split>.csv`; they hold all of passages and examples."""
    if not dataset.corpus and not dataset.examples:
        raise DataError("a table is made from passages or questions; there are none here")
    if dataset.corpus:
        passages = (p.to_json() for p in dataset.corpus.values())
        _write_csv(folder / "corpus.csv", _PASSAGE_HEADER, passages)
    for split, examples in dataset.splits.items():
        _write_csv(folder / f"{split}.csv", _EXAMPLE_HEADER, (e.to_json() for e in examples))
    return []


def _rows(path: Path, options: Options) -> tuple[BadLines, list[Row]]:
    bad = BadLines(path, options.skip_bad)
    rows = list(read_records(path, options.encoding, options.max_cell_chars, bad))
    if not rows:
        bad.finish()  # without a row that is read, its columns are not known
    return bad, rows


def _names(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for _, row in rows for name in row))


def _has(rows: list[Row], wanted: str | None, role: str) -> bool:
    usual = USUAL_QUESTIONS[role] if role == "question" else USUAL_NAMES[role]
    names = _names(rows)
    if wanted is not None:
        return wanted in names
    return any(name.lower() in usual for name in names)


def _read_passages(
    path: Path, bad: BadLines, rows: list[Row], passages: Collected, ids: Ids, columns: Columns
) -> None:
    found = find_columns(_names(rows), columns, str(path))
    for line, row in rows:
        try:
            passages.add(_passage(row, found, ids))
        except ValueError as error:
            bad.add(line, str(error), json.dumps(row, ensure_ascii=False)[:1000])
    bad.finish()


def _passage(row: Mapping[str, Any], found: Mapping[str, str], ids: Ids) -> Passage:
    cells = {role: "" if row.get(n) is None else str(row[n]) for role, n in found.items()}
    if not isinstance(row.get(found["text"]), str) or not cells["text"].strip():
        raise ValueError(f"{found['text']}: a text was expected")
    title = " > ".join(part for part in (cells.get("title"), cells.get("section")) if part)
    meta = _rest(row, found)
    made = text_passage(cells["text"], title, cells.get("doc_id", ""), **meta)
    if not cells.get("id"):
        return made
    key = ids.clean(cells["id"])
    return replace(made, id=key, meta=with_original(made.meta, cells["id"], key))


def _read_questions(
    path: Path,
    bad: BadLines,
    rows: list[Row],
    corpus: Mapping[str, Passage],
    passage_ids: Ids,
    ids: Ids,
    options: Options,
    dataset: Dataset,
) -> list[Example]:
    found = _question_columns(_names(rows), options.question_columns, str(path))
    named = (row.get(found.get("positive_ids", "")) for _, row in rows)
    if not corpus and any(cell not in (None, "", [], "[]") for cell in named):
        raise DataError(
            f"{path}: {found['positive_ids']} names passages, and none are here; name their file: "
            "--corpus FILE"
        )
    examples, repeated = [], 0
    for line, row in rows:
        try:
            example = _example(row, found, ids, passage_ids)
            for key in (*example.positive_ids, *example.negative_ids):
                if key not in corpus:
                    raise ValueError(f"unknown passage {key!r} (there are {len(corpus):,})")
            examples.append(example)
            repeated += len(_list(row.get(found.get("answers", "")))) - len(example.answers)
        except ValueError as error:
            bad.add(line, str(error), json.dumps(row, ensure_ascii=False)[:1000])
    bad.finish()
    if repeated:
        dataset.notes.append(
            f"{path.name}: {count(repeated, 'repeated or empty answer')} left out."
        )
    dataset.notes += _about(path.name, examples, found, _names(rows))
    return examples


def _example(
    row: Mapping[str, Any], found: Mapping[str, str], ids: Ids, passage_ids: Ids
) -> Example:
    cells = {role: row.get(name) for role, name in found.items()}
    fields = {k: v for k, v in row.items() if k not in _SAYS_ANSWERABLE}
    meta, answerable = _rest(fields, found), _answerable(row)
    positives = _passage_ids(cells.get("positive_ids"), passage_ids)
    negatives = _passage_ids(cells.get("negative_ids"), passage_ids)
    if not answerable and positives:
        meta["context_ids"], positives = positives, []
    answers, starts = distinct(_list(cells.get("answers")), meta.get("answer_starts"))
    if starts is not None:
        meta["answer_starts"] = starts
    history = [
        {"role": role_of(turn.get("role")), "content": turn.get("content", turn.get("text"))}
        for turn in _turns(cells.get("history"))
    ]
    given = cells.get("id")
    if given in (None, ""):
        told = [str(turn["content"]) for turn in history]
        key = ids.make(*positives, *told, str(cells["question"]))
    else:
        key = ids.take(given)
        meta = with_original(meta, given, key)
    return parse_example(
        {
            "id": key,
            "question": cells["question"],
            "answers": list(answers),
            "positive_ids": positives,
            "negative_ids": negatives,
            "history": history,
            "answerable": answerable,
            "meta": meta,
        }
    )


def _rest(row: Mapping[str, Any], found: Mapping[str, str]) -> dict[str, Any]:
    """Return what no column is known for; an object called meta is unfolded."""
    rest = {k: v for k, v in row.items() if k not in found.values() and v not in ("", None)}
    meta = rest.pop("meta", None)
    meta = _json(meta) if isinstance(meta, str) else meta
    return {**rest, **(meta if isinstance(meta, dict) else {} if meta is None else {"meta": meta})}


def _answerable(row: Mapping[str, Any]) -> bool:
    """Return what a row says in `answerable`, or in SQuAD's `is_impossible`."""
    for name, meant in _SAYS_ANSWERABLE.items():
        if row.get(name) not in (None, ""):
            value = str(row[name]).lower()
            if value not in ("true", "false"):
                raise ValueError(f"{name}: true or false, not {value!r}")
            return (value == "true") is meant
    return True


def _passage_ids(cell: object, ids: Ids) -> list[str]:
    return list(dict.fromkeys(ids.changed.get(key, key) for key in _list(cell)))


def _list(cell: object) -> list[str]:
    """Return a cell as a list of texts: a list, a JSON array, one text, or nothing."""
    if isinstance(cell, str) and cell.startswith("["):
        value = _json(cell)
        cell = value if isinstance(value, list) else cell
    items = cell if isinstance(cell, list) else [] if cell in (None, "") else [cell]
    if not all(isinstance(item, str | int) for item in items):
        raise ValueError(f"a text or a list of texts was expected, not {str(cell)[:60]!r}")
    return [str(item) for item in items]


def _turns(cell: object) -> list[dict[str, Any]]:
    value = _json(cell) if isinstance(cell, str) else cell
    if value in (None, ""):
        return []
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise ValueError(f"history: a list of {{role, content}} was expected, not {value!r}")
    return value


def _json(text: str) -> object:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _question_columns(names: list[str], columns: QuestionColumns, where: str) -> dict[str, str]:
    lower = {name.lower(): name for name in reversed(names)}
    found: dict[str, str] = {}
    for role, usual in USUAL_QUESTIONS.items():
        wanted = getattr(columns, role)
        if wanted is not None and wanted not in names:
            raise DataError(
                f"{where}: question_columns.{role}: no column {wanted!r}; there are "
                f"{', '.join(names)}"
            )
        name = wanted or next((lower[n] for n in usual if n in lower), None)
        if name is not None and name not in found.values():
            found[role] = name
    logger.info("%s: %s", where, ", ".join(f"{role} = {name}" for role, name in found.items()))
    return found


def _about(
    name: str, examples: list[Example], found: Mapping[str, str], names: list[str]
) -> list[str]:
    """Say what was guessed of a file of questions, and what it has not."""
    notes = []
    for role, usual in USUAL_QUESTIONS.items():
        others = [n for n in names if n.lower() in usual and n not in found.values()]
        if others:
            notes.append(
                f"{name}: {role} from {found[role]} (set question_columns.{role} for "
                f"{' or '.join(others)})."
            )
    if "positive_ids" not in found:
        notes.append(f"{name} has no column of passage ids: no question has positives.")
    if "answers" not in found:
        notes.append(f"{name} has no column of answers.")
    elif without := sum(not e.answers and e.answerable for e in examples):
        notes.append(f"{name}: {count(without, 'question')} with nothing in {found['answers']}.")
    contexts = sum("context_ids" in e.meta for e in examples)
    if contexts:
        notes.append(
            f"{name}: {count(contexts, 'unanswerable question')} with a passage: it is no "
            "positive, and is in meta.context_ids."
        )
    return notes


def _write_csv(path: Path, header: tuple[str, ...], records: Any) -> None:
    with atomic_write(path) as f:
        writer = csv.writer(f)  # ends lines in \r\n, and so quotes both
        writer.writerow(header)
        for record in records:
            shown = {**record, "id": original_id(record.get("meta", {}), record["id"])}
            writer.writerow([_cell(shown.get(name)) for name in header])


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
