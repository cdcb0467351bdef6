"""The passages that a retriever finds for many questions, found once and kept.

A ranking is kept under a hash of all that decides it: the retriever with its weights, the corpus,
the questions and the depth. So nothing stale is used again, whoever asks.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ragkit.config.blocks import Bm25, Dense, Fused, Retriever
from ragkit.data.files import read_json, sha256_texts, write_json
from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError
from ragkit.log import logger
from ragkit.models import ranks
from ragkit.models.encoder import Encoder
from ragkit.retrieval.index import corpus_hash
from ragkit.retrieval.searchers import build_searcher, query_text

_COMPUTED = {"device", "index", "trust_remote_code"}  # where, not what


def rankings(
    retriever: Retriever,
    examples: Sequence[Example],
    corpus: Mapping[str, Passage],
    depth: int,
    folder: Path,
) -> dict[str, list[str]]:
    """Return the ids of the passages found for each example, by its id, best first.

    What was found before is read from `folder`; else it is searched for and kept there.

    Raises:
        DataError: an index of another corpus or encoder, or a kept file that is damaged.
    """
    queries = [query_text(e) for e in examples]

    def found() -> list[list[str]]:
        key = _key(retriever, queries, corpus, depth)
        file = folder / f"{key[:16]}.json"
        if file.exists():
            kept = read_json(file)
            if not isinstance(kept, dict) or kept.get("key") != key:
                raise DataError(f"{file}: not the rankings that its name says; take it away")
            logger.info("%d questions were searched before: %s", len(queries), file)
            return list(kept["passages"])
        ranked = build_searcher(retriever, corpus).search(queries, depth)
        passages = [list(scores) for scores in ranked]
        write_json(file, {"key": key, "passages": passages})
        return passages

    passages = ranks.decided(found)
    return dict(zip((e.id for e in examples), passages, strict=True))


def _key(
    retriever: Retriever, queries: Sequence[str], corpus: Mapping[str, Passage], depth: int
) -> str:
    said = [_settings(retriever), corpus_hash(corpus), str(depth)]
    return sha256_texts([*said, *(json.dumps(getattr(q, "turns", [q])) for q in queries)])


def _settings(retriever: Retriever) -> str:
    """Return what of a retriever decides what it finds."""
    if isinstance(retriever, Bm25):
        return retriever.model_dump_json()
    if isinstance(retriever, Dense):
        encoder = Encoder.load(retriever.model, retriever.encoder)
        settings = retriever.encoder.model_dump(mode="json", exclude=_COMPUTED)
        return json.dumps(["dense", encoder.fingerprint(), settings])
    assert isinstance(retriever, Fused)
    parts = [_settings(retriever.dense), _settings(retriever.bm25)]
    return json.dumps([retriever.model_dump(mode="json", exclude={"dense", "bm25"}), *parts])
