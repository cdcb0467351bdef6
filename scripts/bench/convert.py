"""Memory that a conversion takes, against the size of the model: is it one shard and no more?

    python scripts/bench/convert.py [--layers 2 4 8 16] [--dtype fp16] [--folder FOLDER]

A Llama of random weights in bf16, with Llama-2-7B's widths and so many layers (32 of them are the
whole of it: 13.5 GB here, and as much again for the target), in shards of 2 GB, is converted by the
command itself, checks included. The verdict is over the peak of resident memory: under 4 GB with 32
layers, measured, or else extrapolated from the slope over the sizes measured.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

WHOLE = 32
LIMIT_GIB = 4.0


def main() -> None:
    """Measure each size and print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--dtype", default="fp16")
    parser.add_argument("--folder", type=Path, help="where there is room; default: temporary")
    arguments = parser.parse_args()
    sizes, peaks = [], []
    for layers in arguments.layers:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            size = make(Path(folder) / "source", layers)
            start = time.monotonic()
            peak = convert(Path(folder), arguments.dtype)
            seconds = time.monotonic() - start
        sizes.append(size)
        peaks.append(peak)
        print(f"{layers:3d} layers, {size:6.2f} GiB: peak {peak:5.2f} GiB, {seconds:5.0f} s")
    if WHOLE in arguments.layers:
        whole, how = peaks[arguments.layers.index(WHOLE)], "measured"
    else:
        slope, base = np.polyfit(sizes, peaks, 1)
        whole, how = base + slope * size_of(WHOLE), f"extrapolated, {slope:.3f} GiB a GiB"
    verdict = "PASS" if whole < LIMIT_GIB else "FAIL"
    print(f"7B: {whole:.2f} GiB ({how}), under {LIMIT_GIB:.0f}: {verdict}")


def config_of(layers: int) -> LlamaConfig:
    """Return Llama-2-7B's configuration with another number of layers."""
    return LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_attention_heads=32,
        num_hidden_layers=layers, architectures=["LlamaForCausalLM"],
    )  # fmt: skip


def size_of(layers: int) -> float:
    """Return the size of such a model in bf16, in GiB."""
    with torch.device("meta"):
        model = LlamaForCausalLM(config_of(layers))
    return sum(2 * weights.numel() for weights in model.parameters()) / 2**30


def make(folder: Path, layers: int) -> float:
    """Write a model in shards, a layer at a time; return its size in GiB."""
    folder.mkdir()
    config_of(layers).save_pretrained(folder)
    with torch.device("meta"):
        model = LlamaForCausalLM(config_of(layers))
    shards: list[list[str]] = [[]]
    room = 2e9
    for name, weights in model.named_parameters():
        if (room := room - 2 * weights.numel()) < 0:
            shards.append([])
            room = 2e9 - 2 * weights.numel()
        shards[-1].append(name)
    shapes = {name: weights.shape for name, weights in model.named_parameters()}
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).bfloat16() / 50
    index = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _filled(shapes[name], block) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    return size_of(layers)


def _filled(shape: torch.Size, block: torch.Tensor) -> torch.Tensor:
    """Return a tensor that repeats a block: to draw all numbers takes longer than the rest."""
    size = shape.numel()
    return block.repeat(-(-size // len(block)))[:size].view(shape).clone()


def convert(folder: Path, dtype: str) -> float:
    """Run the command; return the peak of its resident memory in GiB."""
    command = [sys.executable, "-m", "ragkit", "convert", str(folder / "source"), "--to", "hf"]
    command += ["-o", str(folder / "target"), "--dtype", dtype]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, resident_peak(process.pid))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"ragkit convert failed with {process.returncode}")
    shutil.rmtree(folder / "target")
    return peak


def resident_peak(process: int) -> float:
    """Return the peak of a process so far, in GiB; not rusage's, which begins with its parent's."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0  # it has just ended
    lines = (line.split() for line in status.splitlines())
    return next((int(words[1]) / 2**20 for words in lines if words[0] == "VmHWM:"), 0.0)


if __name__ == "__main__":
    main()
