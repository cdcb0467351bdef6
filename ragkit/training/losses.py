"""Losses of retriever training: pure functions of tensors.

They know nothing of models, batches or devices. Letters: B queries, P candidate passages.
"""

import torch
from torch import Tensor, nn


def info_nce(scores: Tensor, positive: Tensor, ignore: Tensor | None = None) -> Tensor:
    """Mean of -log softmax(scores)[positive], candidates in `ignore` left out (van den Oord et al., 2018).

    The same function serves the other direction: B passages, each with the column of its query.

    scores: (B, P) similarities already divided by the temperature
    positive: (B,) column of each query's positive
    ignore: (B, P) True where a candidate must not count as a negative; never True at the positive
    """  # noqa: E501
    if ignore is not None:
        scores = scores.masked_fill(ignore, -torch.inf)
    return nn.functional.cross_entropy(scores.float(), positive)


def false_negative_mask(scores: Tensor, own: Tensor, margin: float) -> Tensor:
    """Return (B, P), True where a query scores a candidate above its own positive plus `margin`.

    With a guide's similarities this is the mask of GISTEmbed (Solatorio, 2024), whose margin has
    the other sign.

    scores: (B, P) similarities before division by the temperature
    own: the query's similarity to its own positive, (B, 1), or (1, P) where the columns are queries
    """
    return scores > own + margin


def distillation_kl(scores: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(scores)), the mean over the queries that have teacher scores.

    Knowledge distillation as in Hinton et al., 2015, over the candidates that the teacher scored.

    scores, teacher: (B, P) already divided by their temperatures; teacher NaN: not scored
    """
    known = ~teacher.isnan()
    counted = known.any(dim=1)
    some = known | ~counted[:, None]  # a row without scores stays finite, and is left out below
    target = teacher.nan_to_num().masked_fill(~some, -torch.inf).softmax(dim=1)
    predicted = scores.float().masked_fill(~some, -torch.inf).log_softmax(dim=1)
    divergence = (
        torch.special.xlogy(target, target) - target * predicted.masked_fill(~some, 0.0)
    ).sum(dim=1)
    return _mean(divergence, counted)


def margin_mse(scores: Tensor, teacher: Tensor, positive: Tensor) -> Tensor:
    """Squared difference of margins, positive over candidate, of encoder and teacher (Hofstätter et al., 2020).

    The mean over a query's scored candidates, then over the queries that have teacher scores.

    scores, teacher: (B, P) already divided by their temperatures; teacher NaN: not scored
    positive: (B,) column of each query's positive, scored by the teacher
    """  # noqa: E501
    known = (~teacher.isnan()).scatter(1, positive[:, None], False)
    counted = known.any(dim=1)
    margins = scores.float().gather(1, positive[:, None]) - scores.float()
    wanted = teacher.gather(1, positive[:, None]) - teacher
    squared = (margins - wanted.masked_fill(~known, 0.0)).square().masked_fill(~known, 0.0)
    return _mean(squared.sum(dim=1) / known.sum(dim=1).clamp(min=1), counted)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of the counted rows, 0 where there are none."""
    return values.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)
