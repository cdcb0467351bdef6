"""Reading documents: tables, Markdown, reST, HTML, DOCX, PDF and text files, and folders of them.

What a file holds becomes `Document`s with the place each was read from. Cutting documents into
passages is `ragkit.data.chunking`'s business.
"""

from collections.abc import Iterator
from pathlib import Path

from ragkit.config.blocks import Columns
from ragkit.data.files import BadLines, read_text
from ragkit.data.pages import docx_page, html_page, pdf_pages
from ragkit.data.rows import read_csv, read_jsonl_rows, read_parquet
from ragkit.data.schema import Document
from ragkit.errors import DataError
from ragkit.log import logger

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
MARKUP = {
    ".md": "markdown", ".markdown": "markdown", ".rst": "rst", ".rest": "rst",
    ".txt": "plain", ".text": "plain",
}  # fmt: skip
SUFFIXES = (*TABLES, *MARKUP, ".html", ".htm", ".docx", ".pdf")


def read_documents(
    path: Path,
    columns: Columns,
    *,
    encoding: str = "utf-8",
    max_cell_chars: int = 1_000_000,
    markup: str = "plain",
    skip_bad: Path | None = None,
) -> Iterator[Document]:
    """Yield the documents of a file, or of every file with a known suffix in a folder and below it.

    Tables are read row by row, other files one at a time.

    markup: in which the texts of tables are written: plain, markdown, rst or html
    Raises:
        DataError: nothing to read, an unknown kind of file, a missing column, malformed rows.
    """
    found = False
    for file in _files(path):
        suffix = file.suffix.lower()
        if suffix in (".csv", ".tsv"):
            documents = read_csv(file, columns, encoding, max_cell_chars, markup, skip_bad)
        elif suffix == ".jsonl":
            documents = read_jsonl_rows(file, columns, encoding, markup, skip_bad)
        elif suffix == ".parquet":
            documents = read_parquet(file, columns, markup, skip_bad)
        else:
            documents = _read_page(file, path, encoding, skip_bad)
        for document in documents:
            found = True
            yield document
    if not found:
        raise DataError(f"{path}: no text in it")


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


def _read_page(file: Path, root: Path, encoding: str, skip_bad: Path | None) -> Iterator[Document]:
    """Yield the documents of a file; one that cannot be read is set aside where that is asked."""
    try:
        yield from _pages(file, root, encoding)
    except DataError as error:
        if skip_bad is None:
            raise
        bad = BadLines(file, skip_bad)
        bad.add(1, str(error), "")
        bad.finish()


def _pages(file: Path, root: Path, encoding: str) -> Iterator[Document]:
    """Yield the document of a file; of a PDF, one a page, so that passages know their page."""
    name = str(file.relative_to(root)) if root.is_dir() else file.name
    found = False
    for title, text, markup, meta in _contents(file, encoding):
        if text.strip():
            found = True
            yield Document(
                text, title or file.stem, doc_id=name, where=f"{file}:{meta.get('page', 1)}",
                markup=markup, named_by_file=True, meta=meta,
            )  # fmt: skip
    if not found:
        reason = "no text (scanned? it needs OCR first)" if file.suffix.lower() == ".pdf" \
            else "empty"  # fmt: skip
        logger.warning("%s: %s, left out", file, reason)


def _contents(file: Path, encoding: str) -> Iterator[tuple[str, str, str, dict[str, int]]]:
    """Yield (title or "", text, markup, meta) of a file."""
    suffix = file.suffix.lower()
    if suffix == ".pdf":
        for number, text in pdf_pages(file):
            yield "", text, "plain", {"page": number}
    elif suffix == ".docx":
        yield "", docx_page(file), "markdown", {}
    elif suffix in (".html", ".htm"):
        declared = None if encoding == "utf-8" else encoding
        try:
            title, text = html_page(file.read_bytes(), declared)
        except (DataError, OSError) as error:
            raise DataError(f"{file}: {error}") from error
        yield title, text, "markdown", {}
    else:
        yield "", read_text(file, encoding), MARKUP[suffix], {}
