"""Local models that answer chats in batches: by transformers, and by vLLM's own engine.

Both have the method of `ragkit.models.endpoint.Client` that question generation needs, `batches`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ragkit.config.blocks import LocalModel
from ragkit.config.teaching import VllmTeacher
from ragkit.errors import MissingExtraError
from ragkit.models.chats import Allowance, Chat, Keep, Replies, Reply, Schema
from ragkit.models.generator import Generator
from ragkit.models.resolve import resolve_model

_BATCHES = 4  # of transformers, sorted by length together
_VLLM_BLOCK = 2048  # chats that vLLM schedules together


class HfModel:
    """A transformers model; chats of like length share a batch."""

    def __init__(
        self, config: LocalModel, plain: Callable[[Sequence[Mapping[str, Any]]], str]
    ) -> None:
        """Load the model; `plain` renders chats where its tokenizer has no chat template."""
        self.config, self.plain = config, plain
        self.generator = Generator.load(config)

    def batches(
        self,
        chats: Iterable[Chat],
        schema: Schema | None = None,  # noqa: ARG002  (nothing here holds a model to one)
        allowance: Allowance | None = None,
        keep: Keep | None = None,
    ) -> Iterator[Replies]:
        """Yield (position, reply), a few batches at a time."""

        def answer(block: list[Chat]) -> list[Reply]:
            start = time.perf_counter()
            prompts = [self.generator.render(chat, self.plain) for chat in block]
            outputs = self.generator.generate(prompts)
            seconds = (time.perf_counter() - start) / len(block)
            return [
                Reply(
                    o.text,
                    seconds,
                    {"prompt_tokens": o.prompt_tokens, "completion_tokens": o.tokens},
                )
                for o in outputs
            ]

        yield from _in_blocks(chats, _BATCHES * self.config.batch_size, allowance, keep, answer)


class VllmModel:
    """A model in vLLM's engine, which schedules the requests itself."""

    def __init__(self, config: VllmTeacher) -> None:
        """Start the engine.

        Raises:
            MissingExtraError: vLLM is not installed.
        """
        try:
            import vllm
            from vllm.sampling_params import StructuredOutputsParams
        except ImportError as error:
            raise MissingExtraError("vllm", "vllm", "a teacher of type vllm") from error
        self.config, self.vllm, self.structured = config, vllm, StructuredOutputsParams
        self.engine = vllm.LLM(
            model=str(resolve_model(config.model)), seed=config.seed, **config.engine
        )

    def batches(
        self,
        chats: Iterable[Chat],
        schema: Schema | None = None,
        allowance: Allowance | None = None,
        keep: Keep | None = None,
    ) -> Iterator[Replies]:
        """Yield (position, reply), some thousands at a time."""
        held = schema if self.config.structured else None
        parameters = self.vllm.SamplingParams(
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
            seed=self.config.seed,
            structured_outputs=self.structured(json=dict(held)) if held else None,
        )

        def answer(block: list[Chat]) -> list[Reply]:
            start = time.perf_counter()
            outputs = self.engine.chat([list(c) for c in block], parameters, use_tqdm=False)
            seconds = (time.perf_counter() - start) / len(block)
            return [_of_vllm(output, seconds) for output in outputs]

        yield from _in_blocks(chats, _VLLM_BLOCK, allowance, keep, answer)


def _of_vllm(output: Any, seconds: float) -> Reply:
    best = output.outputs[0]
    usage = {
        "prompt_tokens": len(output.prompt_token_ids),
        "completion_tokens": len(best.token_ids),
    }
    return Reply(best.text, seconds, usage)


def _in_blocks(
    chats: Iterable[Chat],
    size: int,
    allowance: Allowance | None,
    keep: Keep | None,
    answer: Callable[[list[Chat]], list[Reply]],
) -> Iterator[Replies]:
    position = 0
    for block in _blocks(chats, size, allowance):
        replies = answer(block)
        if allowance:
            for chat, reply in zip(block, replies, strict=True):
                allowance.settle(chat, reply)
        numbered = list(enumerate(replies, position))
        if keep:
            keep(numbered)
        yield numbered
        position += len(block)


def _blocks(chats: Iterable[Chat], size: int, allowance: Allowance | None) -> Iterator[list[Chat]]:
    """Cut chats into blocks; one ends early where the next chat must wait until it is settled."""
    block: list[Chat] = []
    for chat in chats:
        admitted = allowance.admit(chat) if allowance else True
        if admitted is None and allowance:
            yield block
            block, admitted = [], allowance.admit(chat)
        if not admitted:
            break
        block.append(chat)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
