"""Near-duplicate texts, by the overlap of their words."""

import re
from collections.abc import Iterable

# scripts that are written without spaces count by the character
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f"
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


def words(text: str) -> list[str]:
    """Return the words of a text, lower case; single characters in Chinese, Japanese, Thai."""
    return _WORD.findall(text.lower())


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
    """Return the F1 of the longest common subsequence of two word lists (ROUGE-L; Lin, 2004)."""
    left, right = list(a), list(b)
    if not left or not right:
        return 0.0
    row = [0] * (len(right) + 1)
    for word in left:
        previous = 0
        for j, other in enumerate(right, start=1):
            above = row[j]
            row[j] = previous + 1 if word == other else max(row[j], row[j - 1])
            previous = above
    return 2 * row[-1] / (len(left) + len(right))
