"""How fast a generator's training step is, against TRL's SFTTrainer; prints its own verdict.

    pip install trl                              # compared with, not needed otherwise
    python scripts/bench/sft.py                  # on this machine's CPU
    python scripts/bench/sft.py --processor      # on one that others use as well
    python scripts/bench/sft.py --device cuda --hidden 2048 --layers 16 --precision bf16

Forward, backward, clipping and AdamW on the same batches of questions with a passage and an answer,
of the lengths that paragraphs have, by ragkit's collator and loss and by SFTTrainer's collator and
compute_loss (completion-only); the same random Llama, without checkpoints and logging. Tokenising
and collating are left out of the times. Loss and gradients of both are compared first.
"""

import argparse
import contextlib
import copy
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from prose import alternate, model_flops, natural, parsed, parser_for, peak_tflops, ratios, verdict
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ragkit.models import packing
from ragkit.training.causal import CausalObjective
from ragkit.training.items import Item

LEAST = 1.5
MOST_DIFFERENT = 1e-4
VOCABULARY = 4096
ANSWER_WORDS = 12

Step = Callable[[int], object]


def main() -> None:
    """Compare losses and gradients, then the times."""
    parser = parser_for(__doc__, 9)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--texts", type=Path, help="JSONL with a `text` in each line")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--peak-tflops", type=float, help="of the card, dense bf16")
    given = parsed(parser)
    logging.disable(logging.WARNING)
    disable_progress_bars()
    texts = natural(given.texts)
    tokenizer = trained_tokenizer(texts)
    rows = asked(texts, tokenizer, given.rounds * given.batch_size)
    batches = [rows[i : i + given.batch_size] for i in range(0, len(rows), given.batch_size)]
    sizes = sorted(len(r["input_ids"]) for r in rows)
    print(
        f"{len(rows)} sequences of {sizes[0]} to {sizes[-1]} tokens (half under "
        f"{sizes[len(sizes) // 2]}), {given.batch_size} at a time, {given.precision}"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=given.hidden, intermediate_size=4 * given.hidden,
            num_hidden_layers=given.layers, num_attention_heads=max(given.hidden // 64, 2),
            max_position_embeddings=2048, pad_token_id=0, eos_token_id=1,
        )
    ).to(given.device)  # fmt: skip
    sides = {
        "TRL": theirs(copy.deepcopy(model), tokenizer, batches, given),
        "ragkit": ours(copy.deepcopy(model), batches, given),
    }
    passed = [same({name: side(0) for name, side in sides.items()})]
    steps = {name: stepping(*side, given) for name, side in sides.items()}
    seconds = alternate(steps, given.rounds, torch.device(given.device), given.processor)
    for name, times in seconds.items():
        middle = statistics.median(times)
        tokens = sum(sizes) / len(batches)
        print(f"{name}: {middle:.3f} s a step, {tokens / middle:,.0f} tokens/s")
        if given.device == "cuda" and (peak := peak_tflops(given.peak_tflops)):
            flops = 3 * sum(model_flops(model, lengths_of(b)) for b in batches) / len(batches)
            print(f"{name}: {flops / middle / 1e12 / peak:.1%} of the card's peak")
    median, text = ratios(seconds, "TRL", "ragkit")
    print(f"ragkit against TRL: {text}")
    passed.append(verdict("an SFT step on natural lengths", median, LEAST))
    sys.exit(not all(passed))


def trained_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer on the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=2048
    )


def asked(texts: list[str], tokenizer: PreTrainedTokenizerFast, count: int) -> list[dict[str, Any]]:
    """Return prompts that hold a text and its next one's beginning as the answer."""
    rows = []
    for i in range(count):
        text, following = texts[i % len(texts)], texts[(i + 1) % len(texts)]
        prompt = tokenizer(f"Passages:\n\n[1] {text}\n\nQuestion: what follows?\n\nAnswer:")
        answer = tokenizer(" " + " ".join(following.split()[:ANSWER_WORDS]))["input_ids"]
        ids = [*prompt["input_ids"], *answer, 1]
        mask = [0] * len(prompt["input_ids"]) + [1] * (len(answer) + 1)
        rows.append({"input_ids": ids, "completion_mask": mask})
    return rows


