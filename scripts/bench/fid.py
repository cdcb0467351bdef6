"""What fusion-in-decoder costs against padding every passage to the longest; prints its verdict.

    python scripts/bench/fid.py --processor          # one thread's time: for a busy machine
    python scripts/bench/fid.py --texts corpus.jsonl # of one's own
    python scripts/bench/fid.py --device cuda

One T5 of t5-small's sizes with random weights, without dropout, in fp32, and the same questions of
ten passages each, as ragkit packs them and as fusion-in-decoder is commonly written: all passages
of a batch padded to the longest, (B * N, longest), through the encoder, and what comes of it, the
padding with it, to the decoder. A step is forward, backward, clipping and AdamW; collation is left
out. Losses, gradients and generated answers are compared first. Both sides multiply matrices by the
same kernels; how fast the padded side is without ragkit's choice of them is printed beside it. The
more questions a batch has, the longer is its longest passage and the more there is to save.

Peak memory is that of a process for each side, less that of one with a single short passage.
"""

import argparse
import contextlib
import copy
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from prose import alternate, natural, parsed, parser_for, ratios, verdict
from torch import nn
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from ragkit.config.blocks import LocalModel
from ragkit.models import products
from ragkit.models.fid import generate_fused
from ragkit.models.generator import Generator
from ragkit.models.resolve import embedded_encoder
from ragkit.training.items import Item
from ragkit.training.seq2seq import Seq2SeqObjective, seq2seq

LEAST = 1.8  # of a training step
MOST_DIFFERENT = 1e-5  # of the loss and of the gradient of every single weight, relative
ANSWER = 16  # tokens
QUESTION_WORDS = 12
MEGABYTE = 1_000_000
SIDES = ("padded", "packed")
TORCH = "padded, by torch's own products"

Run = Callable[[int], Any]


def main() -> None:
    """Compare losses, answers, time and memory, and judge."""
    given = options()
    if given.side:
        measured(given)
        return
    tokenizer, batches = texts_of(given)
    lengths = [len(t) for batch in batches for item in batch for t in item.texts]
    print(
        f"{given.examples} questions a batch with {given.passages} passages each: "
        f"{min(lengths)} to {max(lengths)} tokens, half of them under "
        f"{statistics.median(lengths):.0f}; {given.layers} + {given.layers} layers, "
        f"{given.rounds} rounds",
        flush=True,
    )
    # memory first: what a process takes before it starts another counts for that one as well
    passed = [memory(given), train(batches, tokenizer, given), answer(batches, tokenizer, given)]
    sys.exit(not all(passed))


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = parser_for(__doc__, 7)
    parser.add_argument("--examples", type=int, default=4, help="questions a batch")
    parser.add_argument("--passages", type=int, default=10, help="of a question")
    parser.add_argument("--layers", type=int, default=6, help="of the encoder and of the decoder")
    parser.add_argument("--texts", type=Path, help="JSONL with a `text` in each line")
    parser.add_argument("--side", choices=[*SIDES, "nothing"], help=argparse.SUPPRESS)
    return parsed(parser)


def texts_of(given: argparse.Namespace) -> tuple[Any, list[list[Item]]]:
    """Return a tokenizer, and batches of questions with passages drawn by lot."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_encoder(), model_max_length=512)
    rng, texts = random.Random(0), natural(given.texts)
    batches = []
    for _ in range(min(given.rounds, 4)):
        batch = []
        for i in range(given.examples):
            found = rng.sample(texts, given.passages)
            asked = " ".join(found[0].split()[-QUESTION_WORDS:])
            read = tokenizer(
                [f"Question: {asked}?\nPassage: {text}" for text in found], truncation=True
            )["input_ids"]
            said = tokenizer(found[0])["input_ids"][:ANSWER]
            batch.append(Item(str(i), tuple(map(tuple, read)), (*said, tokenizer.sep_token_id)))
        batches.append(batch)
    return tokenizer, batches


def build(tokenizer: Any, given: argparse.Namespace) -> T5ForConditionalGeneration:
    """Return a T5 of t5-small's sizes."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_heads=8, num_layers=given.layers,
        dropout_rate=0.0, pad_token_id=tokenizer.pad_token_id, decoder_start_token_id=0,
        eos_token_id=tokenizer.sep_token_id,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).to(given.device)


