"""Which device to compute on, in which precision, and on how many threads."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from ragkit.errors import ModelError

T = TypeVar("T")
R = TypeVar("R")
_MOST_AT_ONCE = 8  # each holds the activations of a batch


def pick_device(device: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "mps".

    Under torchrun each process of a machine has a card of its own.

    Raises:
        ModelError: a device that is asked for and is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next((name for name, there in available.items() if there), "cpu")
    if not available.get(device, True):
        raise ModelError(f"device: {device} is not available on this machine")
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(device, int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device(device)


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def use_bf16(precision: str, device: torch.device) -> bool:
    """Return whether to compute in bfloat16 for a precision of "auto", "fp32" or "bf16"."""
    return precision == "bf16" or (precision == "auto" and has_fast_bf16(device))


def side_by_side(work: Callable[[T], R], items: Sequence[T], device: torch.device) -> Iterator[R]:
    """Yield `work` of each item, in order; on a CPU, several items at a time in threads.

    torch's own threads share every small operation and wait for one another after each: where
    other processes use the machine too, most of the time. A batch for each thread spares that.
    `work` runs without the caller's inference mode, autocast and function modes.
    """
    threads = torch.get_num_threads()
    at_once = min(threads, len(items), _MOST_AT_ONCE)
    if device.type != "cpu" or at_once < 2:
        yield from map(work, items)
        return
    try:
        with ThreadPoolExecutor(
            at_once, initializer=torch.set_num_threads, initargs=(threads // at_once,)
        ) as pool:
            yield from pool.map(work, items)
    finally:
        torch.set_num_threads(threads)
