"""The sections of a report about evaluated systems: what the template draws, worked out from runs.

A section is a plain dictionary, or None where there is no data for it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragkit.evaluation import report as arithmetic
from ragkit.evaluation.compare import compare, compare_slices, shared_metrics
from ragkit.evaluation.report import Scale, scale
from ragkit.evaluation.summary import summarise
from ragkit.stages.evaluated import Systems, read_ranking
from ragkit.stages.report_runs import Reported
from ragkit.stages.report_words import Headline, alone, ceiling, compared

TITLES = {"retrieval": "Finding passages", "answers": "Answering"}
# The first that all systems have is the one that they are ranked by; others come after these.
_METRICS = {
    "retrieval": ["ndcg@10", "recall@1", "recall@5", "recall@10", "mrr@10"],
    "answers": ["correct", "f1", "rouge_l", "em", "faithful", "preferred"],
}
_MOST_METRICS = 8
_BINS = 24
_F1_BINS = 10


@dataclass(frozen=True)
class Rankings:
    """What the rankings of a kind's systems came to, by system.

    ranks: of each question's first positive; curves: (k, recall@k); depths: passages retrieved
    separations: (scores of first positives, of the best others); empty for the gold passages
    """

    ranks: dict[str, dict[str, int | None]]
    curves: dict[str, list[tuple[int, float]]]
    depths: dict[str, int]
    separations: dict[str, tuple[list[float], list[float]]]


def read_rankings(evaluated: Systems) -> Rankings:
    """Read each system's run.trec, one at a time, and keep what is drawn of it."""
    found = Rankings({}, {}, {}, {})
    qrels = evaluated.qrels
    for name, path in evaluated.paths.items():
        ranked = read_ranking(path)
        if ranked and qrels:
            found.ranks[name] = arithmetic.first_ranks(qrels, ranked)
            found.curves[name] = arithmetic.recall_curve(qrels, ranked)
            found.depths[name] = arithmetic.depth_of(ranked)
            found.separations[name] = arithmetic.separation(qrels, ranked)
    return found


def comparison(evaluated: Systems, baseline: str, seed: int) -> dict[str, Any]:
    """Compare the systems of a kind in all metrics that they share, as the command does.

    Metrics that only some have are given as means.

    Returns: what `evaluation.compare` returns, with "metrics" (the compared that are shown, the
        primary one first), "shown" (these and others), "slices" of the primary metric, and
        "unscored": questions left out of it because a system has no score
    """
    sheets, clusters = evaluated.sheets, evaluated.documents
    shown = _wanted(evaluated.kind, dict.fromkeys(m for sheet in sheets.values() for m in sheet))
    primary = next(iter(shared_metrics(sheets, shown)), "")
    scored = [set(sheet.get(primary, ())) for sheet in sheets.values()]
    common = set.intersection(*scored)
    if not common:
        return {"metrics": []}
    shared = shared_metrics(sheets, list(sheets[baseline]))
    table = compare(sheets, clusters, shared, baseline, seed)
    for name, cells in table["systems"].items():
        rest = {m: s for m, s in sheets[name].items() if m in shown and m not in shared}
        cells |= summarise(rest, clusters, seed)
    table["slices"] = compare_slices(sheets, evaluated.slices, clusters, primary, baseline, seed)
    table["metrics"] = [metric for metric in shown if metric in shared]
    table["shown"] = shown
    table["unscored"] = len(set.union(*scored) - common)
    return table


def _wanted(kind: str, there: Iterable[str]) -> list[str]:
    """Return the metrics of a kind, the primary one first, the usual ones before others."""
    known = list(there)
    others = [m for m in known if ("@" in m or m == "map") == (kind == "retrieval")]
    return [m for m in dict.fromkeys([*_METRICS[kind], *others]) if m in known][:_MOST_METRICS]


def headline(
    kind: str,
    table: Mapping[str, Any],
    leader: str,
    ceilings: Sequence[str],
    ranks: Mapping[str, Mapping[str, int | None]],
) -> Headline:
    """Return what there is to say of a kind in a sentence, and the numbers behind it."""
    metric = table["metrics"][0]
    cells = {name: cells[metric] for name, cells in table["systems"].items()}
    if leader == table["baseline"]:
        said = alone(kind, leader, metric, cells[leader], ranks)
    else:
        said = compared(kind, table, metric, leader, ranks)
    heights = "".join(ceiling(name, metric, cells[name]) for name in ceilings if name != leader)
    return Headline(said.statement, said.evidence + heights)


def ladder(table: Mapping[str, Any], roles: Mapping[str, str]) -> dict[str, Any]:
    """Return each system's mean and interval, and the axis that holds them all."""
    metric = table["metrics"][0]
    rows = [
        {"name": name, "role": roles.get(name, ""), "cell": cells[metric]}
        for name, cells in table["systems"].items()
    ]
    return {"rows": rows, "axis": axis_of(row["cell"] for row in rows)}


