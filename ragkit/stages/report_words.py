"""What a report says in words: names of metrics, and a headline for each kind of evaluation.

A headline claims no more than the paired difference shows: where its interval includes 0, or does
not survive the correction for several comparisons, it says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ragkit.evaluation.compare import is_shown
from ragkit.evaluation.report import hits, verdict

_NAMES = {
    "map": "MAP",
    "em": "exact match",
    "f1": "F1",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "correct": "judged correct",
    "faithful": "judged faithful",
    "preferred": "judged better",
}
_DOES = {"retrieval": "find passages", "answers": "answer"}
_FIRST = 5  # results that a person looks at


@dataclass(frozen=True)
class Headline:
    """A sentence for everybody, and the numbers behind it."""

    statement: str
    evidence: str


def metric_name(metric: str) -> str:
    """Return a metric as people write it: nDCG@10, F1, ROUGE-L."""
    if metric in _NAMES:
        return _NAMES[metric]
    metric = metric.replace("_", " ")
    return metric.replace("ndcg", "nDCG").replace("mrr", "MRR").replace("map@", "MAP@")


def signed(value: float, digits: int = 3) -> str:
    """Return a difference with its sign, a real minus where it is below 0."""
    return f"{value:+.{digits}f}".replace("-", "−")


def p_value(value: float) -> str:
    """Return a p-value to three digits after the point, or that it is below them."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def number(value: float | None) -> str:
    """Return a quantity to three digits, 1,234 or 12.3 or 0.123; a dash where there is none."""
    if value is None:
        return "—"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(cell: Mapping[str, Any], sign: bool = False) -> str:
    """Return `0.780 to 0.842`, or a dash where there is no interval."""
    if cell["ci95"] is None:
        return "—"
    low, high = cell["ci95"]
    return f"{signed(low)} to {signed(high)}" if sign else f"{low:.3f} to {high:.3f}"


def alone(
    kind: str,
    name: str,
    metric: str,
    cell: Mapping[str, Any],
    ranks: Mapping[str, Mapping[str, int | None]],
) -> Headline:
    """Return the headline of a single system."""
    said = f"{name} reaches {metric_name(metric)} {cell['mean']:.3f}."
    if ranks.get(name) and kind == "retrieval":
        found, asked = _found(ranks[name]), len(ranks[name])
        said = (
            f"{name} finds a right passage among its first {_FIRST} results for {found:,} of "
            f"{asked:,} questions."
        )
    sure = "one document, so no interval" if cell["ci95"] is None else interval(cell)
    evidence = (
        f"{metric_name(metric)} {cell['mean']:.3f} (95% interval: {sure}), over "
        f"{_asked(cell)}. There is no other system in this report to compare it with."
    )
    return Headline(said, evidence)


def compared(
    kind: str,
    table: Mapping[str, Any],
    metric: str,
    name: str,
    ranks: Mapping[str, Mapping[str, int | None]],
) -> Headline:
    """Return the headline of the system `name`, which gains most on the baseline, or loses least.

    ranks: of each system's first positives, where there are rankings
    """
    base, cell = table["baseline"], table["differences"][name][metric]
    does = _DOES[kind]
    if cell["mean"] <= 0:
        said = f"Nothing here is above {base}."
    elif verdict(cell) == "unknown":
        said = f"{name} is above {base}, on questions about a single document."
    elif is_shown(cell):
        said = _claim(kind, table, metric, name, ranks)
    elif verdict(cell) == "better":
        said = f"{name} may {does} better than {base}, but this test does not settle it."
    elif len(table["differences"]) == 1:
        said = f"{name} is not shown to {does} better than {base}."
    else:
        said = f"No system is shown to {does} better than {base}."
    return Headline(said, _evidence(table, metric, name))


