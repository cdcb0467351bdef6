"""Evaluated run directories, as compare, report, judge and attribute read them.

Every record is checked as it is read, and what is wrong with it is told with its file and line.
What is made of the scores is the business of `evaluation/`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragkit.data.files import BadLines, parse_jsonl, read_json
from ragkit.data.formats import trec
from ragkit.errors import DataError
from ragkit.evaluation.ranking import Qrels
from ragkit.evaluation.ranking import Run as Ranked

RECORDS = {"retrieval": "per_query.jsonl", "answers": "predictions.jsonl"}
Record = Mapping[str, Any]
Shape = tuple[str, Callable[[Any], bool]]  # what is expected, in words and as a test


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_texts(value: object, *keys: str) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in keys)


_TEXT: Shape = ("a text", lambda v: isinstance(v, str))
_FLAG: Shape = ("true or false", lambda v: isinstance(v, bool))
_TEXTS: Shape = (
    "a list of texts",
    lambda v: isinstance(v, list) and all(isinstance(text, str) for text in v),
)
_SCORES: Shape = (
    "a number for each metric",
    lambda v: isinstance(v, dict) and all(map(_is_number, v.values())),
)
_PASSAGES: Shape = (
    "a list of {id, score}",
    lambda v: isinstance(v, list) and all(_has_texts(passage, "id") for passage in v),
)
_TURNS: Shape = (
    "a list of {role, content}",
    lambda v: isinstance(v, list) and all(_has_texts(turn, "role", "content") for turn in v),
)
_VERDICTS: Shape = (
    "what a judge said by criterion, each with its mark",
    lambda v: isinstance(v, dict) and all(_has_texts(said, "mark") for said in v.values()),
)
_ASKED = {
    "id": _TEXT, "question": _TEXT, "document": _TEXT, "positive_ids": _TEXTS, "scores": _SCORES,
    "slices": _TEXTS,
}  # fmt: skip
_SAID = {
    "answer": _TEXT, "abstained": _FLAG, "answerable": _FLAG, "references": _TEXTS,
    "passages": _PASSAGES, "answer_passage_ids": _TEXTS,
}  # fmt: skip
_FIELDS = {"per_query.jsonl": {**_ASKED, "top_ids": _TEXTS}, "predictions.jsonl": _ASKED | _SAID}
_MAY_BE = {"history": _TURNS, "judge": _VERDICTS}
_MAKERS = {"per_query.jsonl": "eval-retriever", "predictions.jsonl": "eval-e2e or judge"}
_OF_ANSWERS = ("answer", "answer_passage_ids", "references", "failed")


@dataclass(frozen=True)
class Evaluated:
    """A finished eval-e2e run: its predictions by id, its metrics and its configuration."""

    path: Path
    records: Mapping[str, Record]
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]


def read_evaluated(path: Path) -> Evaluated:
    """Read the directory of a finished eval-e2e run.

    Raises:
        DataError: it is none, or its predictions are malformed or repeated.
    """
    missing = [
        n for n in ("run.json", "predictions.jsonl", "metrics.json") if not (path / n).exists()
    ]
    if missing:
        raise DataError(f"{path}: no finished eval-e2e run: there is no {missing[0]} in it")
    records = read_questions(path / "predictions.jsonl")
    return Evaluated(path, records, read_json(path / "metrics.json"), read_account(path)["config"])


def read_questions(file: Path) -> dict[str, Record]:
    """Read a per_query.jsonl or a predictions.jsonl: the record of each question, by its id.

    Raises:
        DataError: no such file, no record in it, or, with its line, the first that is malformed or
            about a question that was there before.
    """
    records: dict[str, Record] = {}

    def parse(record: object) -> None:
        checked = _checked(record, file.name)
        if checked["id"] in records:
            raise ValueError(f"id: {checked['id']!r} is already in this file")
        records[checked["id"]] = checked

    bad = BadLines(file, None)
    for _ in parse_jsonl(file, parse, bad):
        pass
    if bad.found:  # each line of a foreign file is wrong in the same way
        (line, reason, _), more = bad.found[0], len(bad.found) - 1
        raise DataError(f"{file}:{line}: {reason}" + (f" ({more} more bad lines)" if more else ""))
    if not records:
        raise DataError(f"{file}: no record in it")
    return records


def _checked(record: object, name: str) -> Record:
    """Return a record of the file of that name.

    Raises:
        ValueError: a field is missing, or of another shape.
    """
    if not isinstance(record, dict):
        raise ValueError("a JSON object was expected")
    there = {key: shape for key, shape in _MAY_BE.items() if record.get(key) is not None}
    for key, (expected, fits) in {**_FIELDS[name], **there}.items():
        if key not in record:
            raise ValueError(f"{key}: missing; was this file written by {_MAKERS[name]}?")
        if not fits(record[key]):
            raise ValueError(f"{key}: {expected} was expected, not {str(record[key])[:60]!r}")
    return record


@dataclass
class Systems:
    """The evaluated systems of one kind, on the same questions.

    paths: their run directories
    records, sheets: what each system made of each question, and its scores by metric
    asked: question text and positives by id; documents: the cluster of each question
    memberships: the questions in each slice, as each system has it that knows the slice
    """

    kind: str
    paths: dict[str, Path] = field(default_factory=dict)
    records: dict[str, dict[str, Record]] = field(default_factory=dict)
    sheets: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    asked: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    memberships: dict[str, dict[str, set[str]]] = field(default_factory=dict)

    def add(self, name: str, path: Path, file: str) -> None:
        """Read one more run of this kind, the records of which are in `file`.

        Raises:
            DataError: malformed records, or another test set than that of the runs before.
        """
        found = read_questions(path / file)
        self._check_same_questions(name, path, found)
        self.paths[name] = path
        whole = file == RECORDS[self.kind]
        self.records[name] = {q: r if whole else _unanswered(r) for q, r in found.items()}
        sheet = self.sheets.setdefault(name, {})
        for question, record in found.items():
            self.asked[question] = record["question"], record["positive_ids"]
            self.documents[question] = record["document"]
            for metric, score in record["scores"].items():
                sheet.setdefault(metric, {})[question] = score
            for part in record["slices"]:
                self.memberships.setdefault(part, {}).setdefault(name, set()).add(question)

    def _check_same_questions(self, name: str, path: Path, found: Mapping[str, Record]) -> None:
        if not self.paths:
            return
        first, first_path = next(iter(self.paths.items()))
        for question, record in found.items():
            asked = record["question"], record["positive_ids"]
            if self.asked.get(question, asked) != asked:
                raise DataError(
                    f"{path}: question {question!r} is another one here than in {first_path}, or "
                    "has other positives; runs of one test set are needed"
                )
        if odd := sorted(self.asked.keys() ^ found.keys()):
            raise DataError(
                f"{first} and {name} were not asked the same questions ({len(self.asked)} and "
                f"{len(found)}; {odd[0]!r} is in one of them only); runs of one test set are needed"
            )

    def check_same_judge(self) -> None:
        """Refuse scores of one criterion by different judges.

        Raises:
            DataError: of another model, server, temperature, scale or prompt.
        """
        marks: dict[str, dict[str, str]] = {}
        for name, records in self.records.items():
            for record in records.values():
                for criterion, judged in record.get("judge", {}).items():
                    marks.setdefault(criterion, {})[judged["mark"]] = name
        for criterion, found in marks.items():
            if len(found) > 1:
                raise DataError(
                    f"{' and '.join(found.values())}: {criterion} was judged in different ways "
                    "(model, server, temperature, scale or prompt); judge both runs alike"
                )

    @property
    def slices(self) -> dict[str, set[str]]:
        """The questions in each slice, but for slices that are not the same in all systems.

        Documents seen in training are others for each training set.
        """
        first = {name: next(iter(of.values())) for name, of in self.memberships.items()}
        return {
            name: questions
            for name, questions in sorted(first.items())
            if all(other == questions for other in self.memberships[name].values())
        }

    @property
    def qrels(self) -> Qrels:
        """The positives of each question that has some."""
        return {q: dict.fromkeys(ids, 1) for q, (_, ids) in self.asked.items() if ids}

    @property
    def ceilings(self) -> list[str]:
        """The systems that were given the positives themselves."""
        return [name for name, path in self.paths.items() if is_ceiling(path)]


def _unanswered(record: Record) -> Record:
    """Return the record of an answer as one of a retriever: what was found, and nothing said."""
    return {k: v for k, v in record.items() if k not in _OF_ANSWERS}


def read_account(path: Path) -> dict[str, Any]:
    """Read the run.json of a run directory.

    Raises:
        DataError: there is none, or it is not ragkit's.
    """
    account = read_json(path / "run.json")
    if not isinstance(account, dict) or not isinstance(account.get("config"), dict):
        raise DataError(f"{path}: its run.json is not ragkit's")
    return account


def judged_run(path: Path) -> Path | None:
    """Return the run directory that a judge was given; None where this is no judge's."""
    account = read_account(path) if (path / "run.json").exists() else {}
    judges = account.get("command") == "judge"
    return found_from(account["config"]["runs"][0], path) if judges else None


def is_ceiling(path: Path) -> bool:
    """Return whether a run, or the run that was judged, had the positives as its passages."""
    path = judged_run(path) or path
    told = (path / "run.json").exists()
    return told and read_account(path)["config"].get("passages") == "gold"


def read_ranking(path: Path) -> Ranked:
    """Read a run's run.trec, or that of the run that was judged; {} where there is none.

    Raises:
        DataError: malformed lines.
    """
    file = (judged_run(path) or path) / "run.trec"
    return {} if is_ceiling(path) or not file.exists() else trec.read_run(file)


def found_from(name: str, run: Path) -> Path | None:
    """Return a path of a run's account, which may be relative to where its command was started."""
    places = [Path(name), *(parent / name for parent in run.resolve().parents)]
    return next((place.resolve() for place in places if place.exists()), None)
