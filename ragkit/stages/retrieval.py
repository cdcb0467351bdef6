"""What eval-retriever and eval-e2e share: retrieving for test questions, and scoring it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationInfo, model_validator

from ragkit.config.blocks import Dense, InputPath, Retriever, beside
from ragkit.data.files import read_examples
from ragkit.data.schema import Example, Passage, qrels_of
from ragkit.errors import DataError
from ragkit.evaluation.ranking import evaluate
from ragkit.evaluation.summary import leaks, mean_scores, slice_of, slices_by, summarise
from ragkit.log import logger
from ragkit.retrieval import fusion
from ragkit.retrieval.searchers import (
    FUSION_DEPTH,
    FusedSearcher,
    Searcher,
    needs_dev,
    query_text,
)
from ragkit.runs import Run
from ragkit.stages.sources import ExampleSource, bad_lines

METRICS = ["recall@1", "recall@5", "recall@10", "ndcg@10", "mrr@10"]
_SHOWN_LEAKS = 3


class EvaluationSource(ExampleSource):
    """Test examples, the system that finds passages, and what is needed to judge it on them."""

    retriever: Retriever = Field(Dense(type="dense"), description="the system that finds passages")
    dev: InputPath | None = Field(
        None, description="examples on which a fusion weight is chosen; unset: dev.jsonl beside"
    )
    train: list[InputPath] | None = Field(
        None,
        description="training examples: checked for leaks, and slices of seen documents; unset: "
        "train.jsonl beside",
    )
    leak_rouge_l: float = Field(
        0.8, gt=0, le=1, description="ROUGE-L of a training and a test question that is a leak"
    )
    accept_leaks: bool = Field(False, description="go on where test questions were trained on")
    slices: list[str] = Field([], description="metadata keys by whose values results are split")

    @model_validator(mode="after")
    def _find_train(self, info: ValidationInfo) -> "EvaluationSource":
        if self.train is None:
            found = beside(self.examples, "train.jsonl", info.context)
            object.__setattr__(self, "train", [] if found is None else [found])
        return self

    @model_validator(mode="after")
    def _find_dev(self, info: ValidationInfo) -> "EvaluationSource":
        if not needs_dev(self.retriever):
            return self
        found = self.dev or beside(self.examples, "dev.jsonl", info.context)
        if found is None:
            raise ValueError(
                "dev: the fusion weight is chosen on dev examples, and no dev.jsonl is beside "
                f"{self.examples}; name some, or give retriever.weight"
            )
        object.__setattr__(self, "dev", found)
        return self


def weight_chooser(
    config: EvaluationSource, corpus: Mapping[str, Passage], run: Run
) -> Callable[[Searcher, Searcher], float] | None:
    """Return the function that chooses a fusion weight by nDCG@10 on the dev examples.

    None where nothing is to be chosen on dev. What is wrong with dev is told before the work.

    Raises:
        DataError: malformed dev examples, or none with positives.
    """
    if config.dev is None or not needs_dev(config.retriever):
        return None
    dev = read_examples(config.dev, corpus, bad_lines(config, run))
    qrels, queries = qrels_of(dev), [query_text(e) for e in dev]
    if not qrels:
        raise DataError(f"{config.dev}: no example has positive_ids; no weight can be chosen")

    def choose(dense: Searcher, bm25: Searcher) -> float:

        def score(rankings: Sequence[Mapping[str, float]]) -> float:
            ranked = {e.id: dict(r) for e, r in zip(dev, rankings, strict=True)}
            return mean_scores(evaluate(qrels, ranked, ["ndcg@10"]))["ndcg@10"]

        weight = fusion.choose_weight(
            dense.search(queries, FUSION_DEPTH), bm25.search(queries, FUSION_DEPTH), score, 10
        )
        logger.info("weight of dense, chosen on %d dev questions: %.2f", len(dev), weight)
        return weight

    return choose


def chosen_on_dev(searcher: Searcher) -> dict[str, Any]:
    """Return what a system chose when it was built, for metrics.json."""
    return {"fusion_weight": searcher.weight} if isinstance(searcher, FusedSearcher) else {}


def check_leaks(config: EvaluationSource, examples: list[Example]) -> list[Example]:
    """Return the training examples; near-duplicates of test questions among them are an error.

    Raises:
        DataError: naming the first leaks, unless the configuration accepts them.
    """
    if not config.train:
        logger.warning("no training examples are named (train): leaks are not checked")
        return []
    train = [e for path in config.train for e in read_examples(path)]
    found = leaks(examples, train, config.leak_rouge_l)
    if found and not config.accept_leaks:
        shown = [f"  test {a.id}: {a.question}\n  train {b.id}: {b.question}" for a, b in found]
        raise DataError(
            f"{len(found)} of {len(examples)} test questions stand in the training examples, or "
            "nearly:\n" + "\n".join(shown[:_SHOWN_LEAKS]) + "\nTake them out of the training "
            "examples, or go on with --set accept_leaks=true"
        )
    logger.info("%d of %d test questions are near a training question", len(found), len(examples))
    return train


def slices(
    examples: Sequence[Example],
    train: Sequence[Example],
    corpus: Mapping[str, Passage],
    keys: Sequence[str],
) -> dict[str, list[str]]:
    """Return the question ids of each slice: by metadata, and by documents seen in training."""
    parts = slices_by(examples, keys)
    if train:
        trained = {p for e in train for p in e.positive_ids}
        if unknown := len(trained - set(corpus)):
            logger.warning("%d trained passages are not in this corpus: seen is a guess", unknown)
        seen = {corpus[p].source for p in trained if p in corpus}
        for example in examples:
            if example.positive_ids:
                sources = {corpus[p].source for p in example.positive_ids}
                name = "seen documents" if sources & seen else "unseen documents"
                parts.setdefault(name, []).append(example.id)
    return {name: ids for name, ids in parts.items() if ids}


def slice_names(parts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the names of the slices that each question is in."""
    names: dict[str, list[str]] = {}
    for name, ids in parts.items():
        for question in ids:
            names.setdefault(question, []).append(name)
    return names


def report(
    sheet: Mapping[str, Mapping[str, float]],
    examples: Sequence[Example],
    parts: Mapping[str, Sequence[str]],
    documents: Mapping[str, str],
    seed: int,
) -> dict[str, Any]:
    """Return the metrics and slices part of metrics.json."""
    sliced = {name: summarise(slice_of(sheet, i), documents, seed) for name, i in parts.items()}
    return {
        "metrics": summarise(sheet, documents, seed),
        "slices": {name: metrics for name, metrics in sliced.items() if metrics},
        "questions": {
            "all": len(examples),
            "with positives": sum(bool(e.positive_ids) for e in examples),
            "unanswerable": sum(not e.answerable for e in examples),
        },
    }
