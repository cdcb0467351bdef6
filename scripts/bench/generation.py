"""How fast uneven prompts are answered, against transformers' generate; prints its own verdict.

    python scripts/bench/generation.py                # on this machine's CPU
    python scripts/bench/generation.py --processor    # on one that others use as well
    python scripts/bench/generation.py --device cuda --hidden 2048 --layers 16 --precision bf16

A random Llama answers prompts of uneven lengths, decoding greedily, until one of many end tokens
comes, so that answers are uneven too. One side is `model.generate` in the order of the file,
`batch_size` prompts at a time, padded on the left; the other ragkit's generator with the same batch
size. Tokenising is left out of both. In fp32 the tokens of both are compared first.
"""

import argparse
import random
import statistics
import sys

import torch
from prose import alternate, parsed, parser_for, ratios, verdict
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ragkit.config.blocks import LocalModel
from ragkit.models.generator import Generator

LEAST = 1.5
PAD, END, VOCABULARY = 0, 1, 4000
ENDS = 60  # of 4,000: an answer of a random model has about 50 tokens

Prompts = list[list[int]]


def main() -> None:
    """Compare the tokens, then the times."""
    parser = parser_for(__doc__, 5)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    given = parsed(parser)
    generator, prompts = build(given), uneven(given.prompts)
    expected, answers = plain(generator, prompts), ours(generator, prompts)
    lengths = sorted(map(len, expected))
    read = sorted(map(len, prompts))
    middle = len(prompts) // 2
    print(
        f"{len(prompts)} prompts of {read[0]} to {read[-1]} tokens (half under {read[middle]}), "
        f"answers of {lengths[0]} to {lengths[-1]} (half under {lengths[middle]}), "
        f"{given.batch_size} at a time, {given.precision}"
    )
    same = sum(a == b for a, b in zip(expected, answers, strict=True))
    print(f"{same} of {len(prompts)} answers have the same tokens")
    sides = {
        "generate": lambda _: plain(generator, prompts),
        "ragkit": lambda _: ours(generator, prompts),
    }
    seconds = alternate(sides, given.rounds, torch.device(given.device), given.processor)
    for side, times in seconds.items():
        rate = sum(lengths) / statistics.median(times)
        print(f"{side}: {statistics.median(times):.2f} s, {rate:,.0f} tokens/s")
    median, text = ratios(seconds, "generate", "ragkit")
    print(f"ragkit against generate in file order: {text}")
    passed = verdict("200 uneven prompts" if len(prompts) == 200 else "prompts", median, LEAST)
    sys.exit(not passed or (given.precision == "fp32" and same < len(prompts)))


def build(given: argparse.Namespace) -> Generator:
    """Return a random Llama as a generator; its tokenizer is of no use but for the end."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=given.hidden, intermediate_size=2 * given.hidden,
        num_hidden_layers=given.layers, num_attention_heads=given.hidden // 64,
        max_position_embeddings=2048, initializer_range=0.1,
        pad_token_id=PAD, eos_token_id=END, bos_token_id=None,
    )  # fmt: skip
    dtype = torch.bfloat16 if given.precision == "bf16" else torch.float32
    model = LlamaForCausalLM(config).to(given.device, dtype).eval()
    model.generation_config.eos_token_id = list(range(1, 1 + ENDS))
    words = Tokenizer(models.WordLevel({"<pad>": PAD, "</s>": END}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
    settings = LocalModel(
        model="random", batch_size=given.batch_size, max_new_tokens=given.max_new_tokens
    )
    return Generator(model, tokenizer, settings)


def uneven(count: int) -> Prompts:
    """Return prompts of 8 to 600 tokens, many short and few long."""
    draw = random.Random(0)
    sizes = [min(600, 8 + int(draw.expovariate(1 / 120))) for _ in range(count)]
    return [[draw.randrange(1 + ENDS, VOCABULARY) for _ in range(size)] for size in sizes]


def plain(generator: Generator, prompts: Prompts) -> Prompts:
    """Return the answers of `generate`, up to their ends."""
    model, size = generator.model, generator.config.batch_size
    answers: Prompts = []
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        longest = max(map(len, batch))
        ids = torch.tensor([[PAD] * (longest - len(p)) + p for p in batch], device=model.device)
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids, attention_mask=(ids != PAD).long(), do_sample=False,
                max_new_tokens=generator.config.max_new_tokens,
            )  # fmt: skip
        for tokens in output[:, longest:].tolist():
            end = next((i for i, t in enumerate(tokens) if 0 < t <= ENDS), len(tokens))
            answers.append(tokens[: end + 1])
    return answers


def ours(generator: Generator, prompts: Prompts) -> Prompts:
    """Return the tokens of ragkit's answers."""
    answers: Prompts = [[] for _ in prompts]
    for i, answer in generator.generate_ids(prompts):
        answers[i] = list(answer.ids)
    return answers


if __name__ == "__main__":
    main()
