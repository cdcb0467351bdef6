"""What several stages take: examples, the corpus beside them, and what is read from both.

A file of examples implies the `corpus.jsonl` beside it, so that commands work on one argument.
"""

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationInfo, model_validator

from ragkit.config.blocks import InputPath, ReadingConfig, beside
from ragkit.data.files import read_corpus, read_examples
from ragkit.data.schema import Example, Passage
from ragkit.log import logger
from ragkit.runs import Run


class ExampleSource(ReadingConfig):
    """Examples with their corpus."""

    examples: InputPath = Field(description="JSONL of examples")
    corpus: InputPath | None = Field(
        None, description="JSONL of passages; unset: corpus.jsonl beside the examples"
    )

    @model_validator(mode="after")
    def _find_corpus(self, info: ValidationInfo) -> Self:
        if self.corpus is None:
            found = beside(self.examples, "corpus.jsonl", info.context)
            if found is None:
                raise ValueError(f"corpus: not given, and no corpus.jsonl beside {self.examples}")
            object.__setattr__(self, "corpus", found)
        return self

    @property
    def corpus_path(self) -> Path:
        """The corpus, given or found."""
        assert self.corpus is not None
        return self.corpus


def bad_lines(config: ReadingConfig, run: Run) -> Path | None:
    """Return the file in which malformed lines are set aside; None: they are an error."""
    return run / "bad-lines.jsonl" if config.skip_bad else None


def read_sources(config: ExampleSource, run: Run) -> tuple[list[Example], dict[str, Passage]]:
    """Read examples and corpus, checked against each other."""
    corpus = read_corpus(config.corpus_path, bad_lines(config, run))
    examples = read_examples(config.examples, corpus, bad_lines(config, run))
    logger.info("%d examples, %d passages", len(examples), len(corpus))
    return examples, corpus


def documents_of(examples: list[Example], corpus: dict[str, Passage]) -> dict[str, str]:
    """Return the source document of each example: its first positive's, else the example itself."""
    return {
        e.id: corpus[e.positive_ids[0]].source if e.positive_ids else f"question {e.id}"
        for e in examples
    }
