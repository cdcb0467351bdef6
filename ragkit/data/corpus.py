"""A corpus that stays on disk: passages read when they are needed, by id or in order."""

import json
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ragkit.data.files import BadLines, parse_jsonl, read_corpus
from ragkit.data.schema import Passage, distinct_passages, parse_passage
from ragkit.errors import DataError


class CorpusFile(Mapping[str, Passage]):
    """The passages of a file that ragkit wrote; 24 bytes of each are in memory.

    lines: numbers, from 1 and rising, of the lines to take; None: all
    """

    def __init__(self, path: Path, lines: "array[int] | None" = None) -> None:
        self.path = path
        places, hashes = array("Q"), array("q")
        place, wanted = 0, None if lines is None else iter(lines)
        following = None if wanted is None else next(wanted, 0)
        with path.open("rb") as f:
            for number, line in enumerate(f, start=1):
                if wanted is None or number == following:
                    places.append(place)
                    hashes.append(hash(str(json.loads(line)["id"])))
                    following = None if wanted is None else next(wanted, 0)
                place += len(line)
        self._places = np.asarray(places)
        self._order = np.argsort(np.asarray(hashes), kind="stable").astype(np.uint32)
        self._hashes = np.asarray(hashes)[self._order]

    def __getitem__(self, passage_id: str) -> Passage:
        wanted = hash(passage_id)
        first = int(np.searchsorted(self._hashes, wanted))
        while first < len(self._hashes) and self._hashes[first] == wanted:
            passage = self._read(int(self._places[self._order[first]]))
            if passage.id == passage_id:
                return passage
            first += 1
        raise KeyError(passage_id)

    def __iter__(self) -> Iterator[str]:
        with self.path.open("rb") as f:
            for place in self._places:
                f.seek(int(place))
                yield parse_passage(json.loads(f.readline())).id

    def __len__(self) -> int:
        return len(self._places)

    def _read(self, place: int) -> Passage:
        with self.path.open("rb") as f:
            f.seek(place)
            return parse_passage(json.loads(f.readline()))


def open_corpus(path: Path, skip_bad: Path | None = None) -> Mapping[str, Passage]:
    """Check a JSONL of passages as `read_corpus` does, and leave the passages in the file.

    A compressed file is read into memory.

    Raises:
        DataError: no such file, malformed lines, no passage, or one id for two texts.
    """
    if path.suffix == ".zst":
        return read_corpus(path, skip_bad)
    bad, lines, number = BadLines(path, skip_bad), array("Q"), 0

    def numbered() -> Iterator[tuple[str, Passage]]:
        nonlocal number
        for number, passage in parse_jsonl(path, parse_passage, bad):
            yield f"{path}:{number}", passage

    for _ in distinct_passages(numbered()):
        lines.append(number)
    bad.finish()
    if not lines:
        raise DataError(f"{path}: no passages in it")
    return CorpusFile(path, lines)