def padded_input(batch: list[Item], padding: int, device: str) -> dict[str, torch.Tensor]:
    """Return all passages of a batch padded to the longest, (B * N, longest)."""
    texts = [torch.tensor(text) for item in batch for text in item.texts]
    rows = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=padding)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(t) for t in texts], batch_first=True)
    return {"input_ids": rows.to(device), "attention_mask": mask.to(device)}


def fused_padded(
    model: T5ForConditionalGeneration, read: dict[str, torch.Tensor], count: int
) -> tuple[BaseModelOutput, torch.Tensor]:
    """Return the states of each question's passages with their padding, and the mask."""
    states = model.encoder(**read).last_hidden_state
    memory = states.view(count, -1, states.shape[-1])
    return BaseModelOutput(last_hidden_state=memory), read["attention_mask"].view(count, -1)


def losses(
    side: str, model: T5ForConditionalGeneration, objective: Seq2SeqObjective,
    batches: list[list[Item]], given: argparse.Namespace,
) -> Run:  # fmt: skip
    """Return what computes the loss of a side on a batch, by number."""
    collated = [to_device(objective.collate(batch), given.device) for batch in batches]
    read = [padded_input(batch, objective.padding, given.device) for batch in batches]

    def loss(number: int) -> torch.Tensor:
        batch = collated[number % len(batches)]
        if side == "packed":
            return objective.loss(model, batch)
        states, mask = fused_padded(model, read[number % len(batches)], given.examples)
        logits = model(
            encoder_outputs=states, attention_mask=mask, use_cache=False,
            decoder_input_ids=batch["decoder_input_ids"],
        ).logits  # fmt: skip
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, reduction="sum"
        )

    return loss


