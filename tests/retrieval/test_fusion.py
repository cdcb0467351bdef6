"""Fusion: both formulas by hand, ties, and the choice of a weight."""

from collections.abc import Mapping, Sequence

import pytest

from ragkit.retrieval.fusion import best, choose_weight, reciprocal_rank, weighted

DENSE = {"a": 0.8, "b": 0.2, "c": -0.1}
WORDS = {"b": 10.0, "d": 5.0}


def test_reciprocal_ranks_are_added_up() -> None:
    fused = reciprocal_rank([DENSE, WORDS], 10)
    expected = {"b": 1 / 62 + 1 / 61, "a": 1 / 61, "d": 1 / 62, "c": 1 / 63}
    assert fused == pytest.approx(expected)
    assert list(fused) == ["b", "a", "d", "c"]


def test_the_constant_of_reciprocal_ranks_is_the_one_given() -> None:
    assert reciprocal_rank([{"a": 3.0}, {"a": 1.0}], 10, k=1) == pytest.approx({"a": 1.0})


def test_weighted_scores_are_scaled_by_the_top_and_the_lowest_possible_score() -> None:
    # dense (s + 1) / 1.8: a 1, b 2/3, c 1/2; words s / 10: b 1, d 1/2; d gets dense's lowest, 1/2
    fused = weighted(DENSE, WORDS, 0.6, 10)
    expected = {"b": 0.6 * 2 / 3 + 0.4, "a": 0.6, "d": 0.3 + 0.2, "c": 0.3}
    assert fused == pytest.approx(expected)
    assert list(fused) == ["b", "a", "d", "c"]


@pytest.mark.parametrize(("weight", "first"), [(1.0, "a"), (0.0, "b")])
def test_a_weight_of_all_or_nothing_is_one_ranking_alone(weight: float, first: str) -> None:
    fused = weighted(DENSE, WORDS, weight, 10)
    assert next(iter(fused)) == first


def test_a_question_without_known_words_is_ranked_by_dense_alone() -> None:
    assert list(weighted(DENSE, {}, 0.3, 10)) == ["a", "b", "c"]
    assert list(reciprocal_rank([DENSE, {}], 10)) == ["a", "b", "c"]


def test_two_empty_rankings_fuse_to_none() -> None:
    assert weighted({}, {}, 0.5, 10) == {} == reciprocal_rank([{}, {}], 10)


def test_only_top_k_are_kept() -> None:
    assert list(weighted(DENSE, WORDS, 0.6, 2)) == ["b", "a"]
    assert list(reciprocal_rank([DENSE, WORDS], 2)) == ["b", "a"]


def test_ties_are_broken_by_descending_id() -> None:
    assert list(best({"b": 1.0, "c": 1.0, "z": 0.5, "a": 2.0}, 3)) == ["a", "c", "b"]


def share_found(answers: Sequence[str]) -> object:
    """Return a score: the share of questions whose answer is ranked first."""

    def score(rankings: Sequence[Mapping[str, float]]) -> float:
        assert len(rankings) == len(answers)
        hits = [next(iter(r)) == a for r, a in zip(rankings, answers, strict=True)]
        return sum(hits) / len(hits)

    return score


def test_the_weight_that_scores_highest_is_chosen() -> None:
    # question 1 needs more than 0.6 of dense: w + 0.4 (1 - w) > 0.1 w + (1 - w) ⟺ w > 0.4;
    # question 2 needs less: 0.7 w + (1 - w) > w + 0.1 (1 - w) ⟺ w < 0.75
    dense = [{"x": 1.0, "y": -0.8}, {"x": 1.0, "y": 0.4}]
    words = [{"y": 10.0, "x": 4.0}, {"y": 10.0, "x": 1.0}]
    assert choose_weight(dense, words, share_found(["x", "y"]), 10) == 0.5
    dense[0] = {"x": 1.0, "y": 0.4}  # now w + 0.4 (1 - w) > 0.7 w + (1 - w) ⟺ w > 2/3
    assert choose_weight(dense, words, share_found(["x", "y"]), 10) == 0.7


def test_of_equally_good_weights_the_one_nearest_to_half_is_chosen() -> None:
    assert choose_weight([{"x": 1.0}], [{"x": 1.0}], share_found(["x"]), 10) == 0.5
