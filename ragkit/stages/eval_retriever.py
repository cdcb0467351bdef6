"""`ragkit eval-retriever`: how well a system finds the passages that answer test questions."""

from pathlib import Path

from pydantic import Field
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
from ragkit.evaluation.ranking import deepest, evaluate
from ragkit.retrieval.searchers import build_searcher, query_text
from ragkit.runs import Run
from ragkit.stages.retrieval import (
    METRICS,
    EvaluationSource,
    check_leaks,
    chosen_on_dev,
    report,
    slice_names,
    slices,
    weight_chooser,
)
from ragkit.stages.sources import documents_of, read_sources
from ragkit.stages.tables import Table


class Config(EvaluationSource):
    """Configuration of `eval-retriever`."""

    metrics: list[str] = Field(METRICS, description="recall@k, hit@k, ndcg@k, mrr@k, map, ...")
    top_k: int = Field(
        100, gt=0, description="passages retrieved a question; more where a metric looks deeper"
    )


def run(config: Config, run: Run) -> None:
    """Search and score; write run.trec, qrels.trec, per_query.jsonl and metrics.json."""
    examples, corpus = read_sources(config, run)
    qrels = qrels_of(examples)
    if not qrels:
        raise DataError(f"{config.examples}: no example has positive_ids; nothing can be measured")
    evaluate(qrels, {}, config.metrics)  # a wrong metric name is told before the work
    train = check_leaks(config, examples)
    documents = documents_of(examples, corpus)
    chooser = weight_chooser(config, corpus, run)
    searcher = build_searcher(config.retriever, corpus, chooser)
    with run.timed("searching"):
        depth = max(config.top_k, deepest(config.metrics))
        found = searcher.search([query_text(e) for e in examples], depth)
    ranked = dict(zip((e.id for e in examples), found, strict=True))
    sheet = evaluate(qrels, ranked, config.metrics)
    parts = slices(examples, train, corpus, config.slices)
    slices_of = slice_names(parts)
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
                "slices": slices_of.get(e.id, []),
            }
            for e in examples
        ),
    )
    result = report(sheet, examples, parts, documents, config.seed)
    write_json(
        run / "metrics.json",
        {**result, "settings": chosen_on_dev(searcher), "timings": run.timings},
    )


def show(path: Path) -> RenderableType:
    """Show the metrics and slices."""
    result = read_json(path / "metrics.json")
    metrics = list(result["metrics"])
    counts = result["questions"]
    title = f"{counts['with positives']} of {counts['all']} questions have passages to find"
    rows = {"all": result["metrics"], **result["slices"]}
    return Group(Table(title, metrics, rows).printed(), f"per question: {path / 'per_query.jsonl'}")
