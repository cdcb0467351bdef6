"""Answers by fusion-in-decoder: each passage is read with the question, the answer is from all.

How texts become tokens is `ragkit.rag.prompting`'s business, generation `ragkit.models.fid`'s.
"""

import time
from collections.abc import Iterator, Sequence

from ragkit.config.answering import FidAnswerer, Prompting
from ragkit.data.schema import Example, Passage
from ragkit.errors import ModelError
from ragkit.log import logger
from ragkit.models.cards import CARD, Card, read_card
from ragkit.models.fid import generate_fused
from ragkit.models.fused import encoder_of
from ragkit.models.generator import Generated, Generator
from ragkit.models.resolve import resolve_model
from ragkit.rag.answerers import Answer
from ragkit.rag.generated import USUAL_ANSWER, answer_of
from ragkit.rag.prompting import Prompt, Prompter

_TOGETHER = 32  # questions that are answered before the first answer is given


class FidAnswers:
    """A fusion-in-decoder model, asked as its card says that it was trained."""

    def __init__(self, config: FidAnswerer) -> None:
        """Load a model.

        Raises:
            ModelError: no such model, one without an encoder, or not trained by method fid.
        """
        card = _card(config.model)
        most = card.longest(config.max_new_tokens, USUAL_ANSWER)
        config = config.model_copy(update={"max_new_tokens": most})
        self.generator = Generator.load(config)
        encoder_of(self.generator.model)  # refuses a model without one
        tokenizer, its = self.generator.tokenizer, self.generator.traits
        told = Prompting(**card.prompt)
        self.prompter = Prompter.of(
            tokenizer, its, card.max_length or its.limit, most,
            prompt=told, cite=card.cite, fused=True,
        )  # fmt: skip

    def answer(
        self, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
    ) -> Iterator[tuple[int, Answer]]:
        """Answer each question; one that is too long for the model has failed."""
        for first in range(0, len(examples), _TOGETHER):
            part = slice(first, first + _TOGETHER)
            yield from enumerate(self._answer(examples[part], passages[part]), first)

    def _answer(
        self, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
    ) -> list[Answer]:
        start = time.perf_counter()
        prompts = [self._prompt(e, found) for e, found in zip(examples, passages, strict=True)]
        texts = [p.texts for p in prompts if p is not None]
        outputs = iter(generate_fused(self.generator, texts))
        generated = [None if prompt is None else next(outputs) for prompt in prompts]
        latency_ms = (time.perf_counter() - start) * 1000 / len(examples)
        return [
            self._said(output, found, latency_ms)
            for output, found in zip(generated, passages, strict=True)
        ]

    def _prompt(self, example: Example, passages: Sequence[Passage]) -> Prompt | None:
        prompt = self.prompter.write(example, passages)
        if prompt is None:
            logger.warning(
                "question %s is longer than the %d tokens that the model reads at a time",
                example.id, self.prompter.room,
            )  # fmt: skip
        return prompt

    def _said(
        self, output: Generated | None, passages: Sequence[Passage], latency_ms: float
    ) -> Answer:
        if output is None:
            return Answer("", False, latency_ms, failed=True)
        usage = {"prompt_tokens": output.prompt_tokens, "completion_tokens": output.tokens}
        return answer_of(output.text, passages, self.prompter, latency_ms, usage)


def _card(reference: str) -> Card:
    """Return how a model was trained.

    Raises:
        ModelError: nobody knows, or not by fusion-in-decoder.
    """
    card = read_card(resolve_model(reference))
    if card is None:
        raise ModelError(
            f"{reference}: it has no {CARD}, so what it was told in training is not known: "
            f"`ragkit train-generator EXAMPLES -m {reference} --set method=fid` makes a model of "
            "it that answers by fusion-in-decoder"
        )
    if card.method != "fid":
        raise ModelError(
            f"{reference}: it was trained by method {card.method}, not fid: answer with type: "
            f"{'reader' if card.method == 'reader' else 'hf'}"
        )
    return card
