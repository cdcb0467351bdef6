"""`ragkit eval-e2e`: a retriever with an answerer on top, from test questions to scored answers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from rich.console import Group, RenderableType

from ragkit.config.blocks import Answerer, ExtractiveAnswerer
from ragkit.data.files import (
    read_json,
    write_json,
    write_jsonl,
    write_trec_run,
)
from ragkit.data.schema import Example, Passage, qrels_of
from ragkit.errors import EndpointError
from ragkit.evaluation.answers import abstention, bleu, score_answer
from ragkit.evaluation.ranking import evaluate
from ragkit.log import progress
from ragkit.rag.answerers import Answer, build_answerer
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

ANSWER_METRICS = ("em", "f1", "rouge_1", "rouge_2", "rouge_l")


class Config(EvaluationSource):
    """Configuration of `eval-e2e`."""

    answerer: Answerer = Field(
        ExtractiveAnswerer(type="extractive"), description="the system that answers from them"
    )
    passages: Literal["retrieved", "gold"] = Field(
        "retrieved", description="gold: the positives themselves, the ceiling of any retriever"
    )
    n_passages: int = Field(3, gt=0, description="passages that the answerer gets")
    top_k: int = Field(100, gt=0, description="passages retrieved, for the retrieval metrics")


def run(config: Config, run: Run) -> None:
    """Retrieve, answer, score; write predictions.jsonl, run.trec and metrics.json."""
    examples, corpus = read_sources(config, run)
    train = check_leaks(config, examples)
    documents = documents_of(examples, corpus)
    ranked, settings = _retrieve(config, examples, corpus, run)
    answered = _answer(config, examples, corpus, ranked, run)
    sheet = _score(examples, ranked, answered, gold=config.passages == "gold")
    parts = slices(examples, train, corpus, config.slices)
    _write_predictions(run, examples, ranked, answered, sheet, documents, slice_names(parts))
    write_trec_run(run / "run.trec", ranked)
    result = report(sheet, examples, parts, documents, config.seed)
    result |= {"whole_set": _whole_set(examples, answered), "settings": settings}
    latencies = [answered[e.id].latency_ms for e in examples]
    result["timings"] = {
        **run.timings,
        "answer_ms_p50": round(float(np.percentile(latencies, 50)), 3),
        "answer_ms_p95": round(float(np.percentile(latencies, 95)), 3),
    }
    write_json(run / "metrics.json", result)


def show(path: Path) -> RenderableType:
    """Show answers' and retrieval's metrics, and where single answers are."""
    result = read_json(path / "metrics.json")
    counts = result["questions"]
    title = f"{counts['all']} questions, {counts['unanswerable']} of them unanswerable"
    rows = {"all": result["metrics"], **result["slices"]}
    metrics = [m for m in ANSWER_METRICS if m in result["metrics"]]
    answers = Table(title, metrics, rows).printed()
    retrieval = [m for m in METRICS if m in result["metrics"]]
    parts: list[RenderableType] = [answers]
    if retrieval:
        parts.append(Table("retrieval", retrieval, {"all": result["metrics"]}).printed())
    whole = result["whole_set"]
    said = ", ".join(f"{k} {v:.3f}" for k, v in whole.items() if v is not None)
    parts += [f"whole set: {said}", f"single answers: {path / 'predictions.jsonl'}"]
    return Group(*parts)


def _retrieve(
    config: Config, examples: list[Example], corpus: Mapping[str, Passage], run: Run
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Return the passages of each question, id to score, and what the retriever chose on dev."""
    if config.passages == "gold":
        return {e.id: dict.fromkeys(e.positive_ids, 1.0) for e in examples}, {}
    chooser = weight_chooser(config, corpus, run)
    searcher = build_searcher(config.retriever, corpus, chooser)
    with run.timed("retrieval"):
        found = searcher.search([query_text(e) for e in examples], config.top_k)
    run.timings["retrieval_ms_per_question"] = round(
        run.timings["retrieval"] * 1000 / len(examples), 3
    )
    return dict(zip((e.id for e in examples), found, strict=True)), chosen_on_dev(searcher)


