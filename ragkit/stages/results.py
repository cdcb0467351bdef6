"""What evaluations write to metrics.json, and how it is shown."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ragkit.data.schema import Example
from ragkit.evaluation.leakage import Leakage
from ragkit.evaluation.summary import Sheet, slice_of, summarise


def latencies(ask: Callable[[Example], object], examples: Sequence[Example], n: int) -> list[float]:
    """Return the milliseconds of each of n questions asked one at a time, after one to warm up."""
    chosen = [
        examples[i] for i in np.linspace(0, len(examples) - 1, min(n, len(examples))).astype(int)
    ]
    times = []
    for example in [*chosen[:1], *chosen]:
        start = time.perf_counter()
        ask(example)
        times.append((time.perf_counter() - start) * 1000)
    return times[1:]


def speed(times_ms: Sequence[float], questions: int, seconds: float) -> dict[str, float | None]:
    """Return the latency of single questions and the throughput of many, for metrics.json."""
    p50, p95 = np.percentile(times_ms, [50, 95]).tolist() if times_ms else (None, None)
    rate = questions / seconds if questions and seconds else None
    found = {"ms_p50": p50, "ms_p95": p95, "questions_per_s": rate}
    return {name: None if value is None else round(value, 3) for name, value in found.items()}


def report(
    sheet: Sheet,
    examples: Sequence[Example],
    parts: Mapping[str, Sequence[str]],
    documents: Mapping[str, str],
    leakage: Leakage | None,
    seed: int,
) -> dict[str, Any]:
    """Return what metrics.json says of scores: means, slices, and what is left without leaks."""
    found: dict[str, Any] = {
        "metrics": summarise(sheet, documents, seed),
        "slices": {
            name: summarise(part, documents, seed)
            for name, ids in parts.items()
            if sizes(part := slice_of(sheet, ids)) not in ({}, sizes(sheet))
        },
        "questions": {
            "all": len(examples),
            "with positives": sum(bool(e.positive_ids) for e in examples),
            "unanswerable": sum(not e.answerable for e in examples),
        },
        "leakage": None,
    }
    if leakage is not None:
        clean = [e.id for e in examples if e.id not in leakage.contaminated]
        left = summarise(slice_of(sheet, clean), documents, seed) if leakage.contaminated else None
        found["leakage"] = {
            "near_questions": len(leakage.near),
            "near_passages": len(leakage.copied),
            "contaminated": len(leakage.contaminated),
            "seen_documents": len(leakage.seen),
            "without": left,
        }
    return found


def sizes(sheet: Sheet) -> dict[str, int]:
    """Return how many questions have a score, of each metric that any has."""
    return {name: len(scores) for name, scores in sheet.items() if scores}


def rows_of(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the rows of an evaluation's table: all questions, those without leaks, slices."""
    leakage: Mapping[str, Any] | None = result["leakage"]
    rows: dict[str, Mapping[str, Any]] = {"all": result["metrics"]}
    if leakage and leakage["without"]:
        rows[f"without {leakage['contaminated']} leaks"] = leakage["without"]
    rows.update(result["slices"])
    return rows


def leakage_line(result: Mapping[str, Any]) -> str:
    """Return what training has in common with the test set, as a sentence."""
    found, count = result["leakage"], result["questions"]["all"]
    if found is None:
        return "leaks: not checked, no training examples are named (train)"
    return (
        f"leaks: of {count} questions {found['near_questions']} are near a training question, "
        f"{found['near_passages']} about a copy of a trained passage, "
        f"{found['seen_documents']} about documents that training has seen"
    )


def speed_lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each part of a system: latency of one question, throughput of many."""
    lines = []
    for part, values in found.items():
        said = []
        if values["ms_p50"] is not None:
            said.append(f"{values['ms_p50']:,.1f} ms a question (p95 {values['ms_p95']:,.1f})")
        said += [
            f"{values[key]:,.1f} {name}"
            for key, name in (("questions_per_s", "questions/s"), ("tokens_per_s", "tokens/s"))
            if values.get(key)
        ]
        if said:
            lines.append(f"{part}: {', '.join(said)}")
    return lines
