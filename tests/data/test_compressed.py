"""Zstandard files: whole, in frames, cut, and without the package."""

import sys
from pathlib import Path

import pytest
import zstandard

from ragkit.data.files import raw_lines
from ragkit.errors import DataError, MissingExtraError

LINES = [f"line {i}: {i * i}\n".encode() for i in range(50_000)]


def pack(lines: list[bytes]) -> bytes:
    return zstandard.ZstdCompressor().compress(b"".join(lines))


@pytest.mark.parametrize("cut", [0, 1, 30_000, 50_000])
def test_lines_are_read_frame_after_frame(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "lines.zst"
    path.write_bytes(pack(LINES[:cut]) + pack(LINES[cut:]))
    assert list(raw_lines(path)) == LINES


@pytest.mark.parametrize("kept", [0, 3, 1000, -1])
def test_a_file_that_ends_too_early_is_an_error(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "lines.zst"
    path.write_bytes(pack(LINES)[:kept])
    with pytest.raises(DataError, match=r"lines\.zst: the compressed file is empty or ends too"):
        list(raw_lines(path))


def test_a_file_that_is_not_compressed_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lines.zst"
    path.write_bytes(b"plain text, not compressed")
    with pytest.raises(DataError, match=r"lines\.zst: not a Zstandard file"):
        list(raw_lines(path))


def test_without_the_package_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines.zst"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match=r"zstandard.*pip install 'ragkit\[docs\]'"):
        list(raw_lines(path))
