"""Run directories as a report needs them: their accounts, scores, rankings and passages' texts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragkit.data.corpus import open_corpus
from ragkit.data.files import read_json, read_jsonl, sha256_file
from ragkit.data.schema import Passage
from ragkit.errors import DataError
from ragkit.evaluation.ranking import Qrels
from ragkit.evaluation.ranking import Run as Ranked

RECORDS = {"retrieval": "per_query.jsonl", "answers": "predictions.jsonl"}
_SAID = ("answer", "answer_passage_ids", "references", "failed")


@dataclass(frozen=True)
class Reported:
    """A finished run directory, and the name that it has in the report.

    account: what run.json says of it
    """

    path: Path
    name: str
    account: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The command that made it."""
        return str(self.account["command"])

    @property
    def inputs(self) -> list[Mapping[str, str]]:
        """The files that it read, each {"key", "path", "sha256"}."""
        given = self.account.get("inputs", {})
        return [{"key": key, **what} for key, what in given.items()]

    @property
    def is_ceiling(self) -> bool:
        """Whether the positives themselves were its passages."""
        return bool(self.account["config"].get("passages") == "gold")

    def json(self, name: str) -> Any:
        """Return what a JSON file in the directory holds; None where there is no such file."""
        return read_json(self.path / name) if (self.path / name).exists() else None


