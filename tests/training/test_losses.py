"""Losses of retriever training: by hand, with masks, with what is missing left out."""

import math

import pytest
import torch
from torch import Tensor

from ragkit.training.losses import distillation_kl, false_negative_mask, info_nce, margin_mse

SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.5, 3.0, -1.0]])
OWN = torch.tensor([0, 1])


def mask(*places: tuple[int, int]) -> Tensor:
    ignore = torch.zeros(2, 3, dtype=torch.bool)
    for place in places:
        ignore[place] = True
    return ignore


def nll(positive: float, *others: float) -> float:
    """Return -log(e^positive / sum of e^each)."""
    return math.log(sum(math.exp(s) for s in (positive, *others))) - positive


def test_info_nce_is_the_mean_negative_log_softmax_of_the_positives() -> None:
    expected = (nll(2, 1, 0) + nll(3, 0.5, -1)) / 2
    assert info_nce(SCORES, OWN).item() == pytest.approx(expected, rel=1e-6)


def test_the_positive_may_stand_in_any_column() -> None:
    expected = (nll(0, 2, 1) + nll(0.5, 3, -1)) / 2
    assert info_nce(SCORES, torch.tensor([2, 0])).item() == pytest.approx(expected, rel=1e-6)


def test_an_ignored_candidate_is_left_out_of_the_sum() -> None:
    expected = (nll(2, 0) + nll(3, 0.5, -1)) / 2
    assert info_nce(SCORES, OWN, mask((0, 1))).item() == pytest.approx(expected, rel=1e-6)


def test_an_ignored_candidate_gets_no_gradient_and_moves_no_other() -> None:
    gradients = []
    for value in (1.0, 50.0):
        scores = SCORES.clone()
        scores[0, 1] = value
        scores.requires_grad_()
        info_nce(scores, OWN, mask((0, 1))).backward()
        gradients.append(scores.grad)
    assert gradients[0][0, 1] == 0
    assert (gradients[0][0, [0, 2]] != 0).all() and (gradients[0][1] != 0).all()
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_query_with_nothing_to_tell_apart_costs_nothing() -> None:
    loss = info_nce(SCORES, OWN, mask((0, 1), (0, 2), (1, 0), (1, 2)))
    assert loss.item() == 0


def test_the_arguments_are_not_changed() -> None:
    scores, ignore = SCORES.clone(), mask((0, 2))
    info_nce(scores, OWN, ignore)
    distillation_kl(scores, scores)
    margin_mse(scores, scores, OWN)
    assert torch.equal(scores, SCORES) and torch.equal(ignore, mask((0, 2)))


def test_half_precision_scores_are_summed_in_fp32() -> None:
    loss = info_nce(SCORES.bfloat16(), OWN)
    assert loss.dtype == torch.float32


def test_candidates_far_above_the_positive_are_taken_for_answers() -> None:
    scores = torch.tensor([[0.5, 0.59, 0.61, 0.5], [0.9, 0.2, 1.0, 1.1]])
    found = false_negative_mask(scores, torch.tensor([[0.5], [0.2]]), 0.1)
    assert found.tolist() == [[False, False, True, False], [True, False, True, True]]


def test_a_margin_below_zero_leaves_out_what_comes_near_the_positive() -> None:
    found = false_negative_mask(torch.tensor([[0.5, 0.45, 0.3]]), torch.tensor([[0.5]]), -0.1)
    assert found.tolist() == [[True, True, False]]


def test_where_queries_are_the_columns_each_has_its_own_positive() -> None:
    found = false_negative_mask(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.3, 0.6]]), 0.1)
    assert found.tolist() == [[True, False]]


NOT_SCORED = math.nan


def divergence(teacher: list[float], scores: list[float]) -> float:
    """Return KL(softmax(teacher) || softmax(scores)), with the standard library."""
    p, q = ([math.exp(x) / sum(map(math.exp, xs)) for x in xs] for xs in (teacher, scores))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_kl_is_over_the_candidates_that_the_teacher_scored() -> None:
    teacher = torch.tensor([[4.0, NOT_SCORED, 1.0], [0.5, 3.0, -1.0]])
    expected = (divergence([4, 1], [2, 0]) + divergence([0.5, 3, -1], [0.5, 3, -1])) / 2
    assert distillation_kl(SCORES, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_queries_without_scores_are_left_out_of_the_mean_and_get_no_gradient() -> None:
    teacher = torch.tensor([[NOT_SCORED] * 3, [3.0, 0.5, -1.0]])
    for name, expected in (
        ("kl", divergence([3, 0.5, -1], [0.5, 3, -1])),
        ("margin_mse", ((2.5 + 2.5) ** 2 + (4.0 - 1.5) ** 2) / 2),
    ):
        scores = SCORES.clone().requires_grad_()
        loss = (
            distillation_kl(scores, teacher)
            if name == "kl"
            else margin_mse(scores, teacher, torch.tensor([0, 1]))
        )
        loss.backward()
        assert loss.item() == pytest.approx(expected, rel=1e-6), name
        assert scores.grad is not None and scores.grad.isfinite().all()
        assert (scores.grad[0] == 0).all() and (scores.grad[1] != 0).all()


def test_margin_mse_is_the_squared_difference_of_margins() -> None:
    teacher = torch.tensor([[4.0, 2.5, NOT_SCORED], [0.0, 1.0, 0.0]])
    # margins of the encoder: 1 and 2; 2.5 and 4; of the teacher: 1.5; 1 and 1
    expected = (0.25 + ((2.5 - 1) ** 2 + (4 - 1) ** 2) / 2) / 2
    assert margin_mse(SCORES, teacher, OWN).item() == pytest.approx(expected, rel=1e-6)


def test_without_any_scores_there_is_nothing_to_distil() -> None:
    scores = SCORES.clone().requires_grad_()
    none = torch.full_like(SCORES, NOT_SCORED)
    loss = distillation_kl(scores, none) + margin_mse(scores, none, OWN)
    loss.backward()
    assert loss.item() == 0 and scores.grad is not None and not scores.grad.any()
