"""Encoding many texts: in which order, in which batches, in which precision, and where to.

Texts are tokenised once, sorted by tokens and run in batches of a token budget; rows go straight
into a memory-mapped file, shard by shard, so that memory does not grow with the corpus and a killed
run goes on where it was. What an encoder computes is `ragkit.models.encoder`'s business.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ragkit.config.blocks import EncoderOptions
from ragkit.data.files import read_json, sha256_text, write_json
from ragkit.log import Meter, logger
from ragkit.models.devices import pick_device, use_bf16
from ragkit.models.encoder import Encoder, Kind

Vectors = NDArray[np.float32]

_SHARD = 20_000  # texts tokenised, sorted and written together
_TOKENS_PER_BATCH = {"cpu": 2_048, "cuda": 65_536, "mps": 16_384}


def encode(
    encoder: Encoder,
    texts: Sequence[str],
    kind: Kind,
    options: EncoderOptions | None = None,
    out: Path | None = None,
) -> Vectors:
    """Encode texts to fp32 vectors, (number of texts, D), in the order given.

    out: the .npy file to write; what an earlier call wrote there from the same is not computed
        again, until `forget_progress`. Without it the vectors are in memory only.
    """
    options = options or EncoderOptions()
    device = pick_device(options.device)
    encoder.to(device).eval()
    made_from = "" if out is None else sha256_text(encoder.fingerprint(), kind, *texts)
    rows, journal = _open_rows(out, (len(texts), encoder.dimensions), made_from)
    meter = Meter(f"encoding {kind}s", len(texts), "texts")
    meter.skip(journal.done if journal else 0)
    for start in range(meter.done, len(texts), _SHARD):
        shard = texts[start : start + _SHARD]
        _encode_shard(encoder, shard, kind, options, device, rows[start : start + _SHARD], meter)
        if journal:
            rows.flush()  # type: ignore[attr-defined]
            journal.write(start + len(shard))
    meter.close()
    return rows if journal is None else journal.finish()


def forget_progress(out: Path) -> None:
    """Take away the account of an array that is finished and in its place."""
    _Journal(out, "").file.unlink(missing_ok=True)


def count_cut(encoder: Encoder, token_ids: Sequence[Sequence[int]]) -> int:
    """Return how many texts reach the limit of an encoder's tower, and so may have been cut."""
    return sum(len(ids) >= encoder.settings.max_length for ids in token_ids)


def _encode_shard(
    encoder: Encoder,
    texts: Sequence[str],
    kind: Kind,
    options: EncoderOptions,
    device: torch.device,
    rows: Vectors,
    meter: Meter,
) -> None:
    token_ids = encoder.tokenize(texts, kind)
    if cut := count_cut(encoder.tower(kind), token_ids):
        logger.info(
            "%d of %d %ss fill the encoder's %d tokens; the rest of them is not seen",
            cut, len(texts), kind, encoder.tower(kind).settings.max_length,
        )  # fmt: skip
    autocast = (
        torch.autocast(device.type, torch.bfloat16)
        if use_bf16(options.precision, device)
        else contextlib.nullcontext()
    )
    with torch.inference_mode(), autocast:
        for batch in batches(token_ids, _TOKENS_PER_BATCH[device.type]):
            rows[batch] = encoder.encode_as(kind, [token_ids[i] for i in batch]).cpu().numpy()
            meter.advance(len(batch))


def batches(token_ids: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """Yield positions of texts by length, longest first, at most `budget` tokens together."""
    order = iter(sorted(range(len(token_ids)), key=lambda i: -len(token_ids[i])))
    for first in order:
        size = max(budget // max(len(token_ids[first]), 1), 1)
        yield [first, *islice(order, size - 1)]


@dataclass
class _Journal:
    """How much of an array on disk is done; the array gets its name when all of it is.

    made_from: hash of encoder and texts, so that rows of others are not taken for these
    """

    out: Path
    made_from: str
    done: int = 0

    @property
    def partial(self) -> Path:
        return self.out.with_suffix(".partial.npy")

    @property
    def file(self) -> Path:
        return self.out.with_suffix(".progress.json")

    def rows_left(self) -> int:
        """Return how many rows an earlier process left of the same texts and encoder."""
        if not self.file.exists() or not (self.partial.exists() or self.out.exists()):
            return 0
        progress = read_json(self.file)
        return int(progress["rows"]) if progress["made_from"] == self.made_from else 0

    def write(self, done: int) -> None:
        write_json(self.file, {"rows": done, "made_from": self.made_from})

    def finish(self) -> Vectors:
        if self.partial.exists():
            self.partial.replace(self.out)
        return np.asarray(np.load(self.out, mmap_mode="r"))


def _open_rows(
    out: Path | None, shape: tuple[int, int], made_from: str
) -> tuple[Vectors, _Journal | None]:
    """Return the array to fill, in memory or on disk with what an earlier process left."""
    if out is None:
        return np.empty(shape, np.float32), None
    journal = _Journal(out, made_from)
    left = journal.rows_left()
    if left:
        logger.info("%s: %d of %d rows are there already", out, left, shape[0])
        journal.done = left
        file = journal.partial if journal.partial.exists() else out
        return np.lib.format.open_memmap(file, mode="r+"), journal
    journal.file.unlink(missing_ok=True)
    return np.lib.format.open_memmap(journal.partial, "w+", np.dtype(np.float32), shape), journal
