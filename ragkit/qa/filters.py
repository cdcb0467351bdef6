"""Which generated questions are kept, and why the others are not: what needs no model.

Cheapest first. Candidates come in the order test, dev, train, so that no training question is close
to a held-out one. Test questions are held to form and language alone: a test that was made easy
proves nothing.
"""

import re
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ragkit.config.teaching import Filters
from ragkit.data.hashes import HashTable
from ragkit.data.minhash import NearDuplicates
from ragkit.data.nearduplicates import overlap_f1, words
from ragkit.data.schema import Passage
from ragkit.qa.candidates import Candidate
from ragkit.qa.grounding import content_words, is_copied, says_no_answer
from ragkit.qa.language import code_of, language_of

Other = tuple[Sequence[str], str]
MIN_WORDS, MAX_WORDS = 3, 60
_NEAR_DUPLICATE = 0.9  # common share of the content words of two questions

_NOT_STANDALONE = re.compile(
    r"\b(?:the|this|that|above|given|provided)\s+(?:\w+\s+)?"
    r"(?:passage|paragraph|excerpt|text|context|document)\b|\baccording to (?:the|this)\b|"
    r"^(?:what|who|when|where|why|how|which)\s+(?:is|are|was|were|does|do|did)\s+"
    r"(?:it|this|that|they|these|those|he|she)\b(?!\s+\w+\s+\w+\s+\w+)",
    re.IGNORECASE,
)


class Sieve:
    """The account of what was kept and rejected, in the order of the reasons."""

    REASONS = (
        "too short, too long or without answer",
        "answered that there is no answer",
        "in another language",
        "does not stand alone",
        "copied from the passage",
        "duplicate",
        "leak",
        "near-duplicate",
        "no second answer",
        "answered, and should not be",
        "answer not supported by the passage",
        "near-duplicate in meaning",
        "not found again",
        "refused by the critic",
    )

    def __init__(self, write: Callable[[dict[str, Any]], object]) -> None:
        """Count; `write` takes the record of each rejection."""
        self.write = write
        self.counts: Counter[str] = Counter()

    def unreadable(self, reason: str, passage_ids: Sequence[str], answer: str) -> None:
        """Note an answer of the teacher from which no pair could be read."""
        self.counts["unreadable answers"] += 1
        self.write({"reason": reason, "passage_ids": list(passage_ids), "answer": answer[:2000]})

    def reject(self, candidate: Candidate, reason: str, **details: object) -> None:
        """Note a rejection."""
        assert reason in self.REASONS, reason
        self.counts[reason] += 1
        self.write({"reason": reason, **details, **candidate.to_json()})

    def to_json(self) -> dict[str, int]:
        """Return the counts, generated first, kept last."""
        order = ["unreadable answers", "generated", *self.REASONS, "kept"]
        return {name: self.counts[name] for name in order}


class FirstFilters:
    """Form, language, wording, duplicates, leaks: one candidate at a time.

    Of a kept question two hashes stay in memory, of a held-out one its words. Near-duplicates are
    found within a document by MinHash, and anywhere if they have the same content words.
    """

    def __init__(self, config: Filters, held_out: Iterable[str], language: str = "") -> None:
        """Keep training and dev questions that are far enough from every held-out one.

        language: as the teacher was told; "": that of the passage
        """
        self.config = config
        self.language = code_of(language) if language else None
        self._known_language = not language or self.language is not None
        self._seen = HashTable()
        self._others: dict[int, list[Other]] = {}
        self._contents = HashTable()
        self._near, self._near_of = NearDuplicates(_NEAR_DUPLICATE, shingle=1), ""
        self._held_out = _Neighbours(held_out)

    def reason(self, candidate: Candidate, passages: Sequence[Passage]) -> str | None:
        """Return why a candidate is rejected, or None where it is kept."""
        if _malformed(candidate):
            return "too short, too long or without answer"
        key = _key(candidate)
        if key in self._seen:
            # the passages of both answer it; an unanswerable one has none
            if candidate.answerable:
                found = (candidate.passage_ids, candidate.answer)
                self._others.setdefault(key, []).append(found)
            return "duplicate"
        if says_no_answer(candidate.answer):
            return "answered that there is no answer"
        if self._in_another_language(candidate, passages):
            return "in another language"
        reason = self._of_wording(candidate, passages) if candidate.split != "test" else None
        if reason:
            return reason
        self._seen.add(key)
        if candidate.split != "train" and not candidate.history:
            self._held_out.add(words(candidate.question))
        return None

    def others(self, candidate: Candidate) -> Sequence[Other]:
        """Return what else made the question of a kept candidate: passage ids and answer."""
        return self._others.get(_key(candidate), ())

    def _in_another_language(self, candidate: Candidate, passages: Sequence[Passage]) -> bool:
        if not self.config.language or not self._known_language:
            return False
        wanted = self.language or language_of(" ".join(p.text for p in passages))
        said = language_of(f"{candidate.question} {candidate.answer}")
        return None not in (wanted, said) and said != wanted

    def _of_wording(self, candidate: Candidate, passages: Sequence[Passage]) -> str | None:
        question, alone = candidate.question, not candidate.history
        if alone and _NOT_STANDALONE.search(question):
            return "does not stand alone"
        if is_copied(question, (p.text for p in passages), self.config.copied):
            return "copied from the passage"
        if alone and self._held_out.nearest(words(question)) >= self.config.leak_rouge_l:
            return "leak"
        if alone and self._is_near_duplicate(candidate):
            return "near-duplicate"
        return None

    def _is_near_duplicate(self, candidate: Candidate) -> bool:
        content = content_words(candidate.question)
        if self._near_of != candidate.doc_id:
            self._near, self._near_of = NearDuplicates(_NEAR_DUPLICATE, shingle=1), candidate.doc_id
        key = hash(frozenset(content))
        if key in self._contents or self._near.first_like(" ".join(content)) is not None:
            return True
        self._contents.add(key)
        return False


def _key(candidate: Candidate) -> int:
    """Return a hash of a question's words and of the turns before it; of this process alone."""
    return hash((*(turn.content for turn in candidate.history), *words(candidate.question)))


def _malformed(candidate: Candidate) -> bool:
    count = len(words(candidate.question))
    return not MIN_WORDS <= count <= MAX_WORDS or bool(candidate.answer) is not candidate.answerable


class _Neighbours:
    """The nearest of many questions by ROUGE-L; only those that share a word are compared."""

    def __init__(self, questions: Iterable[str]) -> None:
        self.questions: list[Sequence[str]] = []
        self.by_word: dict[str, array[int]] = {}
        for question in questions:
            self.add(words(question))

    def add(self, tokens: Sequence[str]) -> None:
        """Add a question, as its words."""
        tokens = [sys.intern(word) for word in tokens]  # a word is in memory once
        for word in set(tokens):
            self.by_word.setdefault(word, array("I")).append(len(self.questions))
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
