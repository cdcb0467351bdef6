"""The sections of a report that are read from what runs say of themselves.

Training, question generation, attribution, speed, cost, leaks, gates, and where all came from.
A section is a list or dictionary for the template, empty where no run has data for it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ragkit.data.files import read_jsonl
from ragkit.evaluation.report import learning_curves, scale
from ragkit.stages.evaluated import judged_run
from ragkit.stages.report_runs import Reported
from ragkit.stages.report_sections import axis_of

_LOGIN = re.compile(r"//[^/@\s]+@")
_NAMED_SECRET = re.compile(r"(?i)((?:api[_-]?key|secret|password|auth[_-]?token)[=\s]+)\S+")
_KEY = re.compile(r"\b(?:sk|hf|ghp|xox[bp])[-_][\w-]{16,}")  # as the usual services make them
_EXAMPLES = 3  # wrong answers of each reason
_BOUGHT = ("prompt_tokens", "completion_tokens")


def learning(runs: Iterable[Reported]) -> list[dict[str, Any]]:
    """Return the loss and the dev metrics of each training, the one that chose last, with axes."""
    found = []
    for run in runs:
        if not (run.path / "history.jsonl").exists():
            continue
        curves = learning_curves(read_jsonl(run.path / "history.jsonl"))
        report = run.json("metrics.json") or {}
        chose = {f"eval_{name.removeprefix('dev_')}" for name in report.get("metrics", ())}
        order = sorted(curves.items(), key=lambda c: (c[0] != "loss", c[0] in chose))
        panels = [
            _learning_panel(name, points, report.get("best_step"))
            for name, points in order
            if len(points) > 1
        ]
        if panels:
            found.append({"name": run.name, "panels": panels})
    return found


def _learning_panel(
    name: str, points: Sequence[tuple[int, float]], best: int | None
) -> dict[str, Any]:
    x, y = scale([0, *(step for step, _ in points)], 5), scale([v for _, v in points], 5)
    dev = name.startswith("eval_")
    return {
        "name": name.removeprefix("eval_"),
        "dev": dev,
        "points": points,
        "shares": [(x.share(step), y.share(value)) for step, value in points],
        "y": y,
        "ticks": [(f"{step:g}", x.share(step)) for step in x.ticks],
        "best": 2 + 96 * x.share(best) if dev and best is not None else None,
    }


def funnels(runs: Iterable[Reported]) -> list[dict[str, Any]]:
    """Return what became of the questions that were generated, step by step."""
    found = []
    for run in runs:
        counts = run.json("funnel.json")
        if not counts or not counts.get("generated"):
            continue
        names = list(counts)
        inner = names[names.index("generated") + 1 : names.index("kept")]
        steps = [{"name": n, "count": counts[n]} for n in inner if counts[n]]
        asked = {n: counts[n] for n in names[: names.index("generated")] if counts[n]}
        found.append(
            {"name": run.name, "asked": asked, "generated": counts["generated"], "steps": steps,
             "kept": counts["kept"], "most": max(counts["generated"], counts["kept"])}
        )  # fmt: skip
    return found


def attributions(runs: Iterable[Reported]) -> list[dict[str, Any]]:
    """Return why answers were wrong, with examples, and the grid of what was replaced by what."""
    found = []
    for run in runs:
        told = run.json("attribution.json")
        if not told:
            continue
        wrong = read_jsonl(run.path / "attribution.jsonl")
        reasons = [
            {
                "name": reason,
                "count": count,
                "examples": [r for r in wrong if r["reason"] == reason][:_EXAMPLES],
            }
            for reason, count in told["reasons"].items()
        ]
        metric = told["metric"]
        cells = {name: of[metric] for name, of in told["cells"].items() if metric in of}
        found.append(
            {
                "system": told["system"],
                "metric": metric,
                "threshold": told["threshold"],
                "reasons": reasons,
                "most": max([r["count"] for r in reasons], default=0),
                "wrong": sum(r["count"] for r in reasons),
                "cells": cells,
                "axis": axis_of(cells.values()) if cells else None,
            }
        )
    return found


def speed(runs: Sequence[Reported]) -> list[dict[str, Any]]:
    """Return how long a question takes in each part of each system: median, 95th percentile."""
    return [
        {"name": run.name, "part": part, **of}
        for run in _systems(runs)
        for part, of in ((run.json("metrics.json") or {}).get("speed") or {}).items()
        if of["ms_p50"] is not None
    ]


def _systems(runs: Sequence[Reported]) -> Iterator[Reported]:
    """Return the runs without those of judges whose judged run is there as well."""
    there = {run.path for run in runs}
    return (run for run in runs if judged_run(run.path) not in there)


def costs(runs: Sequence[Reported]) -> list[dict[str, Any]]:
    """Return what was bought from models: answers, tokens and, where prices are known, dollars."""
    rows, systems = [], list(_systems(runs))
    for run in runs:
        for role, bought in (run.json("costs.json") or {}).items():
            rows.append(
                {"name": run.name, "what": f"{role} ({bought['model']})",
                 "requests": bought["answers"], "dollars": bought["cost_usd"],
                 **{key: bought[key] for key in _BOUGHT}}
            )  # fmt: skip
        told = (run.json("metrics.json") or {}).get("cost")
        if told and run in systems:
            rows.append({"name": run.name, "what": "answers", **told})
    return rows


def leaks(runs: Iterable[Reported], metric_of: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return how much of each test set stood in the training data, and the score without it.

    metric_of: the primary metric of each run that is shown, by name
    """
    rows = []
    for run in runs:
        told = (run.json("metrics.json") or {}).get("leakage")
        if told and run.name in metric_of:
            without = (told.get("without") or {}).get(metric_of[run.name])
            rows.append({"name": run.name, **told, "without": without})
    return rows


def gates(runs: Iterable[Reported]) -> list[Mapping[str, Any]]:
    """Return the gates of every comparison, and whether they hold."""
    return [gate for run in runs for gate in run.json("gates.json") or []]


def provenance(runs: Sequence[Reported]) -> dict[str, Any]:
    """Return where each run came from, and the package versions that all or some of them had."""
    rows = []
    packages: dict[str, list[str]] = {}
    for run in runs:
        account = run.account
        made = account.get("provenance") or {}
        for package, version in (made.get("packages") or {}).items():
            known = packages.setdefault(package, [])
            if version and version not in known:
                known.append(version)
        start = (account.get("starts") or [{}])[-1]
        rows.append(
            {
                "name": run.name,
                "command": run.command,
                "argv": without_secrets(" ".join(start.get("argv", []))),
                "when": account.get("finished") or start.get("time", ""),
                "seconds": (account.get("timings") or {}).get("total"),
                "code": account.get("code"),
                "git": made.get("git"),
                "seed": account["config"].get("seed"),
                "device": account.get("device"),
                "processes": account.get("processes", 1),
                "python": made.get("python"),
                "platform": made.get("platform"),
                "inputs": run.inputs,
            }
        )
    used = {name: versions for name, versions in packages.items() if versions}
    return {"rows": rows, "packages": used}


def without_secrets(command: str) -> str:
    """Return a command line without logins in addresses, and without values of keys and tokens."""
    return _KEY.sub("***", _NAMED_SECRET.sub(r"\1***", _LOGIN.sub("//***@", command)))
