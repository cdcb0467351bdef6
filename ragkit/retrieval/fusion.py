"""Fusing two rankings of the same passages into one.

Runs are one {passage id: score} a query, best first.
"""

from collections.abc import Callable, Mapping, Sequence

Ranking = Mapping[str, float]


def reciprocal_rank(rankings: Sequence[Ranking], top_k: int, k: int = 60) -> dict[str, float]:
    """Sum 1 / (k + rank) over the rankings (Cormack et al., 2009)."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, passage_id in enumerate(ranking, start=1):
            scores[passage_id] = scores.get(passage_id, 0.0) + 1.0 / (k + rank)
    return best(scores, top_k)


def weighted(dense: Ranking, bm25: Ranking, weight: float, top_k: int) -> dict[str, float]:
    """Sum weight * dense + (1 - weight) * bm25, each scaled to [0, 1] for the query.

    Scaling is theoretical min-max (Bruch et al., 2023): the top score becomes 1, the lowest that
    the function can give (cosine -1, BM25 0) becomes 0. A passage that a ranking lacks gets the
    ranking's lowest score.
    """
    # dot products of vectors that are not of unit length may be below -1
    a, b = _scaled(dense, min([-1.0, *dense.values()])), _scaled(bm25, 0.0)
    low_a = min(a.values(), default=0.0)
    scores = {
        passage_id: weight * a.get(passage_id, low_a) + (1 - weight) * b.get(passage_id, 0.0)
        for passage_id in {**a, **b}
    }
    return best(scores, top_k)


def choose_weight(
    dense: Sequence[Ranking],
    bm25: Sequence[Ranking],
    score: Callable[[Sequence[Ranking]], float],
    top_k: int,
) -> float:
    """Return the weight of dense, in steps of 0.05, whose fused rankings score highest.

    score: mean quality of the rankings, in the order of the queries; of equal weights the one
        nearest to 0.5 is taken
    """
    grid = sorted((i / 20 for i in range(21)), key=lambda w: (abs(w - 0.5), w))
    pairs = list(zip(dense, bm25, strict=True))
    return max(grid, key=lambda w: score([weighted(d, b, w, top_k) for d, b in pairs]))


def best(scores: Ranking, top_k: int) -> dict[str, float]:
    """Return the `top_k` highest scores, best first; ties by descending id, as in trec_eval."""
    ordered = sorted(sorted(scores, reverse=True), key=lambda p: -scores[p])
    return {p: scores[p] for p in ordered[:top_k]}


def _scaled(ranking: Ranking, lowest: float) -> dict[str, float]:
    top = max(ranking.values(), default=0.0)
    span = max(top - lowest, 1e-9)
    return {p: (s - lowest) / span for p, s in ranking.items()}
