"""Answers that are sentences of the passages; nothing is generated."""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from ragkit.config.answering import ExtractiveAnswerer
from ragkit.data.schema import Example, Passage
from ragkit.models.encoder import Encoder
from ragkit.rag.answerers import Answer
from ragkit.rag.sentences import sentences
from ragkit.retrieval.encode import encode
from ragkit.retrieval.searchers import query_text

_TOGETHER = 32  # questions whose texts are encoded together


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


def _ids(chosen: Sequence[tuple[Passage, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(passage.id for passage, _ in chosen))
