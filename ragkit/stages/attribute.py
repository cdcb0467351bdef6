"""`ragkit attribute`: a grid of retrievers x answerers x passages, and why answers are wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from rich.console import Group, RenderableType

from ragkit.config.blocks import InputPath
from ragkit.data.files import read_json, read_jsonl, write_json, write_jsonl
from ragkit.data.formats import trec
from ragkit.data.schema import Example
from ragkit.errors import DataError
from ragkit.evaluation.attribution import Attempt, Reason, Rule, reason_of
from ragkit.evaluation.grid import Cell, contrasts, differences
from ragkit.runs import Run
from ragkit.stages.attribution_text import told
from ragkit.stages.evaluated import Record, read_questions
from ragkit.stages.grid import GridSource, folder_of, run_cells
from ragkit.stages.retrieval import check_leaks
from ragkit.stages.sources import read_sources


class Config(GridSource):
    """Configuration of `attribute`."""

    # They only choose what is read of what the cells have left.
    UNCOMPARED = GridSource.UNCOMPARED | {"metric", "threshold", "system", "judged"}

    metric: Literal["em", "f1", "rouge_1", "rouge_2", "rouge_l"] = Field(
        "f1", description="the score that says whether an answer is wrong"
    )
    threshold: float = Field(0.5, gt=0, le=1, description="an answer below this score is wrong")
    system: str | None = Field(
        None,
        description='whose wrong answers are explained, "RETRIEVER | ANSWERER"; unset: the last of '
        "each",
    )
    judged: InputPath | None = Field(
        None, description="run directory of `ragkit judge` on the answers that are explained"
    )

    @model_validator(mode="after")
    def _check_system(self) -> "Config":
        known = [cell for cell in self.grid if cell.retriever]
        if self.explained not in known:
            raise ValueError(
                f"system: {self.system!r} is not in the grid; there are "
                + ", ".join(repr(cell.system) for cell in known)
            )
        return self

    @property
    def explained(self) -> Cell:
        """The cell whose wrong answers are explained."""
        if self.system is None:
            return Cell(list(self.retrievers)[-1], list(self.answerers)[-1])
        retriever, _, answerer = self.system.partition("|")
        return Cell(retriever.strip(), answerer.strip())


@dataclass(frozen=True)
class _Outcome:
    """What a finished cell holds: a record of each question, and its metrics.

    rankings: ids of the passages found for each question, best first
    """

    records: Mapping[str, Record]
    rankings: dict[str, list[str]]
    metrics: dict[str, Any]


def reopen(config: Config, path: Path) -> bool:
    """Say yes, always: cells that are done are not done again, and the rest takes a moment."""
    return True


def run(config: Config, run: Run) -> None:
    """Run the cells; write attribution.json, and attribution.jsonl with a line a wrong answer."""
    examples, corpus = read_sources(config, run)
    if not any(e.answerable and e.answers for e in examples):
        raise DataError(
            f"{config.examples}: no answerable question with answers; none can be wrong"
        )
    check_leaks(config, examples, corpus)
    judged = _read_judged(config.judged, examples) if config.judged else {}
    outcomes = {cell: _outcome(path) for cell, path in run_cells(config, run)}
    attempts, rule = _attempts(config, outcomes, judged), Rule(config.metric, config.threshold)
    reasons = [reason_of(attempt, corpus, rule) for attempt in attempts]
    wrong = [(a, reason) for a, reason in zip(attempts, reasons, strict=True) if reason]
    write_jsonl(run / "attribution.jsonl", (_line(a, reason, rule) for a, reason in wrong))
    write_json(run / "attribution.json", _result(config, outcomes, wrong))


def show(path: Path) -> RenderableType:
    """Show the grid, what each part brought, and the reasons with an example each."""
    told_in = path / "attribution.jsonl"
    return Group(
        *told(read_json(path / "attribution.json"), read_jsonl(told_in)), f"all: {told_in}"
    )


def _outcome(path: Path) -> _Outcome:
    """Read what a cell left; its ranking of a question is longer in run.trec than in its record."""
    rankings = {
        question: list(found) for question, found in trec.read_run(path / "run.trec").items()
    }
    records = read_questions(path / "predictions.jsonl")
    return _Outcome(records, rankings, read_json(path / "metrics.json")["metrics"])


def _read_judged(path: Path, examples: Sequence[Example]) -> dict[str, Record]:
    """Return the records of a judged run that have a verdict.

    Raises:
        DataError: no judged run, no verdict in it, or one on another question.
    """
    file = path / "predictions.jsonl"
    if not file.exists():
        raise DataError(f"judged: {path}: no run directory of ragkit judge (no predictions.jsonl)")
    asked = {e.id: e.question for e in examples}
    records = read_questions(file)
    for question, record in records.items():
        if record["question"] != asked.get(question):
            raise DataError(
                f"judged: {file}: question {question!r} ({record['question']!r}) is "
                "not one of the examples; it judged another test set"
            )
    judged = {q: record for q, record in records.items() if "correct" in record["scores"]}
    if not judged:
        raise DataError(f"judged: {file}: no record has a judge's verdict (scores.correct)")
    return judged


def _attempts(
    config: Config, outcomes: Mapping[Cell, _Outcome], judged: Mapping[str, Record]
) -> list[Attempt]:
    """Put together what is known of each question of the system that is explained.

    Raises:
        DataError: the judge judged other answers.
    """
    explained = outcomes[config.explained]
    gold = outcomes[Cell(None, config.explained.answerer)]
    for question, verdict in judged.items():
        if verdict["answer"] != explained.records[question]["answer"]:
            raise DataError(
                f"judged: {config.judged}: its answer to question {question!r} is "
                f"{verdict['answer']!r}, and {config.explained.system} answered "
                f"{explained.records[question]['answer']!r}; judge the answers in "
                f"{folder_of(config.explained)}"
            )
    return [
        Attempt(
            record,
            explained.rankings.get(question, []),
            config.n_passages,
            gold.records[question],
            judged[question]["scores"]["correct"] if question in judged else None,
        )
        for question, record in explained.records.items()
    ]


def _line(attempt: Attempt, reason: Reason, rule: Rule) -> dict[str, Any]:
    """Return the line of attribution.jsonl about a wrong answer."""
    copied = ("answer", "abstained", "references", "positive_ids", "answer_passage_ids")
    return {
        "id": attempt.record["id"],
        "question": attempt.record["question"],
        "reason": reason,
        **{key: attempt.record[key] for key in copied},
        "passage_ids": list(attempt.given),
        "rank": attempt.rank,
        "score": attempt.record["scores"].get(rule.metric),
        "gold_score": attempt.gold["scores"].get(rule.metric),
        "correct": attempt.correct,
        "document": attempt.record["document"],
        "slices": attempt.record["slices"],
    }


def _result(
    config: Config, outcomes: Mapping[Cell, _Outcome], wrong: Sequence[tuple[Attempt, Reason]]
) -> dict[str, Any]:
    """Return attribution.json."""
    records = outcomes[config.explained].records
    scores = {
        cell: {
            question: record["scores"][config.metric]
            for question, record in outcomes[cell].records.items()
            if config.metric in record["scores"]
        }
        for cell in config.grid
    }
    documents = {question: record["document"] for question, record in records.items()}
    wanted = list(contrasts(list(config.retrievers), list(config.answerers)))
    return {
        "metric": config.metric,
        "threshold": config.threshold,
        "n_passages": config.n_passages,
        "system": config.explained.system,
        "questions": {
            "all": len(records),
            "wrong": len(wrong),
            "failed": sum(record["failed"] for record in records.values()),
        },
        "reasons": dict(Counter(reason.value for _, reason in wrong).most_common()),
        "cells": {cell.name: outcomes[cell].metrics for cell in config.grid},
        "differences": differences(scores, wanted, documents, config.metric, config.seed),
    }
