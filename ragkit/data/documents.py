"""Reading documents: CSV, TSV, JSONL, Markdown and text files, and folders of them.

What a file holds becomes `Document`s with the place each was read from. Cutting documents into
passages is `ragkit.data.chunking`'s business.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragkit.config.blocks import Columns
from ragkit.data.files import BadLines, parse_jsonl, read_text
from ragkit.errors import DataError
from ragkit.log import logger

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "passage", "content", "body", "abstract", "contents"),
    "title": ("title", "heading", "name", "page_title"),
    "section": ("section", "subtitle", "subheading"),
    "id": ("id", "passage_id", "_id", "chunk_id"),
    "doc_id": ("doc_id", "document_id", "document", "source", "url"),
}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".md", ".markdown", ".txt", ".text")


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be cut into passages, or one that already is a passage.

    id: its own id, or "" where one has to be made
    where: "file:line", for messages
    """

    text: str
    title: str = ""
    section: str = ""
    id: str = ""
    doc_id: str = ""
    where: str = ""
    markdown: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """The title with the section, `Title > Section`."""
        return " > ".join(part for part in (self.title, self.section) if part)


def read_documents(
    path: Path,
    columns: Columns,
    *,
    encoding: str = "utf-8",
    max_cell_chars: int = 1_000_000,
    skip_bad: Path | None = None,
) -> list[Document]:
    """Read a file, or every file with a known suffix in a folder and below it.

    Raises:
        DataError: nothing to read, an unknown kind of file, a missing column, malformed rows.
    """
    documents: list[Document] = []
    for file in _files(path):
        suffix = file.suffix.lower()
        if suffix in (".csv", ".tsv"):
            documents += _read_csv(file, columns, encoding, max_cell_chars, skip_bad)
        elif suffix == ".jsonl":
            documents += _read_jsonl(file, columns, encoding, skip_bad)
        else:
            documents += _read_plain(file, path, encoding)
    if not documents:
        raise DataError(f"{path}: no text in it")
    return documents


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{path}: cannot read {path.suffix or 'a file without a suffix'}; "
                f"known are {', '.join(SUFFIXES)}"
            )
        return [path]
    runs = {p.parent for p in path.rglob("run.json")}  # ragkit's own run directories
    files = [
        p
        for p in sorted(path.rglob("*"))
        if p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(path).parts)
        and runs.isdisjoint(p.parents)
    ]
    known = [p for p in files if p.suffix.lower() in SUFFIXES]
    if len(known) < len(files):
        logger.warning("%s: %d files of other kinds left out", path, len(files) - len(known))
    if not known:
        raise DataError(f"{path}: no file that can be read ({', '.join(SUFFIXES)})")
    return known


def _read_csv(
    path: Path, columns: Columns, encoding: str, max_cell_chars: int, skip_bad: Path | None
) -> Iterable[Document]:
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
                documents.append(_document(record, found, f"{path}:{start}"))
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


def _read_jsonl(
    path: Path, columns: Columns, encoding: str, skip_bad: Path | None
) -> Iterator[Document]:
    def as_object(record: object) -> dict[str, Any]:
        if not isinstance(record, dict):
            raise ValueError("a JSON object was expected")
        return record

    bad = BadLines(path, skip_bad)
    records = parse_jsonl(path, as_object, bad, encoding)
    names = list(dict.fromkeys(name for _, record in records for name in record))
    found = find_columns(names, columns, str(path)) if records else {}
    documents = []
    for line, record in records:
        try:
            if not isinstance(record.get(found["text"]), str):
                raise ValueError(f"{found['text']}: a string was expected")
            documents.append(_document(record, found, f"{path}:{line}"))
        except ValueError as error:
            bad.add(line, str(error), json.dumps(record, ensure_ascii=False)[:1000])
    bad.finish()
    yield from documents


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


def _document(record: Mapping[str, Any], found: Mapping[str, str], where: str) -> Document:
    value: dict[str, Any] = {role: _cell(record.get(name)) for role, name in found.items()}
    if not value["text"].strip():
        raise ValueError(f"{found['text']}: empty")
    if any(c.isspace() for c in value.get("id", "")):
        raise ValueError(f"{found['id']}: {value['id']!r} has white space in it")
    rest = {k: v for k, v in record.items() if k not in found.values() and v not in ("", None)}
    meta = rest.pop("meta", None)
    return Document(**value, where=where, meta={**rest, **(meta if isinstance(meta, dict) else {})})


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _read_plain(file: Path, root: Path, encoding: str) -> Iterator[Document]:
    text = read_text(file, encoding)
    if not text.strip():
        logger.warning("%s: empty, left out", file)
        return
    name = str(file.relative_to(root)) if root.is_dir() else file.name
    markdown = file.suffix.lower() in (".md", ".markdown")
    yield Document(text, doc_id=name, where=f"{file}:1", markdown=markdown, title=file.stem)
