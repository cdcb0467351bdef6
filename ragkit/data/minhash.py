"""Near-duplicates among many texts, by MinHash signatures of 72 bytes; the texts are not kept.

A signature holds 288 hashes of two bits (Broder, 1997; Li and König, 2010), of which each twelve in
a row are a band: texts that share a band are compared by the estimate of their Jaccard similarity,
whose standard deviation is 0.025. Two texts whose words with digits differ, such as the guides of
two devices, are never near-duplicates. The exact similarity of two texts is
`ragkit.data.nearduplicates`'s.
"""

import hashlib
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ragkit.data.nearduplicates import figures, words
from ragkit.data.schema import Passage
from ragkit.data.strings import Strings

Signatures = NDArray[np.uint8]

_HASHES = 288
_BYTES = _HASHES // 4
_BANDS = _BYTES // 3
_ROWS = 1024  # shingles hashed at a time, one megabyte
_PAIRS = 1 << 16  # compared at a time
_NOT_INDEXED = 1024  # signatures that are compared one by one before they are sorted by bands


def signature(tokens: Sequence[str], n: int = 3) -> Signatures:
    """Return the MinHash signature, (72,), of the set of runs of `n` tokens.

    A shorter text is one run, as in `nearduplicates.shingles`.
    """
    hashes = _run_hashes(tokens, n)
    least = np.full(_HASHES, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(hashes), _ROWS):
        permuted = hashes[start : start + _ROWS, None] * _FACTORS + _SUMMANDS
        np.minimum(least, permuted.min(axis=0), out=least)
    pairs = ((least * np.uint32(0x9E3779B1)) >> np.uint32(30)).astype(np.uint8).reshape(-1, 4)
    packed: Signatures = np.bitwise_or.reduce(pairs << np.arange(0, 8, 2, dtype=np.uint8), axis=1)
    return packed


def similarity(a: Signatures, b: Signatures) -> NDArray[np.float64]:
    """Return the estimated Jaccard similarities of signatures, (..., 72) and (..., 72)."""
    unequal = a.view(np.uint64) ^ b.view(np.uint64)
    unequal |= unequal >> np.uint64(1)
    count = np.bitwise_count(unequal & np.uint64(0x5555_5555_5555_5555)).sum(axis=-1)
    # two bits of unequal hashes are equal once in four
    return np.asarray(1 - count / _HASHES * (4 / 3))


def group_near_duplicates(
    passages: Iterable[Passage], threshold: float = 0.8, figures_tell: bool = True
) -> list[list[str]]:
    """Return the ids of groups of near-duplicates, two or more, in the order of the corpus.

    Near-duplicates have the same figures and texts whose runs of three words are, by estimate,
    common to a share of at least `threshold`. What is linked by others is one group. Reads the
    passages once and keeps some 140 bytes of each.
    figures_tell: whether texts with other figures, in title or text, are another matter
    """
    ids, found = Strings(), _Store(3)
    for passage in passages:
        ids.append(passage.id)
        found.add(*found.look(passage.text, passage.rendered if figures_tell else ""))
    roots = _components(found.signatures, found.figures, threshold)
    groups: dict[int, list[str]] = {}
    for i in np.flatnonzero(np.bincount(roots)[roots] > 1).tolist():
        groups.setdefault(int(roots[i]), []).append(ids[i])
    return list(groups.values())


