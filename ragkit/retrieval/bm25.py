"""Ranking by words: BM25 (Robertson et al., 1994; Lucene's form), by the package bm25s."""

import copy
import unicodedata
from collections.abc import Collection, Mapping, Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

from ragkit.config.blocks import Bm25
from ragkit.data.nearduplicates import WORD
from ragkit.data.schema import Passage
from ragkit.retrieval.fusion import best


class Bm25Searcher:
    """BM25 over the rendered passages of a corpus, held in memory."""

    def __init__(self, corpus: Mapping[str, Passage], config: Bm25 | None = None) -> None:
        self.config = config or Bm25(type="bm25")
        self.ids = list(corpus)
        self.allowed: NDArray[np.bool_] | None = None  # (N,), where not all are
        self.index = bm25s.BM25(k1=self.config.k1, b=self.config.b, method="lucene")
        tokens = self._tokens([p.rendered for p in corpus.values()])
        self.empty = not any(tokens)
        self.vocabulary: set[str] = set()
        if not self.empty:
            self.index.index(tokens, show_progress=False)
            self.vocabulary = set(self.index.vocab_dict)

    def search(self, queries: Sequence[str], top_k: int) -> list[dict[str, float]]:
        """Return the best passages of each query, id to score, best first.

        Only passages that share a word with the query are returned: none at all for a query of stop
        words, where bm25s itself raises.
        """
        tokens = [[]] * len(queries) if self.empty else self._tokens(queries)
        return [self._best([t for t in words if t in self.vocabulary], top_k) for words in tokens]

    def within(self, ids: Collection[str]) -> "Bm25Searcher":
        """Return a searcher of these passages; how rare a word is the whole corpus says."""
        other, wanted = copy.copy(self), set(ids)
        other.allowed = np.array([i in wanted for i in self.ids])
        return other

    def _best(self, words: list[str], top_k: int) -> dict[str, float]:
        """Return the highest scores, ties by descending id as in trec_eval."""
        if not words:
            return {}
        scores = self.index.get_scores(words)
        matching = np.flatnonzero(
            scores > 0 if self.allowed is None else (scores > 0) & self.allowed
        )
        if len(matching) > top_k:
            lowest = np.partition(scores[matching], -top_k)[-top_k]
            matching = matching[scores[matching] >= lowest]
        found = {self.ids[row]: float(scores[row]) for row in matching}
        return best(found, top_k)

    def _tokens(self, texts: Sequence[str]) -> list[list[str]]:
        stopwords = "en" if self.config.stopwords == "english" else []
        # bm25s's own pattern drops words of one character (`LAN 1`, `R`), knows no script that is
        # written without spaces, and takes the marks of others for the ends of words
        tokens: list[list[str]] = bm25s.tokenize(
            [t if t.isascii() else unicodedata.normalize("NFC", t) for t in texts],
            token_pattern=WORD.pattern,
            stopwords=stopwords,
            return_ids=False,
            show_progress=False,
        )
        return tokens
