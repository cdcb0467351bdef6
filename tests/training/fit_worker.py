"""What the tests start by torchrun: a decoder's training, whole and in two parts.

    torchrun ... fit_worker.py {ddp,zero2,zero3} DECODER FOLDER CONFIGS

The weights are left in FOLDER/whole and FOLDER/parts, and what they were trained by in
FOLDER/told.json.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM

from ragkit import log
from ragkit.config.generating import GeneratorLoop, Watching
from ragkit.data.schema import Example
from ragkit.models import ranks
from ragkit.models.packing import IMPLEMENTATION
from ragkit.training.causal import CausalObjective
from ragkit.training.fitting import BEST, Model, Objective, fit
from ragkit.training.items import Item
from ragkit.training.measuring import Trained
from ragkit.training.mixture import Mixture, Source
from ragkit.training.watching import Dev


class StoppedError(Exception):
    """Stands for the end of all processes."""


class Stopping(CausalObjective):
    """Raises an error in its nth loss while training."""

    calls = 0
    at = 0

    def loss(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        if torch.is_grad_enabled():
            Stopping.calls += 1
            if Stopping.calls == Stopping.at:
                raise StoppedError
        return super().loss(model, batch)


def item(number: int, _: int = 0) -> Item:
    """Return an item; prompts and answers have many lengths."""
    prompt = tuple(range(5, 8 + number % 5))
    return Item(f"q{number}", (prompt,), (*range(20, 21 + number % 3), 40 + number, 2))


def train(decoder: str, folder: Path, stop_at: int = 0, **loop: Any) -> Trained:
    """Train on 16 items; the dev metric is the loss of five others."""
    Stopping.calls, Stopping.at = 0, stop_at

    def load() -> tuple[Model, Objective]:
        model = AutoModelForCausalLM.from_pretrained(decoder)
        model.set_attn_implementation(IMPLEMENTATION)
        return model, Stopping(padding=0, offset=0)

    dev = Dev(
        [Example(f"d{i}", "what", ("x",)) for i in range(5)],
        Watching(metric="loss", samples=0), lambda *_: [], [item(i) for i in range(20, 25)], 2,
        folder,
    )  # fmt: skip
    options = {
        "epochs": 3, "batch_size": 2, "learning_rate": 3e-3, "warmup": 0.0, "precision": "fp32",
        "device": "cpu", "evaluate_every": 2,
    }  # fmt: skip
    return fit(
        load, Mixture([Source(16, item)], 0), folder, loop=GeneratorLoop(**{**options, **loop}),
        made_from={"model": "tiny"}, score=dev, metric="loss",
    )  # fmt: skip


def main() -> None:
    """Do what the command line says."""
    mode, decoder, folder, configs = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    log.setup()
    loop = {"deepspeed": configs / f"{mode}.json"} if mode.startswith("zero") else {}
    with ranks.joined():
        trained = train(decoder, folder / "whole", **loop)
        kind = AcceleratorState().distributed_type
        try:
            train(decoder, folder / "parts", stop_at=7, **loop)
        except StoppedError:
            pass
        else:
            raise AssertionError("it was not stopped")
        again = train(decoder, folder / "parts", **loop)
        # every process goes on with what was left
        AutoModelForCausalLM.from_pretrained(folder / "parts" / BEST)
        if log.is_main_process():
            told = {
                "type": kind.value,
                "steps": [trained.steps, again.steps],
                "best": [trained.dev_best, again.dev_best],
                "before": trained.dev_before,
            }
            (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
