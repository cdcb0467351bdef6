"""What a span reader learns: its objective, and from which score on it had better not answer.

For each question the probabilities of start and end are normalised over the tokens of all its
passages together, so that they can be compared (shared norm: Clark and Gardner, 2018), and the
loss is that of any of the places where the answer stands. Which places these are is
`ragkit.training.spans`' business; the loop is `ragkit.training.fitting`'s.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ragkit.data.schema import Example, Passage
from ragkit.evaluation.answers import token_f1
from ragkit.log import logger
from ragkit.models.reader import Pair, SpanReader, span_logits
from ragkit.rag.reading import Reading
from ragkit.retrieval.searchers import query_text
from ragkit.training.spans import NEAREST, How, Place, find_targets

TokenPlace = tuple[int, int]  # a pair, and a token of it


@dataclass(frozen=True, slots=True)
class SpanItem:
    """A question with its passages, and the tokens where its answer begins and ends.

    how: as in `Targets`; cut: the answer stands in what is too long to be read
    """

    example_id: str
    pairs: tuple[Pair, ...]
    starts: frozenset[TokenPlace]
    ends: frozenset[TokenPlace]
    how: How | Literal["cut"]

    @property
    def is_learnable(self) -> bool:
        """Whether there is anything to be learned from it."""
        return bool(self.starts)


@dataclass(frozen=True)
class SpanObjective:
    """The loss of spans, as the training loop wants it."""

    reader: SpanReader

    def item(self, example: Example, passages: Sequence[Passage]) -> SpanItem:
        """Return what is to be learned from a question with the passages that it is given."""
        pairs = self.reader.pairs(query_text(example), passages)
        targets = find_targets(example, passages)
        places: list[tuple[TokenPlace, TokenPlace]] = []
        if targets.how == "none":
            places = [((i, 0), (i, 0)) for i in range(len(pairs))]
        else:
            for i, (pair, found) in enumerate(zip(pairs, targets.places, strict=bool(pairs))):
                tokens = (covering(place, pair.places) for place in found)
                places += [((i, pair.first + t[0]), (i, pair.first + t[1])) for t in tokens if t]
        how = targets.how if places or targets.how == "nowhere" else "cut"
        starts, ends = frozenset(s for s, _ in places), frozenset(e for _, e in places)
        return SpanItem(example.id, tuple(pairs), starts, ends, how)

    def collate(self, items: Sequence[SpanItem]) -> dict[str, Any]:
        """Return a batch of Q questions: the model's input, and where the answers are.

        candidates: (Q, C) places among the logits of all tokens, -1 where a question has fewer
        starts, ends: (Q, C) True at the targets
        labels: (Q,) each question counts as one; -100: with these passages it teaches nothing
        """
        inputs, begins = self.reader.batch([pair for item in items for pair in item.pairs])
        rows, starts, ends = [], [], []
        first = 0  # pair of the item
        for item in items:
            tokens = [(i, t) for i, pair in enumerate(item.pairs) for t in _candidates(pair)]
            rows.append(torch.tensor([begins[first + i] + t for i, t in tokens]).long())
            starts.append(torch.tensor([place in item.starts for place in tokens]).bool())
            ends.append(torch.tensor([place in item.ends for place in tokens]).bool())
            first += len(item.pairs)
        return {
            **inputs,
            "candidates": _stacked(rows, -1),
            "starts": _stacked(starts, False),
            "ends": _stacked(ends, False),
            "labels": torch.tensor([0 if item.is_learnable else -100 for item in items]),
            "example_ids": [item.example_id for item in items],
        }

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Return the sum over the questions of the mean of the losses of start and end."""
        logits = span_logits(model, batch)
        learned = batch["labels"] != -100
        candidates = batch["candidates"][learned]
        with torch.autocast(logits[0].device.type, enabled=False):
            start, end = (
                marginal_loss(at_places(own, candidates), batch[name][learned]).sum()
                for own, name in zip(logits, ("starts", "ends"), strict=True)
            )
        return (start + end) / 2


def at_places(logits: Tensor, places: Tensor) -> Tensor:
    """Return the logits at some places, -inf where a place is -1; shaped as the places are."""
    return logits[places.clamp(min=0)].masked_fill(places < 0, -torch.inf)


def marginal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log of the probability of all targets together, one a row.

    The probability is the softmax of a row, so the model may choose which of the targets it means
    (Clark and Gardner, 2018).

    logits: (Q, C), -inf where there is no candidate
    targets: (Q, C), at least one True a row
    """
    meant = logits.masked_fill(~targets, -torch.inf)
    return logits.logsumexp(dim=1) - meant.logsumexp(dim=1)


def covering(place: Place, tokens: Sequence[Place]) -> tuple[int, int] | None:
    """Return the first and the last of the tokens that have characters of a place.

    None where its end is beyond the last token: what is read of the passage is too short.
    """
    start, end = place
    found = [i for i, (first, last) in enumerate(tokens) if first < end and last > start]
    return (found[0], found[-1]) if found and tokens[-1][1] >= end else None


def log_targets(items: Iterable[SpanItem]) -> None:
    """Say how many questions have their answers where."""
    counts: Counter[str] = Counter(item.how for item in items)
    said = {
        "verbatim": "have a reference word for word in their passages",
        "nearest": f"the nearest words to one (token F1 of {NEAREST:g} or more)",
        "none": "no answer there, which is what they teach",
        "nowhere": "nothing that comes near to a reference, and are left out",
        "cut": "their answer beyond the tokens that are read, and are left out",
    }
    parts = [f"{counts[how]} {text}" for how, text in said.items() if counts[how]]
    logger.info("of %d questions %s", counts.total(), "; ".join(parts))


def choose_margin(examples: Sequence[Example], readings: Sequence[Reading | None]) -> float | None:
    """Return the margin with the best mean F1, below which a reader had better abstain.

    To abstain is worth 1 where a question is unanswerable, else 0, as in SQuAD 2.0 (Rajpurkar et
    al., 2018). None where every question can be answered: nothing tells when not to.
    """
    if all(example.answerable for example in examples):
        return None
    found = sorted(
        ((r, e) for r, e in zip(readings, examples, strict=True) if r is not None),
        key=lambda pair: pair[0].margin,
    )
    if not found:
        return None
    margins = np.array([reading.margin for reading, _ in found])
    gains = [1.0 if not e.answerable else -_f1(r, e) for r, e in found]
    # to abstain on the first so many of them, and on none that has the same margin as the last
    total = np.concatenate([[0.0], np.cumsum(gains)])
    total[1:-1][margins[1:] == margins[:-1]] = -np.inf
    borders = np.concatenate(
        [[margins[0] - 1], (margins[1:] + margins[:-1]) / 2, [margins[-1] + 1]]
    )
    return float(borders[int(total.argmax())])


def _f1(reading: Reading, example: Example) -> float:
    return token_f1(reading.text, example.answers) if example.answers else 0.0


def _candidates(pair: Pair) -> list[int]:
    """Return the tokens that may begin or end an answer: no answer, and those of the text."""
    return [0, *range(pair.first, pair.first + len(pair.places))]


def _stacked(rows: Sequence[Tensor], padding: float) -> Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=padding)
