"""Question generation as a whole: from the plan, by the teacher, through the filters.

Between two steps candidates lie in a file of the working folder. What becomes of the kept ones is
the caller's business.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ragkit.config.teaching import Filters
from ragkit.data.schema import Example, Passage, Turn
from ragkit.errors import DataError
from ragkit.log import progress
from ragkit.qa.asking import Answers, Office
from ragkit.qa.candidates import Candidate, read_candidates, write_candidates
from ragkit.qa.filters import FirstFilters, Sieve
from ragkit.qa.grounding import says_no_answer
from ragkit.qa.passes import criticised, second_answers, supported
from ragkit.qa.plan import Plan
from ragkit.qa.prompts import CONVERSATION, READING, UNANSWERABLE, Prompts, Request, parse
from ragkit.qa.reading import Task, messages, mine
from ragkit.qa.teachers import Asked

ORDER = ("test", "dev", "train")  # so that no training question may be close to a held-out one


@dataclass
class Generation:
    """One run of question generation: who is asked about what, and what has to hold.

    split_of: of each document
    answers, critic: who answers and who judges the questions in passes of their own
    folder: for intermediate files
    """

    plan: Plan
    teacher: Asked
    corpus: Mapping[str, Passage]
    split_of: Mapping[str, str]
    prompts: Prompts
    office: Office
    filters: Filters
    first: FirstFilters
    folder: Path
    answers: Answers | None = None
    critic: Answers | None = None

    def filtered(self, sieve: Sieve) -> Path:
        """Take the questions through all filters, cheapest first; return the file of the kept."""
        kept = self._spool("first", self._first_kept(sieve))
        if self.answers:
            desk, first = self.answers, kept
            kept = self._spool(
                "answered",
                second_answers(
                    lambda: read_candidates(first), self.corpus, desk, self.prompts, sieve
                ),
            )
        # words of a language that is not known cannot be compared
        least = self.filters.support if self.first.knows_language else 0.0
        answered = read_candidates(kept)
        left = supported(answered, self.corpus, least, self.first.language, sieve)
        if self.filters.round_trip:
            from ragkit.qa.meaning import Meaning  # torch, which nothing else here needs

            meaning = Meaning(self.filters, self.corpus, self.folder / "index")
            left = _passed(meaning.judge(left), sieve)
        kept = self._spool("found", left)
        if self.critic:
            critic, found = self.critic, kept
            kept = self._spool(
                "judged",
                criticised(
                    lambda: read_candidates(found), self.corpus, critic, self.prompts, sieve
                ),
            )
        judged = kept
        return self._spool("joined", self.first.join(lambda: read_candidates(judged), sieve))

    def examples(self, kept: Path, split: str) -> Iterator[Example]:
        """Yield a split's examples."""
        return (c.example for c in read_candidates(kept) if c.split == split)

    def reading_chats(
        self, by: Literal["patterns", "teacher"], n: int, seed: int
    ) -> Iterator[dict[str, Any]]:
        """Yield a chat of at most `n` exercises about each training passage that gives one."""
        if by == "teacher":
            self.teacher.ask(lambda: self.reading_requests(n))
        for request in progress(self.reading_requests(n), "reading texts", unit="passages"):
            (passage,) = request.passages
            if by == "patterns":
                tasks = mine(passage.title, passage.text, n, seed)
            else:
                tasks = _tasks(self.teacher.answer(request))[:n]
            if tasks:
                meta = {"doc_id": passage.source, "kinds": [task.kind for task in tasks]}
                chat = messages(passage.title, passage.text, tasks)
                yield {"id": passage.id, "messages": chat, "meta": meta}

    def reading_requests(self, n: int) -> Iterator[Request]:
        """Yield what a teacher is asked for `n` exercises about each training passage."""
        for passage in self.plan.asked():
            if self.split_of[passage.source] == "train":
                yield Request((passage,), READING, n)

    def _first_kept(self, sieve: Sieve) -> Iterator[Candidate]:
        """Yield what the cheap filters leave, test documents first."""
        for split in ORDER:
            requests = (r for r in self.plan.requests() if self.split_of[r.source] == split)
            for request in progress(requests, f"{split} questions", unit="requests"):
                answer = self.teacher.answer(request)
                sieve.counts["requests"] += 1
                sieve.counts["requests without answer"] += answer is None
                for candidate in _candidates(request, split, answer, sieve):
                    sieve.counts["generated"] += 1
                    if reason := self.first.reason(candidate, request.passages):
                        sieve.reject(candidate, reason)
                    else:
                        yield candidate
        if sieve.counts["requests without answer"] == sieve.counts["requests"]:
            raise DataError(f"the teacher answered none of {sieve.counts['requests']:,} requests")

    def _spool(self, name: str, candidates: Iterator[Candidate]) -> Path:
        return write_candidates(self.folder / f"{name}.jsonl", candidates)


def _candidates(
    request: Request, split: str, response: str | None, sieve: Sieve
) -> Iterator[Candidate]:
    """Yield the questions in a teacher's answer; those of a conversation with what precedes."""
    history: tuple[Turn, ...] = ()
    try:
        pairs = parse(response) if response is not None else []
    except ValueError as error:
        sieve.unreadable(str(error), request.passage_ids, str(response))
        return
    for pair in pairs:
        answerable = request.style != UNANSWERABLE
        answer = "" if not answerable and says_no_answer(pair.answer) else pair.answer
        yield Candidate(
            question=pair.question,
            answer=answer,
            passage_ids=request.passage_ids,
            doc_id=request.source,
            style=request.style,
            split=split,
            history=history,
            answerable=answerable,
        )
        if request.style == CONVERSATION:
            if not (pair.question and pair.answer):
                return  # what follows would go on from nothing
            history = (*history, Turn("user", pair.question), Turn("assistant", pair.answer))


def _passed(verdicts: Iterator[tuple[Candidate, str | None]], sieve: Sieve) -> Iterator[Candidate]:
    for candidate, reason in verdicts:
        if reason is None:
            yield candidate
        else:
            sieve.reject(candidate, reason)


def _tasks(answer: str | None) -> list[Task]:
    """Return the exercises that a teacher wrote, without those that lack a part."""
    try:
        pairs = parse(answer or "")
    except ValueError:
        return []
    return [Task("teacher", p.question, p.answer) for p in pairs if p.question and p.answer]
