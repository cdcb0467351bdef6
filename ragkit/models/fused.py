"""Encoder-decoders that read several texts apart and answer from all: fusion-in-decoder.

Each text goes through the encoder alone; the decoder attends to the states of all texts of its
example (Izacard and Grave, 2021, https://aclanthology.org/2021.eacl-main.74). With one text it is
the plain model. All texts of a batch are read as one row without padding, where the architecture
allows it (T5 and its kin, encoders of BERT's kind); others pad texts of like length to one another.

The model stays what it was, so that whatever calls, saves or wraps a transformers model does so
with this one: `fused` replaces the way its encoder reads, for as long as the context lasts.

Generating is `ragkit.models.fid`'s business, learning `ragkit.training.seq2seq`'s.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ragkit.errors import ModelError
from ragkit.models.packing import IMPLEMENTATION, neighbours, position_offset, positions

Texts = Sequence[Sequence[int]]  # the tokens of each text of an example

# models whose trace of order is a bias on the scores of attention
_BIASED = ("t5", "mt5", "umt5")
# texts that are padded to one another, where there has to be padding, differ by so many tokens
_LIKE = 32


@contextmanager
def fused(model: nn.Module) -> Iterator[None]:
    """Let a model read what `pack` makes, and nothing else, until the context ends.

    Inside, `model(**pack(examples), decoder_input_ids=...)` is fusion-in-decoder. Weights, their
    names and the configuration are left alone: what is saved inside is the plain model. Contexts
    within one another are one. A copy that is made of the model inside stays as it is there.

    model: transformers' own, or one of peft's around it
    Raises:
        ModelError: a model without an encoder of its own.
    """
    encoder = encoder_of(model)
    if getattr(encoder.forward, "__func__", None) is _read:
        yield
        return
    implementation = encoder.config._attn_implementation
    replaced: list[tuple[nn.Module, Callable[..., Any]]] = [(encoder, _read)]
    if _is_packed(encoder):
        encoder.set_attn_implementation(IMPLEMENTATION)
    if encoder.config.model_type in _BIASED:
        replaced += [(m, _attend_packed) for m in encoder.modules() if _has_bias(m)]
    before = [vars(module).get("forward") for module, _ in replaced]
    for module, forward in replaced:
        module.forward = MethodType(forward, module)
    try:
        yield
    finally:
        for (module, _), earlier in zip(replaced, before, strict=True):
            if earlier is None:
                del module.forward
            else:
                module.forward = earlier
        encoder.set_attn_implementation(implementation)


def encoder_of(model: nn.Module) -> PreTrainedModel:
    """Return the encoder of an encoder-decoder.

    Raises:
        ModelError: a model without one.
    """
    plain = plain_model(model)
    encoder = plain.get_encoder() if plain.config.is_encoder_decoder else None
    if not isinstance(encoder, PreTrainedModel):
        raise ModelError(
            f"{name_of(plain)}: {plain.config.model_type} has no encoder of its own: for texts "
            "that are read apart (fid) it takes a model with an encoder and a decoder, such as T5 "
            "or BART; this one can be trained by method: sft or swr, and answers by type: hf"
        )
    return encoder


def plain_model(model: nn.Module) -> PreTrainedModel:
    """Return transformers' own model, without what peft put around it."""
    unwrap: Any = getattr(model, "get_base_model", None)
    return cast(PreTrainedModel, unwrap() if unwrap else model)


def name_of(model: PreTrainedModel) -> str:
    """Return where a model came from, or what it is."""
    return str(model.config.name_or_path or model.config.model_type)


def pack(examples: Sequence[Texts]) -> dict[str, Tensor]:
    """Lay the texts of all examples end to end, as a model in the context of `fused` reads them.

    examples: B of them, each with a text or more, none of them without tokens
    Returns: input_ids, (2, total tokens): the tokens, and the number of the text of each;
        attention_mask, (B, T): 1 for each token of an example, T of them in the longest
    """
    texts = [text for example in examples for text in example]
    assert all(examples) and all(texts), "an example without a text, or a text without tokens"
    tokens = torch.tensor(list(chain.from_iterable(texts)))
    sizes = torch.tensor([len(text) for text in texts])
    totals = torch.tensor([sum(map(len, example)) for example in examples])
    owners = torch.repeat_interleave(torch.arange(len(texts)), sizes)
    mask = torch.arange(int(totals.max())) < totals[:, None]
    return {"input_ids": torch.stack([tokens, owners]), "attention_mask": mask.long()}


