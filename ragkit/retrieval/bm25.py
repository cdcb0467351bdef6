"""Ranking by words: BM25 (Robertson et al., 1994; Lucene's form), by the package bm25s."""

from collections.abc import Mapping, Sequence

import bm25s

from ragkit.config.blocks import Bm25
from ragkit.data.schema import Passage


class Bm25Searcher:
    """BM25 over the rendered passages of a corpus, held in memory."""

    def __init__(self, corpus: Mapping[str, Passage], config: Bm25 | None = None) -> None:
        self.config = config or Bm25(type="bm25")
        self.ids = list(corpus)
        self.index = bm25s.BM25(k1=self.config.k1, b=self.config.b, method="lucene")
        tokens = self._tokens([p.rendered for p in corpus.values()])
        self.empty = not any(tokens)
        if not self.empty:
            self.index.index(tokens, show_progress=False)
            self.vocabulary = set(self.index.vocab_dict)

    def search(self, queries: Sequence[str], top_k: int) -> list[dict[str, float]]:
        """Return the best passages of each query, id to score, best first.

        Only passages that share a word with the query are returned: none at all for a query of stop
        words, where bm25s itself raises.
        """
        tokens = [] if self.empty else self._tokens(queries)
        known = [[t for t in words if t in self.vocabulary] for words in tokens]
        asked = [i for i, words in enumerate(known) if words]
        found: list[dict[str, float]] = [{} for _ in queries]
        if not asked:
            return found
        positions, scores = self.index.retrieve(
            [known[i] for i in asked], k=min(top_k, len(self.ids)), show_progress=False
        )
        for i, row, row_scores in zip(asked, positions.tolist(), scores.tolist(), strict=True):
            pairs = zip(row, row_scores, strict=True)
            found[i] = {self.ids[p]: score for p, score in pairs if score > 0}
        return found

    def _tokens(self, texts: Sequence[str]) -> list[list[str]]:
        stopwords = "en" if self.config.stopwords == "english" else []
        tokens: list[list[str]] = bm25s.tokenize(
            list(texts), stopwords=stopwords, return_ids=False, show_progress=False
        )
        return tokens
