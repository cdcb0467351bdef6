"""Mining hard negatives: passages that rank high for a question and do not answer it.

Candidates are the top of a first stage over the whole corpus. Positives go, near-duplicates of
them, passages that contain the reference answer, and, by the positive-aware rule of NV-Retriever
(de Souza et al., 2024), candidates whose cosine with the question is above a share of the lowest
positive's: they may well be answers that nobody labelled. A cross-encoder, where there is one, has
the last word, and its scores stay with the examples, for distillation. Questions are taken in
blocks: memory does not grow with questions times passages.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ragkit.config.blocks import EncoderOptions
from ragkit.data.schema import Example, Passage, known_positives
from ragkit.log import Meter
from ragkit.models.encoder import Encoder
from ragkit.retrieval.encode import encode
from ragkit.retrieval.guards import CorpusWords, rows_that_answer
from ragkit.retrieval.index import VectorIndex, as_runs, build_index
from ragkit.retrieval.searchers import query_text

POSITIVE = "a positive of this question"
TOP = "among the first of the ranking"
DUPLICATE = "a near-duplicate of a positive"
ANSWER = "contains the answer"
NEAR = "too near to the question"
RERANKED = "too high by the reranker"
UNRANKED = "not found by the first stage"

_BLOCK = 512  # questions ranked, guarded and rescored together

Search = Callable[[Sequence[str], int], Sequence[Mapping[str, float]]]
Cosine = Callable[[str, Sequence[str]], NDArray[np.float32]]
Rescore = Callable[[Sequence[tuple[str, Sequence[str]]]], Sequence[Mapping[str, float]]]


@dataclass(frozen=True)
class Rules:
    """What makes a candidate a negative.

    n: negatives a question; depth: candidates a question; skip_top: the first of them that are left
        out, positives not counted
    max_share: of the lowest positive's cosine, above which a candidate is dropped; None: no rule
    same_answer: drop candidates that contain the reference answer
    margin: what a candidate's reranker logit must be below the lowest positive's; None: no rule
    pick: "rank" takes the highest, "sample" draws from all that are left
    """

    n: int
    depth: int = 50
    skip_top: int = 0
    max_share: float | None = 0.95
    same_answer: bool = True
    margin: float | None = None
    pick: Literal["rank", "sample"] = "rank"
    seed: int = 0


@dataclass(frozen=True)
class Mined:
    """Examples with negatives, in the order given, and the account of what was dropped.

    dropped: of each example the dropped candidates' ids by reason
    too_few: of each example that has fewer negatives than asked, by id, how many candidates each
        reason cost it
    """

    examples: list[Example]
    dropped: list[dict[str, list[str]]]
    too_few: dict[str, dict[str, int]]

    @property
    def totals(self) -> dict[str, int]:
        """The number of dropped candidates by reason."""
        counts: Counter[str] = Counter()
        for reasons in self.dropped:
            counts.update({reason: len(ids) for reason, ids in reasons.items()})
        return dict(counts)

    @property
    def causes(self) -> dict[str, int]:
        """The number of examples with too few by the reason that cost each the most candidates."""
        most = (max(why, key=lambda r: why[r], default=UNRANKED) for why in self.too_few.values())
        return dict(Counter(most).most_common())


@dataclass
class _Draft:
    """One question while it is mined.

    waiting: candidates that passed so far, in the order in which they are to be taken
    """

    example: Example
    waiting: list[str]
    dropped: dict[str, list[str]]
    kept: list[str] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)

    def drop(self, reason: str, out: Sequence[bool] | NDArray[np.bool_]) -> None:
        """Take those candidates away that are True in `out`."""
        if any(out):
            pairs = list(zip(self.waiting, out, strict=True))
            self.dropped[reason] = [p for p, gone in pairs if gone]
            self.waiting = [p for p, gone in pairs if not gone]


def mine(
    examples: Sequence[Example],
    corpus: Mapping[str, Passage],
    search: Search,
    rules: Rules,
    *,
    cosine: Cosine | None = None,
    rescore: Rescore | None = None,
    words_of: CorpusWords | None = None,
) -> Mined:
    """Give each example up to `rules.n` negatives; examples are never dropped.

    Examples without positives stay as they are.

    search: the first stage: queries and a depth to one {passage id: score} a query, best first
    cosine: similarities of a query with passages, under one encoder; needed by `rules.max_share`
    rescore: a cross-encoder's scores of (query, passage ids); the examples keep those of their
        positives and negatives
    words_of: the corpus's words, where they are at hand
    """
    words_of = words_of or CorpusWords(corpus)
    answers = known_positives(examples)
    todo = [e for e in examples if e.positive_ids]
    done: dict[str, _Draft] = {}
    meter = Meter("mining negatives", len(todo), "questions")
    for start in range(0, len(todo), _BLOCK):
        block = todo[start : start + _BLOCK]
        rankings = search([query_text(e) for e in block], rules.depth)
        drafts = [
            _draft(example, list(ranking), answers[example.asked], rules, cosine, words_of)
            for example, ranking in zip(block, rankings, strict=True)
        ]
        _take(drafts, rules, rescore)
        done |= {draft.example.id: draft for draft in drafts}
        meter.advance(len(block))
    meter.close()
    return Mined(
        [_finished(done[e.id]) if e.id in done else e for e in examples],
        [done[e.id].dropped if e.id in done else {} for e in examples],
        {i: _why(d, rules) for i, d in done.items() if len(d.kept) < rules.n},
    )


def remine(
    encoder: Encoder,
    examples: Sequence[Example],
    corpus: Mapping[str, Passage],
    rules: Rules,
    options: EncoderOptions | None = None,
    words_of: CorpusWords | None = None,
) -> Mined:
    """Mine with an encoder as it is now, which is both first stage and measure of `max_share`.

    The corpus is encoded anew, in memory; the encoder is left in the mode that it was in.
    """
    training = encoder.training
    index = build_index(encoder, corpus, "", options)
    asked = KnownQueries(encoder, index, [query_text(e) for e in examples], options)
    mined = mine(examples, corpus, asked.search, rules, cosine=asked.cosine, words_of=words_of)
    encoder.train(training)
    return mined


class KnownQueries:
    """Dense search for queries that are known beforehand, and encoded once."""

    def __init__(
        self,
        encoder: Encoder,
        index: VectorIndex,
        queries: Sequence[str],
        options: EncoderOptions | None = None,
    ) -> None:
        self.index = index
        self._query = {query: i for i, query in enumerate(dict.fromkeys(queries))}
        self._passage = {passage_id: i for i, passage_id in enumerate(index.ids)}
        self._vectors = encode(encoder, list(self._query), "query", options)

    def search(self, queries: Sequence[str], top_k: int) -> list[dict[str, float]]:
        """Return the nearest passages of each query, id to inner product, best first."""
        rows = [self._query[query] for query in queries]
        return as_runs(self.index.ids, *self.index.search(self._vectors[rows], top_k))

    def cosine(self, query: str, passage_ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the cosines of a query with passages."""
        asked = self._vectors[self._query[query]]
        told = self.index.vectors[[self._passage[p] for p in passage_ids]]
        lengths = np.linalg.norm(told, axis=1) * np.linalg.norm(asked)
        return np.asarray(told @ asked / np.maximum(lengths, 1e-12), np.float32)


