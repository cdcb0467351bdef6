"""`ragkit eval-retriever`: how well a system finds the passages that answer test questions."""

import time
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from rich.console import Group, RenderableType

from ragkit.data.files import (
    read_json,
    write_json,
    write_jsonl,
    write_trec_qrels,
    write_trec_run,
)
from ragkit.data.schema import qrels_of
from ragkit.errors import DataError
from ragkit.evaluation import chatrag
from ragkit.evaluation.ranking import deepest, evaluate
from ragkit.evaluation.slices import names_of, slices_of
from ragkit.retrieval.searchers import build_searcher
from ragkit.runs import Run
from ragkit.stages.results import latencies, leakage_line, report, rows_of, speed, speed_lines
from ragkit.stages.retrieval import (
    METRICS,
    EvaluationSource,
    check_leaks,
    chosen_on_dev,
    searching,
    weight_chooser,
)
from ragkit.stages.sources import documents_of, read_sources
from ragkit.stages.tables import Table


class Config(EvaluationSource):
    """Configuration of `eval-retriever`."""

    metrics: list[str] = Field(
        METRICS, description="recall@k, hit@k, ndcg@k, mrr@k, map, ...; or the protocol's own"
    )
    top_k: int = Field(
        100, gt=0, description="passages retrieved a question; more where a metric looks deeper"
    )

    @model_validator(mode="after")
    def _take_metrics(self) -> Self:
        if self.protocol == "chatrag-bench" and "metrics" not in self.model_fields_set:
            object.__setattr__(self, "metrics", chatrag.METRICS)
        return self


def run(config: Config, run: Run) -> None:
    """Search and score; write run.trec, qrels.trec, per_query.jsonl and metrics.json."""
    examples, corpus = read_sources(config, run)
    qrels = qrels_of(examples)
    if not qrels:
        raise DataError(f"{config.examples}: no example has positive_ids; nothing can be measured")
    evaluate(qrels, {}, config.metrics)  # a wrong metric name is told before the work
    leakage = check_leaks(config, examples, corpus)
    parts = slices_of(examples, config.slices, leakage)  # a wrong key, too
    documents = documents_of(examples, corpus)
    searcher = build_searcher(config.retriever, corpus, weight_chooser(config, corpus, run))
    search, depth = searching(config, searcher, corpus), max(config.top_k, deepest(config.metrics))
    start = time.perf_counter()
    with run.timed("searching"):
        ranked = search(examples, depth)
    seconds = time.perf_counter() - start
    alone = latencies(lambda e: search([e], depth), examples, config.timed)
    sheet = evaluate(qrels, ranked, config.metrics)
    names = names_of(parts)
    write_trec_run(run / "run.trec", ranked)
    write_trec_qrels(run / "qrels.trec", qrels)
    write_jsonl(
        run / "per_query.jsonl",
        (
            {
                "id": e.id,
                "question": e.question,
                "document": documents[e.id],
                "positive_ids": list(e.positive_ids),
                "top_ids": list(ranked[e.id])[:10],
                "scores": {m: scores[e.id] for m, scores in sheet.items() if e.id in scores},
                "slices": names.get(e.id, []),
            }
            for e in examples
        ),
    )
    result = report(sheet, examples, parts, documents, leakage, config.seed)
    result |= {"settings": chosen_on_dev(searcher), "timings": run.timings}
    result["speed"] = {"retrieval": speed(alone, len(examples), seconds)}
    write_json(run / "metrics.json", result)


def show(path: Path) -> RenderableType:
    """Show the metrics, slices and speed."""
    result = read_json(path / "metrics.json")
    counts = result["questions"]
    title = f"{counts['with positives']} of {counts['all']} questions have passages to find"
    table = Table(title, list(result["metrics"]), rows_of(result)).printed()
    lines = [leakage_line(result), *speed_lines(result["speed"])]
    return Group(table, *lines, f"per question: {path / 'per_query.jsonl'}")
