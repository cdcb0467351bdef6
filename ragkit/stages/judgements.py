"""What became of a judge's work: the files of a judge run, and how they are shown."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from ragkit.data.files import read_json
from ragkit.evaluation.agreement import noise
from ragkit.evaluation.controls import shares
from ragkit.evaluation.judging import Judgement
from ragkit.evaluation.summary import slice_of, summarise
from ragkit.qa.judges import Docket, Verdicts
from ragkit.stages.evaluated import Evaluated
from ragkit.stages.results import sizes
from ragkit.stages.tables import Table

_MEANS = {
    "correct": "share of the answers that agree with a reference",
    "faithful": "share of an answer's claims that its passages support",
    "preferred": "share of the questions on which it beats the baseline, a tie counting half",
}


def account(verdicts: Verdicts, questions: int) -> dict[str, Any]:
    """Return what became of the cases of a criterion, for metrics.json."""
    docket, failed = verdicts.docket, verdicts.failed
    judged = verdicts.judgements.values()
    found: dict[str, Any] = {
        "asked": len(docket.asked),
        "settled": len(docket.settled),
        "failed": len(failed),
        "failed_rate": len(failed) / len(docket.asked) if docket.asked else 0.0,
        "failed_ids": failed,
        "without_score": sum(j.score is None and not j.failed for j in judged),
        "left_out": questions - len(judged),
        "controls": shares(docket.controls, verdicts.tried),
        "constant": verdicts.constant,
        "noise": _noise(verdicts),
    }
    if docket.criterion.name == "preferred":
        orders = [j.said["orders"] for j in verdicts.asked.values() if not j.failed]
        agree = sum(first == second for first, second in orders)
        found["orders_agree"] = agree / len(orders) if orders else None
    return found


def _noise(verdicts: Verdicts) -> dict[str, Any] | None:
    """Return how much the judge differs from itself; None where nothing was asked again."""
    if not verdicts.again:
        return None
    scores = [[j.score for j in judged] for judged in verdicts.again.values()]
    whole = [[s for s in row if s is not None] for row in scores]
    whole = [row for row, every in zip(whole, scores, strict=True) if len(row) == len(every)]
    found = noise(whole, len(verdicts.scores)) if whole else {}
    return {"questions": len(whole), "left_out": len(scores) - len(whole),
            "replicates": verdicts.docket.replicates, **found}  # fmt: skip


def lines(verdicts: Verdicts) -> Iterator[dict[str, Any]]:
    """Yield the judgements of a criterion, for judgements.jsonl."""
    docket = verdicts.docket
    for control, judged in zip(docket.controls, verdicts.tried, strict=True):
        planted = "right" if control.right else "wrong"
        yield {**_line(docket, control.case.id, "control", judged), "planted": planted,
               "answer": control.case.answer, "holds": control.holds(judged)}  # fmt: skip
    for question, judged in verdicts.judgements.items():
        kind = "settled" if question in docket.settled else "answer"
        yield _line(docket, question, kind, judged)
    for question, repeated in verdicts.again.items():
        for replicate, judged in enumerate(repeated[1:], start=1):
            yield {**_line(docket, question, "replicate", judged), "replicate": replicate}


def _line(docket: Docket, question: str, kind: str, judged: Judgement) -> dict[str, Any]:
    return {"criterion": docket.criterion.name, "id": question, "kind": kind, **_to_json(judged)}


def _to_json(judged: Judgement) -> dict[str, Any]:
    return {"score": judged.score, "failed": judged.failed or None, **judged.said}


def predictions(
    judged: Evaluated, verdicts: Sequence[Verdicts], marks: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield the records of the judged run with the judge's scores and what it said."""
    by_name = {v.docket.criterion.name: (v.scores, v.judgements) for v in verdicts}
    for question, record in judged.records.items():
        scores = {n: s[question] for n, (s, _) in by_name.items() if question in s}
        said = {
            name: {"mark": marks[name], **_to_json(judgements[question])}
            for name, (_, judgements) in by_name.items()
            if question in judgements
        }
        yield {**record, "scores": {**record["scores"], **scores}, "judge": said}


