"""A vector index on disk: the passages' vectors, their ids, and what they were made from.

`embeddings.npy` (N, D), `ids.txt` (a line each) and `manifest.json`. Search is exact, by FAISS's
flat inner-product index.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import faiss
import numpy as np
from numpy.typing import NDArray

from ragkit.config.blocks import EncoderOptions
from ragkit.data.files import atomic_write, read_json, read_text, sha256_texts, write_json
from ragkit.data.schema import Passage
from ragkit.errors import DataError
from ragkit.log import is_main_process, logger
from ragkit.models.encoder import Encoder
from ragkit.retrieval.encode import Vectors, encode
from ragkit.retrieval.sharing import forget_progress

_MANIFEST = ("model", "encoder_sha256", "corpus_sha256", "passages", "dimensions")


@dataclass
class VectorIndex:
    """Vectors with their passage ids.

    vectors: (N, D) fp32, rows in the order of `ids`
    manifest: model, corpus hash and sizes
    """

    ids: list[str]
    vectors: Vectors
    manifest: Mapping[str, Any]

    @cached_property
    def _flat(self) -> Any:
        """FAISS's index, made when it is first searched: it holds a copy of the vectors."""
        flat = faiss.IndexFlatIP(self.vectors.shape[1])
        flat.add(np.ascontiguousarray(self.vectors))
        return flat

    def search(self, queries: Vectors, top_k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores and row numbers of the nearest vectors, (B, top_k) each."""
        scores, rows = self._flat.search(np.ascontiguousarray(queries), min(top_k, len(self.ids)))
        return scores, rows

    def part(self, ids: Collection[str]) -> "VectorIndex":
        """Return the index of some of the passages."""
        wanted = set(ids)
        rows = [row for row, i in enumerate(self.ids) if i in wanted]
        return VectorIndex([self.ids[row] for row in rows], self.vectors[rows], self.manifest)

    def save(self, folder: Path) -> None:
        """Write ids and manifest beside the vectors, which encoding has written already."""
        with atomic_write(folder / "ids.txt") as f:
            f.writelines(f"{passage_id}\n" for passage_id in self.ids)
        write_json(folder / "manifest.json", dict(self.manifest))
        forget_progress(folder / "embeddings.npy")

    @classmethod
    def load(cls, folder: Path) -> "VectorIndex":
        """Read an index directory.

        Raises:
            DataError: files are missing, or disagree about the number of passages.
        """
        for name in ("embeddings.npy", "ids.txt", "manifest.json"):
            if not (folder / name).exists():
                raise DataError(
                    f"{folder}: not an index ({name} is missing); make one: ragkit index"
                )
        ids = read_text(folder / "ids.txt").splitlines()
        try:
            vectors = np.load(folder / "embeddings.npy", mmap_mode="r")
            manifest = read_json(folder / "manifest.json")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{folder}: damaged ({error}); make it again: ragkit index") from error
        if len(ids) != len(vectors):
            raise DataError(
                f"{folder}: damaged ({len(ids)} ids and {len(vectors)} vectors); make it again: "
                "ragkit index"
            )
        if missing := [k for k in _MANIFEST if k not in manifest]:
            raise DataError(
                f"{folder / 'manifest.json'}: {', '.join(missing)} missing; make the index again: "
                "ragkit index"
            )
        return cls(ids, np.asarray(vectors), manifest)


class RenderedTexts(Sequence[str]):
    """What is embedded of each passage of a corpus, made when it is asked for."""

    def __init__(self, corpus: Mapping[str, Passage]) -> None:
        self.corpus, self.ids = corpus, list(corpus)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return (passage.rendered for passage in self.corpus.values())

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self.corpus[i].rendered for i in self.ids[place]]
        return self.corpus[self.ids[place]].rendered


def build_index(
    encoder: Encoder,
    corpus: Mapping[str, Passage],
    model: str,
    options: EncoderOptions | None = None,
    folder: Path | None = None,
    shared: bool = False,
) -> VectorIndex:
    """Encode a corpus; with `folder`, on disk, resumable and with a manifest.

    corpus: passages are taken from it a few at a time, so that it may be read from a file
    model: the reference that the manifest names
    shared: under torchrun all processes call this together, as with `encode`
    """
    out = None if folder is None else folder / "embeddings.npy"
    texts = RenderedTexts(corpus)
    vectors = encode(encoder, texts, "passage", options, out, shared)
    if folder is None:
        return VectorIndex(texts.ids, vectors, {})
    manifest = {
        "model": model,
        "encoder_sha256": encoder.fingerprint(),
        "corpus_sha256": corpus_hash(corpus),
        "passages": len(corpus),
        "dimensions": encoder.dimensions,
        "normalize": encoder.settings.normalize,
    }
    index = VectorIndex(texts.ids, vectors, manifest)
    if is_main_process() or not shared:
        index.save(folder)
    return index


def kept_index(
    encoder: Encoder,
    corpus: Mapping[str, Passage],
    model: str,
    options: EncoderOptions | None,
    folder: Path,
) -> VectorIndex:
    """Return the index in a folder if it is of these weights and texts, else build it there."""
    if (folder / "manifest.json").exists():
        index = VectorIndex.load(folder)
        made = (index.manifest.get("encoder_sha256"), index.manifest.get("corpus_sha256"))
        if made == (encoder.fingerprint(), corpus_hash(corpus)):
            logger.info("%s: its vectors are of this corpus and these weights, used again", folder)
            return index
        (folder / "manifest.json").unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return build_index(encoder, corpus, model, options, folder)


def check_index(index: VectorIndex, corpus: Mapping[str, Passage], encoder: Encoder) -> None:
    """Refuse an index of another corpus or of another encoder.

    Raises:
        DataError: with what differs.
    """
    if index.manifest["corpus_sha256"] != corpus_hash(corpus):
        raise DataError(
            f"the index has {len(index.ids):,} passages of another corpus than the "
            f"{len(corpus):,} given (text, titles or ids differ); make it again: ragkit index"
        )
    if index.manifest["encoder_sha256"] != encoder.fingerprint():
        raise DataError(
            f"the index was made with another model ({index.manifest['model']}) than the one that "
            "is to search it, or with other encoder settings; make it again: ragkit index"
        )


def corpus_hash(corpus: Mapping[str, Passage]) -> str:
    """Return a hash of the ids and rendered texts of a corpus."""
    return sha256_texts(part for p in corpus.values() for part in (p.id, p.rendered))


def as_runs(
    ids: Sequence[str], scores: NDArray[np.float32], rows: NDArray[np.int64]
) -> list[dict[str, float]]:
    """Turn search results into one {passage id: score} a query, best first."""
    return [
        {ids[row]: score for score, row in zip(row_scores, row_ids, strict=True) if row >= 0}
        for row_scores, row_ids in zip(scores.tolist(), rows.tolist(), strict=True)
    ]
