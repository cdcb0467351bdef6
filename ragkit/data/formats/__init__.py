"""The formats of others: a module each, with looks_like, read and write, in that order.

`read` makes a `Dataset` and `write` writes one; both say what could not be held. Run directories
and configurations are the stages' business.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ragkit.data.formats import (
    beir,
    chatrag,
    dalm,
    localrqa,
    openchatkit,
    squad,
    table,
    trec,
)
from ragkit.data.formats.dataset import Dataset, Options
from ragkit.errors import DataError


class Format(Protocol):
    """What a format's module has."""

    def looks_like(self, path: Path) -> bool:
        """Return True where a file or folder seems to be of this format."""

    def read(self, path: Path, options: Options) -> Dataset:
        """Read a file or folder; what was lost or guessed is in the notes."""

    def write(self, folder: Path, dataset: Dataset, options: Options) -> list[str]:
        """Write the files of the format; return what it could not hold, a sentence each."""


FORMATS: Mapping[str, Format] = {
    "localrqa": localrqa,
    "dalm": dalm,
    "beir": beir,
    "squad": squad,
    "chatrag": chatrag,
    "openchatkit": openchatkit,
    "trec": trec,
    "table": table,
}


def detect(path: Path) -> str:
    """Return the name of the format that a file or folder seems to be of.

    Raises:
        DataError: none does, or several.
    """
    special = [name for name, kind in FORMATS.items() if name != "table" and kind.looks_like(path)]
    fits = special or (["table"] if table.looks_like(path) else [])
    if len(fits) == 1:
        return fits[0]
    seems = f"could be {' or '.join(fits)}" if fits else "not of a format that is known"
    raise DataError(f"{path}: {seems}; say it with --from: {', '.join(FORMATS)}")
