"""How much memory `ragkit index` takes beyond its model; prints its own verdict.

    python scripts/bench/encode_memory.py [SMALL LARGE]     (40,000 and 120,000 passages)

Writes corpora of passages of 100 made-up words and indexes each in a process of its own. The model
has the width of MiniLM (vectors of 384 dimensions) and one thin layer: what a batch takes depends
on the model and not on the number of passages, and what is kept of each passage does not depend on
the model beyond the width. Memory is the peak, less that of a run over one passage, and a line
through the two sizes is drawn on to a million passages.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

MEGABYTE = 1_000_000
MOST_AT_A_MILLION = 1_500  # MB
WORDS = 100


def main() -> None:
    """Measure three corpora and judge."""
    sizes = [int(size) for size in sys.argv[1:]] or [40_000, 120_000]
    if len(sizes) != 2 or not 1 < sizes[0] < sizes[1]:
        sys.exit("two numbers of passages, the smaller first")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocabulary = words()
        model = save_model(folder / "model", vocabulary)
        peaks = {n: measure(folder, model, vocabulary, n) for n in [1, *sizes]}
    base, small, large = (peaks[n] for n in [1, *sizes])
    each = (large - small) / (sizes[1] - sizes[0])
    million = (large - base + each * (1_000_000 - sizes[1])) / MEGABYTE
    passed = million <= MOST_AT_A_MILLION
    print(
        f"{'PASS' if passed else 'FAIL'}: {each:,.0f} bytes a passage; a million passages take "
        f"{million:,.0f} MB beyond the model, at most {MOST_AT_A_MILLION:,}"
    )
    sys.exit(not passed)


def words() -> list[str]:
    """Return made-up words, each one token."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    return [a + b for a in syllables for b in syllables]


def save_model(folder: Path, vocabulary: list[str]) -> Path:
    """Save a BERT of one thin layer with a tokenizer that knows the words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokens = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *vocabulary])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=256, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=384, num_hidden_layers=1, num_attention_heads=12,
        intermediate_size=32, max_position_embeddings=256,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def measure(folder: Path, model: Path, vocabulary: list[str], passages: int) -> int:
    """Index so many passages; return the peak memory of the process in bytes."""
    rng = random.Random(0)
    corpus = folder / f"{passages}.jsonl"
    with corpus.open("w") as f:
        for i in range(passages):
            text = " ".join(rng.choices(vocabulary, k=WORDS))
            f.write(json.dumps({"id": f"passage-{i}", "text": text}) + "\n")
    output = folder / f"index-{passages}"
    command = [sys.executable, "-m", "ragkit", "index", corpus, "-m", model, "-o", output]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"ragkit index failed with {child.returncode} on {passages} passages")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    seconds = json.loads((output / "run.json").read_text())["timings"]["encoding"]
    print(f"{passages:,} passages: peak {peak / MEGABYTE:,.0f} MB, {seconds:,.0f} s", flush=True)
    return peak


if __name__ == "__main__":
    main()
