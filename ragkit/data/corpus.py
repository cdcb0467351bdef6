"""A corpus that stays on disk: passages read when they are needed, by id or in order."""

import json
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ragkit.data.files import read_passages
from ragkit.data.schema import Passage, parse_passage


class CorpusFile(Mapping[str, Passage]):
    """The passages of a file that ragkit wrote; 24 bytes of each are in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        places, hashes = array("Q"), array("q")
        place = 0
        with path.open("rb") as f:
            for line in f:
                places.append(place)
                hashes.append(hash(json.loads(line)["id"]))
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
        return (passage.id for passage in read_passages(self.path))

    def __len__(self) -> int:
        return len(self._places)

    def _read(self, place: int) -> Passage:
        with self.path.open("rb") as f:
            f.seek(place)
            return parse_passage(json.loads(f.readline()))
