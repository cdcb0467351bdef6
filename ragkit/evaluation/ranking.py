"""Ranking metrics, query by query, equal to those of trec_eval.

A metric needs nothing of a ranking but the ranks of the relevant passages in it, so no ranking
is written out: each relevant passage's rank is counted once from the scores, and every metric is
an array expression over those ranks. Means and confidence intervals are left to `significance`.

What trec_eval does, and so do we: scores are compared as float32; ties go to the greater id; a
passage is relevant from grade 1 on; nDCG takes the grade itself as the gain and its ideal from all
relevant passages; MAP and recall divide by all relevant passages, precision by k.
Where trec_eval leaves a query out that the run lacks, it scores 0 here.
"""

import difflib
import re
import sys
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ragkit.errors import DataError

Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]

FORMS = ("recall@k", "hit@k", "precision@k", "mrr@k", "ndcg@k", "map", "map@k")
_METRIC = re.compile(r"(?:(recall|hit|precision|mrr|ndcg|map)@([1-9][0-9]*)|(map))")


@dataclass(frozen=True)
class _Ranks:
    """Where the relevant passages of each query stand, as parallel arrays.

    query_ids: the Q queries that have a relevant passage
    relevant: (Q,) how many each has
    query, rank, gain: (F,) the relevant passages found by the run, by query and then by rank
    position: (F,) 1 for a query's first relevant passage found, 2 for its second, ...
    ideal_query, ideal_rank, ideal_gain: (R,) all relevant passages in their best order
    """

    query_ids: list[str]
    relevant: NDArray[np.int64]
    query: NDArray[np.int64]
    rank: NDArray[np.int64]
    gain: NDArray[np.int64]
    position: NDArray[np.int64]
    ideal_query: NDArray[np.int64]
    ideal_rank: NDArray[np.int64]
    ideal_gain: NDArray[np.int64]


