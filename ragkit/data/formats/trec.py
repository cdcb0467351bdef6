"""TREC's judgements (`query 0 passage relevance`) and runs (`query Q0 passage rank score tag`).

They hold ids and numbers only. Runs keep the order of their lines, ties included; what a tie means
is the evaluation's business.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from ragkit.data.files import BadLines, write_trec_qrels, write_trec_run
from ragkit.data.formats.dataset import (
    Dataset,
    Options,
    count,
    files_in,
    first_line,
    numbered_lines,
    require,
)
from ragkit.data.schema import Example
from ragkit.errors import DataError

_NOT_TREC = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".zst", ".md", ".yaml", ".log")
_WHOLE = re.compile(r"-?\d+")
Lines = dict[str, dict[str, float]]


def looks_like(path: Path) -> bool:
    """Return True for text files whose first line is one of a run or of judgements."""
    return any(_kind(file) for file in _files(path))


def read(path: Path, options: Options) -> Dataset:
    """Read a file, or all of a folder.

    Raises:
        DataError: no such file, or malformed lines.
    """
    found = Dataset(corpus=dict(options.corpus))
    files = [(file, _kind(file)) for file in (_files(path) if path.is_dir() else [path])]
    files = [(file, kind) for file, kind in files if kind]
    if not files:
        raise DataError(f"{path}: neither judgements (4 columns) nor a run (6 columns) of TREC's")
    for file, kind in files:
        alone = sum(other == kind for _, other in files) == 1
        name = kind if alone else file.name.removesuffix(".trec")
        if kind == "run":
            found.runs[name], tags = _read(file, 6, options)
            found.notes += _about_run(file.name, found.runs[name], tags)
        else:
            lines, _ = _read(file, 4, options)
            found.qrels[name] = {q: {p: int(n) for p, n in of.items()} for q, of in lines.items()}
    if options.corpus:
        found.notes += _unknown(found, options)
    return found


def read_run(path: Path) -> Lines:
    """Read a run: the scores of each query's passages, in the order of the lines.

    Raises:
        DataError: no such file, or malformed lines.
    """
    return _read(path, 6, Options())[0]


def write(folder: Path, dataset: Dataset, options: Options) -> list[str]:
    """Write the judgements, `<split>.qrels.trec` where there are several splits, and the runs."""
    if not dataset.qrels and not dataset.runs:
        require(dataset, "TREC's judgements")
    qrels = {f"{split}.qrels": _judged(examples) for split, examples in dataset.splits.items()}
    if len(qrels) == 1:
        qrels = {"qrels": next(iter(qrels.values()))}
    for name, judged in {**qrels, **dataset.qrels}.items():
        write_trec_qrels(folder / f"{name}.trec", judged)
    for name, run in dataset.runs.items():
        write_trec_run(folder / f"{name}.trec", run)
    notes = []
    if dataset.examples or dataset.corpus:
        notes.append(
            f"TREC's files hold ids and numbers: the texts of {count(dataset.examples, 'question')}"
            f" and {count(dataset.corpus, 'passage')} left out."
        )
    if without := sum(not _judged([e]) for e in dataset.examples):
        notes.append(f"No line of {count(without, 'question')} without positives.")
    return notes


def _files(path: Path) -> list[Path]:
    return [p for p in files_in(path, "") if p.suffix.lower() not in _NOT_TREC]


def _kind(path: Path) -> str:
    """Return run or qrels, as the first line has it, else nothing."""
    cells = first_line(path).split()
    if len(cells) == 6 and cells[1].upper() == "Q0":
        return "run"
    return "qrels" if len(cells) == 4 and _WHOLE.fullmatch(cells[3]) else ""


def _read(path: Path, columns: int, options: Options) -> tuple[Lines, set[str]]:
    """Read a file of 4 or 6 columns; return the numbers, and the tags of a run.

    The number is the fourth column of 4 and the fifth of 6.
    """
    found: Lines = {}
    tags: set[str] = set()
    bad = BadLines(path, options.skip_bad)
    for number, line in numbered_lines(path, options, bad):
        cells = line.split()
        try:
            if len(cells) != columns:
                raise ValueError(f"{columns} columns were expected, not {len(cells)}")
            value = _relevance(cells[3]) if columns == 4 else _score(cells[4])
            if cells[2] in found.get(cells[0], {}):
                raise ValueError(f"{cells[0]!r} has {cells[2]!r} twice")
            found.setdefault(cells[0], {})[cells[2]] = value
            tags.update(cells[5:])
        except ValueError as error:
            bad.add(number, str(error), line)
    bad.finish()
    return found, tags


def _about_run(name: str, run: Lines, tags: set[str]) -> list[str]:
    """Say what the order of a run says otherwise than its scores, and what is not kept."""
    notes = []
    unordered = sum(
        any(a < b for a, b in zip(s, s[1:], strict=False))
        for s in (list(scores.values()) for scores in run.values())
    )
    if unordered:
        notes.append(
            f"{name}: {count(unordered, 'query')} not in the order of the scores; evaluations "
            "go by the score and not by the rank."
        )
    rounded = sum(float(f"{s:.9g}") != s for scores in run.values() for s in scores.values())
    if rounded:
        notes.append(
            f"{name}: {count(rounded, 'score')} with more than nine digits were rounded to "
            "them, more than trec_eval's numbers have."
        )
    if tags != {"ragkit"}:
        notes.append(f"{name}: the tag is ragkit now, and was {', '.join(sorted(tags))}.")
    return notes


def _relevance(cell: str) -> int:
    try:
        return int(cell)
    except ValueError as error:
        raise ValueError(f"relevance: a whole number was expected, not {cell!r}") from error


def _score(cell: str) -> float:
    try:
        score = float(cell)
    except ValueError as error:
        raise ValueError(f"score: a number was expected, not {cell!r}") from error
    if not math.isfinite(score):
        raise ValueError(f"score: a number was expected, not {cell!r}")
    return score


def _judged(examples: list[Example]) -> dict[str, dict[str, int]]:
    """Return the judgements of questions, with grades where they were imported."""
    found = {}
    for example in examples:
        told = example.meta.get("relevance")
        told = told if isinstance(told, dict) else {}
        grades = {key: int(grade) for key, grade in told.items()}
        grades |= {key: grades.get(key, 1) for key in example.positive_ids}
        if grades:
            found[example.id] = grades
    return found


def _unknown(found: Dataset, options: Options) -> list[str]:
    """Say which files name passages that the corpus has not."""
    named: dict[str, Mapping[str, Mapping[str, object]]] = {**found.qrels, **found.runs}
    notes = []
    for name, queries in named.items():
        ids = {key for passages in queries.values() for key in passages}
        if unknown := sorted(ids - options.corpus.keys()):
            notes.append(
                f"{name}: {count(unknown, 'passage')} not in the corpus (the first: {unknown[0]})."
            )
    return notes
