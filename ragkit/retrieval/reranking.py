"""Scoring passages by a cross-encoder, each pair once: what is scored is written down at once.

The journal is append-only JSONL, a line a question and call: {key, scores}. The key is a hash of
the model and the question, passages are known by a hash of their text: scores of other weights, or
of a text that has changed, are never found.
"""

import json
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ragkit.data.files import sha256_text
from ragkit.data.schema import Passage
from ragkit.errors import DataError, RunError
from ragkit.log import Meter, logger
from ragkit.models.reranker import Reranker

_PART = 2048  # pairs scored between two writes to the journal


class Scores:
    """A journal of scores. Of its lines only places are held in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, list[int]] = {}
        if path.exists():
            self._read()

    def get(self, key: str) -> dict[str, float]:
        """Return what a model gave to a question, {hash of the passage: score}."""
        found: dict[str, float] = {}
        if key in self._places:
            with self.path.open("rb") as f:
                for place in self._places[key]:
                    f.seek(place)
                    found |= json.loads(f.readline())["scores"]
        return found

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records; when this returns, they are on disk.

        Raises:
            RunError: the disk is full.
        """
        try:
            with self.path.open("ab") as f:
                for record in records:
                    place = f.tell()
                    f.write(json.dumps(record).encode() + b"\n")
                    self._places.setdefault(record["key"], []).append(place)
                f.flush()
                os.fsync(f.fileno())
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _read(self) -> None:
        place = 0
        with self.path.open("rb") as f:
            for number, line in enumerate(f, start=1):
                if not line.endswith(b"\n"):
                    logger.warning("%s: its last line is cut short, taken out", self.path)
                    os.truncate(self.path, place)
                    return
                try:
                    key = json.loads(line)["key"]
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{self.path}:{number}: not a record of scores") from error
                self._places.setdefault(key, []).append(place)
                place += len(line)


class Rescorer:
    """A reranker over a corpus, that scores no pair twice.

    journal: the file that remembers; what it has of the same weights is not computed again
    """

    def __init__(self, reranker: Reranker, corpus: Mapping[str, Passage], journal: Path) -> None:
        self.reranker, self.corpus = reranker, corpus
        self.scores = Scores(journal)
        self.model = reranker.fingerprint()
        self.meter = Meter("reranking", None, "pairs")

    def __call__(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[dict[str, float]]:
        """Return {passage id: raw logit} for each (query, passage ids), in the order of the ids."""
        keys = [sha256_text(self.model, query)[:32] for query, _ in asked]
        hashes = {i: _hash(self.corpus[i]) for _, ids in asked for i in ids}
        known = [self.scores.get(key) for key in keys]
        missing = {
            (key, hashes[i]): (query, self.corpus[i].rendered)
            for key, there, (query, ids) in zip(keys, known, asked, strict=True)
            for i in ids
            if hashes[i] not in there
        }
        self.meter.skip(sum(len(ids) for _, ids in asked) - len(missing))
        pairs = iter(missing.items())
        while part := list(islice(pairs, _PART)):
            self._score(part)
        return [
            {i: scores[hashes[i]] for i in ids}
            for scores, (_, ids) in zip(map(self.scores.get, keys), asked, strict=True)
        ]

    def _score(self, part: Sequence[tuple[tuple[str, str], tuple[str, str]]]) -> None:
        """Score ((key, hash of the passage), pair)s and write them down."""
        fresh: dict[str, dict[str, float]] = {}
        found = self.reranker.score([pair for _, pair in part])
        for ((key, passage), _), score in zip(part, found, strict=True):
            fresh.setdefault(key, {})[passage] = score
        self.scores.append([{"key": key, "scores": scores} for key, scores in fresh.items()])
        self.meter.advance(len(part))


def _hash(passage: Passage) -> str:
    return sha256_text(passage.rendered)[:16]
