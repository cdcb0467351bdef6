"""`ragkit mine-negatives`: examples into examples with hard negatives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, model_validator
from rich.console import RenderableType

from ragkit.config.blocks import (
    EMBEDDED,
    Dense,
    EncoderOptions,
    Fused,
    InputPath,
    ModelRef,
    beside,
)
from ragkit.data.files import (
    read_examples,
    read_json,
    write_examples,
    write_json,
    write_passages,
)
from ragkit.data.schema import Passage
from ragkit.retrieval.bm25 import Bm25Searcher
from ragkit.retrieval.encode import encode
from ragkit.retrieval.negatives import Cosine, mine
from ragkit.retrieval.searchers import DenseSearcher, FusedSearcher, Searcher, query_text
from ragkit.runs import Run
from ragkit.stages.sources import ExampleSource, read_sources


class Config(ExampleSource):
    """Configuration of `mine-negatives`."""

    dev: InputPath | None = Field(
        None, description="copied beside the examples, for training; unset: dev.jsonl beside"
    )
    model: ModelRef = Field(EMBEDDED, description="encoder of the first stage and of max_share")
    encoder: EncoderOptions = EncoderOptions()
    first_stage: Literal["dense", "bm25", "fused"] = Field(
        "fused", description="who ranks candidates"
    )
    depth: int = Field(50, gt=0, description="candidates a question")
    n: int = Field(16, gt=0, description="negatives a question, to draw from in training")
    max_share: float | None = Field(
        0.95, gt=0, description="drop candidates nearer than this share of the positive's cosine"
    )
    pick: Literal["rank", "sample"] = Field("rank", description="the highest, or drawn at random")

    @model_validator(mode="after")
    def _find_dev(self, info: ValidationInfo) -> Self:
        if self.dev is None:
            object.__setattr__(self, "dev", beside(self.examples, "dev.jsonl", info.context))
        return self


def run(config: Config, run: Run) -> None:
    """Rank, drop likely answers, keep the rest; write train.jsonl and mining.json."""
    examples, corpus = read_sources(config, run)
    queries = [query_text(e) for e in examples]
    with run.timed("ranking"):
        dense = None
        if config.first_stage != "bm25" or config.max_share is not None:
            settings = Dense(type="dense", model=config.model, encoder=config.encoder)
            dense = DenseSearcher(corpus, settings)
        rankings = _first_stage(config, corpus, dense).search(queries, config.depth)
    cosine = _cosine(dense, queries, config) if dense and config.max_share is not None else None
    mined = mine(
        examples,
        corpus,
        rankings,
        cosine,
        n=config.n,
        max_share=config.max_share or 1.0,
        pick=config.pick,
        seed=config.seed,
    )
    write_examples(run / "train.jsonl", mined.examples)
    _copy_neighbours(config, corpus, run)
    report = {
        "examples": len(examples),
        "negatives": sum(len(e.negative_ids) for e in mined.examples),
        "dropped_candidates": mined.dropped,
        "examples_with_too_few": len(mined.too_few),
        "too_few": mined.too_few[:100],
    }
    write_json(run / "mining.json", report)


def show(path: Path) -> RenderableType:
    """Say how many negatives were found and what was dropped."""
    report = read_json(path / "mining.json")
    dropped = ", ".join(f"{n:,} {reason}" for reason, n in report["dropped_candidates"].items())
    return (
        f"{report['negatives']:,} negatives for {report['examples']:,} examples in "
        f"{path / 'train.jsonl'}\ndropped candidates: {dropped or 'none'}\n"
        f"{report['examples_with_too_few']:,} examples have fewer than asked; none was dropped"
    )


def _first_stage(
    config: Config, corpus: Mapping[str, Passage], dense: DenseSearcher | None
) -> Searcher:
    if config.first_stage == "bm25" or dense is None:
        return Bm25Searcher(corpus)
    if config.first_stage == "dense":
        return dense
    return FusedSearcher(dense, Bm25Searcher(corpus), Fused(type="fused"))


def _cosine(dense: DenseSearcher, queries: Sequence[str], config: Config) -> Cosine:
    """Return the cosines of a query with passages, under the mining encoder."""
    asked = _unit(encode(dense.encoder, queries, "query", config.encoder))
    passages = _unit(dense.index.vectors)
    row = {passage_id: i for i, passage_id in enumerate(dense.index.ids)}

    def cosine(query: int, passage_ids: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(passages[[row[p] for p in passage_ids]] @ asked[query])

    return cosine


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def _copy_neighbours(config: Config, corpus: Mapping[str, Passage], run: Run) -> None:
    """Copy corpus and dev examples, so that training works on the new examples alone."""
    write_passages(run / "corpus.jsonl", corpus.values())
    if config.dev is not None:
        write_examples(run / "dev.jsonl", read_examples(config.dev, corpus))
