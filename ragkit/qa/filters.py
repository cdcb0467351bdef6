"""Which generated questions are kept, and why the others are not: what needs no model.

Cheapest first. Candidates come in the order test, dev, train, so that no training question is close
to a held-out one. Test questions are held to form and language alone: a test that was made easy
proves nothing.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

from ragkit.config.teaching import Filters
from ragkit.data.hashes import HashTable
from ragkit.data.minhash import NearDuplicates
from ragkit.data.nearduplicates import UNSPACED, Neighbours, words
from ragkit.data.schema import Passage
from ragkit.qa.candidates import Candidate
from ragkit.qa.grounding import content_words, is_copied, says_no_answer
from ragkit.qa.language import code_of, language_of

MIN_WORDS, MAX_WORDS = 3, 60
_NEAR_DUPLICATE = 0.9  # common share of the content words of two questions
_UNSPACED = re.compile(f"[{UNSPACED}]")
_CHARACTERS = 3  # of a script without spaces, that are counted as a word

_NOT_STANDALONE = re.compile(
    r"\b(?:the|this|that|above|given|provided)\s+(?:(?:above|given|provided|following)\s+)?"
    r"(?:passage|paragraph|excerpt)\b|"
    r"\b(?:in|from|by|of|to|on)\s+(?:the|this|that)\s+(?:above\s+|given\s+|provided\s+)?"
    r"(?:text|context|document)\b(?!\s+\w)|"
    r"\b(?:this|the above|the given|the provided)\s+(?:text|context|document)\b|"
    r"\b(?:text|context|document)\s+above\b|"
    r"\baccording to (?:the|this)\s+(?:text|context|document|guide|manual|article|author|page)\b|"
    r"\baccording to (?:this|the above)\b(?!\s+\w)|"
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
        "not judged by the critic",
        "refused by the critic",
        "follows a refused turn",
    )
    BY_A_PERSON = ("dropped by a person", "added by a person")

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
        """Return the counts: of requests, of questions by what became of them.

        Kept are those that were not rejected or dropped, and what a person added.
        """
        requests = ["requests", "requests without answer", "unreadable answers"]
        order = [*requests, "generated", *self.REASONS, *self.BY_A_PERSON, "kept"]
        return {name: self.counts[name] for name in order}


class FirstFilters:
    """Form, language, wording, duplicates, leaks: one candidate at a time.

    Of a kept question hashes stay in memory, of a held-out one its words. Near-duplicates are found
    within a document by MinHash, and anywhere if they have the same content words. A question that
    another passage of its split made too is let through: `join` makes one of them in the end.
    """

    def __init__(self, config: Filters, held_out: Iterable[str], language: str = "") -> None:
        """Keep training and dev questions that are far enough from every held-out one.

        language: as the teacher was told; "": that of the passage
        """
        self.config = config
        self.language = code_of(language) if language else None
        self.knows_language = not language or self.language is not None
        self._seen, self._made = HashTable(), HashTable()
        self._repeated: set[int] = set()  # keys of questions of several passages
        self._answered: set[int] = set()  # and of those with an answer in another split
        self._contents = HashTable()
        self._near, self._near_of = NearDuplicates(_NEAR_DUPLICATE, shingle=1), ""
        self._held_out = Neighbours(held_out)
        self._dev: list[str] = []  # held out from training, not from each other

    def reason(self, candidate: Candidate, passages: Sequence[Passage]) -> str | None:
        """Return why a candidate is rejected, or None where it is kept."""
        if candidate.answer and not candidate.answerable:
            return "answered, and should not be"
        if _malformed(candidate):
            return "too short, too long or without answer"
        replies = [turn.content for turn in candidate.history if turn.role == "assistant"]
        if any(map(says_no_answer, [candidate.answer, *replies])):
            return "answered that there is no answer"
        if self._in_another_language(candidate, passages):
            return "in another language"
        key = candidate.key
        split = self._seen.get(key)
        made = hash((key, candidate.passage_ids))
        if made in self._made:
            return "duplicate"
        if split is not None and split != _SPLITS[candidate.split]:
            if candidate.answerable:
                self._answered.add(key)
            return "leak"
        if candidate.split != "test" and (reason := self._of_wording(candidate, passages)):
            return reason
        if split is not None:
            self._repeated.add(key)
        elif candidate.split != "test" and (reason := self._of_others(candidate)):
            return reason
        else:
            self._seen.add(key, _SPLITS[candidate.split])
            self._hold_out(candidate)
        self._made.add(made)
        return None

    def join(
        self, candidates: Callable[[], Iterable[Candidate]], sieve: Sieve
    ) -> Iterator[Candidate]:
        """Yield candidates; of a question that several passages of a split made, one for all.

        One that was meant to have no answer, and that another passage answers, is rejected.
        candidates: gives the same candidates each time
        """
        same: dict[int, list[Candidate]] = {}
        for candidate in candidates():
            if candidate.key in self._repeated and candidate.answerable:
                same.setdefault(candidate.key, []).append(candidate)
        answered = {key: found[0].answer for key, found in same.items()}
        done = set()
        for candidate in candidates():
            key = candidate.key
            if not candidate.answerable and (key in answered or key in self._answered):
                detail = answered.get(key, "a passage of another split answers it")
                sieve.reject(candidate, "answered, and should not be", detail=detail)
            elif key in done:
                sieve.reject(candidate, "duplicate", detail="joined with the first")
            elif key in self._repeated:
                done.add(key)
                others = tuple((c.passage_ids, c.answer) for c in same.get(key, ())[1:])
                yield replace(candidate, others=others)
            else:
                yield candidate

    def _in_another_language(self, candidate: Candidate, passages: Sequence[Passage]) -> bool:
        if not self.config.language or not self.knows_language:
            return False
        wanted = self.language or language_of(" ".join(p.text for p in passages))
        said = language_of(f"{candidate.question} {candidate.answer}")
        return None not in (wanted, said) and said != wanted

    def _of_wording(self, candidate: Candidate, passages: Sequence[Passage]) -> str | None:
        if not candidate.history and _NOT_STANDALONE.search(candidate.question):
            return "does not stand alone"
        if is_copied(candidate.question, (p.text for p in passages), self.config.copied):
            return "copied from the passage"
        return None

    def _of_others(self, candidate: Candidate) -> str | None:
        """Return what a candidate is rejected for because of another question."""
        asked = " ".join(candidate.turns)
        if candidate.split == "train":
            while self._dev:
                self._held_out.add(self._dev.pop())
        if self._held_out.near(asked, self.config.leak_rouge_l) is not None:
            return "leak"
        if not candidate.history and self._is_near_duplicate(candidate):
            return "near-duplicate"
        return None

    def _hold_out(self, candidate: Candidate) -> None:
        asked = " ".join(candidate.turns)
        if candidate.split == "test":
            self._held_out.add(asked)
        elif candidate.split == "dev":
            self._dev.append(asked)

    def _is_near_duplicate(self, candidate: Candidate) -> bool:
        content = content_words(candidate.question)
        if self._near_of != candidate.doc_id:
            self._near, self._near_of = NearDuplicates(_NEAR_DUPLICATE, shingle=1), candidate.doc_id
        key = hash(frozenset(content))
        if key in self._contents or self._near.first_like(" ".join(content)) is not None:
            return True
        self._contents.add(key)
        return False


_SPLITS = {"test": 0, "dev": 1, "train": 2}


def _malformed(candidate: Candidate) -> bool:
    found = words(candidate.question)
    unspaced = len(_UNSPACED.findall(candidate.question))
    most = len(found) - unspaced + ceil(unspaced / _CHARACTERS)
    too_long_or_short = len(found) < MIN_WORDS or most > MAX_WORDS
    return too_long_or_short or (candidate.answerable and not candidate.answer)