class Side:
    """A model and what computes its loss on a batch."""

    def __init__(self, model: nn.Module, loss: Callable[[int], torch.Tensor]) -> None:
        self.model, self.loss = model, loss

    def __iter__(self) -> Any:
        return iter((self.model, self.loss))

    def __call__(self, number: int) -> tuple[float, dict[str, torch.Tensor]]:
        """Return loss and gradients of a batch."""
        loss = self.loss(number)
        loss.backward()
        found = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        self.model.zero_grad()
        return loss.item(), found


def ours(model: Any, batches: list[list[dict[str, Any]]], given: argparse.Namespace) -> Side:
    """Return ragkit's side: sequences packed, logits at the answers alone."""
    model.set_attn_implementation(packing.IMPLEMENTATION)
    objective = CausalObjective(padding=0, offset=0)
    prepared = []
    for batch in batches:
        items = []
        for i, row in enumerate(batch):
            start = row["completion_mask"].index(1)
            ids = tuple(row["input_ids"])
            items.append(Item(str(i), (ids[:start],), ids[start:]))
        prepared.append(to_device(objective.collate(items), given.device))

    def loss(number: int) -> torch.Tensor:
        batch = prepared[number % len(prepared)]
        with region(given):
            return objective.loss(model, batch) / len(batch["labels"])

    return Side(model.train(), loss)


def theirs(
    model: Any, tokenizer: Any, batches: list[list[dict[str, Any]]], given: argparse.Namespace
) -> Side:
    """Return TRL's side, as its documentation uses it."""
    from trl import SFTConfig, SFTTrainer

    rows = [row for batch in batches for row in batch]
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                folder, per_device_train_batch_size=given.batch_size, report_to="none",
                use_cpu=given.device == "cpu", completion_only_loss=True, max_length=None,
                gradient_checkpointing=False, bf16=given.precision == "bf16",
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )  # fmt: skip
    size, rows = given.batch_size, list(trainer.train_dataset)  # with the labels that it makes
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    prepared = [to_device(trainer.data_collator(part), given.device) for part in parts]

    def loss(number: int) -> torch.Tensor:
        with region(given):
            found: torch.Tensor = trainer.compute_loss(
                model, copy.copy(prepared[number % len(prepared)])
            )
        return found

    return Side(model.train(), loss)


def same(found: dict[str, tuple[float, dict[str, torch.Tensor]]]) -> bool:
    """Judge whether loss and gradients of both sides are the same; print how far they are."""
    (theirs_loss, theirs_of), (ours_loss, ours_of) = found["TRL"], found["ragkit"]
    apart = {n: float((ours_of[n] - g).norm() / g.norm()) for n, g in theirs_of.items()}
    worst = max(apart, key=lambda n: apart[n])
    print(f"loss {ours_loss:.6f} and {theirs_loss:.6f}; gradients at most {apart[worst]:.1e} apart")
    passed = abs(ours_loss - theirs_loss) < MOST_DIFFERENT and apart[worst] < MOST_DIFFERENT
    print(
        f"{'PASS' if passed else 'FAIL'}: loss and gradients within {MOST_DIFFERENT:.0e} of TRL's"
    )
    return passed


def stepping(model: nn.Module, loss: Step, given: argparse.Namespace) -> Step:
    """Return what does a whole training step."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)

    def step(number: int) -> None:
        loss(number).backward()  # type: ignore[attr-defined]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def lengths_of(batch: list[dict[str, Any]]) -> list[int]:
    """Return the tokens of each sequence."""
    return [len(row["input_ids"]) for row in batch]


def region(given: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """Return the region that both trainers compute in with bf16: true."""
    if given.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(given.device, torch.bfloat16)


def to_device(batch: dict[str, Any], device: str) -> dict[str, Any]:
    """Move a batch's tensors."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


if __name__ == "__main__":
    main()
