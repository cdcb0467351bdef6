"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/<split>.tsv.

What BEIR has no field for goes under `ragkit` in the `metadata` of a query or a passage, which
BEIR's loader does not read, and comes back from there.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ragkit.data.files import BadLines, atomic_write, parse_jsonl, write_jsonl
from ragkit.data.formats.dataset import (
    Collected,
    Dataset,
    Ids,
    Options,
    count,
    first_record,
    numbered_lines,
    original_id,
    require,
    split_of,
    with_original,
)
from ragkit.data.schema import Example, Passage, parse_example
from ragkit.errors import DataError

_HEADER = "query-id\tcorpus-id\tscore"
_WHOLE = re.compile(r"-?\d+")
Grades = dict[str, dict[str, int]]


def looks_like(path: Path) -> bool:
    """Return True for folders with corpus.jsonl and queries.jsonl, both with _id."""
    files = [path / "corpus.jsonl", path / "queries.jsonl"]
    return all(file.is_file() and "_id" in first_record(file) for file in files)


def read(path: Path, options: Options) -> Dataset:
    """Read a folder; a query is an example of each split that judges it, else of `examples`.

    Raises:
        DataError: a file is not there, malformed lines, or judgements of what is not there.
    """
    passages, passage_ids, notes = Collected(options.corpus), Ids(), []
    empty = 0

    def parse(record: object) -> None:
        nonlocal empty
        passage, had_text = _passage(record, passage_ids)
        empty += not had_text
        passages.add(passage)

    _read_lines(path / "corpus.jsonl", parse, options)
    if empty:
        notes.append(
            f"{count(empty, 'passage')} without a text got the title as their text: ragkit's "
            "passages are never empty."
        )
    query_ids = Ids()
    read_queries = _read_lines(path / "queries.jsonl", lambda r: _query(r, query_ids), options)
    queries = {example.id: example for example in read_queries}
    qrels: dict[str, Grades] = {}
    for file in sorted((path / "qrels").glob("*.tsv")):
        name = split_of(file)
        if name in qrels:
            raise DataError(f"{file}: a second file of {name}; leave one of them in the folder")
        qrels[name] = _read_qrels(file, queries, passages.by_id, query_ids, passage_ids, options)
    _check_negatives(queries.values(), passages.by_id, path)
    splits = {
        name: [_judged(queries[key], grades[key]) for key in queries if key in grades]
        for name, grades in qrels.items()
    }
    judged = {key for grades in qrels.values() for key in grades}
    rest = [example for key, example in queries.items() if key not in judged]
    if rest:
        splits["examples"] = [*splits.get("examples", []), *rest]
        notes.append(f"{count(rest, 'query')} without judgements: in examples.jsonl.")
    notes += [*_about_grades(qrels), *passages.notes()]
    notes += [*passage_ids.notes("passage"), *query_ids.notes("query")]
    return Dataset(passages.by_id, splits, notes=notes)


def write(folder: Path, dataset: Dataset, options: Options) -> list[str]:
    """Write the folder.

    Raises:
        DataError: no questions, or one id for different questions of two splits.
    """
    require(dataset, "BEIR")
    passage_ids = {key: original_id(p.meta, key) for key, p in dataset.corpus.items()}
    queries: dict[str, dict[str, Any]] = {}
    unjudged = 0
    for split, examples in dataset.splits.items():
        with atomic_write(folder / "qrels" / f"{split}.tsv") as f:
            f.write(_HEADER + "\n")
            for example in examples:
                query = _as_query(example)
                if queries.setdefault(query["_id"], query) != query:
                    raise DataError(
                        f"{split}: id: {example.id!r} is that of another question in another "
                        "split; in a BEIR folder all splits share queries.jsonl"
                    )
                grades = _grades(example, dataset.corpus)
                unjudged += not grades
                for key, grade in grades.items():
                    f.write(f"{query['_id']}\t{passage_ids[key]}\t{grade}\n")
    write_jsonl(folder / "corpus.jsonl", map(_as_document, dataset.corpus.values()))
    write_jsonl(folder / "queries.jsonl", queries.values())
    if not unjudged:
        return []
    return [
        "BEIR does not hold which split a question without relevant passages is of: lost of "
        f"{count(unjudged, 'question')}, which are in queries.jsonl."
    ]


def _read_lines(path: Path, parse: Callable[[object], Any], options: Options) -> list[Any]:
    bad = BadLines(path, options.skip_bad)
    values = [value for _, value in parse_jsonl(path, parse, bad, options.encoding)]
    bad.finish()
    return values


def _passage(record: object, ids: Ids) -> tuple[Passage, bool]:
    """Return the passage of a line, and whether it has a text and not a title alone."""
    fields, meta, own = _fields(record)
    text, title = fields.get("text") or "", fields.get("title") or ""
    if not isinstance(text, str) or not isinstance(title, str):
        raise ValueError("text and title: texts were expected")
    if not text.strip() and not title.strip():
        raise ValueError("text: empty, and no title")
    key = ids.clean(fields.get("_id"))
    meta = with_original(meta, fields.get("_id"), key)
    doc_id = str(own.get("doc_id", ""))
    if not text.strip():
        return Passage(key, title, "", doc_id, meta), False
    return Passage(key, text, title, doc_id, meta), True


