"""An encoder with the contrastive objective on top: from a batch of token ids to a loss."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ragkit.config.training import Contrastive
from ragkit.errors import ModelError
from ragkit.models.encoder import Encoder
from ragkit.training.losses import false_negative_mask, info_nce, symmetric_info_nce


class ContrastiveModel(nn.Module):
    """An encoder with the contrastive loss on top, as the Trainer wants it."""

    def __init__(self, encoder: Encoder, loss: Contrastive) -> None:
        super().__init__()
        self.encoder, self.loss = encoder, loss

    def forward(
        self,
        token_ids: Sequence[Sequence[int]],
        n_queries: int,
        positive: Tensor,
        ignore: Tensor,
        example_ids: Sequence[str],
    ) -> dict[str, Tensor]:
        """Encode queries and passages in one pass; return {"loss": scalar}."""
        vectors = self.encoder(token_ids, n_queries)
        with torch.autocast(vectors.device.type, enabled=False):
            similarities = vectors[:n_queries] @ vectors[n_queries:].T
            margin = self.loss.false_negative_margin
            if margin is not None:
                ignore = ignore | false_negative_mask(similarities.detach(), positive, margin)
            scores = similarities / self.loss.temperature
            if self.loss.symmetric:
                loss = symmetric_info_nce(scores, positive, ignore, self.loss.symmetric)
            else:
                loss = info_nce(scores, positive, ignore)
        if not math.isfinite(loss.item()):
            raise ModelError(
                f"the loss is {loss.item()} on a batch with the examples "
                f"{', '.join(example_ids[:5])}, ...; lower the learning rate or set precision: fp32"
            )
        return {"loss": loss}
