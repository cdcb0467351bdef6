"""Generation by encoder-decoders that read several texts apart (fusion-in-decoder).

How they read is `ragkit.models.fused`'s business, what the texts say `ragkit.rag.prompting`'s.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ragkit.config.blocks import LocalModel
from ragkit.errors import ModelError
from ragkit.models import products
from ragkit.models.fused import Texts, encoder_of, fused, name_of, pack, plain_model
from ragkit.models.generator import Generated, Generator


@dataclass
class FusedGenerator:
    """An encoder-decoder with its tokenizer, ready to answer from texts that it reads apart.

    It may be in training: how it is set, it is set again after each call.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: LocalModel

    @classmethod
    def load(cls, config: LocalModel) -> "FusedGenerator":
        """Load an encoder-decoder.

        Raises:
            ModelError: no such model, or one without an encoder.
        """
        loaded = Generator.load(config)
        encoder_of(loaded.model)
        return cls(loaded.model, loaded.tokenizer, config)

    def generate(self, prompts: Sequence[Texts]) -> list[Generated]:
        """Generate a text for each prompt; prompts of like length together.

        A sampled text depends on the prompt and the seed, not on what else is in the batch.

        prompts: the tokens of the texts that each is answered from
        """
        outputs: dict[int, Generated] = {}
        sizes = [sum(map(len, texts)) for texts in prompts]
        order = sorted(range(len(prompts)), key=lambda i: sizes[i])
        with _at_rest(self.model), fused(self.model), torch.no_grad():
            for first in range(0, len(order), self.config.batch_size):
                batch = order[first : first + self.config.batch_size]
                tokens = self._generate([prompts[i] for i in batch])
                for i, row in zip(batch, tokens, strict=True):
                    text = self.tokenizer.decode(row, skip_special_tokens=True)
                    cut = _before(str(text), self.config.stop).strip()
                    outputs[i] = Generated(cut, tuple(row), sizes[i])
        return [outputs[i] for i in range(len(prompts))]

    def _generate(self, prompts: list[Texts]) -> list[list[int]]:
        """Return the tokens of each answer, one of end included where it came to one."""
        device = self.model.device
        packed = {name: t.to(device) for name, t in pack(prompts).items()}
        ends = end_tokens(self.model, self.tokenizer)
        padding = pad_token(self.model, self.tokenizer)
        with products.exact(device):
            states = encoder_of(self.model)(**packed)
        output = self.model.generate(  # type: ignore[operator]
            encoder_outputs=states,
            attention_mask=packed["attention_mask"],
            max_new_tokens=self.config.max_new_tokens,
            decoder_start_token_id=start_token(self.model, self.tokenizer),
            eos_token_id=list(ends),
            pad_token_id=padding,
            num_beams=1,
            do_sample=False,
            use_cache=True,
            logits_processor=self._sampling(prompts),
            stop_strings=self.config.stop or None,
            tokenizer=self.tokenizer,
        )
        return [_answer(row, ends, padding) for row in output[:, 1:].tolist()]

    def _sampling(self, prompts: list[Texts]) -> LogitsProcessorList:
        """Return what makes the likeliest token a sampled one; nothing where it is greedy."""
        config, steps = self.config, LogitsProcessorList()
        if not config.temperature:
            return steps
        steps.append(TemperatureLogitsWarper(config.temperature))
        if config.top_k:
            steps.append(TopKLogitsWarper(config.top_k))
        if config.top_p < 1:
            steps.append(TopPLogitsWarper(config.top_p))
        names = (f"{config.seed} {[list(text) for text in texts]}" for texts in prompts)
        seeds = [random.Random(name).getrandbits(63) for name in names]
        steps.append(_Noise(seeds, self.model.device))
        return steps


class _Noise(LogitsProcessor):
    """Gumbel noise on the scores, by which the highest one is a sample of the softmax.

    Each text has a generator of its own.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores, (B, V), with noise."""
        waits = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(waits, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() - waits.log()


def start_token(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that a decoder begins with.

    The one that the model names; else [CLS] of an EncoderDecoderModel, whose decoder was an
    encoder; else, as `generate` has it, that of a beginning.

    Raises:
        ModelError: none of these.
    """
    plain = plain_model(model)
    settings: Any = plain.generation_config
    known = (
        settings.decoder_start_token_id,
        getattr(plain.config, "decoder_start_token_id", None),
        tokenizer.cls_token_id if plain.config.model_type == "encoder-decoder" else None,
        settings.bos_token_id,
    )
    start = next((token for token in known if token is not None), None)
    if start is None:
        raise ModelError(
            f"{name_of(plain)}: it names no token that its decoder begins with: give its "
            "generation_config.json a decoder_start_token_id (T5's is that of padding)"
        )
    return int(start)


def end_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that end an answer: the model's, else the tokenizer's, else [SEP].

    Raises:
        ModelError: none of these.
    """
    plain = plain_model(model)
    settings: Any = plain.generation_config
    named = settings.eos_token_id
    if named is None:
        named = tokenizer.eos_token_id
    if named is None:
        named = tokenizer.sep_token_id
    if named is None:
        raise ModelError(
            f"{name_of(plain)}: neither it nor its tokenizer names a token that ends an answer: "
            "give its generation_config.json an eos_token_id"
        )
    return tuple(named) if isinstance(named, list) else (int(named),)


def pad_token(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that fills the places after an answer, which nobody looks at.

    That of an end where there is none for it.
    """
    token = tokenizer.pad_token_id
    return end_tokens(model, tokenizer)[0] if token is None else int(token)


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """Set a model to evaluate, and each of its modules back to what it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _answer(row: list[int], ends: Sequence[int], padding: int) -> list[int]:
    """Return what was generated, without the padding after its end or after what stopped it."""
    count = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
    while count and row[count - 1] == padding and padding not in ends:
        count -= 1
    return row[:count]


def _before(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first of the texts that end it."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
