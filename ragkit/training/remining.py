"""Hard negatives that change while a retriever trains (ANCE; Xiong et al., 2021).

At the beginning of an epoch the caller's function gives the examples other negatives, by the
encoder as it is then. They are written down before they are used: a run that is gone on with takes
them from the file, for its weights are no longer those that they were mined with.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ragkit.data.files import read_jsonl, write_jsonl
from ragkit.data.schema import Example
from ragkit.errors import RunError
from ragkit.log import logger
from ragkit.models import ranks
from ragkit.models.encoder import Encoder
from ragkit.training.collate import PairDataset

Remine = Callable[[Encoder], Sequence[Example]]


class RemineNegatives(TrainerCallback):  # type: ignore[misc]
    """Puts the negatives of each epoch into a dataset.

    remine: gives the examples new negatives; called on rank 0, the others read its file
    every: epochs between two minings; the first is at the start only if no example has negatives
    learn: is told the examples that the dataset has from now on, before they are drawn
    refresh: brings the encoder up to date before it is mined with; all processes call it together
    """

    def __init__(
        self,
        folder: Path,
        dataset: PairDataset,
        encoder: Encoder,
        remine: Remine,
        every: int,
        learn: Callable[[Sequence[Example]], None],
        refresh: Callable[[], None],
    ) -> None:
        self.folder, self.dataset, self.encoder = folder, dataset, encoder
        self.remine, self.every, self.learn = remine, every, learn
        self.refresh = refresh
        self.from_start = not any(e.negative_ids for e in dataset.examples)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mine, or read what was mined for this epoch; a resumed epoch began in another process."""
        progress = state.epoch or 0.0
        epoch = int(progress + 1e-6)
        mined_at = epoch - epoch % self.every
        if mined_at == 0 and not self.from_start:
            return
        path = negatives_file(self.folder, mined_at)
        if ranks.decided(lambda: not path.exists()):
            if progress - mined_at > 1e-6:
                raise RunError(
                    f"{path}: missing; the epoch that began with it cannot be gone on with "
                    "(--restart begins anew)"
                )
            logger.info("epoch %d: mining negatives with the encoder as it is now", epoch)
            self.refresh()
            if state.is_world_process_zero:
                negatives = {e.id: e.negative_ids for e in self.remine(self.encoder)}
                write_jsonl(path, _records(self.dataset.examples, negatives))
            ranks.wait()
        found = {r["id"]: tuple(r["negative_ids"]) for r in read_jsonl(path)}
        self.dataset.examples = [
            replace(e, negative_ids=found[e.id]) for e in self.dataset.examples
        ]
        self.learn(self.dataset.examples)


def negatives_file(folder: Path, epoch: int) -> Path:
    """Return the file with the negatives that were mined at the beginning of an epoch."""
    return folder / f"negatives-epoch-{epoch}.jsonl"


def _records(
    examples: Sequence[Example], negatives: dict[str, tuple[str, ...]]
) -> list[dict[str, Any]]:
    return [{"id": e.id, "negative_ids": list(negatives[e.id])} for e in examples]