def _answer(
    config: Config,
    examples: list[Example],
    corpus: Mapping[str, Passage],
    ranked: Mapping[str, Mapping[str, float]],
    run: Run,
) -> dict[str, Answer]:
    """Answer every question, saving as it goes; what an earlier process saved is not asked again.

    Raises:
        EndpointError: some questions got no answer; the others are saved.
    """
    saved = run / "answers.jsonl"
    answered = _load_answers(saved)
    missing = [e for e in examples if e.id not in answered]
    if missing:
        answerer = build_answerer(config.answerer)
        top = [[corpus[p] for p in list(ranked[e.id])[: config.n_passages]] for e in missing]
        with run.timed("answering"), saved.open("a", encoding="utf-8") as f:
            answers = answerer.answer(missing, top)
            for i, answer in progress(answers, "answering", len(missing), "questions"):
                answered[missing[i].id] = answer
                f.write(json.dumps({"id": missing[i].id, **_to_json(answer)}) + "\n")
                f.flush()
    if failed := [e.id for e in examples if e.id not in answered]:
        raise EndpointError(
            f"{len(failed)} of {len(examples)} questions got no answer ({', '.join(failed[:5])}); "
            "the others are saved: the same command asks only for the missing ones"
        )
    return answered


def _load_answers(path: Path) -> dict[str, Answer]:
    """Read the answers that an interrupted run saved; a line cut short is asked again."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        question = record.pop("id")
        found[question] = Answer(**{**record, "passage_ids": tuple(record["passage_ids"])})
    write_jsonl(path, ({"id": i, **_to_json(a)} for i, a in found.items()))
    return found


def _to_json(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "abstained": answer.abstained,
        "latency_ms": round(answer.latency_ms, 3),
        "passage_ids": list(answer.passage_ids),
        "usage": dict(answer.usage) if answer.usage else None,
    }


def _score(
    examples: Sequence[Example],
    ranked: dict[str, dict[str, float]],
    answered: Mapping[str, Answer],
    gold: bool,
) -> dict[str, dict[str, float]]:
    """Return the score sheet: retrieval metrics, and answer metrics where there is a reference."""
    sheet: dict[str, dict[str, float]] = {}
    qrels = qrels_of(examples)
    if qrels and not gold:
        sheet |= evaluate(qrels, ranked, METRICS)
    for example in examples:
        if example.answerable and not example.answers:
            continue
        answer = answered[example.id]
        scores = score_answer(
            answer.text,
            example.answers,
            answerable=example.answerable,
            abstained=answer.abstained,
        )
        for name in ANSWER_METRICS:
            if name in scores:
                sheet.setdefault(name, {})[example.id] = scores[name]
    return sheet


def _whole_set(examples: Sequence[Example], answered: Mapping[str, Answer]) -> dict[str, Any]:
    """Return what is measured over the set as a whole: BLEU and abstention."""
    scored = [e for e in examples if e.answerable and e.answers]
    found = abstention(
        [e.answerable for e in examples], [answered[e.id].abstained for e in examples]
    )
    texts, references = [answered[e.id].text for e in scored], [e.answers for e in scored]
    return {
        "bleu": bleu(texts, references) if scored else None,
        "abstention_precision": found["precision"],
        "abstention_recall": found["recall"],
    }


def _write_predictions(
    run: Run,
    examples: Sequence[Example],
    ranked: Mapping[str, Mapping[str, float]],
    answered: Mapping[str, Answer],
    sheet: Mapping[str, Mapping[str, float]],
    documents: Mapping[str, str],
    slices_of: Mapping[str, list[str]],
) -> None:
    records = (
        {
            "id": e.id,
            "question": e.question,
            "answer": answered[e.id].text,
            "abstained": answered[e.id].abstained,
            "answerable": e.answerable,
            "references": list(e.answers),
            "passages": [{"id": p, "score": s} for p, s in list(ranked[e.id].items())[:10]],
            "answer_passage_ids": list(answered[e.id].passage_ids),
            "positive_ids": list(e.positive_ids),
            "document": documents[e.id],
            "scores": {m: scores[e.id] for m, scores in sheet.items() if e.id in scores},
            "latency_ms": round(answered[e.id].latency_ms, 3),
            "slices": slices_of.get(e.id, []),
        }
        for e in examples
    )
    write_jsonl(run / "predictions.jsonl", records)
