"""Losses of retriever training: pure functions of tensors.

They know nothing of models, batches or devices. Letters: B queries, P distinct passages.
"""

import torch
from torch import Tensor, nn


def info_nce(scores: Tensor, positive: Tensor, ignore: Tensor | None = None) -> Tensor:
    """Mean of -log softmax(scores)[positive], candidates in `ignore` left out (van den Oord et al., 2018).

    scores: (B, P) similarities already divided by the temperature
    positive: (B,) column of each query's positive
    ignore: (B, P) True where a candidate must not count as a negative; never True at the positive
    """  # noqa: E501
    if ignore is not None:
        scores = scores.masked_fill(ignore, -torch.inf)
    return nn.functional.cross_entropy(scores.float(), positive)


def symmetric_info_nce(
    scores: Tensor, positive: Tensor, ignore: Tensor | None = None, share: float = 0.5
) -> Tensor:
    """(1 - share) * query-to-passage + share * passage-to-query InfoNCE.

    The second term has one row for each query's positive: the queries compete for the passage, and
    other queries that it answers are left out. `share` 0.5 is DALM's loss, and DocChat's is
    1 / (1 + passages a query).

    scores, positive, ignore: as in `info_nce`
    """
    forward = info_nce(scores, positive, ignore)
    columns = scores[:, positive].T  # (B, B): row i, passage of query i against every query
    same = positive[:, None] == positive[None, :]
    if ignore is not None:
        same |= ignore[:, positive].T
    own = torch.eye(len(positive), dtype=torch.bool, device=scores.device)
    backward = info_nce(columns, torch.arange(len(positive), device=scores.device), same & ~own)
    return (1 - share) * forward + share * backward


def false_negative_mask(scores: Tensor, positive: Tensor, margin: float) -> Tensor:
    """Return (B, P), True where a candidate scores above the positive by more than `margin`.

    scores: (B, P) similarities before division by the temperature
    """
    own = scores.gather(1, positive[:, None])
    return (scores > own + margin).scatter(1, positive[:, None], False)
