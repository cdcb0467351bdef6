"""Which generated pairs are kept, and why the others are not.

Cheapest first: form and length, questions that do not stand alone, duplicates, and training
and dev questions too close to a held-out one (candidates must come in the order test, dev, train).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ragkit.data.nearduplicates import overlap_f1, words
from ragkit.qa.prompts import QuestionAnswer, Request

MIN_WORDS, MAX_WORDS = 3, 60

_NOT_STANDALONE = re.compile(
    r"\b(?:the|this|that|above|given|provided)\s+(?:\w+\s+)?"
    r"(?:passage|paragraph|excerpt|text|context|document)\b|\baccording to (?:the|this)\b|"
    r"^(?:what|who|when|where|why|how|which)\s+(?:is|are|was|were|does|do|did)\s+"
    r"(?:it|this|that|they|these|those|he|she)\b(?!\s+\w+\s+\w+\s+\w+)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A generated pair with the request it answers and the split it is for."""

    request: Request
    pair: QuestionAnswer
    split: str


@dataclass
class Funnel:
    """Counts of pairs by what became of them, in the order of the filters."""

    counts: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, int]:
        """Return the counts, generated first, kept last."""
        order = [
            "unreadable answers",
            "generated",
            *(reason for reason, _ in _FILTERS),
            "duplicate",
            "leak",
            "kept",
        ]
        return {name: self.counts[name] for name in order}


def _malformed(candidate: Candidate) -> bool:
    count = len(words(candidate.pair.question))
    return not MIN_WORDS <= count <= MAX_WORDS or not candidate.pair.answer


def _not_standalone(candidate: Candidate) -> bool:
    return bool(_NOT_STANDALONE.search(candidate.pair.question))


_FILTERS: Sequence[tuple[str, Callable[[Candidate], bool]]] = (
    ("too short, too long or without answer", _malformed),
    ("does not stand alone", _not_standalone),
)


class Filter:
    """Keeps or rejects candidates one at a time; remembers what it kept."""

    def __init__(self, held_out: Iterable[str], leak: float) -> None:
        """Keep train and dev questions whose ROUGE-L to every held-out one is below `leak`."""
        self.funnel = Funnel()
        self.leak = leak
        self._seen: set[tuple[str, ...]] = set()
        self._held_out = _Neighbours(held_out)

    def reason(self, candidate: Candidate) -> str | None:
        """Return why a candidate is rejected, or None where it is kept; counts it either way."""
        self.funnel.counts["generated"] += 1
        reason = self._reason(candidate)
        self.funnel.counts[reason or "kept"] += 1
        return reason

    def _reason(self, candidate: Candidate) -> str | None:
        for name, rejects in _FILTERS:
            if rejects(candidate):
                return name
        question = tuple(words(candidate.pair.question))
        if question in self._seen:
            return "duplicate"
        self._seen.add(question)
        if candidate.split != "test" and self._held_out.nearest(question) >= self.leak:
            return "leak"
        if candidate.split != "train":
            self._held_out.add(question)
        return None

    def unreadable(self) -> None:
        """Count an answer of the teacher from which no pair could be read."""
        self.funnel.counts["unreadable answers"] += 1


class _Neighbours:
    """The nearest of many questions by ROUGE-L; only those that share a word are compared."""

    def __init__(self, questions: Iterable[str]) -> None:
        self.questions: list[Sequence[str]] = []
        self.by_word: dict[str, list[int]] = {}
        for question in questions:
            self.add(words(question))

    def add(self, tokens: Sequence[str]) -> None:
        """Add a question, as its words."""
        for word in set(tokens):
            self.by_word.setdefault(word, []).append(len(self.questions))
        self.questions.append(tokens)

    def nearest(self, tokens: Sequence[str]) -> float:
        """Return the highest ROUGE-L F1 with any of the questions; 0 where there is none."""
        shared = Counter(i for word in set(tokens) for i in self.by_word.get(word, ()))
        best = 0.0
        for i, count in shared.items():
            other = self.questions[i]
            # the F1 cannot exceed what the shared words allow (repeats aside, counted generously)
            bound = 2 * min(count + _repeats(tokens), len(other)) / (len(tokens) + len(other))
            if bound > best:
                best = max(best, overlap_f1(tokens, other))
        return best


def _repeats(tokens: Sequence[str]) -> int:
    return len(tokens) - len(set(tokens))
