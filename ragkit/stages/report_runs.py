"""Run directories as a report needs them: their accounts, scores, rankings and passages' texts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragkit.data.corpus import open_corpus
from ragkit.data.files import read_json, sha256_file
from ragkit.data.schema import Passage
from ragkit.errors import DataError
from ragkit.stages.evaluated import RECORDS, Systems, found_from, judged_run, read_account


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

    def json(self, name: str) -> Any:
        """Return what a JSON file in the directory holds; None where there is no such file."""
        return read_json(self.path / name) if (self.path / name).exists() else None


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
        compared = [found_from(name, path) for name in account["config"]["runs"]] if labels else []
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
        compared = [found_from(name, path.resolve()) for name in account["config"]["runs"]]
        return [*(p for p in compared if p), path] if all(compared) else [path]
    return [path]


def _account(path: Path) -> dict[str, Any]:
    if not (path / "run.json").exists():
        raise DataError(
            f"{path}: not a run directory (no run.json in it); a report is made of the directories "
            "that ragkit's commands leave"
        )
    account = read_account(path)
    if not {"command", "status"} <= set(account):
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


def evaluations(runs: Iterable[Reported]) -> dict[str, Systems]:
    """Read the evaluated runs, by kind.

    Where no run is of a retriever alone, retrieval is read from the runs that went on to answers.

    Raises:
        DataError: malformed records, or runs of one kind on different test sets or by different
            judges.
    """
    found: dict[str, Systems] = {}
    everything = list(runs)
    judged = {judged_run(run.path) for run in everything}  # the judge's run has their scores, too
    for kind, file in RECORDS.items():
        for run in everything:
            if (run.path / file).exists() and run.path not in judged:
                found.setdefault(kind, Systems(kind)).add(run.name, run.path, file)
    for systems in found.values():
        systems.check_same_judge()
    if "answers" in found and "retrieval" not in found:
        answers, retrieved = found["answers"], Systems("retrieval")
        for name, path in answers.paths.items():
            if name not in answers.ceilings and any("@" in m for m in answers.sheets[name]):
                retrieved.add(name, path, RECORDS["answers"])
        found = {"retrieval": retrieved, **found} if retrieved.paths else found
    return found


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
        path = found_from(given["path"], run.path)
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
