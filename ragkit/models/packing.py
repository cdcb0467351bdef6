"""Attention over packed sequences: texts laid end to end in one row, no padding.

Registered with transformers as the attention implementation `ragkit_packed`; a model that gets the
keyword `packed_lengths` lets each token see its own text only. Neighbours of equal or nearly equal
lengths are one batched attention call, so texts should come sorted by length.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig

IMPLEMENTATION = "ragkit_packed"
# On a CPU, texts that differ by so many tokens are padded to one another for attention alone: fewer
# calls, each of which costs a wait for all threads, against a few products more.
_NEAR = 16
# On a CPU, texts whose weights together fit its caches, a head's count: 256 x 256.
_MOST = 1 << 16
_ROTARY = ("modernbert", "llama", "mistral", "qwen2", "qwen3")


@contextmanager
def attending(model: Any, implementation: str) -> Iterator[None]:
    """Have a model attend by another implementation while the block runs."""
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


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
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each text of a packed row; to what came before alone if the module is causal.

    query, key, value: (1, heads, total tokens, head dimension); a head of the latter two can serve
        several of the former
    packed_lengths: tokens of each text, in the row's order
    sliding_window: a token sees those less than this far from it
    position_bias: (1, heads, n, n) added to the scores of every text, n tokens at least as many as
        the longest has
    Returns: (1, total tokens, heads, head dimension), as transformers expects
    """
    # (tokens, heads, head dimension), the projections' own layout: splitting it copies nothing
    near, most = (_NEAR, _MOST) if query.device.type == "cpu" else (0, None)
    groups = list(neighbours(packed_lengths, near, most))
    rows = [torch.split(t[0].transpose(0, 1), list(map(sum, groups))) for t in (query, key, value)]
    causal = bool(getattr(module, "is_causal", False))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    biases = _biases(position_bias, map(max, groups))
    attended = []
    for lengths, *texts in zip(groups, *rows, strict=True):
        longest, kept = max(lengths), None
        mask = _window(longest, sliding_window, causal, query.device)
        if min(lengths) < longest:
            real, places = _padding(lengths, query.device)
            texts = [t.index_select(0, places) for t in texts]
            kept = real.flatten().nonzero()[:, 0]
            if mask is None and causal:
                mask = real.new_ones(longest, longest).tril()
            keys = real[:, None, None, :]
            # what padding attends to is dropped, but must be something: softmax of nothing is NaN
            mask = keys if mask is None else keys & mask | ~real[:, None, :, None]
        q, k, v = (t.reshape(-1, longest, *t.shape[1:]).transpose(1, 2) for t in texts)
        out = _attend(q, k, v, mask, biases.get(longest), causal, scaling, dropout)
        out = out.transpose(1, 2).flatten(0, 1)
        attended.append(out if kept is None else out.index_select(0, kept))
    return torch.cat(attended)[None], None


def _padding(lengths: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return how packed texts are padded to the longest.

    Returns: (texts, longest), True where a token is real; (texts * longest,), the place of each in
        the packed row, the first of its text where it is padding
    """
    sizes = torch.tensor(lengths, device=device)[:, None]
    place = torch.arange(max(lengths), device=device)
    real = place < sizes
    starts = sizes.cumsum(0) - sizes
    return real, (starts + place * real).flatten()


def _biases(bias: Tensor | None, lengths: Iterable[int]) -> dict[int, Tensor]:
    """Return the part of a bias that texts of each length need.

    Each is cut out of the next larger one, and not of the whole: a cut's gradient is as large as
    what it is cut from.
    """
    if bias is None:
        return {}
    found = {}
    for length in sorted(set(lengths), reverse=True):
        found[length] = bias = bias[..., :length, :length]
    return found


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
    bias: Tensor | None,
    causal: bool,
    scaling: float,
    dropout: float,
) -> Tensor:
    """Attend within texts of equal length; all shapes are (texts, heads, length, head dimension).

    On a CPU, plain matrix products are faster than the fused kernel in bf16 (1.5 to 3 times) and
    in the backward pass, at the cost of keeping the (length, length) weights.

    mask: as `_window` returns it; k and v may have fewer heads, each for as many of q
    bias: (1, heads, length, length), added to the scores
    """
    if bias is not None and causal and mask is None:
        mask = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).tril()
    if q.device.type != "cpu" or not (q.requires_grad or q.dtype == torch.bfloat16):
        if bias is not None:
            bias = bias.to(q.dtype)
            mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
        return nn.functional.scaled_dot_product_attention(
            q, k, v, mask, dropout,
            is_causal=causal and mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
    if (groups := q.shape[1] // k.shape[1]) > 1:
        k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    weights = (q * scaling) @ k.transpose(-1, -2)
    if bias is not None:
        weights += bias
    if causal and mask is None:
        mask = weights.new_ones(weights.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        weights = weights.masked_fill_(~mask, -torch.inf)
    return nn.functional.dropout(weights.softmax(-1, q.dtype), dropout) @ v


def neighbours(
    lengths: Sequence[int], near: int = 0, most: int | None = None
) -> Iterator[list[int]]:
    """Yield runs of lengths that differ from their first by `near` at most.

    most: weights of a head that a run of several texts may have, each as long as the longest
    """
    run: list[int] = []
    for length in lengths:
        weights = (len(run) + 1) * max([*run, length]) ** 2
        if run and (abs(length - run[0]) > near or (most is not None and weights > most)):
            yield run
            run = []
        run.append(length)
    if run:
        yield run


AttentionInterface.register(IMPLEMENTATION, packed_attention)
