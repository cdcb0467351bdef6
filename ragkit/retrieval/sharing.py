"""An array that is filled in pieces by one process or by the ranks of a launch, and survives them.

The ranks are those of torchrun, on one machine: they write into one memory-mapped file, each its
own rows, and note in files of their own which rows are done. What the rows are is not known here.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import distributed as dist

from ragkit.data.files import read_json, write_json
from ragkit.errors import RunError
from ragkit.models import ranks

Span = tuple[int, int]  # rows from the first up to, not including, the second


@contextlib.contextmanager
def together() -> Iterator[tuple[int, int]]:
    """Yield this process's rank and how many there are; every one must come here.

    Raises:
        RunError: they are on several machines, which do not share memory-mapped pages.
    """
    size = ranks.count()
    if size == 1:
        yield 0, 1
        return
    if ranks.on_several_machines():
        raise RunError(
            f"encoding into one file is shared by the processes of one machine, not by {size} on "
            "several; start it on one of them"
        )
    with contextlib.nullcontext() if dist.is_initialized() else ranks.joined():
        yield int(os.environ["RANK"]), size


@dataclass
class PartialArray:
    """An fp32 .npy file on its way; it gets its name when all rows are there.

    made_from: hash of what the rows depend on, so that rows of others are not taken for these
    rank: whose account of done rows this process writes
    """

    out: Path
    shape: tuple[int, int]
    made_from: str
    rank: int = 0

    @property
    def partial(self) -> Path:
        return self.out.with_suffix(".partial.npy")

    def begin(self) -> list[Span]:
        """Return what earlier processes left done of the same; make the file where there is none.

        For rank 0, before any rank writes.
        """
        done: list[Span] = []
        if self.partial.exists() or self.out.exists():
            accounts = [read_json(path) for path in _accounts(self.out)]
            done = [
                tuple(s) for a in accounts if a["made_from"] == self.made_from for s in a["done"]
            ]
        if not done:
            forget_progress(self.out)
            np.lib.format.open_memmap(self.partial, "w+", np.dtype(np.float32), self.shape)
            _reserve(self.partial)
        else:
            self._keep_one_account(done)
        return done

    def write(self, span: Span, rows: NDArray[np.float32]) -> None:
        """Put rows in their place, for good.

        The file is mapped for this alone: pages that stay mapped count as this process's memory.
        """
        file = self.partial if self.partial.exists() else self.out
        mapped = np.lib.format.open_memmap(file, "r+")
        mapped[slice(*span)] = rows
        mapped.flush()

    def note(self, done: Sequence[Span]) -> None:
        """Write this rank's account."""
        write_json(_account(self.out, self.rank), {"made_from": self.made_from, "done": done})

    def finish(self) -> NDArray[np.float32]:
        """Give the file its name and return it. For rank 0, when every rank has written."""
        self._keep_one_account([(0, self.shape[0])])
        if self.partial.exists():
            self.partial.replace(self.out)
        return self.load()

    def load(self) -> NDArray[np.float32]:
        """Return the finished array, mapped."""
        return np.asarray(np.load(self.out, mmap_mode="r"))

    def _keep_one_account(self, done: Sequence[Span]) -> None:
        self.note(done)
        for path in _accounts(self.out):
            if path != _account(self.out, self.rank):
                path.unlink()


def forget_progress(out: Path) -> None:
    """Take away the accounts of an array that is finished and in its place."""
    for path in _accounts(out):
        path.unlink(missing_ok=True)


def gaps(done: Iterable[Span], total: int) -> list[Span]:
    """Return the spans of `total` rows that no span of `done` covers, in order."""
    found, place = [], 0
    for start, stop in sorted(done):
        if start > place:
            found.append((place, start))
        place = max(place, stop)
    return [*found, (place, total)] if place < total else found


def share(spans: Sequence[Span], rank: int, size: int) -> list[Span]:
    """Return a rank's part of the spans: rows that follow one another, as many as every other's."""
    total = sum(stop - start for start, stop in spans)
    first, last = total * rank // size, total * (rank + 1) // size
    found, before = [], 0
    for start, stop in spans:
        low, high = max(first - before, 0), min(last - before, stop - start)
        if low < high:
            found.append((start + low, start + high))
        before += stop - start
    return found


def pieces(spans: Iterable[Span], most: int) -> Iterator[Span]:
    """Yield the spans cut into pieces of at most `most` rows."""
    for start, stop in spans:
        for begin in range(start, stop, most):
            yield begin, min(begin + most, stop)


def _account(out: Path, rank: int) -> Path:
    return out.with_suffix(f".progress-{rank}.json" if rank else ".progress.json")


def _accounts(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f"{out.stem}.progress*.json"))


def _reserve(path: Path) -> None:
    """Have the disk give a file all its room: a mapped page without any ends the process.

    Raises:
        RunError: there is not so much room.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        with path.open("r+b") as f:
            os.posix_fallocate(f.fileno(), 0, os.fstat(f.fileno()).st_size)
    except OSError as error:
        size = path.stat().st_size
        path.unlink()
        raise RunError(f"{path}: no room for its {size:,} bytes: {error.strerror}") from error
