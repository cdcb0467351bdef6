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
_BLOCK = 1 << 16  # bytes read from a journal's end to find its last line


class Journal:
    """An open journal file, of which places are held in memory; of equal keys the first counts.

    Several processes may append to one file, each record is written under a lock. `asking` keeps
    them from buying the same.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
        self._places: dict[str, int] = {}
        self._end = 0  # of what was read or written here
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.lock:
                _mend_end(path)
        except OSError as error:
            raise DataError(f"{path}: no journal can be kept there: {error.strerror}") from error
        self._read_on()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Record | None:
        """Return the record of a key."""
        place = self._places.get(key)
        return None if place is None else _record_at(self.path, place)

    @contextlib.contextmanager
    def asking(self) -> Iterator[bool]:
        """Be the only one who asks with this journal; waits for another process that does.

        Yields whether records of others came meanwhile.
        """
        lock = filelock.FileLock(self.path.with_name(f".{self.path.name}.asking.lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            logger.info("%s: waiting for another run that asks with this journal", self.path)
            lock.acquire()
        try:
            before = len(self)
            self._read_on()
            yield len(self) > before
        finally:
            lock.release()

    def append(self, records: Sequence[Record]) -> None:
        """Add records; when this returns, they are on disk.

        Raises:
            RunError: the disk is full; what was there before is as it was.
        """
        lines = [json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in records]
        with self.lock:
            try:
                _mend_end(self.path)  # another process may have been killed while it wrote
                place = _append(self.path, b"".join(lines))
            except OSError as error:
                raise RunError(f"{self.path}: cannot be written: {error.strerror}") from error
        if place == self._end:
            self._end += sum(map(len, lines))
        for record, line in zip(records, lines, strict=True):
            self._places.setdefault(str(record["key"]), place)
            place += len(line)

    def _read_on(self) -> None:
        """Take in what was written since the file was last read."""
        with self.lock:
            end = self.path.stat().st_size if self.path.exists() else 0
            if end > self._end:
                for place, record in _lines(self.path, self._end):
                    self._places.setdefault(str(record["key"]), place)
            self._end = end


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


def _lines(path: Path, place: int = 0) -> Iterator[tuple[int, Record]]:
    """Yield (place in the file, record) from a place on."""
    if path.is_dir():
        raise DataError(f"{path}: a folder; a journal is a file")
    with path.open("rb") as f:
        f.seek(place)
        for line in f:
            start, place = place, place + len(line)
            if not line.strip():
                continue
            try:
                record = _checked(line)
            except ValueError as error:
                where = f"{path}:{_line_number(path, start)}"
                if line.endswith(b"\n"):
                    raise DataError(f"{where}: {error}") from error
                logger.warning("%s: cut short, left out", where)
                continue
            yield start, record


def _line_number(path: Path, place: int) -> int:
    with path.open("rb") as f:
        return f.read(place).count(b"\n") + 1


def _checked(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError("not a journal record") from error
    if not isinstance(record, dict):
        raise ValueError("not a journal record")
    missing = {"passage_sha256", "style", "response"} - set(record)
    if missing:
        raise ValueError(f"a record without {', '.join(sorted(missing))}")
    if not all(isinstance(record[k], str) for k in ("passage_sha256", "style", "response")):
        raise ValueError("a passage, style or response that is no text")
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


def _append(path: Path, data: bytes) -> int:
    """Add bytes to a file and have them on disk, or leave it as it was; return where they are."""
    # unbuffered: what a full disk refuses must not be written again when the file is closed
    with path.open("ab", buffering=0) as f:
        place = f.seek(0, os.SEEK_END)
        try:
            left = memoryview(data)
            while left:
                left = left[f.write(left) :]
            os.fsync(f.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, place)
            raise
    return place


def _mend_end(path: Path) -> None:
    """Take away the line that a killed process left unfinished; end a whole one."""
    if not path.exists():
        return
    with path.open("r+b") as f:
        start = end = f.seek(0, os.SEEK_END)
        rest = b""
        while start and b"\n" not in rest:
            start = max(start - _BLOCK, 0)
            f.seek(start)
            rest = f.read(end - start)
        rest = rest.rpartition(b"\n")[2]
        if not rest:
            return
        try:
            json.loads(rest)
        except ValueError:
            logger.warning("%s: its last line is cut short, taken out", path)
            f.truncate(end - len(rest))
        else:
            f.seek(end)
            f.write(b"\n")
