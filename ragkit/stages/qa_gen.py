"""`ragkit qa-gen`: passages or documents into training, dev and test questions with answers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from rich.console import RenderableType
from rich.markdown import Markdown

from ragkit.config.blocks import (
    Block,
    Chunking,
    DocumentSource,
    HeuristicTeacher,
    InputPath,
    OpenAITeacher,
    Style,
    Teacher,
)
from ragkit.data.files import (
    atomic_write,
    read_examples,
    read_text,
    sha256_text,
    write_examples,
    write_json,
    write_jsonl,
    write_passages,
)
from ragkit.data.nearduplicates import words
from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError, EndpointError
from ragkit.log import logger
from ragkit.qa.card import data_card
from ragkit.qa.filters import Candidate, Filter
from ragkit.qa.prompts import QuestionAnswer, Request, parse
from ragkit.qa.splits import split_documents
from ragkit.qa.teachers import build_teacher, requests_for
from ragkit.runs import Run
from ragkit.stages.chunk import cut, read_source

Answers = dict[tuple[str, str], str]  # raw answers of the teacher, by Request.key


class Splits(Block):
    """Shares of the documents that are kept from training."""

    dev: float = Field(0.1, ge=0, le=0.5, description="for choosing the best checkpoint")
    test: float = Field(0.1, ge=0, le=0.5, description="for the final measurement")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dev + self.test >= 1:
            raise ValueError("dev and test together leave no documents for training")
        return self


class Config(DocumentSource):
    """Configuration of `qa-gen`."""

    chunk: Chunking | None = Field(
        None, description="how to cut long texts; unset: rows are passages"
    )
    teacher: Teacher = Field(
        HeuristicTeacher(type="heuristic"), description="who writes the questions"
    )
    styles: list[Style] = Field(["factoid", "how-to", "keyword"], description="kinds of questions")
    limit: int | None = Field(None, gt=0, description="ask about so many passages only")
    max_silent: float = Field(
        0.02, ge=0, le=1, description="share of requests that may fail; more stops the run"
    )
    splits: Splits = Splits()
    held_out: list[InputPath] = Field(
        [], description="example files whose questions must not leak into training"
    )
    leak_rouge_l: float = Field(
        0.7, gt=0, le=1, description="ROUGE-L to a held-out question that is too close"
    )


def run(config: Config, run: Run) -> None:
    """Ask the teacher, filter, split; write corpus.jsonl, the splits and the data card."""
    passages = {p.id: p for p in cut(read_source(config, run), config.chunk)}
    write_passages(run / "corpus.jsonl", passages.values())
    split_of = split_documents(
        {p.source: None for p in passages.values()},
        config.splits.dev,
        config.splits.test,
        config.seed,
    )
    held_out = [e.question for path in config.held_out for e in read_examples(path)]
    asked = list(passages.values())[: config.limit]
    requests = requests_for(config.teacher, asked, config.styles)
    with run.timed("asking"):
        teacher = build_teacher(config.teacher, run / "journal.jsonl", config.seed)
        answers = {request.key: answer for request, answer in teacher.ask(requests)}
    silent = len(requests) - len(answers)
    if isinstance(config.teacher, OpenAITeacher) and silent > config.max_silent * len(requests):
        raise EndpointError(
            f"{silent:,} of {len(requests):,} requests got no answer, more than max_silent "
            f"({config.max_silent:.0%}); the others are in the journal: the same command asks only "
            "for the missing ones"
        )
    if not answers:
        raise DataError(
            f"the teacher ({config.teacher.type}) answered for none of {len(asked):,} passages"
        )
    kept, rejected, funnel = _filter(requests, answers, split_of, held_out, config.leak_rouge_l)
    splits = {name: [e for split, e in kept if split == name] for name in ("train", "dev", "test")}
    for name, examples in splits.items():
        if examples:
            write_examples(run / f"{name}.jsonl", examples)
        elif config.splits.model_dump().get(name):
            logger.warning("no %s.jsonl: too few documents for its share", name)
    write_jsonl(run / "rejected.jsonl", rejected)
    write_json(run / "funnel.json", funnel)
    notes = _notes(config, requests, answers)
    with atomic_write(run / "DATA_CARD.md") as f:
        name = f"the {config.teacher.type} teacher"
        f.write(data_card(name, passages, splits, funnel, notes, config.seed))
    logger.info("%s", ", ".join(f"{len(e)} {name}" for name, e in splits.items()))
    if not splits["train"]:
        raise DataError("no training question was kept; see rejected.jsonl and funnel.json")


def show(path: Path) -> RenderableType:
    """Show the data card."""
    return Markdown(read_text(path / "DATA_CARD.md"))


def _filter(
    requests: list[Request],
    answers: Answers,
    split_of: dict[str, str],
    held_out: list[str],
    leak: float,
) -> tuple[list[tuple[str, Example]], list[dict[str, object]], dict[str, int]]:
    """Parse and filter, test documents first, so that no training question may be close to theirs.

    A question that two passages make is one example, which both answer; it stays in the split of
    the first.
    """
    order = {"test": 0, "dev": 1, "train": 2}
    by_split = sorted(requests, key=lambda r: order[split_of[r.passage.source]])
    keep = Filter(held_out, leak)
    kept: list[tuple[str, Example]] = []
    places: dict[tuple[str, ...], int] = {}  # a question's words -> its place in `kept`
    rejected: list[dict[str, object]] = []
    for request in by_split:
        split = split_of[request.passage.source]
        if request.key not in answers:
            continue
        for pair in _parsed(request, answers[request.key], rejected, keep):
            reason = keep.reason(Candidate(request, pair, split))
            example = _example(request, pair)
            if reason is None:
                places[tuple(words(pair.question))] = len(kept)
                kept.append((split, example))
                continue
            place = places.get(tuple(words(pair.question)))
            if reason == "duplicate" and place is not None:
                kept[place] = (kept[place][0], _merged(kept[place][1], example))
            rejected.append({"reason": reason, "split": split, **_record(request, pair)})
    return kept, rejected, keep.funnel.to_json()


def _parsed(
    request: Request, answer: str, rejected: list[dict[str, object]], keep: Filter
) -> Iterator[QuestionAnswer]:
    try:
        yield from parse(answer)
    except ValueError as error:
        keep.unreadable()
        rejected.append(
            {"reason": str(error), "passage_id": request.passage.id, "answer": answer[:2000]}
        )


def _record(request: Request, pair: QuestionAnswer) -> dict[str, object]:
    return {
        "passage_id": request.passage.id,
        "style": request.style,
        "question": pair.question,
        "answer": pair.answer,
    }


def _example(request: Request, pair: QuestionAnswer) -> Example:
    passage: Passage = request.passage
    return Example(
        id=sha256_text(passage.id, pair.question)[:16],
        question=pair.question,
        answers=(pair.answer,),
        positive_ids=(passage.id,),
        meta={"style": request.style, "doc_id": passage.source},
    )


def _merged(example: Example, other: Example) -> Example:
    """Return an example that the passages of both answer: they made the same question."""
    ids = dict.fromkeys((*example.positive_ids, *other.positive_ids))
    answers = dict.fromkeys((*example.answers, *other.answers))
    return replace(example, positive_ids=tuple(ids), answers=tuple(answers))


def _notes(config: Config, requests: list[Request], answers: Answers) -> list[str]:
    notes = []
    if silent := len(requests) - len(answers):
        notes.append(f"{silent:,} of {len(requests):,} requests have no answer of the teacher.")
    if config.held_out:
        names = ", ".join(path.name for path in config.held_out)
        notes.append(f"Training questions too close to one of {names} were left out.")
    return notes
