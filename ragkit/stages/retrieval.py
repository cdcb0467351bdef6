"""What eval-retriever and eval-e2e share: test questions, and the passages found for them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from ragkit.config.blocks import Dense, InputPath, Retriever, beside
from ragkit.data.files import read_examples
from ragkit.data.schema import Example, Passage, qrels_of
from ragkit.errors import DataError
from ragkit.evaluation import chatrag
from ragkit.evaluation.leakage import Leakage, find_leakage, near_questions
from ragkit.evaluation.ranking import evaluate
from ragkit.evaluation.summary import mean_scores
from ragkit.log import logger
from ragkit.retrieval import fusion
from ragkit.retrieval.searchers import (
    FUSION_DEPTH,
    FusedSearcher,
    Searcher,
    needs_dev,
    query_text,
    restricted,
)
from ragkit.runs import Run
from ragkit.stages.sources import ExampleSource, bad_lines

METRICS = ["recall@1", "recall@5", "recall@10", "ndcg@10", "mrr@10"]
_SHOWN_LEAKS = 3

Rankings = dict[str, dict[str, float]]  # of each question: passage id to score, best first
Search = Callable[[Sequence[Example], int], Rankings]


class EvaluationSource(ExampleSource):
    """Test examples, the system that finds passages, and what is needed to judge it on them."""

    retriever: Retriever = Field(Dense(type="dense"), description="the system that finds passages")
    protocol: Literal["ragkit", "chatrag-bench"] = Field(
        "ragkit",
        description="chatrag-bench: search for the last five messages with their roles, among the "
        "passages of the question's own document; recall@1, @5 and @20; an unanswerable "
        "question has an F1 of 1 where it is declined, by words such as `cannot find` too, else 0",
    )
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
    accept_leaks: bool = Field(
        False,
        description="go on where test questions were trained on; the scores without them are shown",
    )
    slices: list[str] = Field([], description="metadata keys by whose values results are split")
    timed: int = Field(
        20, ge=0, description="questions asked one at a time, to measure latency; 0: none"
    )

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


def searching(
    config: EvaluationSource, searcher: Searcher, corpus: Mapping[str, Passage]
) -> Search:
    """Return what finds the passages of questions by the rules of the protocol.

    It raises a DataError where nothing says which document a question is about, and it has to.
    """

    def anywhere(examples: Sequence[Example], top_k: int) -> Rankings:
        found = searcher.search([query_text(e) for e in examples], top_k)
        return dict(zip((e.id for e in examples), found, strict=True))

    def in_documents(examples: Sequence[Example], top_k: int) -> Rankings:
        about: dict[str, list[Example]] = {}
        for example in examples:
            about.setdefault(_document(example, corpus, passages), []).append(example)
        rankings: Rankings = {}
        for document, asked in about.items():
            if document not in parts:
                parts[document] = restricted(searcher, passages[document])
            found = parts[document].search([chatrag.query(e) for e in asked], top_k)
            rankings |= zip((e.id for e in asked), found, strict=True)
        return {e.id: rankings[e.id] for e in examples}

    if config.protocol == "ragkit":
        return anywhere
    parts: dict[str, Searcher] = {}
    passages: dict[str, list[str]] = {}
    for passage in corpus.values():
        passages.setdefault(passage.source, []).append(passage.id)
    # a document that import had to rename is known by both names
    renamed = {str(p.meta.get("original_doc_id", p.source)): p.source for p in corpus.values()}
    passages |= {name: passages[source] for name, source in renamed.items()}
    return in_documents


def _document(
    example: Example, corpus: Mapping[str, Passage], passages: Mapping[str, object]
) -> str:
    """Return the document that a question is about, one of those that have passages."""
    document = chatrag.document_of(example, corpus)
    if document is None:
        raise DataError(
            f"question {example.id!r}: protocol chatrag-bench searches the question's own "
            "document, and neither its positive_ids nor its meta name one; bring the benchmark's "
            "files in by: ragkit import"
        )
    if document not in passages:
        raise DataError(
            f"question {example.id!r}: it is about document {document!r}, of which the corpus has "
            "no passage"
        )
    return document


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
    qrels = qrels_of(dev)
    if not qrels:
        raise DataError(f"{config.dev}: no example has positive_ids; no weight can be chosen")

    def choose(dense: Searcher, bm25: Searcher) -> float:

        def score(rankings: Sequence[Mapping[str, float]]) -> float:
            ranked = {e.id: dict(r) for e, r in zip(dev, rankings, strict=True)}
            return mean_scores(evaluate(qrels, ranked, ["ndcg@10"]))["ndcg@10"]

        found, words = (
            list(searching(config, s, corpus)(dev, FUSION_DEPTH).values()) for s in (dense, bm25)
        )
        weight = fusion.choose_weight(found, words, score, 10)
        logger.info("weight of dense, chosen on %d dev questions: %.2f", len(dev), weight)
        return weight

    return choose


def chosen_on_dev(searcher: Searcher) -> dict[str, Any]:
    """Return what a system chose when it was built, for metrics.json."""
    return {"fusion_weight": searcher.weight} if isinstance(searcher, FusedSearcher) else {}


def check_leaks(
    config: EvaluationSource, examples: list[Example], corpus: Mapping[str, Passage]
) -> Leakage | None:
    """Return what the test has in common with training; None where no training is named.

    Raises:
        DataError: near-duplicates of test questions among the training questions, unless the
            configuration accepts them; the first are named.
    """
    if not config.train:
        logger.warning("no training examples are named (train): leaks are not checked")
        return None
    train = [e for path in config.train for e in read_examples(path)]
    near = near_questions(examples, train, config.leak_rouge_l)
    if near and not config.accept_leaks:
        shown = [f"  test {a.id}: {a.question}\n  train {b.id}: {b.question}" for a, b in near]
        raise DataError(
            f"{len(near)} of {len(examples)} test questions stand in the training examples, or "
            "nearly:\n" + "\n".join(shown[:_SHOWN_LEAKS]) + "\nTake them out of the training "
            "examples, or go on with --set accept_leaks=true"
        )
    if unknown := len({p for e in train for p in e.positive_ids} - set(corpus)):
        logger.warning("%d trained passages are not in this corpus: seen is a guess", unknown)
    found = find_leakage(examples, train, corpus, [test.id for test, _ in near])
    logger.info(
        "of %d test questions %d are near a training question, and %d are about a passage that "
        "training has a copy of", len(examples), len(found.near), len(found.copied),
    )  # fmt: skip
    return found
