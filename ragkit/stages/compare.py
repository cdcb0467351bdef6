"""`ragkit compare`: evaluated runs side by side, with paired differences."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Group, RenderableType

from ragkit.config.blocks import InputPath, StageConfig
from ragkit.data.files import read_json, read_jsonl, write_json
from ragkit.errors import DataError
from ragkit.evaluation.compare import compare, shared_metrics
from ragkit.runs import Run
from ragkit.stages.eval_e2e import ANSWER_METRICS
from ragkit.stages.retrieval import METRICS
from ragkit.stages.tables import difference_table, metric_table

Sheet = dict[str, dict[str, float]]
_FILES = {"retrieval": "per_query.jsonl", "answers": "predictions.jsonl"}
_SHOWN = {
    "retrieval": METRICS,
    "answers": ["f1", "rouge_l", "em"],
}


class Config(StageConfig):
    """Configuration of `compare`."""

    runs: list[InputPath] = Field(min_length=1, description="run directories of evaluations")
    labels: list[str] = Field([], description="names for the table; unset: the directories' names")
    baseline: str | None = Field(
        None, description="label that differences are taken from; unset: the first of each kind"
    )


def run(config: Config, run: Run) -> None:
    """Compare what is comparable; write comparison.json."""
    labels = config.labels or [path.name for path in config.runs]
    if len(labels) != len(config.runs) or len(set(labels)) != len(labels):
        raise DataError(f"labels: {len(config.runs)} different ones are needed, not {labels}")
    kinds: dict[str, dict[str, Sheet]] = {}
    documents: dict[str, str] = {}
    for label, path in zip(labels, config.runs, strict=True):
        kind, sheet = _read(path, documents)
        kinds.setdefault(kind, {})[label] = sheet
    if config.baseline is not None and config.baseline not in labels:
        raise DataError(f"baseline: no run {config.baseline!r}; there are {', '.join(labels)}")
    result: dict[str, Any] = {}
    for kind, systems in kinds.items():
        baseline = config.baseline if config.baseline in systems else next(iter(systems))
        wanted = METRICS if kind == "retrieval" else [*ANSWER_METRICS]
        metrics = shared_metrics(systems, wanted)
        if not metrics:
            raise DataError(f"{', '.join(systems)}: no metric in common")
        result[kind] = compare(systems, documents, metrics, baseline, config.seed)
    write_json(run / "comparison.json", result)


def show(path: Path) -> RenderableType:
    """Show the table of each kind of evaluation and the differences from the baseline."""
    result = read_json(path / "comparison.json")
    parts: list[RenderableType] = []
    for kind, table in result.items():
        metrics = [m for m in _SHOWN[kind] if m in next(iter(table["systems"].values()))]
        counts = next(iter(next(iter(table["systems"].values())).values()))
        title = (
            f"{kind}: means and 95% intervals over {counts['n']} questions "
            f"from {counts['clusters']} documents"
        )
        parts.append(metric_table(title, table["systems"], metrics))
        if table["differences"]:
            title = f"{kind}: paired difference from {table['baseline']} (* interval excludes 0)"
            parts.append(difference_table(title, table["differences"], metrics))
    return Group(*parts)


def _read(path: Path, documents: dict[str, str]) -> tuple[str, Sheet]:
    """Return the kind of an evaluated run and its score sheet; note the questions' documents.

    Raises:
        DataError: not the directory of a finished evaluation.
    """
    kind = next((k for k, name in _FILES.items() if (path / name).exists()), None)
    if kind is None:
        raise DataError(
            f"{path}: no evaluation in it (neither per_query.jsonl nor predictions.jsonl)"
        )
    sheet: Sheet = {}
    for record in read_jsonl(path / _FILES[kind]):
        documents[record["id"]] = record["document"]
        scores: Mapping[str, float] = record["scores"]
        for metric, score in scores.items():
            sheet.setdefault(metric, {})[record["id"]] = score
    return kind, sheet
