"""Answers of finished eval-e2e runs as cases for a judge, and what people said of their answers."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ragkit.data.files import parse_jsonl, read_corpus, read_json, sha256_file
from ragkit.data.schema import Passage, Turn
from ragkit.errors import DataError
from ragkit.evaluation.judging import Case
from ragkit.log import logger
from ragkit.stages.evaluated import Evaluated

_RECORDED = 10  # passages that a prediction names
_LABELS = (0, 0.5, 1)


def make_cases(judged: Evaluated, corpus: Path | None, baseline: Evaluated | None) -> list[Case]:
    """Return what is to be judged.

    corpus: of the passages; None: no criterion needs their texts
    baseline: whose answers stand against those of the judged run
    Raises:
        DataError: passages that are not in the corpus, or a baseline of other questions.
    """
    passages = _passages(judged, corpus) if corpus else {}
    others = _others(judged, baseline) if baseline else {}
    return [
        Case(
            id=name,
            document=record["document"],
            question=record["question"],
            answer=_answer(record),
            abstained=record["abstained"],
            answerable=record["answerable"],
            references=tuple(record["references"]),
            history=tuple(Turn(t["role"], t["content"]) for t in record.get("history") or ()),
            passages=passages.get(name, ()),
            other=_answer(others[name]) if others else None,
            other_abstained=bool(others and others[name]["abstained"]),
        )
        for name, record in judged.records.items()
    ]


def read_labels(path: Path, known: Collection[str]) -> dict[str, float]:
    """Read what people said of answers: lines of {id, correct}, correct 0, 0.5 or 1.

    known: the questions of the judged run
    Raises:
        DataError: malformed lines, unknown questions, a question labelled twice, none at all.
    """
    labels: dict[str, float] = {}

    def parse(record: object) -> None:
        if not isinstance(record, dict) or not {"id", "correct"} <= set(record):
            raise ValueError('{"id": ..., "correct": ...} was expected')
        name, value = record["id"], record["correct"]
        if name not in known:
            raise ValueError(f"id: the judged run has no question {name!r}")
        if name in labels:
            raise ValueError(f"id: {name!r} is already in this file")
        if value not in _LABELS:
            raise ValueError(f"correct: {value!r} is none of 0, 0.5 and 1")
        labels[name] = float(value)

    for _ in parse_jsonl(path, parse):
        pass
    if not labels:
        raise DataError(f"{path}: no labels in it")
    return labels


def _answer(record: Mapping[str, Any]) -> str | None:
    """Return the answer of a prediction; None where the question got none."""
    return None if record.get("failed") else str(record["answer"])


def _passages(judged: Evaluated, path: Path) -> dict[str, tuple[Passage, ...]]:
    """Return the passages that each answer was made from."""
    corpus = read_corpus(path)
    before = read_json(judged.path / "run.json")["inputs"].get("corpus")
    if before and before["sha256"] != sha256_file(path):
        logger.warning(
            "%s: not the corpus that %s was made with, though ids may be the same: passages may "
            "have other texts than the answers were made from", path, judged.path,
        )  # fmt: skip
    n = judged.config["n_passages"]
    if n > _RECORDED:
        logger.warning(
            "%s: answers were made from %d passages, and predictions.jsonl names %d: faithful is "
            "judged by these", judged.path, n, _RECORDED,
        )  # fmt: skip
    given = {i: [p["id"] for p in r["passages"][:n]] for i, r in judged.records.items()}
    if strange := sorted({p for ids in given.values() for p in ids} - set(corpus)):
        raise DataError(
            f"{path}: {len(strange)} passages of {judged.path} are not in it ({strange[0]!r}); "
            "name the corpus that the run was made with: corpus: FILE"
        )
    return {name: tuple(corpus[p] for p in ids) for name, ids in given.items()}


def _others(judged: Evaluated, baseline: Evaluated) -> Mapping[str, Mapping[str, Any]]:
    """Return the baseline's predictions.

    Raises:
        DataError: it was asked other questions.
    """
    for name in [*judged.records, *baseline.records]:
        ours, theirs = judged.records.get(name), baseline.records.get(name)
        if not ours or not theirs or ours["question"] != theirs["question"]:
            raise DataError(
                f"{baseline.path}: not asked the questions of {judged.path} (see {name!r}); "
                "answers to the same questions are needed"
            )
    return baseline.records
