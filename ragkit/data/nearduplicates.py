"""Near-duplicate texts, by the overlap of their words."""

import re
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil

# scripts that are written without spaces count by the character
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f"
# marks belong to the letter before them: accents, points of Hebrew and Arabic, vowels of India
_MARKS = "\u0300-\u036f\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0970-\u0dff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}](?:[^\W{UNSPACED}]|[{_MARKS}])*")
_PART = re.compile(rf"[^\W{UNSPACED}]+(?:[.,:/-][^\W{UNSPACED}]+)*")


def words(text: str) -> list[str]:
    """Return the words of a text, lower case; single characters in Chinese, Japanese, Thai."""
    return WORD.findall(_normal(text))


def figures(text: str) -> frozenset[str]:
    """Return the words of a text that have digits in them: 1.5, 230V, m8, 2024-05-01."""
    found = (part for part in _PART.findall(_normal(text)) if not part.isalpha())
    return frozenset(part for part in found if any(map(str.isdigit, part)))


def _normal(text: str) -> str:
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).lower()


def shingles(text: str, n: int = 3) -> frozenset[tuple[str, ...]]:
    """Return the set of runs of `n` words; a shorter text is one run."""
    tokens = words(text)
    count = max(len(tokens) - n + 1, 1)
    return frozenset(tuple(tokens[i : i + n]) for i in range(count))


def jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """Return the share of common elements, |a ∩ b| / |a ∪ b|; 0 for two empty sets."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


def overlap_f1(a: Iterable[str], b: Iterable[str]) -> float:
    """Return the F1 of the longest common subsequence of two word lists (ROUGE-L; Lin, 2004).

    A row of the table of dynamic programming is the bits of one number, 0 where the length goes up
    by one, and a sum carries all of them on to the next row at once (Crochemore et al., 2001).
    """
    left, right = list(a), list(b)
    if not left or not right:
        return 0.0
    places: dict[str, int] = {}
    for i, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << i
    row = every = (1 << len(left)) - 1
    for word in right:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & every
    common = len(left) - row.bit_count()
    return 2 * common / (len(left) + len(right))


class Neighbours:
    """Questions by their words, to find one that is nearly the same as another.

    Two that differ in a word with digits are not: near-misses ask about two devices or versions.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts: list[Sequence[str]] = []
        self._with: dict[int, dict[str, array[int]]] = {}  # by figures, then by word
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Add a text."""
        tokens = [sys.intern(word) for word in words(text)]  # a word is in memory once
        among = self._with.setdefault(hash(figures(text)), {})
        for word in set(tokens):
            among.setdefault(word, array("I")).append(len(self._texts))
        self._texts.append(tokens)

    def near(self, text: str, least: float) -> int | None:
        """Return the first text, counted from 0, whose ROUGE-L F1 with this reaches `least`."""
        tokens = words(text)
        among = self._with.get(hash(figures(text)), {})
        # F1 = 2 c / (a + b) with c words in common; c <= b, so c is at least this for any b:
        common = max(ceil(least * len(tokens) / (2 - least) - 1e-9), 1)
        counts = Counter(tokens)
        rare = sorted(counts, key=lambda word: len(among.get(word, ())))
        candidates: set[int] = set()
        missed = 0  # words that a text with none of those before has not
        for word in rare:
            if missed > len(tokens) - common:
                break
            candidates.update(among.get(word, ()))
            missed += counts[word]
        for i in sorted(candidates):
            other = self._texts[i]
            wanted = least * (len(tokens) + len(other)) - 1e-9
            if 2 * min(len(tokens), len(other)) < wanted:
                continue
            most = sum(counts[word] for word in counts.keys() & set(other))
            if 2 * most >= wanted and overlap_f1(tokens, other) >= least:
                return i
        return None
