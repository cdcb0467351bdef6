"""Gradient caching: encoding a batch in parts, so that memory does not grow with the batch.

The parts are encoded without keeping what a backward pass needs; when the gradient of the vectors
is known, each is encoded again, with the same random numbers, and its gradient carried on
(GradCache: Gao et al., 2021). The loss and the gradients are those of one pass. To autograd all of
it is one function of the encoder's parameters, each of which gets its gradient once: so it works
where hooks wait for that (DistributedDataParallel, DeepSpeed ZeRO 1 and 2), but not where
parameters are sharded (FSDP, ZeRO 3).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ragkit.models.encoder import Encoder
from ragkit.retrieval.encode import batches
from ragkit.training.dropout import draws


def encode_in_chunks(
    encoder: Encoder, token_ids: Sequence[Sequence[int]], n_queries: int, chunk_tokens: int
) -> Tensor:
    """Return what `encoder(token_ids, n_queries)` does, (B, D), with at most a chunk in memory.

    chunk_tokens: tokens encoded together at most, padding counted; a longer text goes alone
    """
    chunks = [
        _Chunk(encoder, token_ids, sorted(places), n_queries)
        for places in batches(token_ids, chunk_tokens)
    ]
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    return _Cached.apply(chunks, parameters, *parameters)  # type: ignore[no-any-return, no-untyped-call]


class _Chunk:
    """Some texts of a batch, queries first, and the random numbers that they were encoded with."""

    def __init__(
        self,
        encoder: Encoder,
        token_ids: Sequence[Sequence[int]],
        places: list[int],
        n_queries: int,
    ) -> None:
        self.encoder, self.places = encoder, places
        self.token_ids = [token_ids[i] for i in places]
        self.n_queries = sum(i < n_queries for i in places)
        self.random: _RandomState | None = None

    def encode(self) -> Tensor:
        return self.encoder(self.token_ids, self.n_queries)  # type: ignore[no-any-return]

    def encode_first(self) -> Tensor:
        """Encode without a graph; remember the random numbers if any are drawn."""
        if not draws(self.encoder):
            return self.encode()
        self.random = _RandomState.now(self.encoder.device)
        with torch.enable_grad():  # the same kernels draw the same numbers
            return self.encode().detach()

    def encode_again(self) -> Tensor:
        """Encode with a graph, as the first time."""
        with torch.enable_grad():
            if self.random is None:
                return self.encode()
            with self.random.again():
                return self.encode()


class _Cached(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chunks: list[_Chunk], parameters: list[nn.Parameter], *_: Tensor
    ) -> Tensor:
        ctx.chunks, ctx.parameters = chunks, parameters
        device = chunks[0].encoder.device
        ctx.autocast = {
            "device_type": device.type,
            "enabled": torch.is_autocast_enabled(device.type),
            "dtype": torch.get_autocast_dtype(device.type),
        }
        vectors = torch.cat([chunk.encode_first() for chunk in chunks])
        return torch.empty_like(vectors).index_copy(0, _places(chunks, vectors), vectors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        total: list[Tensor | None] = [None] * len(ctx.parameters)
        sizes = [len(chunk.places) for chunk in ctx.chunks]
        gradients = torch.split(gradient[_places(ctx.chunks, gradient)], sizes)
        for chunk, part in zip(ctx.chunks, gradients, strict=True):
            with torch.autocast(**ctx.autocast):
                vectors = chunk.encode_again()
            found = torch.autograd.grad(vectors, ctx.parameters, part, allow_unused=True)
            for i, more in enumerate(found):
                if more is not None:
                    earlier = total[i]
                    total[i] = more if earlier is None else earlier + more
        return None, None, *total


def _places(chunks: list[_Chunk], like: Tensor) -> Tensor:
    return torch.tensor([i for chunk in chunks for i in chunk.places], device=like.device)


@dataclass(frozen=True)
class _RandomState:
    """The generators' states of the CPU and of the device that encodes."""

    device: torch.device
    cpu: Tensor
    accelerator: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "_RandomState":
        module = None if device.type == "cpu" else torch.get_device_module(device)
        state = module.get_rng_state(device) if module else None
        return cls(device, torch.get_rng_state(), state)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the numbers that were drawn from here on; leave the generators as they are."""
        later = self.now(self.device)
        self._set()
        try:
            yield
        finally:
            later._set()

    def _set(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.accelerator is not None:
            torch.get_device_module(self.device).set_rng_state(self.accelerator, self.device)
