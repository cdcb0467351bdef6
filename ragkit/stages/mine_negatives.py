"""`ragkit mine-negatives`: examples into examples with hard negatives."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, model_validator
from rich.console import RenderableType

from ragkit.config.blocks import (
    EMBEDDED,
    EncoderOptions,
    Fused,
    InputPath,
    ModelRef,
    Reranker,
    beside,
)
from ragkit.data.files import (
    read_examples,
    read_json,
    write_examples,
    write_json,
    write_jsonl,
    write_passages,
)
from ragkit.data.schema import Example, Passage
from ragkit.models import reranker
from ragkit.models.encoder import Encoder
from ragkit.retrieval.bm25 import Bm25Searcher
from ragkit.retrieval.index import VectorIndex, check_index, kept_index
from ragkit.retrieval.negatives import POSITIVE, KnownQueries, Mined, Rules, mine
from ragkit.retrieval.reranking import Rescorer
from ragkit.retrieval.searchers import FusedSearcher, Searcher, query_text
from ragkit.runs import Run
from ragkit.stages.sources import ExampleSource, bad_lines, read_sources


class Rescoring(Reranker):
    """A cross-encoder that has the last word on candidates."""

    margin: float | None = Field(
        3.0, description="logits that a negative must be below the lowest positive; null: no rule"
    )


class Config(ExampleSource):
    """Configuration of `mine-negatives`."""

    dev: InputPath | None = Field(
        None, description="copied beside the examples, for training; unset: dev.jsonl beside"
    )
    model: ModelRef = Field(EMBEDDED, description="encoder of the first stage and of max_share")
    encoder: EncoderOptions = EncoderOptions()
    index: InputPath | None = Field(
        None, description="the corpus's index by this model; unset: encode into the run's index/"
    )
    first_stage: Literal["dense", "bm25", "fused"] = Field(
        "fused", description="who ranks candidates"
    )
    depth: int = Field(50, gt=0, description="candidates a question")
    skip_top: int = Field(
        0, ge=0, description="first candidates that are left out, positives not counted"
    )
    n: int = Field(16, gt=0, description="negatives a question, to draw from in training")
    max_share: float | None = Field(
        0.95, gt=0, description="drop candidates nearer than this share of the positive's cosine"
    )
    same_answer: bool = Field(
        True, description="drop candidates that contain the reference answer, if it is specific"
    )
    reranker: Rescoring | None = Field(
        None, description="a cross-encoder drops candidates, and leaves `scores` for distillation"
    )
    pick: Literal["rank", "sample"] = Field("rank", description="the highest, or drawn at random")

    @model_validator(mode="after")
    def _find_dev(self, info: ValidationInfo) -> Self:
        if self.dev is None:
            object.__setattr__(self, "dev", beside(self.examples, "dev.jsonl", info.context))
        return self

    @model_validator(mode="after")
    def _check_depth(self) -> Self:
        if self.depth <= self.skip_top:
            raise ValueError(f"skip_top: {self.skip_top} leaves nothing of depth: {self.depth}")
        if self.index is not None and not self.needs_vectors:
            raise ValueError("index: nothing reads it (first_stage: bm25, and max_share is null)")
        return self

    @property
    def needs_vectors(self) -> bool:
        """Whether anything compares vectors."""
        return self.first_stage != "bm25" or self.max_share is not None

    @property
    def rules(self) -> Rules:
        """What makes a candidate a negative."""
        return Rules(
            n=self.n,
            depth=self.depth,
            skip_top=self.skip_top,
            max_share=self.max_share,
            same_answer=self.same_answer,
            margin=self.reranker.margin if self.reranker else None,
            pick=self.pick,
            seed=self.seed,
        )


def run(config: Config, run: Run) -> None:
    """Rank, drop likely answers, keep the rest; write train.jsonl, dropped.jsonl, mining.json."""
    examples, corpus = read_sources(config, run)
    dev = read_examples(config.dev, corpus, bad_lines(config, run)) if config.dev else []
    rescore = None
    if config.reranker:
        cross = reranker.Reranker.load(config.reranker)
        rescore = Rescorer(cross, corpus, run / "journal.jsonl")
    dense = None
    if config.needs_vectors:
        with run.timed("encoding"):
            dense = _dense(config, examples, corpus, run)
    with run.timed("mining"):
        mined = mine(
            examples,
            corpus,
            _first_stage(config, corpus, dense).search,
            config.rules,
            cosine=dense.cosine if dense else None,
            rescore=rescore,
        )
    write_examples(run / "train.jsonl", mined.examples)
    write_jsonl(run / "dropped.jsonl", _dropped(mined))
    # copied, so that training works on the new examples alone
    write_passages(run / "corpus.jsonl", corpus.values())
    if dev:
        write_examples(run / "dev.jsonl", dev)
    write_json(run / "mining.json", _report(mined))


def show(path: Path) -> RenderableType:
    """Say how many negatives were found, what was dropped, and why some have too few."""
    report = read_json(path / "mining.json")
    lines = [
        f"{report['negatives']:,} negatives for {report['examples']:,} examples in "
        f"{path / 'train.jsonl'}",
        f"dropped candidates: {_counts(report['dropped_candidates'])} (see dropped.jsonl)",
        f"{report['examples_with_too_few']:,} examples have fewer than asked; none was dropped",
    ]
    if report["too_few_because"]:
        lines.append(f"what cost these the most: {_counts(report['too_few_because'])}")
    if without := report["examples_without_positives"]:
        lines.append(f"{without:,} examples have no positive, and stay without negatives")
    return "\n".join(lines)


def _counts(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in reasons.items()) or "none"


def _dense(
    config: Config, examples: list[Example], corpus: Mapping[str, Passage], run: Run
) -> KnownQueries:
    """Return dense search for the examples' questions, by vectors that are at hand or made now."""
    encoder = Encoder.load(config.model, config.encoder)
    if config.index is None:
        index = kept_index(encoder, corpus, config.model, config.encoder, run / "index")
    else:
        index = VectorIndex.load(config.index)
        check_index(index, corpus, encoder)
    queries = [query_text(e) for e in examples if e.positive_ids]
    return KnownQueries(encoder, index, queries, config.encoder)


def _first_stage(
    config: Config, corpus: Mapping[str, Passage], dense: KnownQueries | None
) -> Searcher:
    if config.first_stage == "bm25" or dense is None:
        return Bm25Searcher(corpus)
    if config.first_stage == "dense":
        return dense
    return FusedSearcher(dense, Bm25Searcher(corpus), Fused(type="fused"))


def _dropped(mined: Mined) -> Iterator[dict[str, Any]]:
    """Yield the candidates that were dropped, to be read by a person; positives need no reading."""
    for example, reasons in zip(mined.examples, mined.dropped, strict=True):
        told = {reason: ids for reason, ids in reasons.items() if reason != POSITIVE}
        if told:
            yield {"id": example.id, "question": example.question, "dropped": told}


def _report(mined: Mined) -> dict[str, Any]:
    of = {e.id: len(e.negative_ids) for e in mined.examples}
    return {
        "examples": len(mined.examples),
        "examples_without_positives": sum(not e.positive_ids for e in mined.examples),
        "negatives": sum(of.values()),
        "dropped_candidates": mined.totals,
        "examples_with_too_few": len(mined.too_few),
        "too_few_because": mined.causes,
        "too_few": [
            {"id": i, "negatives": of[i], "lost": reasons} for i, reasons in mined.too_few.items()
        ],
    }
