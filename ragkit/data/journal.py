"""The journal of what a teacher was asked and answered: append-only JSONL, never bought twice.

Each record is on disk before it is used. A record is found again by its `key` (what was asked, of
whom, how) or, for recordings, by the text of its passage and the style alone.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from ragkit.data.files import sha256_text
from ragkit.errors import DataError
from ragkit.log import logger

Record = Mapping[str, Any]


class Journal:
    """An open journal file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.lock:
                _mend_end(path)
        except OSError as error:
            raise DataError(f"{path}: no journal can be kept there: {error.strerror}") from error
        self.by_key = {str(r["key"]): r for r in read_journal(path)} if path.exists() else {}

    def append(self, record: Record) -> None:
        """Add a record; when this returns, it is on disk."""
        with self.lock, self.path.open("ab") as f:
            f.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            f.flush()
            os.fsync(f.fileno())
        self.by_key[str(record["key"])] = record


def read_journal(path: Path) -> Iterator[Record]:
    """Yield a journal's records; a line cut short by a killed process is left out.

    Raises:
        DataError: a whole line that is no record.
    """
    if path.is_dir():
        raise DataError(f"{path}: a folder; a journal is a file")
    with path.open("rb") as f:
        for number, line in enumerate(f, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    logger.warning("%s:%d: cut short, left out", path, number)
                    continue
                raise DataError(f"{path}:{number}: not a journal record") from error
            if not isinstance(record, dict):
                raise DataError(f"{path}:{number}: not a journal record")
            missing = {"passage_sha256", "style", "response"} - set(record)
            if missing:
                raise DataError(f"{path}:{number}: a record without {', '.join(sorted(missing))}")
            if not all(isinstance(record[k], str) for k in ("passage_sha256", "style", "response")):
                raise DataError(f"{path}:{number}: a passage, style or response that is no text")
            yield {"key": recording_key(record["passage_sha256"], record["style"]), **record}


def passage_sha256(text: str) -> str:
    """Return the hash by which recordings know a passage: that of its text, without title."""
    return sha256_text(text)


def recording_key(passage: str, style: str) -> str:
    """Return the key of a recording: passage hash and style."""
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
