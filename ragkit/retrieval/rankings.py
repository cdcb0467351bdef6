"""The passages that a retriever finds for many questions, found once and kept.

A ranking is kept under a hash of all that decides it: the retriever with its weights, the corpus,
the questions and the depth. So nothing stale is used again, whoever asks.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ragkit.config.blocks import Bm25, Dense, Retriever
from ragkit.data.files import read_json, sha256_texts, write_json
from ragkit.data.schema import Conversation, Example, Passage
from ragkit.errors import DataError
from ragkit.log import logger
from ragkit.models import ranks
from ragkit.models.encoder import Encoder
from ragkit.retrieval.searchers import Searcher, build_searcher, query_text

_COMPUTED = {"device", "index", "trust_remote_code"}  # where, not what


class Rankings:
    """What a retriever finds in a corpus, kept in a folder.

    The retriever is built where something was not searched for before, once.
    """

    def __init__(self, retriever: Retriever, corpus: Mapping[str, Passage], folder: Path) -> None:
        self.retriever, self.corpus, self.folder = retriever, corpus, folder
        self._searcher: Searcher | None = None
        self._hash = ""

    def of(self, examples: Sequence[Example], depth: int) -> dict[str, list[str]]:
        """Return the ids of the passages found for each example, by its id, best first.

        Raises:
            DataError: an index of another corpus or encoder, or a kept file that is damaged.
        """
        queries = [query_text(e) for e in examples]
        passages = ranks.decided(lambda: self._found(queries, depth))
        return dict(zip((e.id for e in examples), passages, strict=True))

    def _found(self, queries: Sequence[Conversation], depth: int) -> list[list[str]]:
        self._hash = self._hash or sha256_texts([_settings(self.retriever), *_texts(self.corpus)])
        key = sha256_texts([self._hash, str(depth), *(json.dumps(q.turns) for q in queries)])
        file = self.folder / f"{key[:16]}.json"
        if file.exists():
            kept = read_json(file)
            if not isinstance(kept, dict) or kept.get("key") != key:
                raise DataError(f"{file}: not the rankings that its name says; take it away")
            logger.info("%d questions were searched before: %s", len(queries), file)
            return list(kept["passages"])
        self._searcher = self._searcher or build_searcher(self.retriever, self.corpus)
        passages = [list(scores) for scores in self._searcher.search(queries, depth)]
        write_json(file, {"key": key, "passages": passages})
        return passages


def _texts(corpus: Mapping[str, Passage]) -> Iterator[str]:
    for passage in corpus.values():
        yield from (passage.id, passage.rendered)


def _settings(retriever: Retriever) -> str:
    """Return what of a retriever decides what it finds."""
    if isinstance(retriever, Bm25):
        return retriever.model_dump_json()
    if isinstance(retriever, Dense):
        encoder = Encoder.load(retriever.model, retriever.encoder)
        settings = retriever.encoder.model_dump(mode="json", exclude=_COMPUTED)
        return json.dumps(["dense", encoder.fingerprint(), settings])
    parts = [_settings(retriever.dense), _settings(retriever.bm25)]
    return json.dumps([retriever.model_dump(mode="json", exclude={"dense", "bm25"}), *parts])
