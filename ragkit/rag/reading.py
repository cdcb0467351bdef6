"""Answers by a span reader: the best span of all passages of a question, or that there is none.

All passages are on one scale (Clark and Gardner, 2018): the best of their spans is compared with
the best of their scores of no answer. What a model makes of one passage is
`ragkit.models.reader`'s business.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ragkit.config.answering import ReaderAnswerer
from ragkit.data.schema import Example, Passage
from ragkit.log import logger
from ragkit.models import products
from ragkit.models.cards import Card, read_card
from ragkit.models.devices import pick_device, side_by_side, use_bf16
from ragkit.models.reader import Pair, Span, SpanReader
from ragkit.models.reranker import TOKENS_PER_BATCH
from ragkit.models.resolve import resolve_model
from ragkit.retrieval.encode import batches
from ragkit.retrieval.searchers import query_text

if TYPE_CHECKING:
    from ragkit.rag.answerers import Answer

USUAL_ANSWER = 40  # tokens
_TOGETHER = 32  # questions whose passages are read together


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader found in the passages of a question.

    text: the best span, exactly as it stands there
    margin: its score above that of no answer
    """

    text: str
    passage_id: str
    margin: float


class ReaderAnswers:
    """The words of a passage that answer; abstains where no answer scores higher."""

    def __init__(self, config: ReaderAnswerer) -> None:
        """Load the reader; what the configuration leaves open, its card says."""
        card = read_card(resolve_model(config.model))
        chosen = card.no_answer_margin if card else None
        margins = (config.no_answer_margin, chosen, 0.0)
        self.margin = next(m for m in margins if m is not None)
        most = (card or Card("reader")).longest(config.max_answer_tokens, USUAL_ANSWER)
        self.config = config.model_copy(update={"max_answer_tokens": most})
        self.reader = SpanReader.load(config.model, card.max_length if card else None)
        self.reader.model.to(pick_device(config.device))  # type: ignore[arg-type]

    def answer(
        self, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
    ) -> Iterator[tuple[int, "Answer"]]:
        """Answer each question; without passages, or below the margin, abstain."""
        from ragkit.rag.answerers import Answer

        cut = 0
        for first in range(0, len(examples), _TOGETHER):
            start = time.perf_counter()
            part = slice(first, first + _TOGETHER)
            asked = pairs(self.reader, examples[part], passages[part])
            cut += sum(pair.is_cut for each in asked for pair in each)
            found = read(self.reader, asked, passages[part], self.config)
            latency_ms = (time.perf_counter() - start) * 1000 / len(found)
            for i, reading in enumerate(found, first):
                if reading is None or reading.margin < self.margin:
                    yield i, Answer("", True, latency_ms)
                else:
                    yield i, Answer(reading.text, False, latency_ms, (reading.passage_id,))
        if cut:
            logger.info("%d passages were longer than the reader's %d tokens, question included; "
                        "their ends are not read", cut, self.reader.max_length)  # fmt: skip


def pairs(
    reader: SpanReader, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
) -> list[list[Pair]]:
    """Return the tokens of each question with each of its passages.

    None of a question that leaves passages no room, which is said in the log.
    """
    asked = []
    for example, given in zip(examples, passages, strict=True):
        asked.append(reader.pairs(query_text(example), given))
        if given and not asked[-1]:
            logger.warning(
                "%s: its question has more than the reader's %d tokens, and is not answered",
                example.id, reader.max_length,
            )  # fmt: skip
    return asked


def read(
    reader: SpanReader,
    asked: Sequence[Sequence[Pair]],
    passages: Sequence[Sequence[Passage]],
    options: ReaderAnswerer,
) -> list[Reading | None]:
    """Return the best span for each question; None where there is nothing to read.

    reader: on its device, in evaluation mode
    asked: as `pairs` makes them, of the same passages
    """
    found = iter(_spans(reader, [pair for each in asked for pair in each], options))
    return [
        _best(given, [next(found) for _ in each])
        for given, each in zip(passages, asked, strict=True)
    ]


def _spans(reader: SpanReader, flat: Sequence[Pair], options: ReaderAnswerer) -> list[Span | None]:
    """Return the best span of each pair; pairs of like length share a batch."""
    device = reader.device
    region = products.bf16(device) if use_bf16(options.precision, device) else nullcontext

    def run(batch: Sequence[int]) -> list[Span | None]:
        with torch.inference_mode(), region():
            return reader.best_spans(
                [flat[i] for i in batch], options.max_answer_tokens or USUAL_ANSWER
            )

    budget = options.tokens_per_batch or TOKENS_PER_BATCH[device.type]
    plan = list(batches([pair.ids for pair in flat], budget))
    spans: list[Span | None] = [None] * len(flat)
    for batch, found in zip(plan, side_by_side(run, plan, device), strict=True):
        for i, span in zip(batch, found, strict=True):
            spans[i] = span
    return spans


def _best(passages: Sequence[Passage], spans: Sequence[Span | None]) -> Reading | None:
    """Return the best of the spans of some passages; of equals the first."""
    scored = [(p, s) for p, s in zip(passages, spans, strict=bool(spans)) if s is not None]
    if not scored:
        return None
    passage, span = max(scored, key=lambda pair: pair[1].score)
    no_answer = max(s.no_answer for _, s in scored)
    text = passage.text[span.start : span.end].strip()
    return Reading(text, passage.id, span.score - no_answer)