def metrics(
    judged: Evaluated,
    sheet: Mapping[str, Mapping[str, float]],
    documents: Mapping[str, str],
    part: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Return the judged run's metrics with the judge's."""
    slices: dict[str, list[str]] = {}
    for question, record in judged.records.items():
        for name in record["slices"]:
            slices.setdefault(name, []).append(question)
    cells = {
        name: summarise(cut, documents, seed)
        for name, ids in slices.items()
        if sizes(cut := slice_of(sheet, ids)) not in ({}, sizes(sheet))
    }
    before = judged.metrics
    return {
        **before,
        "metrics": {**before["metrics"], **summarise(sheet, documents, seed)},
        "slices": {
            name: {**before["slices"].get(name, {}), **cells.get(name, {})}
            for name in {**before["slices"], **cells}
        },
        "judge": part,
    }


def shown(path: Path) -> RenderableType:
    """Return what is printed of a judge run."""
    result = read_json(path / "metrics.json")
    part = result["judge"]
    names = list(part["criteria"])
    rows = {"all": result["metrics"], **result["slices"]}
    title = (
        f"judged by {part['model']} ({part['server']}, temperature {part['temperature']}), mean "
        "and 95% interval"
    )
    said = [line for name in names for line in _about(name, part["criteria"][name])]
    if part["human"]:
        said += _people(part["human"], result["metrics"]["correct"]["mean"])
    cost, dollars = part["cost"], part["cost"]["dollars"]
    said.append(
        f"cost: {cost['requests']:,} requests, {cost['prompt_tokens']:,} tokens in and "
        f"{cost['completion_tokens']:,} out, "
        + ("no price known" if dollars is None else f"{dollars:,.4f} $")
    )
    said.append(f"single judgements: {path / 'judgements.jsonl'}")
    return Group(Table(title, names, rows).printed(), *said)


def _about(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is to be known of one criterion's judgements."""
    scale = "; 0.5: partly right" if found.get("scale") == "rubric" else ""
    yield f"{name}: {_MEANS[name]}{scale}"
    settled = f", {found['settled']} settled without it" if found["settled"] else ""
    empty = f", {found['without_score']} without any claim" if found["without_score"] else ""
    failed = f"{found['failed']} ({found['failed_rate']:.1%}), which have no score"
    yield (
        f"  {found['asked']:,} answers asked for{settled}{empty}; the judge failed on "
        f"{failed if found['failed'] else 'none'}"
    )
    if any(of for _, of in found["controls"].values()):
        told = [f"{holds} of {of} {kind} ones" for kind, (holds, of) in found["controls"].items()]
        yield f"  planted answers of known verdict that it told: {', '.join(told)}"
    else:
        yield "  no answers of known verdict could be planted to try it"
    if found["constant"]:
        yield "  WARNING: it gave one and the same score to every answer"
    if found.get("orders_agree") is not None:
        yield f"  both orders of the two answers gave the same winner: {found['orders_agree']:.0%}"
    again = found["noise"]
    if again and again["questions"]:
        yield (
            f"  asked again {again['replicates']} times of {again['questions']} questions: "
            f"{again['changed']:.0%} change, which moves the mean by {again['sd_of_mean']:.4f} "
            "(standard deviation)"
        )


def _people(human: Mapping[str, Any], judged: float) -> Iterator[str]:
    """Yield how people's labels and the judge compare."""
    if agreed := human["agreement"]:
        raw = agreed["raw"]
        line = f"people and judge agree on {raw['mean']:.0%} of {raw['n']} answers{_span(raw)}"
        yield line + "".join(
            f", {name} {agreed[key]['value']:.2f}{_span(agreed[key])}"
            for name, key in (("kappa", "kappa"), ("quadratic kappa", "kappa_quadratic"))
            if key in agreed and agreed[key]["value"] is not None
        )
    ppi = human["ppi"]
    alone = ppi["labels_alone"]
    yield (
        f"correct as people would see it (PPI++): {ppi['mean']:.3f}{_span(ppi)}; their "
        f"{ppi['n']} labels alone: {alone['mean']:.3f}{_span(alone)}; the judge alone: {judged:.3f}"
    )


def _span(cell: Mapping[str, Any]) -> str:
    return f" ({cell['ci95'][0]:.2f} to {cell['ci95'][1]:.2f})" if cell["ci95"] else ""
