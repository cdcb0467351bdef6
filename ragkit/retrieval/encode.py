"""Encoding many texts: in which order, in which batches, in which precision, and where to.

Texts are tokenised once, sorted by tokens and run in batches of a token budget; rows go straight
into a memory-mapped file, shard by shard, so that memory does not grow with the corpus, a killed
run goes on where it was, and the ranks of a launch share the work. What an encoder computes is
`ragkit.models.encoder`'s business.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ragkit.config.blocks import EncoderOptions
from ragkit.data.files import sha256_texts
from ragkit.log import Meter, logger
from ragkit.models import products, ranks
from ragkit.models.devices import pick_device, side_by_side, use_bf16
from ragkit.models.encoder import Encoder, Kind
from ragkit.retrieval.sharing import PartialArray, Span, gaps, pieces, share, together

Vectors = NDArray[np.float32]

_SHARD = 20_000  # texts tokenised, sorted and written together
_TOKENS_PER_BATCH = {"cpu": 2_048, "cuda": 65_536, "mps": 16_384}
_LEAST_TOKENS = 256  # below that a batch of its own is not worth it


def encode(
    encoder: Encoder,
    texts: Sequence[str],
    kind: Kind,
    options: EncoderOptions | None = None,
    out: Path | None = None,
    shared: bool = False,
) -> Vectors:
    """Encode texts to fp32 vectors, (number of texts, D), in the order given.

    texts: may be read only when asked for, a slice at a time
    out: the .npy file to write; what an earlier call wrote there from the same is not computed
        again, until `forget_progress`. Without it the vectors are in memory only.
    shared: under torchrun all processes call this together and each encodes a part of `out`;
        otherwise the process that calls encodes all
    """
    options = options or EncoderOptions()
    encoder.to(pick_device(options.device)).eval()
    meter = Meter(f"encoding {kind}s", len(texts), "texts")
    if out is None:
        vectors = np.empty((len(texts), encoder.dimensions), np.float32)
        for start, stop in pieces([(0, len(texts))], _SHARD):
            vectors[start:stop] = _encode_shard(encoder, texts[start:stop], kind, options, meter)
    else:
        vectors = _encode_to_file(encoder, texts, kind, options, out, meter, shared)
    meter.close()
    return vectors


def _encode_to_file(
    encoder: Encoder,
    texts: Sequence[str],
    kind: Kind,
    options: EncoderOptions,
    out: Path,
    meter: Meter,
    shared: bool,
) -> Vectors:
    shape = (len(texts), encoder.dimensions)

    def begin() -> tuple[str, list[Span]]:
        made_from = sha256_texts(chain([encoder.fingerprint(), kind], texts))
        return made_from, PartialArray(out, shape, made_from).begin()

    with together() if shared else nullcontext((0, 1)) as (rank, size):
        made_from, found = ranks.decided(begin) if size > 1 else begin()
        array = PartialArray(out, shape, made_from, rank)
        todo = gaps(found, len(texts))
        mine = share(todo, rank, size)
        meter.total = sum(stop - start for start, stop in mine)
        if found:
            left = sum(stop - start for start, stop in todo)
            logger.info("%s: %d of %d rows are there already", out, len(texts) - left, len(texts))
        done = found if rank == 0 else []
        for start, stop in pieces(mine, _SHARD):
            rows = _encode_shard(encoder, texts[start:stop], kind, options, meter)
            array.write((start, stop), rows)
            done = [*done, (start, stop)]
            array.note(done)
        if size > 1:
            ranks.wait()
        if rank == 0:
            array.finish()
        if size > 1:
            ranks.wait()
    return array.load()


def log_cut(tower: Encoder, token_ids: Sequence[Sequence[int]], what: str) -> None:
    """Say how many texts reach the limit of an encoder's tower, and so may have been cut."""
    limit = tower.settings.max_length
    if cut := sum(len(ids) >= limit for ids in token_ids):
        logger.info(
            "%d of %d %s fill the encoder's %d tokens; the rest of them is not seen",
            cut, len(token_ids), what, limit,
        )  # fmt: skip


def _encode_shard(
    encoder: Encoder, texts: Sequence[str], kind: Kind, options: EncoderOptions, meter: Meter
) -> Vectors:
    token_ids = encoder.tokenize(texts, kind)
    log_cut(encoder.tower(kind), token_ids, "queries" if kind == "query" else "passages")
    device = encoder.device
    region = products.bf16(device) if use_bf16(options.precision, device) else nullcontext

    def run(batch: Sequence[int]) -> Vectors:
        with torch.inference_mode(), region():
            rows = encoder.encode_as(kind, [token_ids[i] for i in batch])
            vectors: Vectors = rows.cpu().numpy()
            return vectors

    rows = np.empty((len(texts), encoder.dimensions), np.float32)
    plan = list(batches(token_ids, _budget(token_ids, device)))
    for batch, vectors in zip(plan, side_by_side(run, plan, device), strict=True):
        rows[batch] = vectors
        meter.advance(len(batch))
    return rows


def _budget(token_ids: Sequence[Sequence[int]], device: torch.device) -> int:
    """Return how many tokens a batch may have: few texts are shared among a CPU's threads too."""
    most = _TOKENS_PER_BATCH[device.type]
    if device.type != "cpu":
        return most
    each = -(-sum(map(len, token_ids)) // torch.get_num_threads())
    return min(most, max(each, _LEAST_TOKENS))


def batches(token_ids: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """Yield positions of texts by length, longest first, at most `budget` tokens together."""
    order = iter(sorted(range(len(token_ids)), key=lambda i: -len(token_ids[i])))
    for first in order:
        size = max(budget // max(len(token_ids[first]), 1), 1)
        yield [first, *islice(order, size - 1)]
