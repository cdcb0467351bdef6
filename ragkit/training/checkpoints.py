"""Checkpoints that an interrupted run goes on from: which are whole, and whose they are.

What is in one, and when it is written, is the Trainer's business. A checkpoint gets its stamp when
all processes have written their part of it; one without is half-written and not gone on from.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ragkit.data.files import write_json
from ragkit.errors import RunError
from ragkit.log import logger
from ragkit.models import ranks

STAMP = "ragkit.json"
_STATE = "trainer_state.json"


class Stamp(TrainerCallback):  # type: ignore[misc]
    """Marks every checkpoint as whole, with what it was made from."""

    def __init__(self, made_from: Mapping[str, Any]) -> None:
        self.made_from = made_from

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        ranks.wait()
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_json(folder / STAMP, self.made_from)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written whole, or None."""
    whole = []
    for candidate in folder.glob("checkpoint-*"):
        try:
            state = json.loads((candidate / _STATE).read_text())
            json.loads((candidate / STAMP).read_text())
        except (OSError, json.JSONDecodeError):
            continue
        whole.append((int(state["global_step"]), candidate))
    return max(whole)[1] if whole else None


def find_checkpoint(folder: Path, made_from: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint to go on from, made ready; None: there is none.

    Half-written ones are taken away. All processes get what rank 0 finds.

    made_from: what the stamp of a checkpoint of this run says
    Raises:
        RunError: it was made from something else.
    """

    def find() -> Path | None:
        checkpoint = last_checkpoint(folder)
        for half in folder.glob("checkpoint-*"):
            if not (half / STAMP).exists():
                logger.info("%s is half-written and not gone on from", half)
                shutil.rmtree(half)
        if checkpoint is not None:
            _check_stamp(checkpoint, made_from)
            _relocate(checkpoint)
            logger.info("going on from %s", checkpoint)
        return checkpoint

    return ranks.decided(find)


def read_state(checkpoint: Path) -> TrainerState:
    """Return the state of the Trainer when it wrote the checkpoint."""
    state: TrainerState = TrainerState.load_from_json(str(checkpoint / _STATE))
    return state


def is_finished(state: TrainerState, patience: int | None) -> bool:
    """Return whether training had come to its end, or had stopped for want of progress."""
    callbacks: Any = state.stateful_callbacks  # a mapping, once it was written down
    stopper = callbacks.get("EarlyStoppingCallback", {})
    waited: int = stopper.get("attributes", {}).get("early_stopping_patience_counter", 0)
    return bool(state.global_step >= state.max_steps or (patience and waited >= patience))


def _check_stamp(checkpoint: Path, made_from: Mapping[str, Any]) -> None:
    before = _flat(json.loads((checkpoint / STAMP).read_text()))
    now = _flat(json.loads(json.dumps(made_from)))
    changes = [
        f"  {key}: {before.get(key)!r} (now {now.get(key)!r})"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]
    if changes:
        raise RunError(
            f"{checkpoint}: a checkpoint of a different training:\n"
            + "\n".join(changes)
            + "\nTrain as it was, or name another run directory, or begin anew with --restart."
        )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            found |= _flat(item, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = item
    return found


def _relocate(checkpoint: Path) -> None:
    """Make a checkpoint name its best sibling where that is now; the run may have been moved."""
    file = checkpoint / _STATE
    state = json.loads(file.read_text())
    if state.get("best_model_checkpoint"):
        best = checkpoint.parent / Path(state["best_model_checkpoint"]).name
        write_json(file, {**state, "best_model_checkpoint": str(best)})