class NearDuplicates:
    """Texts that are kept if no earlier one that was kept is nearly the same; 270 bytes of each.

    threshold: share of common runs of words from which two texts are nearly the same
    shingle: words of a run; 1 or 2 for short texts
    """

    def __init__(self, threshold: float = 0.8, shingle: int = 1) -> None:
        self.threshold = threshold
        self._kept = _Store(shingle)
        self._indexed = 0
        self._keys = np.empty(0, np.uint32)  # band and its value of the indexed, sorted
        self._owners = np.empty(0, np.uint32)

    def first_like(self, text: str) -> int | None:
        """Return which kept text, counted from 0, this is nearly the same as; else keep it."""
        looked, marks = self._kept.look(text, text)
        low, high = (
            np.searchsorted(self._keys, _bands(looked), side) for side in ("left", "right")
        )
        spans = [self._owners[a:b] for a, b in zip(low, high, strict=True) if a < b]
        rest = np.arange(self._indexed, len(self._kept), dtype=np.uint32)
        candidates = np.unique(np.concatenate([*spans, rest]))
        candidates = candidates[self._kept.figures[candidates] == marks]
        near = similarity(self._kept.signatures[candidates], looked) >= self.threshold
        if near.any():
            return int(candidates[near][0])
        self._kept.add(looked, marks)
        if len(self._kept) - self._indexed > max(_NOT_INDEXED, self._indexed // 16):
            self._index()
        return None

    def _index(self) -> None:
        keys = _bands(self._kept.signatures).ravel()
        order = np.argsort(keys, kind="stable")
        self._indexed = len(self._kept)
        self._keys, self._owners = keys[order], (order // _BANDS).astype(np.uint32)


class _Store:
    """Signatures and the hashes of their texts' figures, in memory that grows in place."""

    def __init__(self, shingle: int) -> None:
        self.shingle = shingle
        self._signatures, self._figures = bytearray(), array("I")

    def __len__(self) -> int:
        return len(self._figures)

    @property
    def signatures(self) -> Signatures:
        """(N, 72)."""
        return np.frombuffer(self._signatures, np.uint8).reshape(-1, _BYTES)

    @property
    def figures(self) -> NDArray[np.uint32]:
        """(N,)."""
        return np.frombuffer(self._figures, np.uint32)

    def look(self, text: str, marked: str) -> tuple[Signatures, int]:
        """Return the signature of a text, by its symbols where it has no words, and a hash.

        marked: whose figures make the hash
        """
        sign = signature(words(text) or text.split(), self.shingle)
        joined = " ".join(sorted(figures(marked))).encode("utf-8", "surrogatepass")
        return sign, int.from_bytes(hashlib.blake2b(joined, digest_size=4).digest(), "little")

    def add(self, sign: Signatures, marks: int) -> None:
        """Keep what `look` returned."""
        self._signatures += sign.tobytes()
        self._figures.append(marks)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a well-mixed function of integers, one to one (splitmix64; Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


# h -> a h + b modulo 2^32 with an odd a: as many permutations as hashes
_FACTORS = _mixed(np.arange(1, _HASHES + 1, dtype=np.uint64)).astype(np.uint32) | np.uint32(1)
_SUMMANDS = _mixed(np.arange(1001, _HASHES + 1001, dtype=np.uint64)).astype(np.uint32)


def _run_hashes(tokens: Sequence[str], n: int) -> NDArray[np.uint32]:
    """Return 32 bits for each run of `n` tokens, the same in every process (`hash` is not)."""
    raw = (zlib.crc32(token.encode("utf-8", "surrogatepass")) for token in tokens)
    each = np.fromiter(raw, np.uint64, len(tokens))
    count = max(len(each) - n + 1, 1)
    runs = np.zeros(count, np.uint64)
    for i in range(min(n, len(each))):
        runs = _mixed((runs ^ each[i : i + count]) + np.uint64(0x9E3779B97F4A7C15))
    return (runs >> np.uint64(32)).astype(np.uint32)


def _bands(signatures: Signatures) -> NDArray[np.uint32]:
    """Return (..., 24) keys that are equal where a band is, of its number and its three bytes."""
    *shape, n_bytes = signatures.shape
    parts = signatures.reshape(*shape, n_bytes // 3, 3).astype(np.uint32)
    numbers = np.arange(n_bytes // 3, dtype=np.uint32)
    return parts @ np.array([1, 1 << 8, 1 << 16], np.uint32) | numbers << np.uint32(24)


def _components(
    signatures: Signatures, marks: NDArray[np.uint32], threshold: float
) -> NDArray[np.uint32]:
    """Return the first text of the group of each text, which may be itself."""
    parent = np.arange(len(marks), dtype=np.uint32)
    for i in range(_BANDS):
        keys = marks * np.uint32(0x9E3779B1)
        for start in range(0, len(keys), _ROWS):
            part = signatures[start : start + _ROWS, 3 * i : 3 * i + 3]
            keys[start : start + _ROWS] ^= _bands(part)[:, 0]
        order = np.argsort(keys)
        keys = keys[order]
        shared = np.zeros(len(keys), bool)
        shared[1:] = keys[1:] == keys[:-1]
        shared[:-1] |= shared[1:]
        for left, right in _pairs(keys[shared], order[shared], parent):
            near = marks[left] == marks[right]
            near[near] = similarity(signatures[left[near]], signatures[right[near]]) >= threshold
            _unite(parent, left[near], right[near])
    return _roots(parent, np.arange(len(parent)))


def _pairs(
    keys: NDArray[np.uint32], order: NDArray[np.intp], parent: NDArray[np.uint32]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield the pairs of texts with one key that are not in one group yet, by their distance.

    keys: sorted, of two texts or more each; order: the text of each
    """
    first = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
    size = np.diff(first, append=len(keys))
    at = np.flatnonzero(keys[:-1] == keys[1:])
    distance = 1
    while len(at):
        if distance & (distance - 1) == 0:  # texts that are all in one group need no comparing
            roots = _roots(parent, order)
            done = np.minimum.reduceat(roots, first) == np.maximum.reduceat(roots, first)
            at = at[~np.repeat(done, size)[at]]
        left, right = order[at], order[at + distance]
        apart = np.flatnonzero(_roots(parent, left) != _roots(parent, right))
        for start in range(0, len(apart), _PAIRS):
            some = apart[start : start + _PAIRS]
            yield left[some], right[some]
        distance += 1
        at = at[at + distance < len(keys)]
        at = at[keys[at] == keys[at + distance]]


def _unite(parent: NDArray[np.uint32], left: NDArray[np.intp], right: NDArray[np.intp]) -> None:
    """Join the groups of each pair under the earliest text of both."""
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        first, second = sorted((_root(parent, a), _root(parent, b)))
        parent[second] = first


def _root(parent: NDArray[np.uint32], i: int) -> int:
    while (above := int(parent[i])) != i:
        parent[i] = parent[above]
        i = above
    return i


def _roots(parent: NDArray[np.uint32], items: NDArray[np.intp]) -> NDArray[np.uint32]:
    roots = parent[items]
    while len(far := np.flatnonzero(parent[roots] != roots)):
        roots[far] = parent[roots[far]]
    parent[items] = roots
    return roots
