"""Why an answer is wrong: each wrong answer has one reason, the first in a fixed order that holds.

Works on the records that eval-e2e leaves of single questions. Which system is explained, and where
its records are, is the stage's business.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ragkit.data.schema import Passage
from ragkit.evaluation.answers import normalize_answer

Record = Mapping[str, Any]
_USED = 0.5  # share of an answer's words that the passage it came from has at least


class Reason(StrEnum):
    """Why an answer is wrong, in the order in which it is decided."""

    DISAGREEMENT = "judge disagreement"
    ANSWERED = "answered the unanswerable"
    NOT_IN_CORPUS = "not in the corpus"
    NOT_RETRIEVED = "not retrieved"
    REFUSED = "refused wrongly"
    UNUSED = "retrieved but unused"
    MISUSED = "wrong from the right passage"


@dataclass(frozen=True)
class Rule:
    """When an answer is wrong: it is scored below `threshold` by `metric`.

    Where nothing answers the question, every answer is wrong, and an abstention right.
    """

    metric: str
    threshold: float

    def right(self, record: Record) -> bool | None:
        """Return whether an answer is right; None: it is not scored, for want of a reference."""
        if not record["answerable"]:
            return bool(record["abstained"])
        score = record["scores"].get(self.metric)
        return None if score is None else bool(score >= self.threshold)


@dataclass(frozen=True)
class Attempt:
    """What a system made of a question.

    record: its line of predictions.jsonl
    ranking: ids of all passages found, best first
    n_passages: how many of them the answerer got
    gold: the line of the same answerer where it got the positives
    correct: a judge's verdict, 0 to 1; None: there is none
    """

    record: Record
    ranking: Sequence[str]
    n_passages: int
    gold: Record
    correct: float | None = None

    @property
    def given(self) -> Sequence[str]:
        """The ids of the passages that the answerer got."""
        return self.ranking[: self.n_passages]

    @property
    def rank(self) -> int | None:
        """The rank of the first positive, from 1; None: it is not among the passages found."""
        positives = set(self.record["positive_ids"])
        return next((r for r, p in enumerate(self.ranking, start=1) if p in positives), None)


def reason_of(attempt: Attempt, corpus: Mapping[str, Passage], rule: Rule) -> Reason | None:
    """Return why an answer is wrong; None where it is right, or nothing says whether it is.

    A question that got no answer is neither. What is asked, in this order:
    1. Do the metric and the judge call it right and wrong? DISAGREEMENT
    2. Was a question answered that has no answer? ANSWERED
    3. Is no passage of the corpus known to answer it? NOT_IN_CORPUS
    4. Did the answerer get none of those that do? NOT_RETRIEVED
    5. Did it decline although it got one? REFUSED
    6. Did it answer from other passages, or from none? UNUSED, else MISUSED
    """
    record = attempt.record
    if record["failed"]:
        return None
    by_judge = None if attempt.correct is None else attempt.correct >= 0.5
    verdicts = {v for v in (rule.right(record), by_judge) if v is not None}
    if False not in verdicts:
        return None
    if True in verdicts:
        return Reason.DISAGREEMENT
    if not record["answerable"]:
        return Reason.ANSWERED
    positives = {p for p in record["positive_ids"] if p in corpus}
    if not positives:
        return Reason.NOT_IN_CORPUS
    if positives.isdisjoint(attempt.given):
        return Reason.NOT_RETRIEVED
    if record["abstained"]:
        return Reason.REFUSED
    return Reason.MISUSED if _used(attempt, positives, corpus, rule) else Reason.UNUSED


def _used(attempt: Attempt, positives: set[str], corpus: Mapping[str, Passage], rule: Rule) -> bool:
    """Return whether an answer came from a positive, by the best evidence that there is.

    1. The passages that the answerer took it from or cites.
    2. It was wrong among other passages and is right from the positives alone: they drew it away.
    3. The passage that has most of its words.
    """
    record, given = attempt.record, attempt.given
    if sources := record["answer_passage_ids"]:
        return not positives.isdisjoint(sources)
    if positives <= set(given) and rule.right(attempt.gold):
        return False
    words = Counter(normalize_answer(record["answer"]).split())
    shares = {p: _share(words, corpus[p]) for p in given}
    best = max(shares[p] for p in given if p in positives)
    return best >= max(_USED, *shares.values())


def _share(words: Counter[str], passage: Passage) -> float:
    """Return the share of the words that a passage has; 0.0 where there are none."""
    shared = words & Counter(normalize_answer(passage.rendered).split())
    return shared.total() / max(words.total(), 1)
