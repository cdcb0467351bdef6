"""What the tests start by torchrun: a training run, whole and in two parts, in each process.

    torchrun ... ranks_worker.py {ddp,zero2,zero3,rank-1-fails} ENCODER FOLDER CONFIGS

Rank 0 leaves the weights in FOLDER, and what it was trained by in FOLDER/told.json.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from safetensors.torch import save_file

from ragkit import log
from ragkit.config.blocks import EncoderOptions
from ragkit.config.training import Contrastive, TrainLoop
from ragkit.data.schema import Example, Passage
from ragkit.models import ranks
from ragkit.models.encoder import Encoder
from ragkit.training.collate import PairCollator
from ragkit.training.measuring import Trained
from ragkit.training.retriever import train_retriever

WORDS = [
    ("gateway", "red"), ("voltage", "green"), ("sensor", "blue"), ("relay", "light"),
    ("valve", "twelve"), ("pump", "twenty"), ("fuse", "thirty"), ("alarm", "forty"),
    ("firmware", "volts"), ("port", "amps"), ("cable", "seconds"), ("battery", "minutes"),
]  # fmt: skip
CORPUS = {f"p{i}": Passage(f"p{i}", f"it holds {said}") for i, (_, said) in enumerate(WORDS)}
EXAMPLES = [
    Example(f"q{i}", f"which {asked}", (), (f"p{i}",), tuple(f"p{(i + j) % 12}" for j in (1, 2, 3)))
    for i, (asked, _) in enumerate(WORDS)
]
# before training, then at steps 2, 4, 6, ...: two without progress end it at step 8
SCORES = [0.1, 0.2, 0.5, 0.4, 0.3, 0.9, 0.9]


class StoppedError(Exception):
    """Stands for the end of all processes."""


def train(encoder: Encoder, folder: Path, guide: str, **loop: Any) -> Trained:
    """Train on the examples above; the dev metric is that of `SCORES`, in rank 0 alone.

    guide: an encoder that all processes encode with, each its share
    """
    seen: list[int] = []

    def score(measured: Encoder) -> Mapping[str, float]:
        if os.environ.get("RANK", "0") != "0":
            raise AssertionError("only rank 0 measures")
        done = (folder / "checkpoints").glob("checkpoint-*/ragkit.json")
        step = max([0, *(json.loads((p.parent / "trainer_state.json").read_text())["global_step"]
                         for p in done)])  # fmt: skip
        seen.append(step)
        at = 0 if not step and len(seen) == 1 else step // 2 + 1
        return {"ndcg@10": SCORES[at]}

    options = {
        "epochs": 4, "batch_size": 2, "learning_rate": 1e-3, "warmup": 0.0, "precision": "fp32",
        "device": "cpu", "evaluate_every": 2, "patience": 2,
    }  # fmt: skip
    return train_retriever(
        encoder, EXAMPLES, CORPUS, folder,
        loss=Contrastive(guide={"model": guide, "margin": 0.02}),
        loop=TrainLoop(**{**options, **loop}), score=score,
    )  # fmt: skip


def stop_at(batch: int, failing_rank: int | None = None) -> None:
    """Let the collator raise at its nth batch, in all processes or in one."""
    inner, calls = PairCollator.__call__, []

    def counted(self: PairCollator, pairs: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == batch and failing_rank in (None, int(os.environ["RANK"])):
            PairCollator.__call__ = inner  # type: ignore[method-assign]
            raise StoppedError
        return inner(self, pairs)

    PairCollator.__call__ = counted  # type: ignore[method-assign]


def main() -> None:
    """Do what the command line says."""
    mode, model, folder, configs = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    log.setup()
    loop = {"deepspeed": configs / f"{mode}.json"} if mode.startswith("zero") else {}

    def fresh() -> Encoder:
        return Encoder.load(model, EncoderOptions(max_length=16))

    with ranks.joined():
        if mode == "rank-1-fails":
            stop_at(3, failing_rank=1)
            train(fresh(), folder / "whole", model)
        whole = fresh()
        trained = train(whole, folder / "whole", model, **loop)
        kind = AcceleratorState().distributed_type
        stop_at(6)
        try:
            train(fresh(), folder / "parts", model, **loop)
        except StoppedError:
            pass
        else:
            raise AssertionError("it was not stopped")
        resumed = fresh()
        again = train(resumed, folder / "parts", model, **loop)
        if log.is_main_process():
            save_file(whole.state_dict(), folder / "whole.safetensors")
            save_file(resumed.state_dict(), folder / "parts.safetensors")
            told = {
                "type": kind.value,
                "steps": [trained.steps, again.steps],
                "best_step": [trained.best_step, again.best_step],
            }
            (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
