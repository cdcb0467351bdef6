"""How fast ragkit encodes, against `SentenceTransformer.encode`; prints its own verdict.

    python scripts/bench/encode.py                       # on this machine's CPU
    python scripts/bench/encode.py --texts corpus.jsonl  # of one's own
    python scripts/bench/encode.py --device cuda

Both sides take the same texts to vectors, tokenising included, on one machine in one process, in
turns. The library runs with its default batch of 32 and with the best of 32, 64 and 128; ratios are
against the faster. Equal results are checked. On a card it also prints tokens a second and the
share of the card's peak, for MiniLM and for a model of BERT-base's size with random weights.
"""

import argparse
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from prose import alternate, kinds, model_flops, parsed, parser_for, peak_tflops, ratios, verdict
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel

from ragkit.config.blocks import EncoderOptions
from ragkit.models.encoder import Encoder
from ragkit.models.resolve import resolve_model
from ragkit.retrieval.encode import encode

LEAST = {"fp32": 1.5, "bf16": 2.4}
MOST_DIFFERENT, LEAST_COSINE = 1e-5, 0.9999


def main() -> None:
    """Compare on natural lengths and on even chunks."""
    parser = parser_for(__doc__, 9)
    parser.add_argument("--few", type=int, default=32, help="chunks a round; texts: four times")
    parser.add_argument("--texts", type=Path, help="JSONL with a `text` in each line")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--peak-tflops", type=float, help="of the card, dense bf16")
    given = parsed(parser)
    logging.disable(logging.WARNING)
    device = torch.device(given.device)
    passed = []
    with tempfile.TemporaryDirectory() as folder:
        models = {"MiniLM" if given.model == "embedded" else given.model: given.model}
        if device.type == "cuda":
            models["base size"] = base_sized(given.model, Path(folder))
        for name, reference in models.items():
            for kind, texts in kinds(given.texts, given.few).items():
                print(f"\n{name}, {kind}: {len(texts)} texts, {given.rounds} rounds", flush=True)
                passed.append(compare(reference, texts, device, given))
    sys.exit(not all(passed))


def base_sized(like: str, folder: Path) -> str:
    """Save an encoder of BERT-base's size, random, with the tokenizer of another; return where."""
    torch.manual_seed(0)
    encoder = Encoder.load(like)
    size = BertConfig(vocab_size=len(encoder.tokenizer))
    Encoder(BertModel(size), encoder.tokenizer, encoder.settings).save(folder / "base")
    return str(folder / "base")


def compare(
    reference: str, texts: list[str], device: torch.device, given: argparse.Namespace
) -> bool:
    """Time four sides on the same texts, check that they agree, and judge."""
    encoder = Encoder.load(reference)
    where = resolve_model(reference)
    library = {
        "fp32": SentenceTransformer(where, device=str(device)),
        "bf16": SentenceTransformer(
            where, device=str(device), model_kwargs={"dtype": torch.bfloat16}
        ),
    }
    options = {p: EncoderOptions(precision=p, device=device.type) for p in LEAST}

    def theirs(precision: str, batch_size: int = 32) -> np.ndarray:
        return library[precision].encode(texts, batch_size=batch_size, show_progress_bar=False)

    def ours(precision: str) -> np.ndarray:
        return np.asarray(encode(encoder, texts, "passage", options[precision]))

    exact, half, expected = ours("fp32"), ours("bf16"), theirs("fp32")
    different, cosine = np.abs(exact - expected).max(), cosines(half, expected).min()
    print(f"ragkit fp32: max |difference| {different:.1e}; bf16: least cosine {cosine:.6f}")
    print(f"library bf16: least cosine {cosines(theirs('bf16'), expected).min():.6f}")
    best = fastest(lambda size: theirs("fp32", size), given.processor)
    sides = {
        "library fp32": lambda _: theirs("fp32"),
        "library fp32, best batch": lambda _: theirs("fp32", best),
        "library bf16": lambda _: theirs("bf16"),
        "ragkit fp32": lambda _: ours("fp32"),
        "ragkit bf16": lambda _: ours("bf16"),
    }
    if best == 32:
        del sides["library fp32, best batch"]
    seconds = alternate(sides, given.rounds, device, given.processor)
    lengths = [len(ids) for ids in encoder.tokenize(texts, "passage")]
    for side, times in seconds.items():
        median = statistics.median(times)
        print(f"{side}: {describe(encoder, lengths, median, device, given.peak_tflops)}")
    against = [s for s in sides if s.startswith("library fp32")]
    passed = [different < MOST_DIFFERENT, cosine >= LEAST_COSINE]
    if not all(passed):
        print(f"FAIL: difference below {MOST_DIFFERENT}, cosine at least {LEAST_COSINE}")
    for precision, least in LEAST.items():
        found = [ratios(seconds, side, f"ragkit {precision}") for side in against]
        for side, (_, text) in zip(against, found, strict=True):
            print(
                f"ragkit {precision} against {side} (batch {best if ',' in side else 32}): {text}"
            )
        passed.append(verdict(f"{precision} against the library's fp32", min(found)[0], least))
    _, text = ratios(seconds, "library bf16", "ragkit bf16")
    print(f"ragkit bf16 against library bf16: {text}", flush=True)
    return all(passed)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of each row with the other's."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def fastest(run: Callable[[int], object], processor: bool) -> int:
    """Return which of three batch sizes takes the least time; each is tried three times."""
    sides = {str(size): lambda _, size=size: run(size) for size in (32, 64, 128)}
    seconds = alternate(sides, 3, torch.device("cpu"), processor)
    return int(min(seconds, key=lambda size: statistics.median(seconds[size])))


def describe(
    encoder: Encoder, lengths: list[int], seconds: float, device: torch.device, peak: float | None
) -> str:
    """Return seconds and rates as a text."""
    texts, tokens = len(lengths) / seconds, sum(lengths) / seconds
    text = f"{seconds:.3f} s, {texts:,.0f} texts/s, {tokens:,.0f} tokens/s"
    if device.type != "cuda":
        return text
    rate = model_flops(encoder.model, lengths) / seconds / 1e12
    card = peak_tflops(peak)
    share = f", {rate / card:.1%} of {card:.0f}" if card else " (peak unknown: --peak-tflops)"
    return f"{text}, {rate:.1f} TFLOP/s{share}"


if __name__ == "__main__":
    main()
