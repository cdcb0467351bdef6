"""Attention over packed sequences: texts laid end to end in one row, no padding.

Registered with transformers as the attention implementation `ragkit_packed`; a model that gets the
keyword `packed_lengths` lets each token see its own text only. Each run of equal lengths is one
batched attention call, so texts should come sorted by length.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig

IMPLEMENTATION = "ragkit_packed"
_ROTARY = ("modernbert", "llama", "mistral", "qwen2", "qwen3")


def position_offset(config: PretrainedConfig) -> int | None:
    """Return the position number of a text's first token, or None where packing is not supported.

    Supported are models whose only trace of order is a table of absolute positions or a rotation by
    position, which can be given explicitly; others (relative position biases) are padded.
    """
    if config.model_type in _ROTARY:
        is_decoder = config.model_type != "modernbert"
        return 0 if is_causal(config) or not is_decoder else None
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        return None
    if config.model_type == "bert":
        return 0
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        return int(config.pad_token_id) + 1
    return None


def is_causal(config: PretrainedConfig) -> bool:
    """Return whether a decoder looks back only: some embedding models let it look both ways."""
    both_ways = getattr(config, "use_bidirectional_attention", False)
    return bool(getattr(config, "is_causal", True)) and not both_ways


def positions(lengths: Sequence[int], offset: int) -> Tensor:
    """Return the position ids of packed texts, shape (total tokens,)."""
    return torch.cat([torch.arange(offset, offset + n) for n in lengths])


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    packed_lengths: Sequence[int],
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each text of a packed row; to what came before alone if the module is causal.

    query, key, value: (1, heads, total tokens, head dimension); a head of the latter two can serve
        several of the former
    packed_lengths: tokens of each text, in the row's order
    sliding_window: a token sees those less than this far from it
    Returns: (1, total tokens, heads, head dimension), as transformers expects
    """
    groups = list(runs(packed_lengths))
    sizes = [count * length for count, length in groups]
    # (tokens, heads, head dimension), the projections' own layout: splitting it copies nothing
    causal = bool(getattr(module, "is_causal", False))
    rows = [torch.split(t[0].transpose(0, 1), sizes) for t in (query, key, value)]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended = []
    for (count, length), *texts in zip(groups, *rows, strict=True):
        q, k, v = (t.reshape(count, length, *t.shape[1:]).transpose(1, 2) for t in texts)
        mask = _window(length, sliding_window, causal, query.device)
        out = _attend(q, k, v, mask, causal, scaling, dropout)
        attended.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)[None], None


def _window(length: int, size: int | None, causal: bool, device: torch.device) -> Tensor | None:
    """Return (length, length), True where a token sees another; None: a window of no effect."""
    if size is None or length <= size:
        return None
    place = torch.arange(length, device=device)
    back = place[:, None] - place[None, :]
    near = back.abs() < size
    return near & (back >= 0) if causal else near


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float,
    dropout: float,
) -> Tensor:
    """Attend within texts of equal length; all shapes are (texts, heads, length, head dimension).

    On a CPU, plain matrix products are faster than the fused kernel in bf16 (1.5 to 3 times) and
    in the backward pass, at the cost of keeping the (length, length) weights.

    mask: as `_window` returns it; k and v may have fewer heads, each for as many of q
    """
    if q.device.type != "cpu" or not (q.requires_grad or q.dtype == torch.bfloat16):
        return nn.functional.scaled_dot_product_attention(
            q, k, v, mask, dropout,
            is_causal=causal and mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
    if (groups := q.shape[1] // k.shape[1]) > 1:
        k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    weights = (q * scaling) @ k.transpose(-1, -2)
    if causal and mask is None:
        mask = weights.new_ones(weights.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        weights = weights.masked_fill(~mask, -torch.inf)
    return nn.functional.dropout(weights.softmax(-1, q.dtype), dropout) @ v


def runs(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (number of texts, length) for each run of equal lengths."""
    for length, group in groupby(lengths):
        yield sum(1 for _ in group), length


AttentionInterface.register(IMPLEMENTATION, packed_attention)
