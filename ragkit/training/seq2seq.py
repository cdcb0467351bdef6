"""What an encoder-decoder learns: the answer, from one text or from several that it reads apart.

How the texts are read is `ragkit.models.fused`'s business, which are learned from, in what steps
and with which weights that of others.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ragkit.models import products
from ragkit.models.fused import fused, pack, plain_model
from ragkit.models.pretrained import traits
from ragkit.training.items import Item

_NO_TARGET = -100


@contextmanager
def seq2seq(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Iterator["Seq2SeqObjective"]:
    """Give the objective by which an encoder-decoder is trained until the context ends.

    Inside, the model reads what the objective collates, and nothing else. Where it does not name
    the tokens that an answer begins with, ends with and is padded with, it does from here on, so
    that whoever loads what is saved generates as it was trained.

    Raises:
        ModelError: a model without an encoder, or without a token to begin or to end with.
    """
    with fused(model):
        plain, its = plain_model(model), traits(model, tokenizer)
        assert its.start is not None  # it has an encoder
        settings: Any = plain.generation_config
        named = {"decoder_start_token_id": its.start, "pad_token_id": its.padding}
        for name, token in {**named, "eos_token_id": its.end}.items():
            if getattr(settings, name) is None:
                setattr(settings, name, token)
        if getattr(plain.config, "decoder_start_token_id", None) is None:
            plain.config.decoder_start_token_id = its.start
        yield Seq2SeqObjective(its.start, its.padding)


@dataclass(frozen=True)
class Seq2SeqObjective:
    """Cross-entropy of the answers' tokens; of a model in the context of `seq2seq`.

    start: what a decoder begins with
    padding: what fills the decoder's input where it is not looked at
    """

    start: int
    padding: int

    def collate(self, items: Sequence[Item]) -> dict[str, Any]:
        """Return a batch of B examples, A tokens in the longest answer.

        Returns: input_ids, attention_mask: what `pack` returns; decoder_input_ids, (B, A);
            labels, (B, A): the answers, -100 after each; example_ids, B of them
        """
        answers = [torch.tensor(item.answer) for item in items]
        labels = pad_sequence(answers, batch_first=True, padding_value=_NO_TARGET)
        inputs = labels.roll(1, dims=1).masked_fill(labels.roll(1, dims=1) < 0, self.padding)
        inputs[:, 0] = self.start
        return {
            **pack([item.texts for item in items]),
            "decoder_input_ids": inputs,
            "labels": labels,
            "example_ids": [item.example_id for item in items],
        }

    @staticmethod
    def lengths_of(given: Mapping[str, Any]) -> list[int]:
        """Return the lengths of the texts in one row that a model is called with."""
        return list(given["input_ids"][1].bincount().tolist())

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Return the sum of -log p(token | texts, tokens before it) over all answers, in fp32."""
        labels: Tensor = batch["labels"]
        with _products(model, labels.device):
            logits = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                decoder_input_ids=batch["decoder_input_ids"],
                use_cache=False,
            ).logits
        return nn.functional.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=_NO_TARGET,
            reduction="sum",
        )


def _products(model: nn.Module, device: torch.device) -> AbstractContextManager[Any]:
    """Return the region that multiplies by the quickest kernels.

    Activations that are computed twice are computed outside of it the second time, by other
    kernels, and torch refuses what these leave behind.
    """
    twice = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    return nullcontext() if twice else products.exact(device)