def stepping(model: nn.Module, loss: Run, device: torch.device | None) -> Run:
    """Return what does a whole training step, by ragkit's products on a device."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(number: int) -> None:
        with products.exact(device) if device else contextlib.nullcontext():
            loss(number).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def train(batches: list[list[Item]], tokenizer: Any, given: argparse.Namespace) -> bool:
    """Compare the losses and gradients of both sides, then the time of a step."""
    model, device = build(tokenizer, given), torch.device(given.device)
    same = alike(model, batches[:1], tokenizer, given)
    with contextlib.ExitStack() as stack:
        sides: dict[str, Run] = {}
        for name in (*SIDES, TORCH):
            its = copy.deepcopy(model)
            loss = losses(name, its, objective_of(name, its, tokenizer, stack), batches, given)
            sides[name] = stepping(its, loss, device if name != TORCH else None)
        seconds = alternate(sides, given.rounds, device, given.processor)
    passages = given.examples * given.passages
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"{name}: {middle:.3f} s a step, {1000 * middle / passages:.1f} ms a passage")
    print(f"packed against padded by torch's own products: {ratios(seconds, TORCH, 'packed')[1]}")
    median, text = ratios(seconds, "padded", "packed")
    print(f"packed against padded: {text}")
    return verdict("a training step against padding", median, LEAST) and same


def objective_of(
    side: str, model: nn.Module, tokenizer: Any, stack: contextlib.ExitStack
) -> Seq2SeqObjective:
    """Return the objective of a side, whose model is packed from here on where it is to be."""
    if side == "packed":
        return stack.enter_context(seq2seq(model, tokenizer))
    return Seq2SeqObjective(0, tokenizer.pad_token_id)


def alike(
    model: nn.Module, batches: list[list[Item]], tokenizer: Any, given: argparse.Namespace
) -> bool:
    """Judge whether the loss and the gradients of all weights are those of the other side.

    The gradients in float64: in fp32 both sides are as far from these as from one another.
    """
    found: dict[str, list[torch.Tensor]] = {}
    for side in SIDES:
        with contextlib.ExitStack() as stack:
            its = copy.deepcopy(model)
            loss = losses(side, its, objective_of(side, its, tokenizer, stack), batches, given)
            with torch.no_grad():
                value = loss(0)
            weights = list(its.double().parameters())
            found[side] = [value, *torch.autograd.grad(loss(0), weights)]
    apart = [
        float((a - b).norm() / b.norm())
        for a, b in zip(found["packed"], found["padded"], strict=True)
    ]
    same = max(apart) <= MOST_DIFFERENT
    print(
        f"{'PASS' if same else 'FAIL'}: losses {apart[0]:.1e} apart, gradients of single weights "
        f"{max(apart[1:]):.1e} at most, allowed {MOST_DIFFERENT:.0e}",
        flush=True,
    )
    return same


def answer(batches: list[list[Item]], tokenizer: Any, given: argparse.Namespace) -> bool:
    """Compare the generated tokens of both sides, then the time."""
    model = build(tokenizer, given).eval()
    generator = Generator(
        model, tokenizer,
        LocalModel(model=str(embedded_encoder()), max_new_tokens=ANSWER, batch_size=given.examples),
    )  # fmt: skip
    device = torch.device(given.device)

    def packed(number: int) -> list[str]:
        prompts = [item.texts for item in batches[number % len(batches)]]
        return [output.text for output in generate_fused(generator, prompts)]

    def padded(number: int) -> list[str]:
        batch = batches[number % len(batches)]
        with torch.no_grad():
            read = padded_input(batch, tokenizer.pad_token_id, given.device)
            with products.exact(device):
                states, mask = fused_padded(model, read, len(batch))
            tokens = model.generate(
                encoder_outputs=states, attention_mask=mask, max_new_tokens=ANSWER, do_sample=False
            )
        return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    same = all(packed(i) == padded(i) for i in range(len(batches)))
    print(f"{'PASS' if same else 'FAIL'}: the same answers")
    seconds = alternate({"padded": padded, "packed": packed}, given.rounds, device, given.processor)
    for name, times in seconds.items():
        each = 1000 * statistics.median(times) / (given.examples * given.passages)
        print(f"generation, {name}: {each:.1f} ms a passage, {ANSWER} tokens an answer")
    print(f"generation, packed against padded: {ratios(seconds, 'padded', 'packed')[1]}")
    return same


def memory(given: argparse.Namespace) -> bool:
    """Compare the peak memory of a process of each side."""
    peaks = {side: peak(side, given) for side in ("nothing", *SIDES)}
    passages = given.examples * given.passages
    beyond = {side: peaks[side] - peaks["nothing"] for side in SIDES}
    for side in SIDES:
        print(
            f"{side}: peak {peaks[side] / MEGABYTE:,.0f} MB, "
            f"{beyond[side] / passages / MEGABYTE:,.1f} MB a passage"
        )
    return verdict("memory of a step against padding", beyond["padded"] / beyond["packed"], 1.0)


def peak(side: str, given: argparse.Namespace) -> int:
    """Return the peak memory in bytes of a process that takes some steps."""
    command = [sys.executable, __file__, "--side", side]
    for name in ("examples", "passages", "layers", "device"):
        command += [f"--{name}", str(getattr(given, name))]
    command += ["--texts", str(given.texts)] if given.texts else []
    command += ["--processor"] if given.processor else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        said = child.stdout.read() if child.stdout else ""
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{side}: failed with {child.returncode}")
    if given.device == "cuda":
        return int(said)
    return int(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def measured(given: argparse.Namespace) -> None:
    """Take two steps of one side; of `nothing`, with a short passage a question alone."""
    tokenizer, batches = texts_of(argparse.Namespace(**{**vars(given), "rounds": 2}))
    if given.side == "nothing":
        batches = [[Item(i.example_id, ((5, 6),), i.answer[-1:]) for i in b] for b in batches]
    model = build(tokenizer, given)
    with contextlib.ExitStack() as stack:
        objective = objective_of(given.side, model, tokenizer, stack)
        step = stepping(
            model, losses(given.side, model, objective, batches, given),
            torch.device(given.device),
        )  # fmt: skip
        for number in range(2):
            step(number)
    print(torch.cuda.max_memory_allocated() if given.device == "cuda" else 0)


def to_device(batch: dict[str, Any], device: str) -> dict[str, Any]:
    """Move a batch's tensors."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


if __name__ == "__main__":
    main()
