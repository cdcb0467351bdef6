"""Scores of an answer against the passages that it was given: what it cites, what stands in them.

Words are compared, not meanings: the scores tell what cannot have come from the passages, and are
proxies for faithfulness, which a judge measures. Being right is `answers`'s business.
"""

from collections import Counter
from collections.abc import Collection, Iterable

from ragkit.data.nearduplicates import figures
from ragkit.evaluation.answers import normalize_answer


def k_precision(answer: str, passages: Iterable[str]) -> float | None:
    """Return the share of an answer's words that stand in the passages, each as often as there.

    Words are normalised as for F1. Source: K-Precision (Adlakha et al., 2024, Evaluating
    Correctness and Faithfulness of Instruction-Following Models for Question Answering). None for
    an answer without words.
    """
    said = Counter(normalize_answer(answer).split())
    if not said:
        return None
    there: Counter[str] = Counter()
    for passage in passages:
        there.update(normalize_answer(passage).split())
    return (said & there).total() / said.total()


def figure_precision(answer: str, passages: Iterable[str]) -> float | None:
    """Return the share of an answer's words with digits that stand in the passages.

    None for an answer without any: a wrong number is what a reader is hurt by first.
    """
    said = figures(answer)
    if not said:
        return None
    there = frozenset().union(*map(figures, passages))
    return len(said & there) / len(said)


def citation_scores(cited: Collection[str], positives: Collection[str]) -> dict[str, float]:
    """Return `citation_recall`, and `citation_precision` where anything is cited.

    Precision is the share of the cited passages that are positives, recall the share of the
    positives that are cited.
    positives: ids of the passages that answer, one or more
    """
    right = len(set(cited) & set(positives))
    found = {"citation_recall": right / len(set(positives))}
    if cited:
        found["citation_precision"] = right / len(set(cited))
    return found