def _query(record: object, ids: Ids) -> Example:
    fields, meta, own = _fields(record)
    key = ids.take(fields.get("_id"))
    meta = with_original(meta, fields.get("_id"), key)
    return parse_example({**own, "id": key, "question": fields.get("text"), "meta": meta})


def _fields(record: object) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the fields of a line, its metadata, and what ragkit put there."""
    if not isinstance(record, dict):
        raise ValueError("a JSON object was expected")
    meta = record.get("metadata") or {}
    if not isinstance(meta, dict) or not isinstance(meta.get("ragkit", {}), dict):
        raise ValueError(f"metadata: an object was expected, not {meta!r}")
    rest = {k: v for k, v in record.items() if k not in ("_id", "text", "title", "metadata")}
    own = meta.get("ragkit", {})
    return record, {**rest, **{k: v for k, v in meta.items() if k != "ragkit"}}, own


def _read_qrels(
    path: Path,
    queries: Mapping[str, Example],
    corpus: Mapping[str, Passage],
    query_ids: Ids,
    passage_ids: Ids,
    options: Options,
) -> Grades:
    """Read the judgements of a split, checked against queries and passages."""
    grades: Grades = {}
    bad = BadLines(path, options.skip_bad)
    for number, line in numbered_lines(path, options, bad):
        if number == 1 and line.split("\t")[0] == "query-id":
            continue
        cells = line.split("\t")
        if len(cells) != 3 or not _WHOLE.fullmatch(cells[2].strip()):
            bad.add(number, f"three columns and a whole score were expected: {_HEADER!r}", line)
            continue
        query = query_ids.changed.get(cells[0], cells[0])
        passage = passage_ids.changed.get(cells[1], cells[1])
        if query not in queries:
            bad.add(number, f"query-id: {cells[0]!r} is not in queries.jsonl", line)
        elif passage not in corpus:
            bad.add(number, f"corpus-id: {cells[1]!r} is not in corpus.jsonl", line)
        elif passage in grades.get(query, {}):
            bad.add(number, f"{cells[0]!r} and {cells[1]!r} are judged twice", line)
        else:
            grades.setdefault(query, {})[passage] = int(cells[2])
    bad.finish()
    return grades


def _check_negatives(queries: Iterable[Example], corpus: Mapping[str, Passage], path: Path) -> None:
    for query in queries:
        if unknown := [key for key in query.negative_ids if key not in corpus]:
            raise DataError(
                f"{path / 'queries.jsonl'}: {query.id!r}: negative_ids: {unknown[0]!r} is not in "
                "corpus.jsonl"
            )


def _judged(query: Example, grades: Mapping[str, int]) -> Example:
    """Return the example of a query: graded above 0 is positive, other grades are in its meta."""
    positives = tuple(key for key, grade in grades.items() if grade > 0)
    graded = any(grade != 1 for grade in grades.values())
    meta = {**query.meta, "relevance": dict(grades)} if graded else query.meta
    return Example(
        query.id, query.question, query.answers, positives, query.negative_ids, query.history,
        query.answerable or bool(positives), meta,
    )  # fmt: skip


def _grades(example: Example, corpus: Mapping[str, Passage]) -> dict[str, int]:
    """Return the judgements of an example, graded as they were where it was imported."""
    told = example.meta.get("relevance")
    told = told if isinstance(told, dict) else {}
    grades = {key: int(grade) for key, grade in told.items() if key in corpus}
    return {**grades, **{key: grades.get(key, 1) for key in example.positive_ids}}


def _as_query(example: Example) -> dict[str, Any]:
    own = example.to_json()
    for key in ("id", "question", "positive_ids", "meta"):
        own.pop(key, None)
    return {
        "_id": original_id(example.meta, example.id),
        "text": example.question,
        "metadata": _metadata(example.meta, own, ("original_id", "relevance")),
    }


def _as_document(passage: Passage) -> dict[str, Any]:
    own = {"doc_id": passage.doc_id} if passage.doc_id else {}
    return {
        "_id": original_id(passage.meta, passage.id),
        "title": passage.title,
        "text": passage.text,
        "metadata": _metadata(passage.meta, own, ("original_id",)),
    }


def _metadata(
    meta: Mapping[str, Any], own: Mapping[str, Any], told: tuple[str, ...]
) -> dict[str, Any]:
    """Return BEIR's metadata: the meta without what is told elsewhere, and ragkit's own fields."""
    kept = {key: value for key, value in meta.items() if key not in told}
    return {**kept, "ragkit": dict(own)} if own else kept


def _about_grades(qrels: Mapping[str, Grades]) -> list[str]:
    grades = [grade for split in qrels.values() for g in split.values() for grade in g.values()]
    notes = []
    if above := sum(grade > 1 for grade in grades):
        notes.append(
            f"{count(above, 'judgement')} graded above 1: positive_ids do not grade; the grades "
            "are in meta.relevance, and go back with an export."
        )
    if below := sum(grade < 1 for grade in grades):
        notes.append(
            f"{count(below, 'judgement')} of not relevant: not among positive_ids; they are in "
            "meta.relevance, and go back with an export."
        )
    return notes
