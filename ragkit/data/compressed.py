"""Zstandard files as streams of bytes, through the package zstandard (the extra `docs`).

What the bytes mean, and which files are compressed, is the caller's business.
"""

import io
from pathlib import Path
from typing import IO, Any

from ragkit.errors import DataError, MissingExtraError

_CHUNK = 1 << 16  # bytes read at a time


class Decompressed(io.RawIOBase):
    """The content of a Zstandard file of one frame or more; where it ends, a frame must end.

    file: open for reading bytes; path: its name, for messages
    Raises:
        DataError: while reading, where the file is none or ends too early.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtraError("zstandard", "docs", f"reading {path}") from error
        self._file, self._path, self._error = file, path, zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._rest = memoryview(b"")  # decompressed and not yet read

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the start of the buffer; return how many bytes, 0 at the end."""
        while not self._rest:
            raw = self._frame.unused_data if self._frame.eof else b""
            raw = raw or self._file.read(_CHUNK)
            if not raw and self._frame.eof:
                return 0
            if not raw:
                raise DataError(f"{self._path}: the compressed file is empty or ends too early")
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            try:
                self._rest = memoryview(self._frame.decompress(raw))
            except self._error as error:
                raise DataError(f"{self._path}: not a Zstandard file: {error}") from error
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
