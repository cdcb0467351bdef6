"""A Trainer that has its dev metrics measured by others, and what its training came to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerState

from ragkit.data.files import write_json


class MeasuringTrainer(Trainer):
    """A Trainer whose evaluation is what `measured` says."""

    def measured(self) -> dict[str, float]:
        """Compute the dev metrics, in every process the same."""
        raise NotImplementedError

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Compute the dev metrics, log them and tell the callbacks."""
        metrics = {f"eval_{name}": value for name, value in self.measured().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


@dataclass(frozen=True)
class Trained:
    """What a training run came to.

    best_step: the optimiser step of the checkpoint that was kept; None: there was no dev set
    dev_before, dev_best: the dev metric of the model before training and of the one kept
    """

    steps: int
    seconds: float
    best_step: int | None
    dev_before: float | None
    dev_best: float | None


def read_summary(state: TrainerState, seconds: float, metric: str) -> Trained:
    """Return what a Trainer's state says of the whole run."""
    scores = [(e["step"], e[f"eval_{metric}"]) for e in state.log_history if f"eval_{metric}" in e]
    before = next((value for step, value in scores if step == 0), None)
    return Trained(
        steps=state.global_step,
        seconds=round(seconds, 1),
        best_step=state.best_global_step if scores else None,
        dev_before=before,
        dev_best=state.best_metric if scores else None,
    )


def write_summary(path: Path, trained: Trained, metric: str) -> None:
    """Write a training run's metrics.json."""
    values = {f"dev_{metric}": trained.dev_best, f"dev_{metric}_before": trained.dev_before}
    write_json(
        path,
        {
            "metrics": {k: {"mean": v, "ci95": None, "n": None} for k, v in values.items()},
            "timings": {"training_s": trained.seconds},
            "steps": trained.steps,
            "best_step": trained.best_step,
        },
    )
