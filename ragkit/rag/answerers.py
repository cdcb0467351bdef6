"""Answerers: from questions and their passages to answers, behind one method.

`extractive` takes sentences out of the passages, `hf` generates with a local model, `openai` asks a
server. Finding the passages and judging the answers is others' business.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ragkit.config.answering import (
    Answerer,
    ExtractiveAnswerer,
    FidAnswerer,
    HfAnswerer,
    ReaderAnswerer,
)
from ragkit.data.schema import Example, Passage


@dataclass(frozen=True)
class Answer:
    """What an answerer said.

    abstained: it declined to answer
    passage_ids: the passages that it took its words from or names, where it knows
    latency_ms: of this answer; of its share of a batch
    failed: it is none, though it may have been paid for; not to say that there is none
    """

    text: str
    abstained: bool
    latency_ms: float
    passage_ids: tuple[str, ...] = ()
    usage: Mapping[str, int] | None = None
    failed: bool = False


class Answers(Protocol):
    """Answers questions from passages."""

    def answer(
        self, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
    ) -> Iterator[tuple[int, Answer]]:
        """Yield (position, answer) as answers come; a question that failed is left out."""


@runtime_checkable
class Streams(Protocol):
    """Answers a question piece by piece; an answerer that generates can."""

    def stream(self, example: Example, passages: Sequence[Passage]) -> Iterator[str]:
        """Yield the pieces of an answer as they come, citations included."""


def build_answerer(config: Answerer) -> Answers:
    """Build the answerer that a configuration describes; what it needs is imported here."""
    if isinstance(config, ExtractiveAnswerer):
        from ragkit.rag.extractive import ExtractiveAnswers

        return ExtractiveAnswers(config)
    if isinstance(config, HfAnswerer):
        from ragkit.rag.generated import HfAnswers

        return HfAnswers(config)
    if isinstance(config, FidAnswerer):
        from ragkit.rag.fused import FidAnswers

        return FidAnswers(config)
    if isinstance(config, ReaderAnswerer):
        from ragkit.rag.reading import ReaderAnswers

        return ReaderAnswers(config)
    from ragkit.rag.generated import OpenAIAnswers

    return OpenAIAnswers(config)
