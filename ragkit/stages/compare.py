"""`ragkit compare`: evaluated runs side by side, with paired differences, losses and gates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator
from rich.console import Group, RenderableType

from ragkit.config.blocks import InputPath, StageConfig
from ragkit.data.files import atomic_write, read_json, write_json, write_jsonl
from ragkit.errors import DataError, GateError
from ragkit.evaluation.compare import compare, compare_slices, leading, losses, shared_metrics
from ragkit.evaluation.gates import as_json, as_junit, judge, parse_gate
from ragkit.log import logger
from ragkit.runs import Run
from ragkit.stages.evaluated import RECORDS, Record, Systems
from ragkit.stages.markdown import comparison_page
from ragkit.stages.retrieval import METRICS
from ragkit.stages.tables import Table

_SHOWN = {
    "retrieval": METRICS,
    "answers": ["correct", "faithful", "preferred", "f1", "rouge_l", "em", "k_precision"],
}
_SLICED = {"retrieval": "ndcg@10", "answers": "f1"}  # shown by slice, and by single questions
_LOSSES = 20


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Config(StageConfig):
    """Configuration of `compare`."""

    runs: list[InputPath] = Field(min_length=1, description="run directories of evaluations")
    labels: list[str] = Field([], description="names for the table; unset: the directories' names")
    baseline: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        [],
        description="labels that differences are taken from, of each kind the first that is named; "
        "unset: the first run",
    )
    gates: list[str] = Field(
        [],
        description="[SYSTEM:] METRIC >= NUMBER, the least difference from the baseline, by the "
        "lower bound of its interval",
    )

    @field_validator("gates")
    @classmethod
    def _known(cls, gates: list[str]) -> list[str]:
        for gate in gates:
            parse_gate(gate)
        return gates


def run(config: Config, run: Run) -> None:
    """Compare what is comparable; write comparison.json and .md, losses.jsonl, and the gates."""
    labels = config.labels or [path.name for path in config.runs]
    if len(labels) != len(config.runs) or len(set(labels)) != len(labels):
        raise DataError(f"labels: {len(config.runs)} different ones are needed, not {labels}")
    if unknown := [name for name in config.baseline if name not in labels]:
        raise DataError(f"baseline: no run {unknown[0]!r}; there are {', '.join(labels)}")
    kinds = _read(labels, config.runs)
    result: dict[str, dict[str, Any]] = {}
    lost: list[dict[str, Any]] = []
    for kind, systems in kinds.items():
        systems.check_same_judge()
        _tell_failed(systems)
        baseline = next((b for b in config.baseline if b in systems.sheets), None)
        baseline = baseline or next(iter(systems.sheets))
        result[kind] = _compared(systems, baseline, config.seed)
        metrics = result[kind]["systems"][baseline]
        metric = _SLICED[kind] if _SLICED[kind] in metrics else next(iter(metrics))
        lost += _losses(systems, baseline, metric)
    verdicts = judge(
        [parse_gate(gate) for gate in config.gates],
        {name: row for table in result.values() for name, row in table["differences"].items()},
    )
    if verdicts:
        write_json(run / "gates.json", as_json(verdicts))
        with atomic_write(run / "junit.xml") as f:
            f.write(as_junit(verdicts))
    write_jsonl(run / "losses.jsonl", lost)
    with atomic_write(run / "comparison.md") as f:
        tables = [table for kind, part in result.items() for table in _tables(kind, part)]
        f.write(comparison_page(tables, as_json(verdicts), lost))
    write_json(run / "comparison.json", result)


def _read(labels: Sequence[str], paths: Sequence[Path]) -> dict[str, Systems]:
    """Read evaluated runs, by kind.

    Raises:
        DataError: no evaluation in a directory, malformed records, or different test sets.
    """
    kinds: dict[str, Systems] = {}
    for label, path in zip(labels, paths, strict=True):
        kind = next((k for k, name in RECORDS.items() if (path / name).exists()), None)
        if kind is None:
            files = " nor ".join(RECORDS.values())
            raise DataError(f"{path}: no evaluation in it (neither {files})")
        kinds.setdefault(kind, Systems(kind)).add(label, path, RECORDS[kind])
    return kinds


def _tell_failed(systems: Systems) -> None:
    """Say how many questions got no answer, for they have no scores of answers."""
    records = [record for of in systems.records.values() for record in of.values()]
    if failed := {record["id"] for record in records if record.get("failed")}:
        logger.warning("%s: %d questions that a system gave no answer to are left out of the "
                       "metrics of answers", systems.kind, len(failed))  # fmt: skip


def _compared(systems: Systems, baseline: str, seed: int) -> dict[str, Any]:
    """Return the comparison of a kind, with that of its main metric in each slice."""
    sheets, documents, by = systems.sheets, systems.documents, _SLICED[systems.kind]
    metrics = shared_metrics(sheets, list(sheets[baseline]))
    if not metrics:
        raise DataError(f"{', '.join(sheets)}: no metric in common")
    parts = systems.slices if by in metrics else {}
    return {
        **compare(sheets, documents, metrics, baseline, seed),
        "ceilings": systems.ceilings,
        "slices": compare_slices(sheets, parts, documents, by, baseline, seed) if parts else {},
    }


def check(path: Path) -> None:
    """Raise an error where a gate does not hold.

    Raises:
        GateError: with every gate that fails.
    """
    gates = read_json(path / "gates.json") if (path / "gates.json").exists() else []
    failed = [f"{g['system']}: {g['gate']}: {g['said']}" for g in gates if not g["passed"]]
    if failed:
        raise GateError(
            f"{len(failed)} of {len(gates)} gates do not hold\n"
            + "\n".join(f"  {f}" for f in failed)
        )


def _losses(systems: Systems, baseline: str, metric: str) -> list[dict[str, Any]]:
    """Return the questions on which each system loses most, with what both made of them."""
    before = systems.records[baseline]
    return [
        {
            "system": name,
            "baseline": baseline,
            "metric": metric,
            "id": question,
            "question": before[question]["question"],
            "references": before[question].get("references", []),
            "positive_ids": before[question]["positive_ids"],
            "scores": {"before": scores[0], "after": scores[1]},
            "before": _made(systems.kind, before[question]),
            "after": _made(systems.kind, systems.records[name][question]),
        }
        for name, sheet in systems.sheets.items()
        if name != baseline
        for question, *scores in losses(systems.sheets[baseline][metric], sheet[metric], _LOSSES)
    ]


def _made(kind: str, record: Record) -> dict[str, Any]:
    """Return what a system made of a question: its first passages, or its answer from them."""
    if kind == "retrieval":
        return {"passage_ids": record["top_ids"]}
    return {"answer": record["answer"], "passage_ids": record["answer_passage_ids"]}


def show(path: Path) -> RenderableType:
    """Show means, paired differences and slices of each kind of evaluation."""
    parts: list[RenderableType] = []
    for kind, compared in read_json(path / "comparison.json").items():
        parts += [table.printed() for table in _tables(kind, compared)]
        if compared["differences"]:
            parts.append(_headline(kind, compared))
    if (path / "gates.json").exists():
        for gate in read_json(path / "gates.json"):
            holds = "holds" if gate["passed"] else "DOES NOT HOLD"
            parts.append(f"gate {gate['gate']}, {gate['system']}: {holds} ({gate['said']})")
    parts.append(f"the same in Markdown, with the questions that lost: {path / 'comparison.md'}")
    return Group(*parts)


def _tables(kind: str, compared: dict[str, Any]) -> list[Table]:
    """Return the tables of a kind of evaluation: means, paired differences, and these by slice."""
    systems, gains, base = compared["systems"], compared["differences"], compared["baseline"]
    metrics = [m for m in _SHOWN[kind] if m in systems[base]] or list(systems[base])[:6]
    first = systems[base][metrics[0]]
    about = f"{first['n']} questions from {first['clusters']} documents"
    tables = [Table(f"{kind}, mean and 95% interval: {about}", metrics, systems)]
    if gains:
        title = f"paired difference from {base} (* its interval excludes 0)"
        tables.append(Table(title, metrics, gains, paired=True))
    if gains and compared["slices"]:
        by = _SLICED[kind]
        rows = {
            f"{name} ({part['systems'][base][by]['n']})": {
                system: part["differences"][system][by] for system in gains
            }
            for name, part in compared["slices"].items()
        }
        tables.append(Table(f"the same for {by}, by slice", list(gains), rows, paired=True))
    return tables


def _headline(kind: str, table: dict[str, Any]) -> str:
    """Say in a sentence which system is best, and by how much and how surely."""
    systems, base = table["systems"], table["baseline"]
    ceilings = [name for name in table.get("ceilings", []) if name != base]
    metric = _SLICED[kind] if _SLICED[kind] in systems[base] else next(iter(systems[base]))
    name = leading(table["differences"], metric, base, ceilings)
    apart = f"; given the right passages, and so left out here: {', '.join(ceilings)}"
    apart = f"{apart if ceilings else ''}\n"
    if name == base or table["differences"][name][metric]["mean"] <= 0:
        mean = systems[base][metric]["mean"]
        return f"{kind}: no system is above {base}, whose {metric} is {mean:.3f}{apart}"
    gain = table["differences"][name][metric]
    rivals = [row[metric]["mean"] for n, row in table["differences"].items() if n not in ceilings]
    which = metric if gain["mean"] == max(rivals) else f"{metric} of those shown to gain"
    return (
        f"{kind}: highest {which} is {name} with {systems[name][metric]['mean']:.3f}, "
        f"{gain['mean']:+.3f} from {base} ({_sureness(gain, table['comparisons'])}; "
        f"{gain['wins']} questions better, {gain['losses']} worse){apart}"
    )


def _sureness(gain: dict[str, Any], comparisons: int) -> str:
    """Say how surely a system gains."""
    if gain["ci95"] is None:
        return "one document: no interval"
    low, high = gain["ci95"]
    sure = f"95% interval {low:+.3f} to {high:+.3f}"
    sure += "" if low > 0 else ", which includes 0: not shown to differ"
    corrected = f"; p {gain['p_holm']:.4f} corrected for {comparisons} comparisons"
    return sure + (corrected if comparisons > 1 else "")
