"""`ragkit search`: the passages for one question, or a TREC run for a file of examples."""

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationInfo, model_validator
from rich.console import Group, RenderableType
from rich.text import Text

from ragkit.config.blocks import Dense, InputPath, ReadingConfig, Retriever, beside, is_pending
from ragkit.data.files import (
    read_corpus,
    read_examples,
    read_jsonl,
    write_jsonl,
    write_trec_run,
)
from ragkit.data.schema import Example
from ragkit.retrieval.searchers import build_searcher, needs_dev, query_text
from ragkit.runs import Run
from ragkit.stages.sources import bad_lines


class Config(ReadingConfig):
    """Configuration of `search`."""

    query: str = Field(min_length=1, description="a question, or a JSONL of examples")
    examples: InputPath | None = Field(None, description="set by query, where that is a file")
    corpus: InputPath | None = Field(
        None, description="JSONL of passages; unset: corpus.jsonl beside the examples"
    )
    retriever: Retriever = Field(Dense(type="dense"), description="the system that searches")
    top_k: int = Field(10, gt=0, description="passages a question")

    @property
    def file(self) -> Path | None:
        """The examples, where the query is a file."""
        return Path(self.query) if self.query.endswith(".jsonl") else None

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if self.file is not None:
            if not self.file.exists() and not is_pending(self.file, info.context):
                raise ValueError(f"query: {self.query}: no such file")
            object.__setattr__(self, "examples", self.file)  # so that its content is hashed
        if self.corpus is None:
            found = beside(self.file, "corpus.jsonl", info.context) if self.file else None
            if found is None:
                raise ValueError("corpus: missing; which passages are to be searched? (--corpus)")
            object.__setattr__(self, "corpus", found)
        if needs_dev(self.retriever):
            raise ValueError(
                "retriever.weight: auto is chosen on dev examples, which search has not; give a "
                "number (eval-retriever's metrics.json has the one it chose)"
            )
        return self


def run(config: Config, run: Run) -> None:
    """Search; write results.jsonl and run.trec."""
    assert config.corpus is not None
    corpus = read_corpus(config.corpus, bad_lines(config, run))
    examples = [Example("query", config.query)]
    if config.file:
        examples = read_examples(config.file, skip_bad=bad_lines(config, run))
    searcher = build_searcher(config.retriever, corpus)
    with run.timed("searching"):
        found = searcher.search([query_text(e) for e in examples], config.top_k)
    write_trec_run(run / "run.trec", dict(zip((e.id for e in examples), found, strict=True)))
    write_jsonl(
        run / "results.jsonl",
        (
            {
                "id": example.id,
                "question": example.question,
                "passages": [
                    {"id": p, "score": s, "title": corpus[p].title, "text": corpus[p].text}
                    for p, s in ranking.items()
                ],
            }
            for example, ranking in zip(examples, found, strict=True)
        ),
    )


def show(path: Path) -> RenderableType:
    """Print the passages of one question; of many, where they are."""
    results = read_jsonl(path / "results.jsonl")
    if len(results) > 1:
        return f"{len(results):,} questions searched; results.jsonl and run.trec are in {path}"
    parts: list[RenderableType] = []
    for rank, passage in enumerate(results[0]["passages"], start=1):
        heading = f"{rank}. {passage['title'] or passage['id']}  {passage['score']:.4f}  "
        parts.append(Text(heading, style="bold").append(f"[{passage['id']}]", style="dim"))
        parts.append(Text("   " + " ".join(passage["text"].split())[:300] + "\n"))
    return Group(*parts) if parts else "nothing found: no passage shares a word with the question"
