"""Logging, set up once, and the one progress display.

Logs go to stderr and to the run's log.txt; results go to stdout and are not this module's business.
Only rank 0 of a distributed run speaks.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger("ragkit")

T = TypeVar("T")
_LINE_EVERY_S = 10.0  # how often progress writes a line where there is no terminal


def is_main_process() -> bool:
    """Return True on rank 0, and wherever there is only one process."""
    return os.environ.get("RANK", "0") == "0"


def setup(level: int = logging.INFO) -> None:
    """Send ragkit's log to stderr, once; other libraries keep their warnings."""
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(level if is_main_process() else logging.ERROR)
    logger.propagate = False


def to_file(path: Path) -> Callable[[], None]:
    """Copy the log to `path` too; call what is returned to stop."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)

    def close() -> None:
        logger.removeHandler(handler)
        handler.close()

    return close


@contextmanager
def hushed(name: str) -> Iterator[None]:
    """Drop what a library's module logs, by its logger's name, while the block runs.

    Not by its level, which transformers takes for advice on what to check.
    """

    def nothing(_: logging.LogRecord) -> bool:
        return False

    library = logging.getLogger(name)
    library.addFilter(nothing)
    try:
        yield
    finally:
        library.removeFilter(nothing)


def progress(
    items: Iterable[T], what: str, total: int | None = None, unit: str = "items"
) -> Iterator[T]:
    """Yield the items, showing how far it is, the rate and the time left.

    A bar that is redrawn on a terminal; elsewhere a log line every ten seconds.
    """
    meter = Meter(what, total if total is not None else _length(items), unit)
    for item in items:
        yield item
        meter.advance()
    meter.close()


class Meter:
    """Progress that is advanced by hand, for work that does not come as one iterable."""

    def __init__(self, what: str, total: int | None, unit: str = "items") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self.skipped = 0
        self.start = time.monotonic()
        self.terminal = sys.stderr.isatty() and is_main_process()
        self.last_shown = self.start

    def advance(self, n: int = 1) -> None:
        """Count `n` more units as done."""
        self.done += n
        now = time.monotonic()
        if now - self.last_shown >= (0.2 if self.terminal else _LINE_EVERY_S):
            self.last_shown = now
            self._show()

    def skip(self, n: int) -> None:
        """Count `n` units as done before this process began; the rate leaves them out."""
        self.done += n
        self.skipped += n

    def close(self) -> None:
        """Clear the bar; where there is no terminal, say how long a long job took."""
        if self.terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
        elif self.last_shown > self.start:
            self._show()

    def _show(self) -> None:
        seconds = time.monotonic() - self.start
        rate = (self.done - self.skipped) / seconds if seconds > 0 else 0.0
        of = f"/{self.total}" if self.total else ""
        left = f", {_clock((self.total - self.done) / rate)} left" if self.total and rate else ""
        line = f"{self.what}: {self.done}{of} {self.unit}, {rate:,.1f}/s{left}"
        if self.terminal:
            sys.stderr.write("\r\033[K" + line)
            sys.stderr.flush()
        else:
            logger.info(line)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _length(items: Iterable[object]) -> int | None:
    return len(items) if isinstance(items, Sized) else None
