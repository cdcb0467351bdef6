"""Watching that losses are numbers, without waiting for the device at each step.

On a CPU a loss is looked at at once. On a device its value is copied in the background and looked
at when it has arrived, a step or so later; `check` waits for it, and is called before anything is
logged or saved.
"""

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ragkit.data.files import write_json
from ragkit.errors import ModelError
from ragkit.training.distributed import rank


@dataclass(frozen=True)
class _Seen:
    loss: Tensor
    arrived: Any  # an event of the device, None on a CPU
    ids: dict[str, list[str]]


def copied_to_host(loss: Tensor) -> tuple[Tensor, Any]:
    """Return a tensor on the CPU that will hold the value, and the event after which it does."""
    if loss.device.type != "cuda":
        return loss.cpu(), None
    value = loss.to("cpu", non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return value, arrived


class LossWatch:
    """Stops training at a loss that is not a number, and says which batch it was.

    folder: the run directory, where bad-batch.json is written; None: it is not
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._waiting: deque[_Seen] = deque()
        self._any_good = False

    def see(self, loss: Tensor, **ids: list[str]) -> None:
        """Take note of a batch's loss, and check those that have arrived.

        ids: what the batch was made of, for the file

        Raises:
            ModelError: one of them is not a number.
        """
        value, arrived = copied_to_host(loss.detach())
        self._waiting.append(_Seen(value, arrived, ids))
        while self._waiting and (
            self._waiting[0].arrived is None or self._waiting[0].arrived.query()
        ):
            self._judge(self._waiting.popleft())

    def check(self) -> None:
        """Wait for all losses that were seen.

        Raises:
            ModelError: one of them is not a number.
        """
        while self._waiting:
            seen = self._waiting.popleft()
            if seen.arrived is not None:
                seen.arrived.synchronize()
            self._judge(seen)

    def _judge(self, seen: _Seen) -> None:
        if torch.isfinite(seen.loss):
            self._any_good = True
            return
        value = seen.loss.item()
        examples = seen.ids["example_ids"]
        named = ", ".join(examples[:5]) + (", ..." if len(examples) > 5 else "")
        where = ""
        if self.folder is not None:
            mine = f"-of-process-{rank()}" if rank() else ""
            file = self.folder / f"bad-batch{mine}.json"
            write_json(file, {"loss": str(value), **seen.ids})
            where = f" (all of it: {file})"
        advice = (
            "lower the learning rate or set loop.precision: fp32"
            if self._any_good
            else "nothing was learned before: its weights are not all numbers, or are beyond this "
            "precision (loop.precision: fp32)"
        )
        raise ModelError(
            f"the loss is {value} on a batch with the examples {named}{where}; {advice}"
        )