def evaluate(qrels: Qrels, run: Run, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """Score each query of `qrels` that has a relevant passage (grade 1 or more).

    Args:
        qrels: grade of each judged passage, by query.
        run: score of each retrieved passage, by query; a query that is not here scores 0.
        metrics: names of the forms `recall@k`, `hit@k`, `precision@k`, `mrr@k`, `ndcg@k`, `map`
            (over the whole ranking) and `map@k`.

    Returns:
        metric -> query id -> score. Queries without a relevant passage are left out.

    Raises:
        DataError: for an unknown metric, or a score that is not a number.
    """
    parsed = {name: _parse_metric(name) for name in metrics}
    ranks = _rank_relevant(qrels, run)
    return {
        name: dict(zip(ranks.query_ids, _score(kind, k, ranks).tolist(), strict=True))
        for name, (kind, k) in parsed.items()
    }


def rank(scores: dict[str, float]) -> list[str]:
    """Order passage ids as trec_eval does: by score as float32, ties by descending id.

    Raises:
        DataError: for a score that is not a number.
    """
    passage_ids = sorted(scores, reverse=True)
    values = _as_float32([scores[passage_id] for passage_id in passage_ids], len(passage_ids))
    if np.isnan(values).any():
        raise DataError(f"passage {passage_ids[int(np.isnan(values).argmax())]!r}: score is NaN")
    return [passage_ids[i] for i in np.argsort(-values, kind="stable")]


def deepest(metrics: Sequence[str]) -> int:
    """Return the largest cut-off among the metrics: so many passages must be retrieved for them."""
    return max((_parse_metric(name)[1] for name in metrics if "@" in name), default=0)


def _parse_metric(name: str) -> tuple[str, int]:
    """Split `ndcg@10` into kind and cut-off; without a cut-off it is beyond any ranking."""
    match = _METRIC.fullmatch(name)
    if match is None:
        raise DataError(f"unknown metric {name!r}{_suggestion(name)}; valid: {', '.join(FORMS)}")
    kind, cutoff, whole = match.groups()
    return (whole, sys.maxsize) if whole else (kind, min(int(cutoff), sys.maxsize))


def _suggestion(name: str) -> str:
    kinds = [form.removesuffix("@k") for form in FORMS]
    words = re.findall(r"[a-z]+", name.lower())
    close = difflib.get_close_matches(words[0] if words else "", kinds, n=1)
    cutoff = re.search(r"[1-9][0-9]*", name)
    return f" (did you mean {close[0]}@{cutoff.group() if cutoff else 10}?)" if close else ""


def _rank_relevant(qrels: Qrels, run: Run) -> _Ranks:
    positives = {
        query_id: relevant
        for query_id, judged in qrels.items()
        if (relevant := {p: grade for p, grade in judged.items() if grade >= 1})
    }
    rankings = {query_id: run.get(query_id, {}) for query_id in positives}

    query_list: list[int] = []
    found: list[str] = []
    gain: list[int] = []
    for i, (relevant, scores) in enumerate(zip(positives.values(), rankings.values(), strict=True)):
        for passage_id, grade in relevant.items():
            if passage_id in scores:
                query_list.append(i)
                found.append(passage_id)
                gain.append(grade)

    query = np.array(query_list, np.int64)
    ranks = _count_ranks(query, found, rankings)
    by_rank = np.lexsort((ranks, query))
    relevant_count = np.array([len(relevant) for relevant in positives.values()], np.int64)
    ideal_query = np.repeat(np.arange(len(positives)), relevant_count)
    grades = chain.from_iterable(relevant.values() for relevant in positives.values())
    ideal_gain = np.fromiter(grades, np.int64, len(ideal_query))
    return _Ranks(
        query_ids=list(positives),
        relevant=relevant_count,
        query=query,
        rank=ranks[by_rank],
        gain=np.array(gain, np.int64)[by_rank],
        position=_position_in_query(query, len(positives)),
        ideal_query=ideal_query,
        ideal_rank=_position_in_query(ideal_query, len(positives)),
        ideal_gain=ideal_gain[np.lexsort((-ideal_gain, ideal_query))],
    )


def _count_ranks(query: NDArray[np.int64], found: list[str], rankings: Run) -> NDArray[np.int64]:
    """Return the 1-based rank of each passage id of `found` in the ranking of its query.

    All rankings are sorted at once, as integers of (query, score), and the wanted ones looked up
    by bisection. Ids are compared only where a wanted passage is tied.
    """
    lengths = np.array([len(scores) for scores in rankings.values()], np.int64)
    ends = np.cumsum(lengths)
    values = _as_float32(
        chain.from_iterable(scores.values() for scores in rankings.values()), int(lengths.sum())
    )
    _refuse_nan(values, ends, rankings)
    by_query = list(rankings.values())
    wanted = _as_float32(
        (by_query[i][passage_id] for i, passage_id in zip(query.tolist(), found, strict=True)),
        len(found),
    )

    keys = _sort_keys(np.repeat(np.arange(len(rankings)), lengths), values)
    keys.sort()
    wanted_keys = _sort_keys(query, wanted)
    left = keys.searchsorted(wanted_keys, side="left")
    right = keys.searchsorted(wanted_keys, side="right")
    ranks = ends[query] - left

    tied_ids: dict[int, list[str]] = {}
    for at in np.flatnonzero(right - left > 1).tolist():
        i, group = int(query[at]), int(left[at])
        if group not in tied_ids:
            ids = list(by_query[i])
            tied = values[ends[i] - lengths[i] : ends[i]] == wanted[at]
            tied_ids[group] = sorted(ids[j] for j in np.flatnonzero(tied).tolist())
        ranks[at] -= bisect_left(tied_ids[group], found[at])
    return ranks


def _sort_keys(query: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return integers in the order of (query, value).

    The bits of a positive float already order as an integer does; those of a negative one order
    backwards. Adding 0 makes -0.0 the 0.0 that it equals.
    """
    bits = (values + np.float32(0)).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (query.astype(np.uint64) << np.uint64(32)) | ordered


def _refuse_nan(values: NDArray[np.float32], ends: NDArray[np.int64], rankings: Run) -> None:
    nan = np.isnan(values)
    if not nan.any():
        return
    at = int(nan.argmax())
    query_id = list(rankings)[int(np.searchsorted(ends, at, side="right"))]
    passage_id = next(p for p, score in rankings[query_id].items() if score != score)
    raise DataError(f"query {query_id!r}, passage {passage_id!r}: score is NaN")


def _as_float32(values: Iterable[float], count: int) -> NDArray[np.float32]:
    # Beyond float32 a score is infinite, as in trec_eval: no reason to warn.
    with np.errstate(over="ignore"):
        return np.fromiter(values, np.float32, count)


def _position_in_query(query: NDArray[np.int64], n_queries: int) -> NDArray[np.int64]:
    """Count 1, 2, ... within each query; `query` is ascending."""
    sizes = np.bincount(query, minlength=n_queries)
    return np.arange(len(query)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1


def _score(kind: str, k: int, ranks: _Ranks) -> NDArray[np.float64]:
    """Return one score a query, (Q,)."""
    top = ranks.rank <= k
    query, rank_, position = ranks.query[top], ranks.rank[top], ranks.position[top]
    if kind == "ndcg":
        best = ranks.ideal_rank <= k
        return _dcg(query, rank_, ranks.gain[top], ranks) / _dcg(
            ranks.ideal_query[best], ranks.ideal_rank[best], ranks.ideal_gain[best], ranks
        )
    if kind == "map":
        return _sum(query, position / rank_, ranks) / ranks.relevant
    first = position == 1
    if kind == "mrr":
        return _sum(query[first], 1 / rank_[first], ranks)
    if kind == "hit":
        return _sum(query, first, ranks)
    found = _sum(query, np.ones(len(query)), ranks)
    return found / ranks.relevant if kind == "recall" else found / k


def _dcg(
    query: NDArray[np.int64], rank_: NDArray[np.int64], gain: NDArray[np.int64], ranks: _Ranks
) -> NDArray[np.float64]:
    """Discounted cumulative gain with linear gains (Järvelin and Kekäläinen, 2002)."""
    return _sum(query, gain / np.log2(rank_ + 1), ranks)


def _sum(
    query: NDArray[np.int64], weights: NDArray[np.float64 | np.bool_], ranks: _Ranks
) -> NDArray[np.float64]:
    """Add up the weights of each query, (Q,)."""
    return np.bincount(query, weights, len(ranks.query_ids)).astype(np.float64, copy=False)
