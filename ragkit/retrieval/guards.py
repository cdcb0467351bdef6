"""Which passages may answer a question although nobody labelled them, told by their words.

`CorpusWords` holds the words of a corpus as numbers and answers two questions about many passages
at once: who is nearly the same as a positive, and who contains the reference answer. What follows
from that is `ragkit.retrieval.negatives`'s business.
"""

import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ragkit.data.nearduplicates import words
from ragkit.data.schema import Example, Passage

NEAR_DUPLICATE = 0.7  # share of common word triples from which two passages are taken for the same
COMMON = 0.01  # share of the corpus above which an answer that stands there names no passage
_FEW = 5  # passages that may have an answer in common in the smallest corpus
_ARTICLES = ("the", "a", "an")
_CACHED = 1 << 16  # passages whose triples are held, half a kilobyte each
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Rows = NDArray[np.int64]


class CorpusWords:
    """The words of a corpus in order, and where each word stands; 8 bytes a word.

    row: the number of each passage, by id
    """

    def __init__(self, corpus: Mapping[str, Passage]) -> None:
        self.row = {passage_id: i for i, passage_id in enumerate(corpus)}
        numbers: defaultdict[str, int] = defaultdict(int, {"": 0})  # 0 stands between passages
        numbers.default_factory = numbers.__len__
        flat, starts = array("i", [0]), array("q")
        for passage in corpus.values():
            starts.append(len(flat))
            flat.extend(map(numbers.__getitem__, _words(passage.text)))
            flat.append(0)
        self._numbers = dict(numbers)
        self._flat = np.asarray(flat)
        self._starts = np.asarray(starts)
        self._places = np.argsort(self._flat, kind="stable").astype(np.uint32)
        self._first = np.searchsorted(self._flat[self._places], np.arange(len(numbers) + 1))
        self._triples = lru_cache(_CACHED)(self._cut_triples)

    def __len__(self) -> int:
        return len(self.row)

    def near_duplicates(
        self, candidates: Sequence[str], positives: Sequence[str], threshold: float = NEAR_DUPLICATE
    ) -> NDArray[np.bool_]:
        """Return which candidates share `threshold` of their word triples with a positive.

        The share is Jaccard's, of the sets of triples; a shorter text is one run of its words.
        """
        near = np.zeros(len(candidates), bool)
        if not candidates:
            return near
        triples = [self._triples(self.row[p]) for p in candidates]
        sizes = np.array([len(t) for t in triples])
        for positive in positives:
            own = self._triples(self.row[positive])
            # sets of too different sizes cannot have so much in common
            fits = np.flatnonzero(
                (sizes >= threshold * len(own)) & (sizes * threshold <= len(own)) & ~near
            )
            if len(fits):
                together = np.concatenate([triples[i] for i in fits])
                at = np.minimum(np.searchsorted(own, together), len(own) - 1)
                firsts = np.cumsum(sizes[fits]) - sizes[fits]
                common = np.add.reduceat((own[at] == together).astype(np.int64), firsts)
                near[fits] = common >= threshold * (sizes[fits] + len(own) - common)
        return near

    def rows_with(self, text: str) -> Rows:
        """Return the numbers of the passages that contain a text, word by word, in order."""
        numbers = [self._numbers.get(word, 0) for word in _answer_words(text)]
        if not numbers or not all(numbers):
            return np.empty(0, np.int64)
        rarest = min(range(len(numbers)), key=lambda i: self._count(numbers[i]))
        low, high = self._first[numbers[rarest]], self._first[numbers[rarest] + 1]
        begin = self._places[low:high].astype(np.int64) - rarest
        begin = begin[(begin >= 0) & (begin + len(numbers) <= len(self._flat))]
        for i, number in enumerate(numbers):
            if i != rarest:
                begin = begin[self._flat[begin + i] == number]
        return np.unique(np.searchsorted(self._starts, begin, side="right") - 1)

    def _count(self, number: int) -> int:
        return int(self._first[number + 1] - self._first[number])

    def _cut_triples(self, row: int) -> NDArray[np.uint32]:
        """Return the sorted distinct triples of a passage's words, as hashes of 32 bits."""
        start = self._starts[row]
        end = self._starts[row + 1] if row + 1 < len(self._starts) else len(self._flat)
        tokens = self._flat[start : end - 1].astype(np.uint64)
        if len(tokens) < 3:
            tokens = np.concatenate([tokens, np.zeros(3 - len(tokens), np.uint64)])
        mixed = (tokens[:-2] * _FACTOR + tokens[1:-1]) * _FACTOR + tokens[2:]
        hashes = np.sort((mixed * _FACTOR >> np.uint64(32)).astype(np.uint32))
        distinct = np.ones(len(hashes), bool)
        np.not_equal(hashes[1:], hashes[:-1], out=distinct[1:])
        return hashes[distinct]


def rows_that_answer(example: Example, words_of: CorpusWords) -> frozenset[int]:
    """Return the passages that contain a reference answer of a question, where it is specific.

    An answer is specific if it has two words, one of them not in the question, and stands in few
    passages (a hundredth of the corpus, or five): `yes`, `2` and `sunlight` name no passage.
    """
    most = max(_FEW, int(COMMON * len(words_of)))
    asked = set(_words(example.question))
    found: set[int] = set()
    for answer in example.answers:
        told = _answer_words(answer)
        if len(told) < 2 or asked.issuperset(told):
            continue
        rows = words_of.rows_with(answer)
        if len(rows) <= most:
            found.update(rows.tolist())
    return frozenset(found)


def _words(text: str) -> list[str]:
    """Return the words of a text, or its symbols where it has no words."""
    text = unicodedata.normalize("NFC", text)
    return words(text) or text.split()


def _answer_words(text: str) -> list[str]:
    """Return the words of an answer without the article before it."""
    told = _words(text)
    return told[1:] if len(told) > 1 and told[0] in _ARTICLES else told
