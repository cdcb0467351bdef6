"""English prose for the benchmarks, and how two sides are timed; not a benchmark itself.

The texts are paragraphs of the Python documentation that comes with Python, 5 to 264 words long
(half of them under 27), or the `text` of each line of a JSONL file.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics

import torch

CHUNK_WORDS = 140
# dense bf16, without sparsity, as the makers state it
PEAK_TFLOPS = {
    "H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10G": 70.0,
    "A10": 125.0, "RTX 4090": 165.0, "RTX 3090": 71.0, "V100": 125.0, "T4": 65.0,
}  # fmt: skip


def parser_for(page: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that benchmarks of models have."""
    parser = argparse.ArgumentParser(description=(page or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--processor", action="store_true", help="processor time of one thread: for a busy machine"
    )
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options given, and keep to one thread where its processor time is measured."""
    given = parser.parse_args()
    if given.processor:
        torch.set_num_threads(1)
    return given


def natural(path: Path | None = None) -> list[str]:
    """Return texts of the lengths that they have."""
    if path is not None:
        with path.open(encoding="utf-8") as f:
            return [json.loads(line)["text"] for line in f]
    paragraphs = (" ".join(p.split()) for page in topics.values() for p in page.split("\n\n"))
    return list(dict.fromkeys(p for p in paragraphs if _is_prose(p)))


def even(texts: Sequence[str]) -> list[str]:
    """Return the same words in chunks of one length."""
    words = " ".join(texts).split()
    starts = range(0, len(words) - CHUNK_WORDS + 1, CHUNK_WORDS)
    return [" ".join(words[i : i + CHUNK_WORDS]) for i in starts]


def kinds(path: Path | None, few: int) -> dict[str, list[str]]:
    """Return some texts of natural lengths and some even chunks: `few`, and four times as many."""
    texts = natural(path)
    found = {"natural lengths": (texts, 4 * few), "even chunks": (even(texts), few)}
    rng = random.Random(0)
    return {name: rng.sample(t, min(n, len(t))) for name, (t, n) in found.items()}


def _is_prose(paragraph: str) -> bool:
    letters = sum(c.isalpha() or c == " " for c in paragraph)
    return len(paragraph.split()) >= 5 and letters > 0.85 * len(paragraph)


def alternate(
    sides: Mapping[str, Callable[[int], object]],
    rounds: int,
    device: torch.device,
    processor: bool = False,
) -> dict[str, list[float]]:
    """Return the seconds of each side in each round, first forwards, then backwards, and so on.

    A side is called with the number of the round; a round before the first is not timed.

    processor: count the processor's time, for one thread on a machine that others use as well
    """
    clock = time.process_time if processor else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(-1, rounds):
        for name in list(sides) if i % 2 else reversed(sides):
            start = clock()
            sides[name](max(i, 0))
            if device.type == "cuda":
                torch.cuda.synchronize()
            if i >= 0:
                seconds[name].append(clock() - start)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], slow: str, fast: str) -> tuple[float, str]:
    """Return the median ratio of two sides, round by round, and a text with the spread."""
    found = sorted(s / f for s, f in zip(seconds[slow], seconds[fast], strict=True))
    median = statistics.median(found)
    if len(found) < 4:
        return median, f"{median:.2f} x ({found[0]:.2f} to {found[-1]:.2f})"
    low, _, high = statistics.quantiles(found, n=4)
    return median, f"{median:.2f} x (half of {len(found)} rounds: {low:.2f} to {high:.2f})"


def verdict(what: str, found: float, least: float) -> bool:
    """Print whether a target is met, and return it."""
    print(f"{'PASS' if found >= least else 'FAIL'}: {what}: {found:.2f} x, at least {least}")
    return found >= least


def peak_tflops(given: float | None) -> float | None:
    """Return the card's peak in dense bf16, as given or by its name."""
    name = torch.cuda.get_device_name()
    return given or next((peak for known, peak in PEAK_TFLOPS.items() if known in name), None)


def model_flops(model: torch.nn.Module, lengths: Sequence[int]) -> float:
    """Return the floating-point operations of one forward pass over texts of so many tokens."""
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    pooler = [m for m in getattr(model, "pooler", None) or [] if isinstance(m, torch.nn.Linear)]
    weights = sum(m.weight.numel() for m in layers if m not in pooler)
    config = model.config
    attention = 4 * config.hidden_size * config.num_hidden_layers * sum(n * n for n in lengths)
    return 2.0 * weights * sum(lengths) + attention
