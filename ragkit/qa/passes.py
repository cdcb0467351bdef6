"""What models are asked about questions that are there already: a second answer, and a judgement.

The second answer replaces the first: a cheap model asks, a strong one answers, with the passage
alone before it. The critic should be another model than the one that wrote the question.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from ragkit.data.files import sha256_text
from ragkit.data.journal import passage_sha256
from ragkit.data.schema import Passage, Turn
from ragkit.qa.asking import Answers, Item
from ragkit.qa.candidates import Candidate
from ragkit.qa.filters import Sieve
from ragkit.qa.grounding import support
from ragkit.qa.language import language_of
from ragkit.qa.prompts import (
    ANSWER_SCHEMA,
    VERDICT_SCHEMA,
    Prompts,
    parse_answer,
    parse_verdict,
)

Candidates = Callable[[], Iterable[Candidate]]  # gives the same candidates each time
Corpus = Mapping[str, Passage]


def second_answers(
    candidates: Candidates, corpus: Corpus, desk: Answers, prompts: Prompts, sieve: Sieve
) -> Iterator[Candidate]:
    """Yield the candidates with the answers of the second pass; those without are rejected.

    So are the turns of a conversation after one without an answer. A question that was meant to
    have no answer and gets one is rejected too.
    """

    def item(candidate: Candidate) -> Item:
        passages = [corpus[i] for i in candidate.passage_ids]
        chat = prompts.answer(passages, candidate.question, candidate.history)
        return Item(chat, _subject(candidate, corpus), _style("answer", candidate))

    def retold(candidate: Candidate, turns: int) -> Candidate | None:
        """Return a candidate, cut after so many turns, with second answers in its history."""
        history: tuple[Turn, ...] = ()
        for question in candidate.turns[: turns - 1]:
            try:
                asked = replace(candidate, question=question, history=history)
                answer = parse_answer(desk.answer(item(asked)) or "")
            except ValueError:
                return None
            if not answer:
                return None
            history = (*history, Turn("user", question), Turn("assistant", answer))
        return replace(candidate, question=candidate.turns[turns - 1], history=history)

    def items(turns: int) -> Iterator[Item]:
        """Yield what is asked about the turns of that number, once those before are answered."""
        for candidate in candidates():
            if len(candidate.turns) >= turns and (cut := retold(candidate, turns)):
                yield item(cut)

    for turns in range(1, max((len(c.turns) for c in candidates()), default=0) + 1):
        desk.ask(partial(items, turns), ANSWER_SCHEMA)
    for candidate in candidates():
        told = retold(candidate, len(candidate.turns))
        if told is None:
            sieve.reject(candidate, "follows a refused turn")
            continue
        response = desk.answer(item(told))
        try:
            answer = parse_answer(response or "")
        except ValueError as error:
            sieve.reject(told, "no second answer", detail=str(error))
            continue
        if answer and not told.answerable:
            sieve.reject(told, "answered, and should not be", detail=answer)
        elif told.answerable and not answer:
            sieve.reject(told, "no second answer", detail="the passage does not answer it")
        else:
            yield replace(told, answer=answer)


def supported(
    candidates: Iterable[Candidate],
    corpus: Corpus,
    least: float,
    language: str | None,
    sieve: Sieve,
) -> Iterator[Candidate]:
    """Yield the candidates whose answers the passages' words support; test questions all pass.

    The answers in the turns before a question count as its own.
    language: code of the language of the answers; None: that of the passages. Where the two differ
        there are no words to compare.
    """
    for candidate in candidates:
        texts = [candidate.question, *(corpus[i].rendered for i in candidate.passage_ids)]
        exempt = candidate.split == "test" or not candidate.answerable
        exempt = exempt or (language is not None and language_of(texts[-1]) != language)
        said = [turn.content for turn in candidate.history if turn.role == "assistant"]
        texts += [turn.content for turn in candidate.history if turn.role == "user"]
        if exempt or all(support(answer, texts) >= least for answer in [*said, candidate.answer]):
            yield candidate
        else:
            sieve.reject(candidate, "answer not supported by the passage")


def criticised(
    candidates: Candidates, corpus: Corpus, desk: Answers, prompts: Prompts, sieve: Sieve
) -> Iterator[Candidate]:
    """Yield the candidates that the critic passes; test questions are not shown to it."""

    def item(candidate: Candidate) -> Item:
        passages = [corpus[i] for i in candidate.passage_ids]
        answer = candidate.answer or "(none: the passages do not answer it)"
        chat = prompts.critic(passages, candidate.question, answer, candidate.history)
        style = _style("critic", candidate, candidate.answer)
        return Item(chat, _subject(candidate, corpus), style)

    desk.ask(lambda: (item(c) for c in candidates() if c.split != "test"), VERDICT_SCHEMA)
    refused: dict[tuple[str, ...], set[tuple[str, ...]]] = {}  # turns, of the latest passages
    for candidate in candidates():
        if candidate.split == "test":
            yield candidate
            continue
        if candidate.passage_ids not in refused:
            refused = {candidate.passage_ids: set()}
        before = refused[candidate.passage_ids]
        if any(candidate.turns[:n] in before for n in range(1, len(candidate.turns))):
            sieve.reject(candidate, "follows a refused turn")
            continue
        response = desk.answer(item(candidate))
        try:
            verdict = parse_verdict(response or "")
        except ValueError as error:
            sieve.reject(candidate, "not judged by the critic", detail=str(error))
            continue
        correct = verdict["correct"] or not candidate.answerable
        if verdict["clear"] and correct and verdict["answered"] is candidate.answerable:
            yield candidate
        else:
            before.add(candidate.turns)
            sieve.reject(candidate, "refused by the critic", detail=verdict["reason"])


def _subject(candidate: Candidate, corpus: Corpus) -> str:
    return passage_sha256(*(corpus[i].text for i in candidate.passage_ids))


def _style(task: str, candidate: Candidate, *more: str) -> str:
    """Return the style under which an answer about a question is recorded."""
    turns = [turn.content for turn in candidate.history]
    return f"{task} {sha256_text(*turns, candidate.question, *more)[:16]}"
