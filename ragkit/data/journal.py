"""The journal of what a teacher was asked and answered: append-only JSONL, never bought twice.

Each record is on disk before it is used. A record is found again by its `key` (what was asked, of
whom, how) or, for recordings, by the text of its passage and the style alone.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from ragkit.data.files import sha256_text
from ragkit.errors import DataError, RunError
from ragkit.log import logger

Record = Mapping[str, Any]


class Journal:
    """An open journal file. Of its records only places are held in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.lock:
                _mend_end(path)
        except OSError as error:
            raise DataError(f"{path}: no journal can be kept there: {error.strerror}") from error
        self._places = _places(path, lambda r: str(r["key"])) if path.exists() else {}

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Record | None:
        """Return the record of a key."""
        place = self._places.get(key)
        return None if place is None else _record_at(self.path, place)

    def append(self, records: Sequence[Record]) -> None:
        """Add records; when this returns, they are on disk.

        Raises:
            RunError: the disk is full; what was there before is as it was.
        """
        lines = [json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in records]
        with self.lock, self.path.open("ab") as f:
            place = f.tell()
            try:
                f.write(b"".join(lines))
                f.flush()
                os.fsync(f.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.truncate(self.path, place)
                raise RunError(f"{self.path}: cannot be written: {error.strerror}") from error
        for record, line in zip(records, lines, strict=True):
            self._places[str(record["key"])] = place
            place += len(line)


class Recording:
    """A finished journal, looked up by the text of passages and the style alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places = _places(path, lambda r: recording_key(r["passage_sha256"], r["style"]))

    def get(self, passages_sha256: str, style: str) -> Record | None:
        """Return the last record of a passage and style."""
        place = self._places.get(recording_key(passages_sha256, style))
        return None if place is None else _record_at(self.path, place)


def read_journal(path: Path) -> Iterator[Record]:
    """Yield a journal's records; a line cut short by a killed process is left out.

    Raises:
        DataError: a whole line that is no record.
    """
    return (record for _, record in _lines(path))


def _lines(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield (place in the file, record)."""
    if path.is_dir():
        raise DataError(f"{path}: a folder; a journal is a file")
    with path.open("rb") as f:
        place = 0
        for number, line in enumerate(f, start=1):
            start, place = place, place + len(line)
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    logger.warning("%s:%d: cut short, left out", path, number)
                    continue
                raise DataError(f"{path}:{number}: not a journal record") from error
            yield start, _checked(record, f"{path}:{number}")


def _checked(record: object, where: str) -> Record:
    if not isinstance(record, dict):
        raise DataError(f"{where}: not a journal record")
    missing = {"passage_sha256", "style", "response"} - set(record)
    if missing:
        raise DataError(f"{where}: a record without {', '.join(sorted(missing))}")
    if not all(isinstance(record[k], str) for k in ("passage_sha256", "style", "response")):
        raise DataError(f"{where}: a passage, style or response that is no text")
    return {"key": recording_key(record["passage_sha256"], record["style"]), **record}


def _places(path: Path, key_of: Callable[[Record], str]) -> dict[str, int]:
    return {key_of(record): place for place, record in _lines(path)}


def _record_at(path: Path, place: int) -> Record:
    with path.open("rb") as f:
        f.seek(place)
        record: Record = json.loads(f.readline())
    return record


def passage_sha256(*texts: str) -> str:
    """Return the hash by which recordings know passages: that of their texts, without titles."""
    return sha256_text(*texts)


def recording_key(passage: str, style: str) -> str:
    """Return the key of a recording: passages' hash and style."""
    return f"{passage[:32]}:{style}"


def _mend_end(path: Path) -> None:
    """Take away the line that a killed process left unfinished; end a whole one."""
    whole, _, rest = (path.read_bytes() if path.exists() else b"").rpartition(b"\n")
    if not rest:
        return
    try:
        json.loads(rest)
    except ValueError:
        logger.warning("%s: its last line is cut short, taken out", path)
        os.truncate(path, len(whole) + 1 if whole else 0)
    else:
        with path.open("ab") as f:
            f.write(b"\n")
