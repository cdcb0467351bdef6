"""Whether a test set was trained on: the same questions, the same documents, copies of passages.

That training saw a document is no fault where the documents are one's own and the questions are
new; that it saw the question, or a copy of the passage under another name, flatters the score.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ragkit.data.minhash import group_near_duplicates
from ragkit.data.nearduplicates import Neighbours
from ragkit.data.schema import Example, Passage

_COPY = 0.8  # share of common runs of three words from which two passages are copies


@dataclass(frozen=True)
class Leakage:
    """What a test set shares with the training examples.

    near: test questions that training asks too, or nearly; copied: test questions about a passage
    that training has under another id; seen: those about a document, or a copy, that training has
    """

    near: frozenset[str] = frozenset()
    copied: frozenset[str] = frozenset()
    seen: frozenset[str] = frozenset()

    @property
    def contaminated(self) -> frozenset[str]:
        """Questions whose scores may be higher for having been trained on."""
        return self.near | self.copied


def near_questions(
    test: Sequence[Example], train: Sequence[Example], limit: float
) -> list[tuple[Example, Example]]:
    """Return the pairs of a test and the first training question that are nearly the same.

    They have the same words with digits, and a ROUGE-L of at least `limit`.
    """
    asked = Neighbours(e.asked for e in train)
    near = ((e, asked.near(e.asked, limit)) for e in test)
    return [(e, train[i]) for e, i in near if i is not None]


def find_leakage(
    test: Sequence[Example],
    train: Sequence[Example],
    corpus: Mapping[str, Passage],
    near: Iterable[str],
) -> Leakage:
    """Return what the test examples share with the training examples.

    corpus: of the test; training passages that it does not have are not looked at
    near: ids of test questions that are near a training question
    """
    trained = {p for e in train for p in e.positive_ids if p in corpus}
    documents = {corpus[p].source for p in trained}
    seen = {e.id for e in test if any(corpus[p].source in documents for p in e.positive_ids)}
    copies = _copies([p for e in test if e.id not in seen for p in e.positive_ids], trained, corpus)
    copied = {e.id for e in test if e.id not in seen and copies.intersection(e.positive_ids)}
    return Leakage(frozenset(near), frozenset(copied), frozenset(seen | copied))


def _copies(
    tested: Iterable[str], trained: set[str], corpus: Mapping[str, Passage]
) -> frozenset[str]:
    """Return the tested passages that are near-duplicates of trained ones."""
    both = [corpus[p] for p in dict.fromkeys([*trained, *tested])] if trained else []
    groups = group_near_duplicates(both, _COPY)
    return frozenset(p for group in groups if trained.intersection(group) for p in group) - trained
