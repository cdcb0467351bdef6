"""How fast a contrastive training step is, against sentence-transformers; prints its own verdict.

    python scripts/bench/train_step.py                       # on this machine's CPU
    python scripts/bench/train_step.py --texts corpus.jsonl  # of one's own
    python scripts/bench/train_step.py --device cuda

Forward, backward, clipping and AdamW on the same batch: questions, each with a positive and a hard
negative, by ragkit's collator and model, and by SentenceTransformerTrainer's collator and
compute_loss with MultipleNegativesRankingLoss. Both without dropout, with one temperature, by the
same optimiser, without checkpoints and logging. Collation is left out of the times, which favours
the library: it tokenises each batch again, ragkit tokenises all texts once. The gradients of both
are compared first.
"""

import argparse
import contextlib
import copy
import logging
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from prose import alternate, kinds, parsed, parser_for, ratios, verdict
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import nn

from ragkit.config.training import Contrastive
from ragkit.data.schema import Example, known_positives
from ragkit.models.encoder import Encoder
from ragkit.models.resolve import resolve_model
from ragkit.training.collate import PairCollator, PairDataset
from ragkit.training.contrastive import ContrastiveModel

LEAST = {
    "natural lengths": {"fp32": 2.8, "bf16": 4.0},
    "even chunks": {"fp32": 1.5, "bf16": 2.4},
}
MOST_DIFFERENT = 1e-4  # of the gradient of every single weight, relative
TEMPERATURE = 0.05
QUESTION_WORDS = 12

Row = dict[str, str]  # anchor, positive, negative
Step = Callable[[int], object]


def main() -> None:
    """Compare on natural lengths and on even chunks."""
    parser = parser_for(__doc__, 9)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--texts", type=Path, help="JSONL with a `text` in each line")
    parser.add_argument("--model", default="embedded")
    given = parsed(parser)
    logging.disable(logging.WARNING)
    passed = []
    for kind, texts in kinds(given.texts, 4 * given.batch_size).items():
        rows = triplets(texts)
        batches = [rows[i : i + given.batch_size] for i in range(0, len(rows), given.batch_size)]
        batches = [batch for batch in batches if len(batch) == given.batch_size][: given.rounds]
        print(f"\n{kind}: batches of {given.batch_size}, {given.rounds} rounds", flush=True)
        passed.append(compare(kind, batches, given))
    sys.exit(not all(passed))


def triplets(texts: list[str]) -> list[Row]:
    """Make questions of a text's own words, each with the text and another one."""
    half = len(texts) // 2
    return [
        {
            "anchor": " ".join(text.split()[-QUESTION_WORDS:]) + "?",
            "positive": text,
            "negative": negative,
        }
        for text, negative in zip(texts[:half], texts[half : 2 * half], strict=True)
    ]


def compare(kind: str, batches: list[list[Row]], given: argparse.Namespace) -> bool:
    """Compare gradients, time four sides on the same batches, and judge."""
    reference, device = given.model, given.device
    passed = [same_gradients(reference, batches[:1], device)]
    sides: dict[str, Step] = {}
    for precision in ("fp32", "bf16"):
        for name, make in (("library", theirs), ("ragkit", ours)):
            model, run = make(reference, batches, precision, device)
            sides[f"{name} {precision}"] = stepping(model, run, len(batches))
    seconds = alternate(sides, given.rounds, torch.device(device), given.processor)
    for side, times in seconds.items():
        rate = len(batches[0]) / statistics.median(times)
        print(f"{side}: {statistics.median(times):.3f} s a step, {rate:,.1f} questions/s")
    for precision, least in LEAST[kind].items():
        median, text = ratios(seconds, "library fp32", f"ragkit {precision}")
        print(f"ragkit {precision} against library fp32: {text}")
        passed.append(verdict(f"{kind}, {precision} against the library's fp32", median, least))
    print(f"ragkit bf16 against library bf16: {ratios(seconds, 'library bf16', 'ragkit bf16')[1]}")
    return all(passed)


