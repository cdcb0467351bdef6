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


def position_offset(config: PretrainedConfig) -> int | None:
    """Return the position number of a text's first token, or None where packing is not supported.

    Supported are the encoders whose only trace of order is a table of absolute positions, which can
    be given explicitly; others are padded.
    """
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        return None
    if config.model_type == "bert":
        return 0
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        return int(config.pad_token_id) + 1
    return None


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
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each text of a packed row.

    query, key, value: (1, heads, total tokens, head dimension)
    packed_lengths: tokens of each text, in the row's order
    Returns: (1, total tokens, heads, head dimension), as transformers expects
    """
    out = torch.empty_like(query)
    for start, count, length in runs(packed_lengths):
        end = start + count * length
        q, k, v = (
            t[0, :, start:end].reshape(t.shape[1], count, length, -1).transpose(0, 1)
            for t in (query, key, value)
        )
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scaling
        )
        out[0, :, start:end] = attended.transpose(0, 1).flatten(1, 2)
    return out.transpose(1, 2), None


def runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (first token, number of texts, length) for each run of equal lengths."""
    start = 0
    for length, group in groupby(lengths):
        count = sum(1 for _ in group)
        yield start, count, length
        start += count * length


AttentionInterface.register(IMPLEMENTATION, packed_attention)
