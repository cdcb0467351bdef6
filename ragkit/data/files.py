"""Reading and writing ragkit's own files: JSONL of passages and examples, JSON, TREC, all UTF-8.

A `.zst` at the end of a JSONL's name is undone while reading.

Files appear whole or not at all: they are written to a temporary name beside and renamed. Malformed
lines are reported with file and line, all of them at once, or set aside in a file of their own.
Foreign formats are not this module's business.
"""

import codecs
import contextlib
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from ragkit.data.compressed import Decompressed
from ragkit.data.schema import Example, Passage, parse_example, parse_passage, unique_passages
from ragkit.errors import DataError, RunError
from ragkit.log import is_main_process, logger

T = TypeVar("T")
_SHOWN_ERRORS = 10
_BLOCK = 1 << 16
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` and rename it to `path` when all was written.

    Raises:
        RunError: the folder cannot be written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        encoding = None if "b" in mode else "utf-8"
        with open(descriptor, mode, encoding=encoding, newline=None if "b" in mode else "\n") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def write_json(path: Path, value: object) -> None:
    """Write one JSON value, indented; NaN is an error."""
    with atomic_write(path) as f:
        json.dump(value, f, indent=2, ensure_ascii=False, allow_nan=False)
        f.write("\n")


def read_json(path: Path, encoding: str = "utf-8") -> Any:
    """Read one JSON value.

    Raises:
        DataError: no such file, not JSON, or what JSON could not hold again.
    """
    try:
        return parse_json(read_text(path, encoding))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line; return how many."""
    with atomic_write(path) as f:
        return sum(1 for record in records if write_record(f, record))


def write_record(file: IO[str], record: Mapping[str, Any]) -> int:
    """Write one line of JSONL; return its length."""
    return file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the JSON objects of a file that ragkit wrote itself."""
    return [record for _, record in parse_jsonl(path, _as_object)]


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file that ragkit wrote itself, one at a time."""
    with path.open("rb") as f:
        for line in f:
            yield json.loads(line)


def write_passages(path: Path, passages: Iterable[Passage]) -> int:
    """Write passages as JSONL; return how many."""
    return write_jsonl(path, (p.to_json() for p in passages))


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write examples as JSONL; return how many."""
    return write_jsonl(path, (e.to_json() for e in examples))


def read_corpus(path: Path, skip_bad: Path | None = None) -> dict[str, Passage]:
    """Read a JSONL of passages, by id, in the file's order.

    skip_bad: the file in which malformed lines are set aside, instead of an error
    Raises:
        DataError: no such file, malformed lines, no passage, or one id for two texts.
    """
    bad = BadLines(path, skip_bad)
    lines = list(parse_jsonl(path, parse_passage, bad))
    bad.finish()
    corpus = unique_passages((f"{path}:{number}", passage) for number, passage in lines)
    if not corpus:
        raise DataError(f"{path}: no passages in it")
    return corpus


def read_passages(path: Path) -> Iterator[Passage]:
    """Yield the passages of a file that ragkit wrote itself, one at a time.

    Raises:
        DataError: no such file, or, at its end, malformed lines.
    """
    for _, passage in parse_jsonl(path, parse_passage):
        yield passage


def read_examples(
    path: Path, corpus: Mapping[str, Passage] | None = None, skip_bad: Path | None = None
) -> list[Example]:
    """Read a JSONL of examples.

    corpus: where given, every positive and negative id must be in it
    skip_bad: the file in which malformed lines are set aside, instead of an error
    Raises:
        DataError: no such file, malformed lines, unknown passages, a repeated id, no example.
    """
    seen: dict[str, int] = {}

    def parse(record: object) -> Example:
        example = parse_example(record)
        if example.id in seen:
            raise ValueError(f"id: {example.id!r} is already in this file")
        if corpus is not None:
            _check_ids(example, corpus)
        seen[example.id] = 1
        return example

    bad = BadLines(path, skip_bad)
    examples = [example for _, example in parse_jsonl(path, parse, bad)]
    bad.finish()
    if not examples:
        raise DataError(f"{path}: no examples in it")
    return examples


class BadLines:
    """Collects what is wrong with a file's lines, to report all at once or to set aside."""

    def __init__(self, path: Path, skip_bad: Path | None) -> None:
        self.path, self.skip_bad = path, skip_bad
        self.found: list[tuple[int | str, str, str]] = []

    def add(self, line: int | str, reason: str, text: str) -> None:
        """Note a line (counted from 1; or a place in a JSON value), why it is bad, and its text."""
        self.found.append((line, reason, text))

    def finish(self) -> None:
        """Raise a DataError that names the first ten, or write all to the `skip_bad` file."""
        self.found.sort(key=lambda found: found[0] if isinstance(found[0], int) else 0)
        if self.found and self.skip_bad is None:
            shown = [
                f"{self.path}:{line}: {reason}" for line, reason, _ in self.found[:_SHOWN_ERRORS]
            ]
            if len(self.found) > _SHOWN_ERRORS:
                count = f"{len(self.found)} bad lines in all (--skip-bad sets them aside)"
                shown.append(f"{self.path}: {count}")
            raise DataError("\n".join(shown))
        if self.found and self.skip_bad is not None and is_main_process():
            # lines of other files stay; this file's may be there from an interrupted run
            others = read_jsonl(self.skip_bad) if self.skip_bad.exists() else []
            records = [r for r in others if r["file"] != str(self.path)]
            for line, reason, text in self.found:
                records.append(
                    {"file": str(self.path), "line": line, "reason": reason, "text": text}
                )
            write_jsonl(self.skip_bad, records)
            logger.warning(
                "%s: bad lines set aside: %d, in %s", self.path, len(self.found), self.skip_bad
            )


def parse_jsonl(
    path: Path,
    parse: Callable[[object], T],
    bad: "BadLines | None" = None,
    encoding: str = "utf-8",
) -> Iterator[tuple[int, T]]:
    """Parse each non-empty line; yield (line number, value) pairs.

    parse: raises ValueError with what is wrong with a record
    bad: collects malformed lines, and the caller finishes it; None: they are an error here
    Raises:
        DataError: at the end, naming the first ten malformed lines and how many there are.
    """
    check_encoding(encoding)
    found = bad or BadLines(path, None)
    for number, raw in enumerate(raw_lines(path), start=1):
        try:
            line = raw.decode("utf-8-sig" if encoding == "utf-8" and number == 1 else encoding)
            if not line.strip():
                continue
            value = parse(parse_json(line.rstrip("\r\n")))
        except ValueError as error:
            found.add(number, _reason(error, encoding), raw.decode(encoding, "replace"))
        else:
            yield number, value
    if bad is None:
        found.finish()


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Read a text file, with or without a byte order mark.

    Raises:
        DataError: no such file, an unknown encoding, or bytes that are not of it.
    """
    check_encoding(encoding)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    try:
        return raw.decode(_codec(encoding))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _undecodable(path, line, error, encoding) from error


def text_lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Yield the lines of a text file with their ends, with or without a byte order mark.

    Raises:
        DataError: no such file, an unknown encoding, or bytes that are not of it.
    """
    check_encoding(encoding)
    try:
        with path.open(encoding=_codec(encoding), newline="") as f:
            yield from f
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = _undecodable_line(path, encoding)
        raise _undecodable(path, line, error, encoding) from error


def raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, undoing the compression of a `.zst`.

    Raises:
        DataError: no such file, or a `.zst` that is none or ends too early.
    """
    try:
        with path.open("rb") as f:
            yield from io.BufferedReader(Decompressed(f, path)) if path.suffix == ".zst" else f
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def check_encoding(encoding: str) -> None:
    """Refuse an encoding that Python does not know.

    Raises:
        DataError: with its name.
    """
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise DataError(f"encoding: {encoding!r} is not known to Python") from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_text(*parts: str) -> str:
    """Return the SHA-256 of texts, in hex; ("a", "b") and ("ab", "") differ."""
    return sha256_texts(parts)


def sha256_texts(parts: Iterable[str]) -> str:
    """Return `sha256_text` of texts that need not be in memory together."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


def write_trec_run(path: Path, run: Mapping[str, Mapping[str, float]], tag: str = "ragkit") -> None:
    """Write a TREC run: `query Q0 passage rank score tag`, passages in the order given."""
    with atomic_write(path) as f:
        for query_id, scores in run.items():
            for rank, (passage_id, score) in enumerate(scores.items(), start=1):
                f.write(f"{query_id} Q0 {passage_id} {rank} {score:.9g} {tag}\n")


def write_trec_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write TREC relevance judgements: `query 0 passage relevance`."""
    with atomic_write(path) as f:
        for query_id, judged in qrels.items():
            for passage_id, relevance in judged.items():
                f.write(f"{query_id} 0 {passage_id} {relevance}\n")


def _codec(encoding: str) -> str:
    return "utf-8-sig" if encoding == "utf-8" else encoding


def _undecodable(path: Path, line: int, error: UnicodeDecodeError, encoding: str) -> DataError:
    return DataError(
        f"{path}:{line}: {_reason(error, encoding)}; save the "
        "file as UTF-8, or name its encoding (--set encoding=cp1252)"
    )


def _undecodable_line(path: Path, encoding: str) -> int:
    """Return the line of the first byte that is not of an encoding; a stream does not know it."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    with path.open("rb") as f:
        while True:
            block = f.read(_BLOCK)
            try:
                line += decoder.decode(block, final=not block).count("\n")
            except UnicodeDecodeError as error:
                return line + error.object.count(b"\n", 0, error.start)


def _reason(error: ValueError, encoding: str) -> str:
    """Return what is wrong with a line."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:02x} is not {encoding.upper()}"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} (column {error.colno})"
    return str(error)


def parse_json(line: str) -> object:
    """Parse a JSON text; refuse what could be read but not written again.

    Raises:
        ValueError: not JSON, or NaN, or half a character, or brackets in brackets without end.
    """
    try:
        record = json.loads(line, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if _SURROGATE.search(line):
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"half a character: {error.object[error.start]!a}") from error
    return record


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _as_object(record: object) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValueError("a JSON object was expected")
    return record


def _check_ids(example: Example, corpus: Mapping[str, Passage]) -> None:
    for name, ids in (
        ("positive_ids", example.positive_ids),
        ("negative_ids", example.negative_ids),
    ):
        for passage_id in ids:
            if passage_id not in corpus:
                raise ValueError(
                    f"{name}: unknown passage {passage_id!r} (the corpus has {len(corpus):,} "
                    "passages; was it chunked again?)"
                )
