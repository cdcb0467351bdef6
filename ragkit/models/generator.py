"""Generators: local causal and encoder-decoder models, from prompts to texts.

What a prompt says is `ragkit.rag.prompts`'s business.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ragkit.config.blocks import LocalModel
from ragkit.errors import ModelError
from ragkit.log import logger
from ragkit.models.devices import pick_device, use_bf16
from ragkit.models.resolve import resolve_model

_NO_LIMIT = 1_000_000  # tokenizers without a limit say 1e30


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated text, and how many tokens it and its prompt took."""

    text: str
    tokens: int
    prompt_tokens: int = 0


@dataclass
class Generator:
    """A language model with its tokenizer, ready to generate."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: LocalModel

    @classmethod
    def load(cls, config: LocalModel) -> "Generator":
        """Load a causal or encoder-decoder model.

        Raises:
            ModelError: no such model, or one that does not generate.
        """
        folder = resolve_model(config.model)
        device = pick_device(config.device)
        options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
        try:
            architecture = AutoConfig.from_pretrained(folder, **options)
            kind = (
                AutoModelForSeq2SeqLM if architecture.is_encoder_decoder else AutoModelForCausalLM
            )
            dtype = torch.bfloat16 if use_bf16(config.precision, device) else torch.float32
            model = kind.from_pretrained(folder, dtype=dtype, **options)
            # a decoder goes on from its last token; a question is worth more than what precedes it
            padding = "right" if architecture.is_encoder_decoder else "left"
            sides = {"padding_side": padding, "truncation_side": "left"}
            tokenizer = AutoTokenizer.from_pretrained(folder, **sides, **options)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"{config.model}: cannot be loaded: {reason}") from error
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.to(device).eval()  # type: ignore[arg-type]
        return cls(model, tokenizer, config)

    def render(
        self,
        chat: Sequence[Mapping[str, str]],
        plain: Callable[[Sequence[Mapping[str, Any]]], str],
    ) -> str:
        """Return the prompt: by the tokenizer's chat template where it has one, else by `plain`."""
        if not self.tokenizer.chat_template:
            return plain(chat)
        return str(
            self.tokenizer.apply_chat_template(
                [dict(m) for m in chat], tokenize=False, add_generation_prompt=True
            )
        )

    def generate(self, prompts: Sequence[str]) -> list[Generated]:
        """Generate a text for each prompt, prompts of like length together.

        A prompt that leaves no room for the answer loses its beginning, which is said in the log.
        """
        if not prompts:
            return []
        decoder = not self.model.config.is_encoder_decoder
        room = self._limit() - (self.config.max_new_tokens if decoder else 0)
        if room <= 0:
            raise ModelError(
                f"max_new_tokens: {self.config.max_new_tokens} leaves no room for a prompt in the "
                f"{self._limit()} tokens of {self.config.model}"
            )
        special = not self.tokenizer.chat_template  # templates write their own special tokens
        tokens = self.tokenizer(list(prompts), add_special_tokens=special)["input_ids"]
        if cut := sum(len(ids) > room for ids in tokens):
            tokens = self.tokenizer(
                list(prompts), add_special_tokens=special, truncation=True, max_length=room
            )["input_ids"]
            logger.warning("%d of %d prompts are longer than %d tokens and lose their beginning",
                           cut, len(prompts), room)  # fmt: skip
        outputs: list[Generated | None] = [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(tokens[i]))
        for start in range(0, len(order), self.config.batch_size):
            batch = order[start : start + self.config.batch_size]
            generated = self._generate([tokens[i] for i in batch])
            for i, output in zip(batch, generated, strict=True):
                outputs[i] = output
        return [output for output in outputs if output is not None]

    def _generate(self, token_ids: list[list[int]]) -> list[Generated]:
        padded = self.tokenizer.pad({"input_ids": token_ids}, return_tensors="pt")
        padded = padded.to(self.model.device)
        torch.manual_seed(self.config.seed)
        sampling = {"do_sample": True, "temperature": self.config.temperature}
        with torch.inference_mode():
            output = self.model.generate(  # type: ignore[operator]
                **padded,
                max_new_tokens=self.config.max_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                **(sampling if self.config.temperature else {"do_sample": False}),
            )
        if not self.model.config.is_encoder_decoder:
            output = output[:, padded["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(output, skip_special_tokens=True)
        kept = (output != self.tokenizer.pad_token_id).sum(dim=1).tolist()
        return [
            Generated(text.strip(), n, len(ids))
            for text, n, ids in zip(texts, kept, token_ids, strict=True)
        ]

    def _limit(self) -> int:
        positions = getattr(self.model.config, "max_position_embeddings", None) or _NO_LIMIT
        return min(int(positions), min(int(self.tokenizer.model_max_length), _NO_LIMIT))