def _draft(
    example: Example,
    ranking: list[str],
    positives: frozenset[str],
    rules: Rules,
    cosine: Cosine | None,
    words_of: CorpusWords,
) -> _Draft:
    """Apply the rules that need no reranker."""
    draft = _Draft(example, ranking, {})
    draft.drop(POSITIVE, [p in positives for p in ranking])
    draft.drop(TOP, [rank < rules.skip_top for rank in range(len(draft.waiting))])
    draft.drop(DUPLICATE, words_of.near_duplicates(draft.waiting, sorted(positives)))
    if rules.same_answer and example.answers:
        rows = rows_that_answer(example, words_of)
        draft.drop(ANSWER, [words_of.row[p] in rows for p in draft.waiting])
    if rules.max_share is not None and draft.waiting:
        assert cosine is not None, "max_share compares cosines"
        query = query_text(example)
        limit = rules.max_share * float(cosine(query, example.positive_ids).min())
        draft.drop(NEAR, cosine(query, draft.waiting) > limit)
    if rules.pick == "sample":
        random.Random(f"{rules.seed}:{example.id}").shuffle(draft.waiting)
    return draft


def _take(drafts: Sequence[_Draft], rules: Rules, rescore: Rescore | None) -> None:
    """Move up to `n` candidates of each draft from `waiting` to `kept`.

    With a reranker, in rounds: as many are scored as are still wanted, all questions' together.
    """
    if rescore is None:
        for draft in drafts:
            draft.kept, draft.waiting = draft.waiting[: rules.n], []
        return
    wanting = list(drafts)
    while wanting:
        asked = []
        for draft in wanting:
            first = [] if draft.scores else draft.example.positive_ids
            asked.append([*first, *draft.waiting[: rules.n - len(draft.kept)]])
            del draft.waiting[: rules.n - len(draft.kept)]
        pairs = [(query_text(d.example), ids) for d, ids in zip(wanting, asked, strict=True)]
        for draft, scores in zip(wanting, rescore(pairs), strict=True):
            _judge(draft, scores, rules.margin)
        wanting = [d for d in wanting if d.waiting and len(d.kept) < rules.n]


def _judge(draft: _Draft, scores: Mapping[str, float], margin: float | None) -> None:
    """Keep the scored candidates that are far enough below the lowest positive."""
    draft.scores |= scores
    positives = draft.example.positive_ids
    lowest = min(draft.scores[p] for p in positives)
    for passage_id, score in scores.items():
        if passage_id in positives:
            continue
        if margin is not None and score > lowest - margin:
            draft.dropped.setdefault(RERANKED, []).append(passage_id)
        else:
            draft.kept.append(passage_id)


def _finished(draft: _Draft) -> Example:
    """Return the example with its negatives, and the scores of those passages that it has."""
    scores = draft.scores or draft.example.scores
    named = (*draft.example.positive_ids, *draft.kept)
    return replace(
        draft.example,
        negative_ids=tuple(draft.kept),
        scores={p: scores[p] for p in named if p in scores},
    )


def _why(draft: _Draft, rules: Rules) -> dict[str, int]:
    """Return how many candidates each reason cost a question, the most first.

    The first stage is to blame as far as it gave fewer than were asked.
    """
    why = {reason: len(ids) for reason, ids in draft.dropped.items()}
    why[UNRANKED] = rules.n - len(draft.kept) - sum(why.values())
    return dict(sorted(((r, n) for r, n in why.items() if n > 0), key=lambda item: -item[1]))