def differences(
    cells: Mapping[str, Mapping[str, Any]], roles: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return paired differences, and the axis that holds them and 0."""
    rows = [
        {
            "name": name,
            "role": roles.get(name, ""),
            "cell": cell,
            "verdict": arithmetic.verdict(cell),
        }
        for name, cell in cells.items()
    ]
    return {"rows": rows, "axis": axis_of(cells.values(), 0.0)} if rows else None


def by_slice(table: Mapping[str, Any], leader: str) -> dict[str, Any] | None:
    """Return the leader's difference in each slice (alone: its mean), and every system's."""
    if not table.get("slices"):
        return None
    metric, paired = table["metrics"][0], bool(table["differences"])
    if paired:
        cells = {n: p["differences"][leader][metric] for n, p in table["slices"].items()}
    else:
        cells = {n: p["systems"][leader][metric] for n, p in table["slices"].items()}
    rows = [
        {
            "name": name,
            "role": "",
            "cell": cell,
            "n": table["slices"][name]["systems"][leader][metric]["n"],
            "verdict": arithmetic.verdict(cell) if paired else "",
        }
        for name, cell in cells.items()
    ]
    means = {
        system: {n: p["systems"][system][metric] for n, p in table["slices"].items()}
        for system in table["systems"]
    }
    axis = axis_of(cells.values(), *([0.0] if paired else []))
    return {"rows": rows, "axis": axis, "paired": paired, "means": means}


def recall_curves(
    rankings: Rankings, shown: Sequence[str], roles: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the recall@k curve of each system, the emphasised ones last, so that they lie on top.

    shown: the systems, in the order of the table
    """
    curves = {n: rankings.curves[n] for n in shown if len(rankings.curves.get(n, ())) > 1}
    if not curves:
        return None
    deepest = max(k for curve in curves.values() for k, _ in curve)
    axis = scale([0.0, *(value for curve in curves.values() for _, value in curve)])
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= deepest]
    return {
        "lines": [
            {
                "name": n,
                "role": roles.get(n, ""),
                "position": list(curves).index(n),
                "points": [(_log_share(k, deepest), axis.share(v)) for k, v in curve],
                "values": dict(curve),
            }
            for n, curve in sorted(curves.items(), key=lambda c: bool(roles.get(c[0])))
        ],
        "ticks": [(k, _log_share(k, deepest)) for k in ticks],
        "axis": axis,
    }


def _log_share(k: int, deepest: int) -> float:
    """Return where a rank stands on a logarithmic axis from 1 to the deepest."""
    return math.log(k) / math.log(deepest)


def rank_bars(rankings: Rankings, shown: Sequence[str]) -> dict[str, Any] | None:
    """Return how many questions have their first positive at which ranks, by system."""
    names = [name for name in shown if name in rankings.ranks]
    if not names:
        return None
    deepest = max(rankings.depths[name] for name in names)
    counts = {n: arithmetic.rank_histogram(rankings.ranks[n].values(), deepest) for n in names}
    return {
        "bins": list(counts[names[0]]),
        "counts": counts,
        "most": max(max(of.values()) for of in counts.values()),
        "deepest": deepest,
    }


def score_panels(rankings: Rankings, shown: Sequence[str]) -> list[dict[str, Any]]:
    """Return, by system, the scores of first positives and of the best other passages."""
    panels = []
    for name in shown:
        right, wrong = rankings.separations.get(name, ([], []))
        if right:
            axis = scale([*right, *wrong], 4)
            bars = [arithmetic.histogram(values, axis, _BINS) for values in (right, wrong)]
            above = sum(r > w for r, w in zip(right, wrong, strict=True))
            panels.append(
                {"name": name, "axis": axis, "bars": bars, "most": max(map(max, bars)),
                 "above": above, "n": len(right)}
            )  # fmt: skip
    return panels


def f1_bars(evaluated: Systems, shown: Sequence[str]) -> dict[str, Any] | None:
    """Return how many answers have which F1, by system."""
    axis = Scale(0.0, 1.0, (0.0, 0.5, 1.0))
    counts = {
        name: arithmetic.histogram(list(evaluated.sheets[name]["f1"].values()), axis, _F1_BINS)
        for name in shown
        if evaluated.sheets[name].get("f1")
    }
    if not counts:
        return None
    return {"counts": counts, "most": max(map(max, counts.values()))}


def axis_of(cells: Iterable[Mapping[str, Any]], *more: float) -> Scale:
    """Return the axis that holds means with their intervals, and more values where given."""
    ends = [end for cell in cells for end in (cell["mean"], *(cell["ci95"] or ()))]
    return scale([*ends, *more])


def from_comparisons(runs: Sequence[Reported], kinds: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the tables of comparisons for the kinds of which no evaluated run is in the report."""
    there, found = set(kinds), {}
    for run in runs:
        for kind, table in (run.json("comparison.json") or {}).items():
            if kind in TITLES and kind not in there and kind not in found:
                metrics = _wanted(kind, table["systems"][table["baseline"]])
                found[kind] = {**table, "metrics": metrics, "shown": metrics, "unscored": 0}
    return found
