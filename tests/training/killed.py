"""Runs train-retriever and ends its own process by a signal, at a place.

    python killed.py CONFIG.json {batch,saving} N {SIGKILL,SIGINT}

batch: before the Nth batch; saving: in the Nth checkpoint, weights written and the rest not
"""

import json
import os
import signal
import sys
from typing import Any

from transformers import Trainer

from ragkit.config.load import Source, build
from ragkit.stages import STAGES
from ragkit.stages.pipeline import run_stage
from ragkit.training.collate import PairCollator


def end_at(place: str, n: int, number: int) -> None:
    """Send this process the signal when it comes to the place for the nth time."""
    owner, name = (
        (PairCollator, "__call__")
        if place == "batch"
        else (Trainer, "_save_optimizer_and_scheduler")
    )
    inner, calls = getattr(owner, name), []

    def counted(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == n:
            os.kill(os.getpid(), number)
        return inner(self, *arguments)

    setattr(owner, name, counted)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started us
    module = STAGES["train-retriever"].load()
    with open(sys.argv[1]) as f:
        config = build(module.Config, Source(json.load(f)))
    end_at(sys.argv[2], int(sys.argv[3]), getattr(signal, sys.argv[4]))
    run_stage("train-retriever", module, config, ["ragkit", "train-retriever"])
