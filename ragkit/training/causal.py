"""What a decoder learns: to continue sequences, packed into one row or padded.

The loss is computed at the targets alone: neither prompts nor padding have any, and no logits are
made for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from ragkit.models import packing
from ragkit.training.items import Continued, Item, continued


@dataclass(frozen=True)
class CausalObjective:
    """Cross-entropy of the targets of sequences.

    offset: number of the first position, where sequences are packed end to end without seeing one
        another; None: they are padded on the left
    padding: token put before shorter sequences
    """

    padding: int
    offset: int | None = None

    def collate(self, items: Sequence[Item | Continued]) -> dict[str, Any]:
        """Return a batch of sequences, shortest first.

        input_ids: (1, total tokens), with packed_lengths; padded (B, L), with attention_mask
        rows, places: (targets,) where the row's output has to be the label
        labels: (targets,)
        """
        sequences = [continued(i) if isinstance(i, Item) else i for i in items]
        sequences.sort(key=lambda s: len(s.ids))  # neighbours of like length attend together
        batch = self._padded(sequences) if self.offset is None else self._packed(sequences)
        labels = [token for s in sequences for _, token in s.targets]
        return {
            **batch,
            "labels": torch.tensor(labels, dtype=torch.long),
            "example_ids": [s.example_id for s in sequences],
        }

    @staticmethod
    def lengths_of(given: Mapping[str, Any]) -> Sequence[int] | None:
        """Return the lengths of the sequences in one row that a model is called with."""
        return given.get("packed_lengths")

    def loss(self, model: PreTrainedModel | PeftModel, batch: Mapping[str, Any]) -> Tensor:
        """Return the sum of the cross-entropies, a scalar in fp32."""
        rows, places = batch["rows"], batch["places"]
        given = {k: batch[k] for k in _GIVEN if k in batch}
        if "packed_lengths" in batch:
            logits = model(**given, logits_to_keep=places, use_cache=False).logits[0]
        else:
            length = batch["input_ids"].shape[1]
            kept = length - int(places.min()) if len(places) else 1
            logits = model(**given, logits_to_keep=kept, use_cache=False).logits
            logits = logits[rows, places - (length - kept)]
        return functional.cross_entropy(logits.float(), batch["labels"], reduction="sum")

    def _packed(self, sequences: Sequence[Continued]) -> dict[str, Any]:
        assert self.offset is not None
        lengths = [len(s.ids) for s in sequences]
        starts = accumulate(lengths[:-1], initial=0)
        places = [a + p for a, s in zip(starts, sequences, strict=True) for p, _ in s.targets]
        return {
            "input_ids": torch.tensor([[token for s in sequences for token in s.ids]]),
            "position_ids": packing.positions(lengths, self.offset)[None],
            "packed_lengths": lengths,
            "rows": torch.zeros(len(places), dtype=torch.long),
            "places": torch.tensor(places, dtype=torch.long),
        }

    def _padded(self, sequences: Sequence[Continued]) -> dict[str, Any]:
        longest = max(len(s.ids) for s in sequences)
        missing = [longest - len(s.ids) for s in sequences]
        mask = torch.arange(longest)[None] >= torch.tensor(missing)[:, None]
        ids = torch.full(mask.shape, self.padding, dtype=torch.long)
        ids[mask] = torch.tensor([token for s in sequences for token in s.ids])
        rows = [row for row, s in enumerate(sequences) for _ in s.targets]
        places = [m + p for m, s in zip(missing, sequences, strict=True) for p, _ in s.targets]
        return {
            "input_ids": ids,
            "attention_mask": mask.long(),
            "position_ids": (mask.long().cumsum(1) - 1).clamp(min=0),
            "rows": torch.tensor(rows, dtype=torch.long),
            "places": torch.tensor(places, dtype=torch.long),
        }


_GIVEN = ("input_ids", "attention_mask", "position_ids", "packed_lengths")