def _read(
    encoder: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, **_: Any
) -> BaseModelOutput:
    """Read the texts of all examples, each alone; in place of an encoder's `forward`.

    input_ids, attention_mask: as `pack` returns them
    Returns: the states of each example's tokens, (B, T, D), in an output of the encoder's own kind;
        where the mask is 0 stands what nobody looks at
    """
    tokens, owners = input_ids
    sizes = torch.bincount(owners)
    order = sizes.argsort(stable=True)
    # by length, so that neighbours share a call of attention or a batch
    moved = order.argsort()[owners].argsort(stable=True)
    lengths = sizes[order].tolist()
    read = _packed if _is_packed(encoder) else _padded
    output = read(encoder, tokens[moved], lengths)
    kept = attention_mask.flatten().cumsum(0).clamp(min=1) - 1
    states: Any = output.last_hidden_state
    memory = states[moved.argsort()[kept]].view(*attention_mask.shape, -1)
    return type(output)(last_hidden_state=memory)


def _packed(encoder: PreTrainedModel, tokens: Tensor, lengths: list[int]) -> BaseModelOutput:
    """Run texts through an encoder as one row; return all states, (total tokens, D)."""
    offset = position_offset(encoder.config)
    places = {} if offset is None else {
        "position_ids": positions(lengths, offset)[None].to(tokens.device)
    }  # fmt: skip
    output = type(encoder).forward(
        encoder, input_ids=tokens[None], packed_lengths=lengths, **places
    )
    return BaseModelOutput(last_hidden_state=output.last_hidden_state[0])


def _padded(encoder: PreTrainedModel, tokens: Tensor, lengths: list[int]) -> BaseModelOutput:
    """Run texts through an encoder in batches of like length; return all states.

    Where several processes train they all have to make the same calls, as each may hold a share of
    the weights that the others need: there all texts are one batch.
    """
    alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
    near = _LIKE if alone else max(lengths)
    padding = encoder.config.pad_token_id or 0
    states, start = [], 0
    for group in neighbours(lengths, near):
        sizes = torch.tensor(group, device=tokens.device)[:, None]
        mask = torch.arange(max(group), device=tokens.device) < sizes
        rows = tokens.new_full(mask.shape, padding)
        rows[mask] = tokens[start : start + sum(group)]
        output = type(encoder).forward(encoder, input_ids=rows, attention_mask=mask.long())
        states.append(output.last_hidden_state[mask])
        start += sum(group)
    # some models look for more in it than the states
    whole: BaseModelOutput = type(output)(last_hidden_state=torch.cat(states))
    return whole


def _attend_packed(
    attention: nn.Module, *args: Any, packed_lengths: list[int], **kwargs: Any
) -> Any:
    """Attend with the biases of the longest text alone; in place of an attention's `forward`.

    Those of the whole row would be (total tokens x total tokens). They are computed where the
    attention does it, inside of the block whose weights a sharded model has at hand.
    """
    longest = max(packed_lengths)
    kind: Any = type(attention)
    shadow: Any = copy.copy(attention)  # the same weights; another thread has its own
    shadow.compute_bias = lambda *_, device=None, **__: kind.compute_bias(
        attention, longest, longest, device=device
    )
    return kind.forward(shadow, *args, packed_lengths=packed_lengths, **kwargs)


def _has_bias(module: nn.Module) -> bool:
    return bool(getattr(module, "has_relative_attention_bias", False))


def _is_packed(encoder: PreTrainedModel) -> bool:
    return encoder.config.model_type in _BIASED or position_offset(encoder.config) is not None
