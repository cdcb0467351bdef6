"""What a training run shows and writes down while it goes: progress, history, the dev metric."""

import math
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from ragkit.data.files import write_jsonl
from ragkit.log import Meter, logger
from ragkit.training.finite import LossWatch


class Progress(TrainerCallback):  # type: ignore[misc]
    """Shows how fast it goes and the time left, keeps history.jsonl up to date, tells the epoch.

    n_units: of an epoch
    begin_epoch: called with the number of each epoch that begins, from 0
    unit: what a training set consists of
    """

    def __init__(
        self,
        folder: Path,
        n_units: int,
        begin_epoch: Callable[[int], None],
        unit: str = "pairs",
    ) -> None:
        self.folder, self.n_units, self.begin_epoch = folder, n_units, begin_epoch
        self.unit = unit
        self.meter: Meter | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        batches: Sized = more["train_dataloader"]
        self.steps = -(-len(batches) // args.gradient_accumulation_steps)
        self.meter = Meter("training", self._units(state.max_steps), self.unit)
        self.meter.skip(self._units(state.global_step))

    def _units(self, steps: int) -> int:
        """Return the units of so many steps; the last of an epoch can have fewer than others."""
        return round(self.n_units * steps / self.steps)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.begin_epoch(int((state.epoch or 0.0) + 1e-6))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        assert self.meter is not None
        self.meter.advance(self._units(state.global_step) - self.meter.done)
        _log_what_is_saved(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        _log_what_is_saved(control)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            write_jsonl(self.folder / "history.jsonl", map(_finite, state.log_history))
            entry = state.log_history[-1]
            dev = ", ".join(f"{k[5:]} {v:.4f}" for k, v in entry.items() if k.startswith("eval_"))
            if dev:
                logger.info("epoch %.1f: dev %s", entry.get("epoch", 0.0), dev)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.meter is not None:
            self.meter.close()


class Watched(TrainerCallback):  # type: ignore[misc]
    """Checks the losses before anything is logged, measured or saved."""

    def __init__(self, watch: LossWatch) -> None:
        self.watch = watch

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if (
            control.should_log
            or control.should_evaluate
            or control.should_save
            or control.should_training_stop
        ):
            self.watch.check()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.watch.check()


def reporters(names: Sequence[str], folder: Path) -> list[TrainerCallback]:
    """Return the callbacks that write the history elsewhere too; TensorBoard's goes to `folder`."""
    if "tensorboard" not in names:
        return []
    tensorboard = TensorBoardCallback()  # type: ignore[no-untyped-call]
    tensorboard.logging_dir = str(folder / "tensorboard")
    return [tensorboard]


def _log_what_is_saved(control: TrainerControl) -> None:
    """Log before a checkpoint: the mean loss that a resumed run logs next begins there too."""
    if control.should_save:
        control.should_log = True


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a log entry with None for what JSON cannot hold: a gradient norm may be infinite."""
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()
    }
