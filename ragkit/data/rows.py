"""Rows of tables as documents: CSV, TSV, JSONL and Parquet.

Which column holds the text, and which the title, is found by the usual names or told. Malformed
rows are reported with file and line, all at once.
"""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragkit.config.blocks import Columns
from ragkit.data.files import BadLines, parse_jsonl, read_text
from ragkit.data.pages import html_page
from ragkit.data.schema import Document
from ragkit.errors import DataError
from ragkit.log import logger

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "passage", "content", "body", "abstract", "contents"),
    "title": ("title", "heading", "name", "page_title"),
    "section": ("section", "subtitle", "subheading"),
    "id": ("id", "passage_id", "_id", "chunk_id"),
    "doc_id": ("doc_id", "document_id", "document", "source", "url"),
}


def read_csv(
    path: Path,
    columns: Columns,
    encoding: str,
    max_cell_chars: int,
    markup: str,
    skip_bad: Path | None,
) -> list[Document]:
    """Read a CSV or TSV file; the delimiter is the header's most frequent of comma, ; and tab."""
    text = read_text(path, encoding)
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    csv.field_size_limit(max(len(text), csv.field_size_limit()))
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text), strict=True)
    try:
        header = [name.strip() for name in next(rows)]
    except csv.Error as error:
        raise DataError(f"{path}:1: not CSV: {error} (an unclosed quote?)") from error
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise DataError(f"{path}:1: two columns are called {twice[0]!r}")
    found = find_columns(header, columns, f"{path}:1")
    bad, documents, start = BadLines(path, skip_bad), [], rows.line_num + 1
    while True:
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            raise DataError(f"{path}:{start}: not CSV: {error} (an unclosed quote?)") from error
        try:
            if any(cell.strip() for cell in row):
                _check_row(row, header, max_cell_chars)
                record = dict(zip(header, row, strict=True))
                documents.append(_document(record, found, f"{path}:{start}", markup))
        except ValueError as error:
            bad.add(start, str(error), json.dumps(row, ensure_ascii=False)[:1000])
        start = rows.line_num + 1
    bad.finish()
    if not documents:
        raise DataError(f"{path}: a header and no rows")
    return documents


def _check_row(row: list[str], header: list[str], max_cell_chars: int) -> None:
    if len(row) != len(header):
        raise ValueError(f"{len(row)} cells where the header has {len(header)}")
    for name, cell in zip(header, row, strict=True):
        if len(cell) > max_cell_chars:
            raise ValueError(
                f"{name}: {len(cell):,} characters in one cell, over max_cell_chars "
                f"({max_cell_chars:,}): an unclosed quote? (--set max_cell_chars=... accepts it)"
            )


def _delimiter(path: Path, text: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    header = text.split("\n", 1)[0]
    return max((",", ";", "\t"), key=header.count)


def read_jsonl_rows(
    path: Path, columns: Columns, encoding: str, markup: str, skip_bad: Path | None
) -> list[Document]:
    """Read a JSONL file, one object a document."""

    def as_object(record: object) -> dict[str, Any]:
        if not isinstance(record, dict):
            raise ValueError("a JSON object was expected")
        return record

    bad = BadLines(path, skip_bad)
    records = parse_jsonl(path, as_object, bad, encoding)
    return _from_records(records, path, columns, markup, bad)


def read_parquet(
    path: Path, columns: Columns, markup: str, skip_bad: Path | None
) -> list[Document]:
    """Read a Parquet file, one row a document.

    Raises:
        DataError: not Parquet, or what `read_jsonl_rows` raises; lines are rows, counted from 1.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            records = [(number, _plain(row)) for number, row in enumerate(rows, start=1)]
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error
    return _from_records(records, path, columns, markup, BadLines(path, skip_bad))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: dates as text, no NaN, no bytes."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not isinstance(v, bytes)}
    if isinstance(value, list):
        return [_plain(v) for v in value if not isinstance(v, bytes)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _from_records(
    records: list[tuple[int, dict[str, Any]]],
    path: Path,
    columns: Columns,
    markup: str,
    bad: BadLines,
) -> list[Document]:
    names = list(dict.fromkeys(name for _, record in records for name in record))
    found = find_columns(names, columns, str(path)) if records else {}
    documents = []
    for line, record in records:
        try:
            if not isinstance(record.get(found["text"]), str):
                raise ValueError(f"{found['text']}: a string was expected")
            documents.append(_document(record, found, f"{path}:{line}", markup))
        except ValueError as error:
            bad.add(line, str(error), json.dumps(record, ensure_ascii=False)[:1000])
    bad.finish()
    return documents


def find_columns(names: list[str], columns: Columns, where: str) -> dict[str, str]:
    """Return which column holds the text, title, section, id and doc_id; say so in the log.

    Raises:
        DataError: a column that was named is not there, or none holds the text.
    """
    lower = {name.lower(): name for name in reversed(names)}
    found: dict[str, str] = {}
    for role, usual in USUAL_NAMES.items():
        wanted = getattr(columns, role)
        if wanted is not None and wanted not in names:
            raise DataError(
                f"{where}: columns.{role}: no column {wanted!r}; there are {', '.join(names)}"
            )
        name = wanted or next((lower[n] for n in usual if n in lower), None)
        if name is not None and name not in found.values():
            found[role] = name
    if "text" not in found:
        raise DataError(
            f"{where}: no column for the text; there are {', '.join(names)}. Name it: "
            "--set columns.text=NAME"
        )
    logger.info("%s: %s", where, ", ".join(f"{role} = {name}" for role, name in found.items()))
    return found


def _document(
    record: Mapping[str, Any], found: Mapping[str, str], where: str, markup: str
) -> Document:
    value: dict[str, Any] = {role: _cell(record.get(name)) for role, name in found.items()}
    if markup == "html":
        markup, value["text"] = "markdown", html_page(value["text"])[1]
    if not value["text"].strip():
        raise ValueError(f"{found['text']}: empty")
    if any(c.isspace() for c in value.get("id", "")):
        raise ValueError(f"{found['id']}: {value['id']!r} has white space in it")
    rest = {k: v for k, v in record.items() if k not in found.values() and v not in ("", None)}
    meta = rest.pop("meta", None)
    meta = {**rest, **(meta if isinstance(meta, dict) else {})}
    return Document(**value, where=where, markup=markup, meta=meta)


def _cell(value: object) -> str:
    return "" if value is None else str(value)
