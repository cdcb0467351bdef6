"""Answerers: from questions and their passages to answers, behind one method.

`extractive` takes sentences out of the passages, `hf` generates with a local model, `openai` asks a
server. Finding the passages and judging the answers is others' business.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ragkit.config.answering import Answerer, ExtractiveAnswerer, HfAnswerer, OpenAIAnswerer
from ragkit.data.schema import Example, Passage
from ragkit.models.encoder import Encoder
from ragkit.models.endpoint import Client
from ragkit.models.generator import Generator
from ragkit.rag.prompts import is_refusal, messages, plain_text, without_citations
from ragkit.rag.sentences import sentences
from ragkit.retrieval.encode import encode
from ragkit.retrieval.searchers import query_text

_TOGETHER = 32  # questions whose texts are encoded or generated together


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


class ExtractiveAnswers:
    """The sentences nearest to the question under an encoder, in the order of the passages."""

    def __init__(self, config: ExtractiveAnswerer) -> None:
        self.config = config
        self.encoder = Encoder.load(config.model, config.encoder)

    def answer(
        self, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
    ) -> Iterator[tuple[int, Answer]]:
        """Answer each question; without passages, or below `min_score`, abstain."""
        for start in range(0, len(examples), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            yield from enumerate(self._answer(examples[part], passages[part]), start)

    def _answer(
        self, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
    ) -> list[Answer]:
        start = time.perf_counter()
        candidates = [[(p, s) for p in found for s in sentences(p.text)] for found in passages]
        # a sentence is read with its title, as the passage was when it was found
        texts = [f"{p.title}\n{s}" if p.title else s for pairs in candidates for p, s in pairs]
        vectors = encode(self.encoder, texts, "passage", self.config.encoder)
        asked = encode(
            self.encoder, [query_text(e) for e in examples], "query", self.config.encoder
        )
        ends = np.cumsum([len(pairs) for pairs in candidates])
        picked = [
            self._pick(pairs, vectors[end - len(pairs) : end] @ query)
            for pairs, end, query in zip(candidates, ends, asked, strict=True)
        ]
        latency_ms = (time.perf_counter() - start) * 1000 / max(len(examples), 1)
        return [
            Answer(" ".join(s for _, s in chosen), not chosen, latency_ms, _ids(chosen))
            for chosen in picked
        ]

    def _pick(
        self, pairs: list[tuple[Passage, str]], scores: np.ndarray
    ) -> list[tuple[Passage, str]]:
        lowest = self.config.min_score  # 0: never abstain, whatever the sign of the similarities
        if not pairs or (lowest and scores.max() < lowest):
            return []
        best = np.argsort(-scores, kind="stable")[: self.config.n_sentences]
        return [pairs[i] for i in sorted(best)]


class HfAnswers:
    """A local generator over the prompt of `ragkit.rag.prompts`."""

    def __init__(self, config: HfAnswerer) -> None:
        self.config = config
        self.generator = Generator.load(config)

    def answer(
        self, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
    ) -> Iterator[tuple[int, Answer]]:
        """Generate an answer for each question."""
        cite = bool(self.config.cite)
        chats = _chats(examples, passages, cite)
        prompts = [self.generator.render(chat, plain_text) for chat in chats]
        for first in range(0, len(prompts), _TOGETHER):
            start = time.perf_counter()
            outputs = self.generator.generate(prompts[first : first + _TOGETHER])
            latency_ms = (time.perf_counter() - start) * 1000 / len(outputs)
            for i, output in enumerate(outputs, first):
                usage = {
                    "prompt_tokens": output.prompt_tokens, "completion_tokens": output.tokens,
                }  # fmt: skip
                yield i, _generated(output.text, passages[i], cite, latency_ms, usage)


class OpenAIAnswers:
    """A model behind an OpenAI-compatible server."""

    def __init__(self, config: OpenAIAnswerer) -> None:
        self.config, self.client = config, Client(config)

    def answer(
        self, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
    ) -> Iterator[tuple[int, Answer]]:
        """Ask for each question, `concurrency` at a time."""
        cite = self.config.cite
        for i, reply in self.client.ask_all(_chats(examples, passages, cite)):
            latency_ms = reply.seconds * 1000
            if reply.text:
                yield i, _generated(reply.text, passages[i], cite, latency_ms, reply.usage)
            else:
                yield i, Answer("", False, latency_ms, usage=reply.usage, failed=True)


def build_answerer(config: Answerer) -> Answers:
    """Build the answerer that a configuration describes."""
    if isinstance(config, ExtractiveAnswerer):
        return ExtractiveAnswers(config)
    if isinstance(config, HfAnswerer):
        return HfAnswers(config)
    assert isinstance(config, OpenAIAnswerer)
    return OpenAIAnswers(config)


def _chats(
    examples: Sequence[Example], passages: Sequence[Sequence[Passage]], cite: bool
) -> list[list[dict[str, str]]]:
    return [messages(e, found, cite) for e, found in zip(examples, passages, strict=True)]


def _generated(
    text: str, passages: Sequence[Passage], cite: bool, latency_ms: float, usage: Mapping[str, int]
) -> Answer:
    said, cited = without_citations(text, passages) if cite else (text, ())
    return Answer(said, is_refusal(said), latency_ms, cited, usage)


def _ids(chosen: Sequence[tuple[Passage, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(passage.id for passage, _ in chosen))
