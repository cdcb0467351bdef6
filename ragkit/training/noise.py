"""Noise on the embeddings of what a model reads (NEFTune, Jain et al., 2023)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ragkit.models.fused import encoder_of


def add_noise(
    model: PreTrainedModel, alpha: float, lengths_of: Callable[[Mapping[str, Any]], Any]
) -> list[RemovableHandle]:
    """Add uniform noise of size alpha / sqrt(L * D) to the embeddings while a model trains.

    Of an encoder-decoder to those of what its encoder reads.

    L is the length of each text; transformers' own form takes that of the whole row, which packing
    makes as long as the batch.

    lengths_of: those of the texts that a call of the model packs into one row, in order; None where
        it packs none
    """
    lengths: list[Any] = [None]

    def before(module: nn.Module, _: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        lengths[0] = lengths_of(given) if module.training else None

    def after(module: nn.Module, _: tuple[Any, ...], embedded: Tensor) -> Tensor:
        if not module.training:
            return embedded
        sizes = text_lengths(lengths[0], embedded)
        scale = alpha / (sizes * embedded.shape[-1]).sqrt()
        noise = torch.empty_like(embedded).uniform_(-1, 1)
        return embedded + noise * scale[..., None].to(embedded)

    # an encoder's are a module of its own, though its weights may be the whole model's
    reads = encoder_of(model) if model.config.is_encoder_decoder else model
    embeddings = reads.get_input_embeddings()
    return [
        model.register_forward_pre_hook(before, with_kwargs=True),
        embeddings.register_forward_hook(after),
    ]


def text_lengths(packed: Any, embedded: Tensor) -> Tensor:
    """Return the length of the text that each place belongs to, (1 or B, L).

    packed: lengths of the texts of one row, or None
    """
    length = embedded.shape[1]
    if packed is None or sum(packed) != length:
        return embedded.new_full((1, length), float(length), dtype=torch.float32)
    sizes = torch.as_tensor(packed, device=embedded.device)
    return sizes.repeat_interleave(sizes)[None].float()
