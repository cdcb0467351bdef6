"""`ragkit eval-e2e`: a retriever with an answerer on top, from test questions to scored answers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from rich.console import Group, RenderableType

from ragkit.config.answering import Answerer, ExtractiveAnswerer
from ragkit.data.files import (
    read_json,
    write_json,
    write_jsonl,
    write_trec_run,
)
from ragkit.data.schema import Example, Passage, qrels_of
from ragkit.evaluation import chatrag
from ragkit.evaluation.ranking import evaluate
from ragkit.evaluation.slices import names_of, slices_of
from ragkit.rag.answerers import Answer
from ragkit.retrieval.searchers import build_searcher
from ragkit.runs import Run
from ragkit.stages.answering import AnsweringSource, answer_all, by_card, cost_of
from ragkit.stages.results import latencies, leakage_line, report, rows_of, speed, speed_lines
from ragkit.stages.retrieval import (
    METRICS,
    Rankings,
    check_leaks,
    chosen_on_dev,
    searching,
    weight_chooser,
)
from ragkit.stages.scoring import (
    ANSWER_METRICS,
    GROUNDING_METRICS,
    Sheet,
    score_answers,
    score_grounding,
    whole_set,
)
from ragkit.stages.sources import documents_of, read_sources
from ragkit.stages.tables import Table


class Config(AnsweringSource):
    """Configuration of `eval-e2e`."""

    answerer: Annotated[Answerer, BeforeValidator(partial(by_card, default="extractive"))] = Field(
        ExtractiveAnswerer(type="extractive"),
        description="the system that answers from them; a model that ragkit trained names its type",
    )
    passages: Literal["retrieved", "gold"] = Field(
        "retrieved", description="gold: the positives themselves, the ceiling of any retriever"
    )


def run(config: Config, run: Run) -> None:
    """Retrieve, answer, score; write predictions.jsonl, run.trec and metrics.json."""
    examples, corpus = read_sources(config, run)
    leakage = check_leaks(config, examples, corpus)
    parts = slices_of(examples, config.slices, leakage)  # a wrong key is told before the work
    documents = documents_of(examples, corpus)
    ranked, settings, found_at = _retrieve(config, examples, corpus, run)
    most = None if config.passages == "gold" else config.n_passages
    given = {e.id: [corpus[p] for p in list(ranked[e.id])[:most]] for e in examples}
    with run.timed("answering"):
        answered = answer_all(
            config.answerer, examples, given, run / "answers.jsonl", config.max_failed, config.timed
        )
    answers = answered.answers
    if config.protocol == "chatrag-bench":
        answers = _with_refusals(examples, answers)
    sheet = {} if config.passages == "gold" else _score_retrieval(config, examples, ranked)
    sheet |= score_answers(examples, answers, config.protocol == "chatrag-bench")
    sheet |= score_grounding(examples, answers, given, config.passages == "gold")
    _write_predictions(run, examples, ranked, answers, sheet, documents, names_of(parts))
    write_trec_run(run / "run.trec", ranked)
    result = report(sheet, examples, parts, documents, leakage, config.seed)
    result["questions"]["failed"] = len(examples) - len(answers)
    result |= {"whole_set": whole_set(examples, answers), "settings": settings}
    result["speed"] = {**found_at, "answering": answered.speed}
    result["cost"] = cost_of(config.answerer, answered, config.prices)
    result["timings"] = run.timings
    write_json(run / "metrics.json", result)


def show(path: Path) -> RenderableType:
    """Show the metrics of answers, grounding and retrieval, speed and cost."""
    result = read_json(path / "metrics.json")
    counts, metrics = result["questions"], result["metrics"]
    said = f"questions: {counts['all']}, unanswerable: {counts['unanswerable']}"
    said += f", without an answer: {counts['failed']}" if counts["failed"] else ""
    parts: list[RenderableType] = [f"{said}\n"]
    retrieval = [m for m in metrics if m not in (*ANSWER_METRICS, *GROUNDING_METRICS)]
    for title, wanted, rows in (
        ("answers", ANSWER_METRICS, rows_of(result)),
        ("what the answers have from the passages", GROUNDING_METRICS, {"all": metrics}),
        ("retrieval", retrieval, {"all": metrics}),
    ):
        if known := [m for m in wanted if m in metrics]:
            parts.append(Table(title, known, rows).printed())
    whole = [f"{k} {v:.3f}" for k, v in result["whole_set"].items() if v is not None]
    parts += [f"whole set: {', '.join(whole)}"] if whole else []
    parts += [leakage_line(result), *speed_lines(result["speed"])]
    if cost := result["cost"]:
        dollars = "" if cost["dollars"] is None else f", {cost['dollars']:.4f} $"
        tokens = f"{cost['prompt_tokens']:,} + {cost['completion_tokens']:,} tokens"
        parts.append(f"cost: {cost['requests']:,} requests, {tokens}{dollars}")
    return Group(*parts, f"single answers: {path / 'predictions.jsonl'}")


def _retrieve(
    config: Config, examples: list[Example], corpus: Mapping[str, Passage], run: Run
) -> tuple[Rankings, dict[str, Any], dict[str, Any]]:
    """Return the passages of each question, what the retriever chose on dev, and how fast it is."""
    if config.passages == "gold":
        return {e.id: dict.fromkeys(e.positive_ids, 1.0) for e in examples}, {}, {}
    searcher = build_searcher(config.retriever, corpus, weight_chooser(config, corpus, run))
    search = searching(config, searcher, corpus)
    start = time.perf_counter()
    with run.timed("retrieval"):
        ranked = search(examples, config.top_k)
    seconds = time.perf_counter() - start
    alone = latencies(lambda e: search([e], config.top_k), examples, config.timed)
    return ranked, chosen_on_dev(searcher), {"retrieval": speed(alone, len(examples), seconds)}


def _with_refusals(examples: Sequence[Example], answers: Mapping[str, Answer]) -> dict[str, Answer]:
    """Return the answers, those to unanswerable questions abstained where they say so anyhow."""
    refusing = {
        e.id for e in examples
        if not e.answerable and e.id in answers and chatrag.refuses(answers[e.id].text)
    }  # fmt: skip
    return {q: replace(a, abstained=a.abstained or q in refusing) for q, a in answers.items()}


def _score_retrieval(config: Config, examples: Sequence[Example], ranked: Rankings) -> Sheet:
    metrics = chatrag.METRICS if config.protocol == "chatrag-bench" else METRICS
    qrels = qrels_of(examples)
    return evaluate(qrels, ranked, metrics) if qrels else {}


def _write_predictions(
    run: Run,
    examples: Sequence[Example],
    ranked: Rankings,
    answers: Mapping[str, Answer],
    sheet: Sheet,
    documents: Mapping[str, str],
    slices: Mapping[str, list[str]],
) -> None:
    """Write a line a question; one that got no answer has `failed`, and an empty answer."""
    records = []
    for e in examples:
        answer = answers.get(e.id, Answer("", False, 0.0))
        record = {
            "id": e.id,
            "question": e.question,
            "history": [{"role": t.role, "content": t.content} for t in e.history],
            "answer": answer.text,
            "abstained": answer.abstained,
            "failed": e.id not in answers,
            "answerable": e.answerable,
            "references": list(e.answers),
            "passages": [{"id": p, "score": s} for p, s in list(ranked[e.id].items())[:10]],
            "answer_passage_ids": list(answer.passage_ids),
            "positive_ids": list(e.positive_ids),
            "document": documents[e.id],
            "scores": {m: scores[e.id] for m, scores in sheet.items() if e.id in scores},
            "latency_ms": round(answer.latency_ms, 3),
            "usage": dict(answer.usage) if answer.usage else None,
            "slices": slices.get(e.id, []),
        }
        records.append(record)
    write_jsonl(run / "predictions.jsonl", records)
