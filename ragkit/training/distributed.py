"""What the processes of one training run exchange; with a single process nothing is.

Every process must make the same calls in the same order, with tensors of the same shape.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(tensor: Tensor) -> Tensor:
    """Return the tensors of all processes end to end, (processes * n, ...), without gradient.

    tensor: (n, ...), the same shape in every process
    """
    parts = [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())
    ]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Return the same as `gather`; a process's gradient is the sum of what all made of its rows.

    torch's own, `torch.distributed.nn.functional.all_gather`, is deprecated from 2.13 on, and what
    replaces it is not in the versions before.
    """
    return _Gather.apply(tensor)  # type: ignore[no-any-return, no-untyped-call]


def share_of(count: Tensor) -> Tensor:
    """Return what a mean over `count` things here counts in the mean over processes.

    Weighted by it, the mean over processes is the mean over the things of all of them.
    """
    counts = gather(count[None])
    return count * len(counts) / counts.sum().clamp(min=1)


def padded(tensor: Tensor, rows: int, value: float) -> Tensor:
    """Return the tensor with rows of `value` added, (rows, ...)."""
    missing = rows - tensor.shape[0]
    assert missing >= 0, f"{tensor.shape[0]} rows where at most {rows} were announced"
    return torch.cat([tensor, tensor.new_full((missing, *tensor.shape[1:]), value)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = tensor.shape[0]
        return gather(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.narrow(0, rank() * ctx.rows, ctx.rows)