def ours(
    reference: str, batches: list[list[Row]], precision: str, device: str
) -> tuple[nn.Module, Step]:
    """Return ragkit's model and what computes its loss on a batch."""
    encoder = without_dropout(Encoder.load(reference)).to(device).train()
    model = ContrastiveModel(encoder, Contrastive(temperature=TEMPERATURE, n_negatives=1))
    prepared = []
    for batch in batches:
        passages = {text: text for row in batch for text in (row["positive"], row["negative"])}
        examples = [
            Example(
                id=str(i), question=row["anchor"], positive_ids=(row["positive"],),
                negative_ids=(row["negative"],),
            )
            for i, row in enumerate(batch)
        ]  # fmt: skip
        tokens = encoder.tokenize(list(passages), "passage")
        asked = encoder.tokenize([e.question for e in examples], "query")
        collate = PairCollator(
            queries=dict(zip((e.id for e in examples), asked, strict=True)),
            passages=dict(zip(passages, tokens, strict=True)),
            known=known_positives(examples),
        )
        pairs = PairDataset(examples, 1, 0)
        prepared.append(to_device(collate([pairs[i] for i in range(len(pairs))]), device))

    def loss(number: int) -> torch.Tensor:
        with autocast(precision, device):
            found: torch.Tensor = model(**prepared[number])["loss"]
        return found

    return model, loss


def theirs(
    reference: str, batches: list[list[Row]], precision: str, device: str
) -> tuple[nn.Module, Step]:
    """Return the library's model and what computes its loss on a batch."""
    model = without_dropout(SentenceTransformer(resolve_model(reference), device=device))
    rows = [row for batch in batches for row in batch]
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model,
            SentenceTransformerTrainingArguments(
                folder, per_device_train_batch_size=len(batches[0]), report_to="none",
                use_cpu=device == "cpu",
            ),
            train_dataset=Dataset.from_list(rows),
            loss=MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE),
        )  # fmt: skip
    model.train()
    prepared = [to_device(trainer.data_collator(batch), device) for batch in batches]

    def loss(number: int) -> torch.Tensor:
        with autocast(precision, device):
            found: torch.Tensor = trainer.compute_loss(model, copy.copy(prepared[number]))
        return found

    return model, loss


def without_dropout(model: nn.Module) -> Any:
    """Set every dropout to zero, in attention too."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def to_device(batch: dict[str, Any], device: str) -> dict[str, Any]:
    """Move a batch's tensors."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def autocast(precision: str, device: str) -> contextlib.AbstractContextManager[Any]:
    """Return the region that both libraries' trainers compute in with bf16: true."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device, torch.bfloat16)


def stepping(model: nn.Module, loss: Step, n_batches: int) -> Step:
    """Return what does a whole training step."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-5, fused=True)

    def step(number: int) -> None:
        loss(number % n_batches).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def same_gradients(reference: str, batch: list[list[Row]], device: str) -> bool:
    """Judge whether the fp32 gradients of a batch are the library's; print how far they are.

    Every weight's are to be within MOST_DIFFERENT of the library's. Where a gradient is a small
    remainder of large terms, rounding alone takes the two further apart; there ragkit's must be
    the one that is nearer to the gradient in float64.
    """
    found, expected = (
        gradients_of(make(reference, batch, "fp32", device)) for make in (ours, theirs)
    )
    apart = relative_differences(found, expected)
    whole = math.hypot(*(float((found[k] - g).norm()) for k, g in expected.items()))
    whole /= math.hypot(*(float(g.norm()) for g in expected.values()))
    worst = max(apart, key=lambda k: apart[k])
    print(
        f"fp32 gradients: {whole:.1e} apart; of single weights at most {apart[worst]:.1e}: {worst}"
    )
    far = [name for name, difference in apart.items() if difference >= MOST_DIFFERENT]
    passed = True
    if far:
        model, loss = theirs(reference, batch, "fp32", device)
        exact = gradients_of((model.double(), loss))
        ours_off, theirs_off = (relative_differences(g, exact) for g in (found, expected))
        for name in far:
            off = f"ragkit {ours_off[name]:.1e}, the library {theirs_off[name]:.1e}"
            print(f"{name} against float64: {off}")
            passed &= ours_off[name] <= theirs_off[name]
    said = f"fp32 gradients within {MOST_DIFFERENT:.0e} of the library's, or nearer to float64"
    print(f"{'PASS' if passed else 'FAIL'}: {said}")
    return passed


def gradients_of(made: tuple[nn.Module, Step]) -> dict[str, torch.Tensor]:
    """Return the gradients of the first batch, by the transformer's own names of weights."""
    model, loss = made
    loss(0).backward()
    found = {}
    for name, weights in model.named_parameters():
        if weights.grad is not None:
            found[name[name.index("embeddings" if "embeddings" in name else "encoder.layer") :]] = (
                weights.grad.double()
            )
    return found


def relative_differences(
    a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Return |a - b| / |b| of each weight whose gradient is not rounding alone.

    A key's bias has none: it adds the same to all scores of a query.
    """
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    most = max(float(g.norm()) for g in b.values())
    return {k: float((a[k] - g).norm() / g.norm()) for k, g in b.items() if g.norm() > 1e-6 * most}


if __name__ == "__main__":
    main()
