"""Losses and gradients of one batch, whole or shared out; a process of its own for each share.

    python ranks.py ENCODER FOLDER RANK WORLD_SIZE

writes FOLDER/RANK.pt, {case: (loss, {parameter: gradient})}, of the model behind
DistributedDataParallel.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ragkit.config.training import Contrastive
from ragkit.data.schema import Example, known_positives
from ragkit.models.encoder import Encoder
from ragkit.training.collate import Pair, PairCollator
from ragkit.training.contrastive import ContrastiveModel

Case = tuple[float, dict[str, Tensor]]

GUIDE = {"model": "embedded", "margin": -0.02}  # its vectors are given below
CASES: dict[str, dict[str, Any]] = {
    "info_nce": {},
    "symmetric": {"symmetric": 0.4},
    "cached": {"cached": True, "chunk_tokens": 12},
    "cached symmetric": {"cached": True, "chunk_tokens": 12, "symmetric": "docchat"},
    "margin": {"false_negative_margin": 0.0, "symmetric": 0.5},
    "guide": {"guide": GUIDE, "symmetric": 0.5},
    "matryoshka": {"matryoshka": [32, 8], "matryoshka_weights": [1.0, 0.5], "symmetric": 0.3},
    "kl": {"distillation": {"weight": 0.7, "teacher_temperature": 3.0}},
    "margin_mse": {"distillation": {"method": "margin_mse", "contrastive_weight": 0.0}},
    "all of it": {
        "cached": True,
        "chunk_tokens": 12,
        "symmetric": "dalm",
        "false_negative_margin": 0.05,
        "guide": GUIDE,
        "matryoshka": [32, 16],
        "distillation": {"method": "margin_mse"},
    },
}

TEXTS = {
    "p0": "gateway voltage twelve volts",
    "p1": "sensor relay opens",
    "p2": "valve",
    "p3": "pump stops after ten minutes and starts again",
    "p4": "fuse red light",
    "p5": "backup battery lasts forty hours",
    "p6": "password reset",
    "p7": "log of the display",
}
EXAMPLES = [
    Example("a", "gateway voltage", (), ("p0",), ("p4", "p5"), scores={"p0": 5.0, "p4": 1.0}),
    Example("b", "which relay", (), ("p1", "p6"), ("p2",), scores={"p1": 3.0, "p2": -1.0}),
    Example("c", "the power of the gateway", (), ("p0",), ("p3",)),
    # in the second share: p0 again, p6 that is known to answer b, and p4, a negative of a
    Example("d", "how many volts", (), ("p0",), ("p4",)),
    Example("e", "password lost", (), ("p6",), ("p1", "p7"), scores={"p6": 4.0, "p7": 0.5}),
]
SHARES = [range(3), range(3, 5)]


def collator(encoder: Encoder, loss: Contrastive, batch_size: int | None) -> PairCollator:
    """Return the collator over all examples, the same in every process."""
    queries = encoder.tokenize([e.question for e in EXAMPLES], "query")
    passages = encoder.tokenize(list(TEXTS.values()), "passage")
    random = torch.Generator().manual_seed(1)
    vectors = [torch.randn(n, 4, generator=random) for n in (len(queries), len(passages))]
    of_queries, of_passages = (torch.nn.functional.normalize(v, dim=1).numpy() for v in vectors)
    return PairCollator(
        dict(zip((e.id for e in EXAMPLES), queries, strict=True)),
        dict(zip(TEXTS, passages, strict=True)),
        known_positives(EXAMPLES),
        loss,
        batch_size,
        (of_queries, of_passages) if loss.guide else None,
    )


def result(folder: str, options: dict[str, Any], share: range, parallel: bool = False) -> Case:
    """Return loss and gradients of a share of the examples."""
    encoder = Encoder.load(folder)
    loss = Contrastive(**{"temperature": 0.1, **options})
    model: torch.nn.Module = ContrastiveModel(encoder, loss)
    if parallel:
        model = torch.nn.parallel.DistributedDataParallel(model)
    pairs = [Pair(e, e.positive_ids[0], e.negative_ids) for e in (EXAMPLES[i] for i in share)]
    batch = collator(encoder, loss, 3 if parallel else None)(pairs)
    value = model(**batch)["loss"]
    value.backward()
    found = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
    return value.item(), found


def main(folder: str, out: str, rank: int, world_size: int) -> None:
    """Compute every case in this process's share."""
    store = f"file://{out}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    found = {name: result(folder, c, SHARES[rank], True) for name, c in CASES.items()}
    torch.save(found, Path(out) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
