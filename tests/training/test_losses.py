"""Contrastive losses: by hand, with masks, and equal to the formulas of DALM and DocChat."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ragkit.training.losses import false_negative_mask, info_nce, symmetric_info_nce

SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.5, 3.0, -1.0]])
OWN = torch.tensor([0, 1])


def random_scores(queries: int, passages: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(queries, passages, generator=generator, dtype=torch.float64).float() * 3


def mask(*places: tuple[int, int], shape: tuple[int, int] = (2, 3)) -> Tensor:
    ignore = torch.zeros(shape, dtype=torch.bool)
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
    symmetric_info_nce(scores, OWN, ignore)
    assert torch.equal(scores, SCORES) and torch.equal(ignore, mask((0, 2)))


def test_half_precision_scores_are_summed_in_fp32() -> None:
    loss = info_nce(SCORES.bfloat16(), OWN)
    assert loss.dtype == torch.float32


def test_symmetric_at_a_half_equals_dalms_loss_on_one_to_one_batches() -> None:
    scores, own = random_scores(6, 6), torch.arange(6)
    expected = (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2
    torch.testing.assert_close(symmetric_info_nce(scores, own, share=0.5), expected)


@pytest.mark.parametrize("contexts", [1, 2, 5])
def test_symmetric_at_one_over_one_plus_c_equals_docchats_loss(contexts: int) -> None:
    queries = 4
    scores = random_scores(queries, queries * contexts)
    own = torch.arange(queries) * contexts  # DocChat: a query's positive, then its negatives
    share = 1 / (1 + contexts)
    to_query = cross_entropy(scores[:, own].T, torch.arange(queries))
    expected = (1 - share) * cross_entropy(scores, own) + share * to_query
    torch.testing.assert_close(symmetric_info_nce(scores, own, share=share), expected)


def test_symmetric_without_its_share_is_info_nce() -> None:
    torch.testing.assert_close(
        symmetric_info_nce(SCORES, OWN, mask((0, 1)), share=0.0),
        info_nce(SCORES, OWN, mask((0, 1))),
    )


def test_two_questions_of_one_passage_are_not_each_others_negatives() -> None:
    # queries 0 and 1 share passage 0; passages to queries: 0 against {0, 2}, 1 against {1, 2}
    scores = torch.tensor([[2.0, 1.0], [0.5, 3.0], [0.0, 4.0]], requires_grad=True)
    own = torch.tensor([0, 0, 1])
    loss = symmetric_info_nce(scores, own, share=0.25)
    forward = (nll(2, 1) + nll(0.5, 3) + nll(4, 0)) / 3
    backward = (nll(2, 0) + nll(0.5, 0) + nll(4, 1, 3)) / 3
    assert loss.item() == pytest.approx(0.75 * forward + 0.25 * backward, rel=1e-6)


def test_a_query_is_no_negative_of_another_of_its_own_positives() -> None:
    # passage 1, the positive of query 1, is known to answer query 0 as well
    scores = torch.tensor([[2.0, 1.0], [0.5, 3.0]])
    ignore = mask((0, 1), shape=(2, 2))
    forward = (nll(2) + nll(3, 0.5)) / 2
    backward = (nll(2, 0.5) + nll(3)) / 2
    loss = symmetric_info_nce(scores, OWN, ignore)
    assert loss.item() == pytest.approx((forward + backward) / 2, rel=1e-6)


def test_candidates_far_above_the_positive_are_taken_for_answers() -> None:
    scores = torch.tensor([[0.5, 0.59, 0.61, 0.5], [0.9, 0.2, 1.0, 1.1]])
    found = false_negative_mask(scores, torch.tensor([0, 1]), 0.1)
    assert found.tolist() == [[False, False, True, False], [True, False, True, True]]


def test_the_positive_is_never_taken_for_a_false_negative() -> None:
    # a margin below zero leaves out candidates that come near the positive from below
    found = false_negative_mask(torch.tensor([[0.5, 0.45, 0.3]]), torch.tensor([0]), -0.1)
    assert found.tolist() == [[False, True, False]]