def _claim(
    kind: str,
    table: Mapping[str, Any],
    metric: str,
    name: str,
    ranks: Mapping[str, Mapping[str, int | None]],
) -> str:
    base = table["baseline"]
    if kind == "retrieval" and ranks.get(name) and ranks.get(base):
        after, before = _found(ranks[name]), _found(ranks[base])
        if after > before:
            return (
                f"{name} finds a right passage among its first {_FIRST} results for {after:,} of "
                f"{len(ranks[name]):,} questions; {base} does for {before:,}."
            )
    means = [table["systems"][n][metric]["mean"] for n in (name, base)]
    verb = "answers better" if kind == "answers" else "ranks the right passages higher"
    return (
        f"{name} {verb} than {base}: {metric_name(metric)} {means[0]:.3f} against {means[1]:.3f}."
    )


def _evidence(table: Mapping[str, Any], metric: str, name: str) -> str:
    base, cell = table["baseline"], table["differences"][name][metric]
    means = [table["systems"][n][metric]["mean"] for n in (base, name)]
    sure = verdict(cell)
    says = "The gain is more than chance would give: " if is_shown(cell) else ""
    says = "What was seen may be chance: " if sure == "unclear" else says
    says += (
        f"{metric_name(metric)} of {name} is {means[1]:.3f}, {signed(cell['mean'])} from the "
        f"{means[0]:.3f} of {base}"
    )
    if sure == "unknown":
        return f"{says}. All questions are about one document: there is no interval."
    says += f" (95% interval {interval(cell, sign=True)}"
    says += ", which includes 0)" if sure == "unclear" else ")"
    if (several := table.get("comparisons", len(table["differences"]))) > 1:
        says += f"; p {_compared(cell['p_holm'])} corrected for {several} comparisons"
    says += (
        f". Of {_asked(cell | table['systems'][name][metric])}, {cell['wins']:,} got better, "
        f"{cell['ties']:,} stayed the same, {cell['losses']:,} got worse."
    )
    if not is_shown(cell) and cell.get("detectable"):
        says += (
            f" A test of this size shows a true difference of {cell['detectable']:.3f} four times "
            "in five."
        )
    return says


def _compared(p: float) -> str:
    return p_value(p) if p < 0.001 else f"= {p_value(p)}"


def ceiling(name: str, metric: str, cell: Mapping[str, Any]) -> str:
    """Say what a system reaches that is given the right passages: no retriever gets it further."""
    return f" Given the right passages, {name} reaches {metric_name(metric)} {cell['mean']:.3f}."


def _found(ranks: Mapping[str, int | None]) -> int:
    return round(hits(ranks, _FIRST) * len(ranks))


def _asked(cell: Mapping[str, Any]) -> str:
    documents = f"{cell['clusters']:,} document" + ("s" if cell["clusters"] != 1 else "")
    return f"{cell['n']:,} question{'s' if cell['n'] != 1 else ''} about {documents}"


def of_attribution(found: Mapping[str, Any]) -> Headline:
    """Return the commonest reason of wrong answers."""
    if not found["reasons"]:
        return Headline(f"No answer of {found['system']} is wrong.", "")
    first = max(found["reasons"], key=lambda reason: int(reason["count"]))
    said = (
        f"{first['count']:,} of {found['wrong']:,} wrong answers of {found['system']} have one "
        f"reason: {first['name']}."
    )
    return Headline(said, "")


def of_training(found: Mapping[str, Any]) -> Headline:
    """Return what a training did for its dev metric, or for its loss where there is none."""
    panel = found["panels"][-1]
    values = [value for _, value in panel["points"]]
    best = min if panel["name"] == "loss" else max
    last = best(values) if panel["dev"] else values[-1]
    where = f"{metric_name(panel['name'])} on dev questions" if panel["dev"] else panel["name"]
    return Headline(f"{found['name']}: {where} went from {values[0]:.3f} to {last:.3f}.", "")


def of_funnel(found: Mapping[str, Any]) -> Headline:
    """Return how many of the generated questions were kept."""
    said = f"{found['name']}: {found['kept']:,} of {found['generated']:,} generated questions kept."
    return Headline(said, "")
