"""Rows of tables as documents, one at a time: CSV, TSV, JSONL and Parquet.

Which column holds the text, and which the title, is found by the usual names or told. Malformed
rows are reported with file and line, all at once, when the file has been read.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragkit.config.blocks import Columns
from ragkit.data.files import BadLines, parse_jsonl, text_lines
from ragkit.data.pages import html_page
from ragkit.data.schema import Document
from ragkit.errors import DataError
from ragkit.log import logger

if TYPE_CHECKING:
    import _csv

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "passage", "content", "body", "abstract", "contents"),
    "title": ("title", "heading", "name", "page_title"),
    "section": ("section", "subtitle", "subheading"),
    "id": ("id", "passage_id", "_id", "chunk_id"),
    "doc_id": ("doc_id", "document_id", "document", "source", "url"),
}

_HEAD = 100  # records that are looked at for their names
_BATCH_ROWS = 256  # of a Parquet file, and the bytes of a column that are read at a time
_BUFFER = 1 << 20
_LONGEST_CELL = 1 << 24  # characters; what goes on beyond this and `max_cell_chars` is no cell


def read_csv(
    path: Path,
    columns: Columns,
    encoding: str,
    max_cell_chars: int,
    markup: str,
    skip_bad: Path | None,
) -> Iterator[Document]:
    """Read a CSV or TSV file; the delimiter is the header's most frequent of comma, ; and tab."""
    rows, header = _open_csv(path, encoding, max_cell_chars)
    found = find_columns(header, columns, f"{path}:1")
    bad, filled = BadLines(path, skip_bad), False
    for line, record in _csv_records(path, rows, header, max_cell_chars, bad):
        try:
            document = _document(record, found, f"{path}:{line}", markup)
        except ValueError as error:
            bad.add(line, str(error), json.dumps(record, ensure_ascii=False)[:1000])
        else:
            filled = True
            yield document
    bad.finish()
    if not filled:
        raise DataError(f"{path}: a header and no rows")


def read_records(
    path: Path, encoding: str, max_cell_chars: int, bad: BadLines
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a CSV, TSV, JSONL or Parquet file with their lines.

    bad: collects malformed rows, and the caller finishes it
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        rows, header = _open_csv(path, encoding, max_cell_chars)
        return _csv_records(path, rows, header, max_cell_chars, bad)
    return _rows(path) if suffix == ".parquet" else parse_jsonl(path, _as_object, bad, encoding)


def _csv_records(
    path: Path, rows: "_csv.Reader", header: list[str], max_cell_chars: int, bad: BadLines
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows below the header, (line, cells by column)."""
    start = rows.line_num + 1
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{start}: not CSV: {error} (an unclosed quote?)") from error
        if any(cell.strip() for cell in row):
            try:
                _check_row(row, header, max_cell_chars)
            except ValueError as error:
                bad.add(start, str(error), json.dumps(row, ensure_ascii=False)[:1000])
            else:
                yield start, dict(zip(header, row, strict=True))
        start = rows.line_num + 1


def _open_csv(path: Path, encoding: str, max_cell_chars: int) -> tuple["_csv.Reader", list[str]]:
    """Return the rows of a CSV or TSV file, and the header, which they no longer have."""
    lines = text_lines(path, encoding)
    first = next(lines, "")
    if not first.strip() and not any(line.strip() for line in lines):
        raise DataError(f"{path}: the file is empty")
    rows = csv.reader(chain([first], lines), delimiter=_delimiter(path, first), strict=True)
    csv.field_size_limit(min(max(_LONGEST_CELL, 16 * max_cell_chars), 2**31 - 1))
    try:
        header = [name.strip() for name in next(rows)]
    except csv.Error as error:
        raise DataError(f"{path}:1: not CSV: {error} (an unclosed quote?)") from error
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise DataError(f"{path}:1: two columns are called {twice[0]!r}")
    return rows, header


def _check_row(row: list[str], header: list[str], max_cell_chars: int) -> None:
    if len(row) != len(header):
        raise ValueError(f"{len(row)} cells where the header has {len(header)}")
    for name, cell in zip(header, row, strict=True):
        if len(cell) > max_cell_chars:
            raise ValueError(
                f"{name}: {len(cell):,} characters in one cell, over max_cell_chars "
                f"({max_cell_chars:,}): an unclosed quote? (--set max_cell_chars=... accepts it)"
            )


def _delimiter(path: Path, header: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return max((",", ";", "\t"), key=header.count)


def read_jsonl_rows(
    path: Path, columns: Columns, encoding: str, markup: str, skip_bad: Path | None
) -> Iterator[Document]:
    """Read a JSONL file, one object a document."""
    bad = BadLines(path, skip_bad)
    records = parse_jsonl(path, _as_object, bad, encoding)
    return _from_records(records, path, columns, markup, bad)


def _as_object(record: object) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValueError("a JSON object was expected")
    return record


def read_parquet(
    path: Path, columns: Columns, markup: str, skip_bad: Path | None
) -> Iterator[Document]:
    """Read a Parquet file, one row a document.

    Raises:
        DataError: not Parquet, or what `read_jsonl_rows` raises; lines are rows, counted from 1.
    """
    return _from_records(_rows(path), path, columns, markup, BadLines(path, skip_bad))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a Parquet file with their numbers."""
    import pyarrow
    import pyarrow.parquet

    try:
        # by default all of a row group is read before its first row
        with pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            batches = file.iter_batches(batch_size=_BATCH_ROWS)
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from ((number, _plain(row)) for number, row in enumerate(rows, start=1))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error


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
    records: Iterator[tuple[int, dict[str, Any]]],
    path: Path,
    columns: Columns,
    markup: str,
    bad: BadLines,
) -> Iterator[Document]:
    """Read records; a name that none of the first hundred has is no column."""
    head = list(islice(records, _HEAD))
    names = list(dict.fromkeys(name for _, record in head for name in record))
    found = find_columns(names, columns, str(path)) if head else {}
    for line, record in chain(head, records):
        try:
            if not isinstance(record.get(found["text"]), str):
                raise ValueError(f"{found['text']}: a string was expected")
            document = _document(record, found, f"{path}:{line}", markup)
        except ValueError as error:
            bad.add(line, str(error), json.dumps(record, ensure_ascii=False)[:1000])
        else:
            yield document
    bad.finish()


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