@dataclass
class Evaluated:
    """The evaluated systems of one kind, on the same questions.

    records, sheets: what each system made of each question, and its scores by metric
    asked: question text and positives by id; documents: the cluster of each question
    memberships: the questions in each slice, as each system has it that knows the slice
    """

    kind: str
    runs: dict[str, Reported] = field(default_factory=dict)
    records: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    sheets: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    asked: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    memberships: dict[str, dict[str, set[str]]] = field(default_factory=dict)

    def add(self, run: Reported, file: str) -> None:
        """Read one more run of this kind, the records of which are in `file`.

        Raises:
            DataError: it was made on another test set than the ones before.
        """
        self.runs[run.name] = run
        records = self.records.setdefault(run.name, {})
        sheet = self.sheets.setdefault(run.name, {})
        for record in read_jsonl(run.path / file):
            question = record["id"]
            asked = record["question"], record["positive_ids"]
            if self.asked.setdefault(question, asked) != asked:
                raise DataError(
                    f"{run.path}: question {question!r} is another one here than in "
                    f"{next(iter(self.runs.values())).path}, or has other positives; runs on "
                    "different test sets need a report each"
                )
            records[question] = record if file == RECORDS[self.kind] else _unanswered(record)
            self.documents[question] = record["document"]
            for metric, score in record["scores"].items():
                sheet.setdefault(metric, {})[question] = score
            for name in record["slices"]:
                self.memberships.setdefault(name, {}).setdefault(run.name, set()).add(question)
        first = next(iter(self.runs))
        if odd := sorted(records.keys() ^ self.records[first].keys()):
            raise DataError(
                f"{run.path} and {self.runs[first].path}: question {odd[0]!r} is in one of them "
                "only; runs on different test sets need a report each"
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


def _unanswered(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of an answer as one of a retriever: what was found, and nothing said."""
    return {k: v for k, v in record.items() if k not in _SAID}


def read_runs(paths: Sequence[Path]) -> list[Reported]:
    """Read the accounts of run directories.

    A run's name is the label that a comparison among them gave it, else as much of its path as is
    unique.

    Raises:
        DataError: one is no run directory, or not finished.
    """
    paths = list(dict.fromkeys(path.resolve() for path in paths))
    accounts = {path: _account(path) for path in paths}
    names = _names(paths)
    for path, account in accounts.items():
        labels = account["config"].get("labels", []) if account["command"] == "compare" else []
        compared = [_found(name, path) for name in account["config"]["runs"]] if labels else []
        names |= {run: n for run, n in zip(compared, labels, strict=True) if run in accounts}
    return [Reported(path, names[path], account) for path, account in accounts.items()]


def expanded(path: Path) -> list[Path]:
    """Return the run directories that a path stands for.

    Those are the steps of a pipeline that were begun, and the runs that a comparison compared, if
    they are all still there, with itself.
    """
    if not (path / "run.json").exists():
        return [path]
    account = read_json(path / "run.json")
    whole = isinstance(account, dict) and "config" in account
    command = account.get("command") if whole else None
    if command == "run":
        steps = [path / s["id"] for s in account["config"]["steps"] if s["run"] != "report"]
        return [step for step in steps if (step / "run.json").exists()]
    if command == "compare":
        compared = [_found(name, path.resolve()) for name in account["config"]["runs"]]
        return [*(p for p in compared if p), path] if all(compared) else [path]
    return [path]


def _account(path: Path) -> dict[str, Any]:
    if not (path / "run.json").exists():
        raise DataError(
            f"{path}: not a run directory (no run.json in it); a report is made of the directories "
            "that ragkit's commands leave"
        )
    account: dict[str, Any] = read_json(path / "run.json")
    if not isinstance(account, dict) or not {"command", "config", "status"} <= set(account):
        raise DataError(f"{path}: its run.json is not ragkit's")
    if account["status"] != "done":
        error = f": {account['error']}" if account.get("error") else ""
        raise DataError(
            f"{path}: {account['command']} is not finished (status {account['status']}{error}); "
            "start the same command again, then make the report"
        )
    return account


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    names = {}
    for path in paths:
        parts = path.parts
        length = next(
            n
            for n in range(1, len(parts) + 1)
            if sum(other.parts[-n:] == parts[-n:] for other in paths) == 1
        )
        names[path] = "/".join(parts[-length:])
    return names


def evaluations(runs: Iterable[Reported]) -> dict[str, Evaluated]:
    """Read the evaluated runs, by kind.

    Where no run is of a retriever alone, retrieval is read from the runs that went on to answers.

    Raises:
        DataError: runs of one kind on different test sets.
    """
    found: dict[str, Evaluated] = {}
    everything = list(runs)
    for kind, file in RECORDS.items():
        for run in everything:
            if (run.path / file).exists() and not _is_judged_again(run, everything):
                found.setdefault(kind, Evaluated(kind)).add(run, file)
    if "answers" in found and "retrieval" not in found:
        retrieved = Evaluated("retrieval")
        for name, run in found["answers"].runs.items():
            if not run.is_ceiling and any("@" in m for m in found["answers"].sheets[name]):
                retrieved.add(run, RECORDS["answers"])
        found = {"retrieval": retrieved, **found} if retrieved.runs else found
    return found


def _is_judged_again(run: Reported, runs: Iterable[Reported]) -> bool:
    """Return True where another run is this one with the scores of a judge added."""
    return any(judged_run(other) == run.path for other in runs)


def judged_run(run: Reported) -> Path | None:
    """Return the run directory that a judge was given; None where this is no judge's."""
    return _found(run.account["config"]["runs"][0], run.path) if run.command == "judge" else None


def read_ranking(run: Reported) -> Ranked:
    """Read a run's run.trec, or that of the run that was judged; {} where there is none.

    Ids may have spaces in them.
    """
    ranked: Ranked = {}
    path = (judged_run(run) or run.path) / "run.trec"
    if run.is_ceiling or not path.exists():
        return ranked
    with path.open(encoding="utf-8") as f:
        for line in f:
            question, _, rest = line.partition(" Q0 ")
            passage, _, score, _ = rest.rsplit(" ", 3)
            ranked.setdefault(question, {})[passage] = float(score)
    return ranked


class Texts:
    """The texts of passages, from the corpora of evaluated runs, as long as these are the same.

    missing: why there are none, a line each corpus
    """

    def __init__(self, runs: Iterable[Reported]) -> None:
        self._corpora: list[Mapping[str, Passage]] = []
        self.missing: list[str] = []
        seen = set()
        for run in runs:
            given = next((i for i in run.inputs if i["key"] == "corpus"), None)
            evaluated = any((run.path / file).exists() for file in RECORDS.values())
            if evaluated and given and (given["path"], given["sha256"]) not in seen:
                seen.add((given["path"], given["sha256"]))
                self._open(run, given)

    def _open(self, run: Reported, given: Mapping[str, str]) -> None:
        path = _found(given["path"], run.path)
        if path is None:
            self.missing.append(f"the corpus {given['path']} is not there any more")
        elif sha256_file(path) != given["sha256"]:
            self.missing.append(f"the corpus {given['path']} has changed since {run.name} was made")
        else:
            try:
                self._corpora.append(open_corpus(path))
            except DataError as error:  # malformed lines, which the run was told to leave out
                self.missing.append(str(error).splitlines()[0])

    def __call__(self, passage_id: str) -> Passage | None:
        """Return a passage, or None where no corpus has it."""
        return next((c[passage_id] for c in self._corpora if passage_id in c), None)


def _found(name: str, run: Path) -> Path | None:
    """Return a path of a run's account, which may be relative to where its command was started."""
    places = [Path(name), *(parent / name for parent in run.parents)]
    return next((place.resolve() for place in places if place.exists()), None)
