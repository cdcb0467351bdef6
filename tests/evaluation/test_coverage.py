"""How often intervals hold the truth, and tests find what is not there, in simulated test sets.

Each simulation is a row of one call, so that a thousand test sets take no longer than a few. The
thresholds leave room for chance: of 1,000 intervals that hold the truth in 95%, 93.6 to 96.4% do,
in 95 of 100 simulations. scripts/results/coverage.py prints more of them.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ragkit.evaluation.significance import Interval, intervals, pairs

TEST_SETS = 1_000
Floats = NDArray[np.float64]
Simulated = tuple[Floats, list[str]]


def layout(rng: np.random.Generator, n_documents: int) -> NDArray[np.int64]:
    """Return the document of each question: one to twenty of each, half of them under three."""
    return np.arange(n_documents).repeat(np.minimum(rng.geometric(0.3, n_documents), 20))


def luck(rng: np.random.Generator, mean: float, documents: NDArray[np.int64]) -> Floats:
    """Return the chance of each question, (TEST_SETS, N); it correlates by 0.3 in a document."""
    of_document = rng.beta(mean * 7 / 3, (1 - mean) * 7 / 3, (TEST_SETS, documents[-1] + 1))
    return of_document[:, documents]


def binary(mean: float) -> Callable[[int], Simulated]:
    """Simulate scores of 0 or 1."""

    def simulate(n_documents: int) -> Simulated:
        rng = np.random.default_rng(n_documents)
        documents = layout(rng, n_documents)
        chance = luck(rng, mean, documents)
        return (rng.random(chance.shape) < chance).astype(float), [str(d) for d in documents]

    return simulate


def graded(n_documents: int) -> Simulated:
    """Simulate scores of mean 0.5 that are seldom 0 or 1, as F1 has them."""
    rng = np.random.default_rng(n_documents)
    documents = layout(rng, n_documents)
    chance = luck(rng, 0.5, documents)
    return rng.beta(2 * chance + 1e-9, 2 * (1 - chance) + 1e-9), [str(d) for d in documents]


def changed(n_documents: int, gain: float) -> tuple[Floats, Floats, list[str]]:
    """Simulate two systems; the second changes a third of the answers of 0 or 1, by document."""
    rng = np.random.default_rng(n_documents)
    documents = layout(rng, n_documents)
    change = rng.random((TEST_SETS, len(documents))) < luck(rng, 1 / 3, documents)
    better = rng.random(change.shape) < (1 + 3 * gain) / 2
    before = np.where(change, ~better, rng.random(change.shape) < 0.5)
    after = np.where(change, better, before)
    return before.astype(float), after.astype(float), [str(d) for d in documents]


def share_that_hold(truth: float, found: list[Interval]) -> float:
    held = [i.low <= truth <= i.high for i in found if i.low is not None and i.high is not None]
    assert len(held) == TEST_SETS
    return sum(held) / len(held)


@pytest.mark.parametrize("n_documents", [14, 40, 100, 300, 1_000])
@pytest.mark.parametrize("mean", [0.5, 0.8, 0.9])
def test_an_interval_holds_the_true_mean_of_95_in_100_test_sets(
    mean: float, n_documents: int
) -> None:
    found = intervals(*binary(mean)(n_documents), within=(0.0, 1.0), samples=1_000)
    # Few documents of which nearly all are right: no interval can be exact, and none is too narrow.
    most = 0.99 if mean == 0.9 and n_documents < 100 else 0.97
    assert 0.93 <= share_that_hold(mean, found) <= most


@pytest.mark.parametrize("n_documents", [14, 100, 1_000])
def test_an_interval_of_graded_scores_holds_their_true_mean(n_documents: int) -> None:
    found = intervals(*graded(n_documents), within=(0.0, 1.0), samples=1_000)
    assert 0.93 <= share_that_hold(0.5, found) <= 0.97


def test_intervals_that_take_questions_for_documents_are_too_narrow() -> None:
    values, _ = binary(0.5)(100)
    assert share_that_hold(0.5, intervals(values, within=(0.0, 1.0))) < 0.85


@pytest.mark.parametrize("n_documents", [14, 40, 100, 1_000])
def test_a_paired_interval_holds_the_true_difference(n_documents: int) -> None:
    a, b, documents = changed(n_documents, 0.05)
    found = pairs(a, b, documents, within=(0.0, 1.0), samples=1_000)
    assert 0.93 <= share_that_hold(0.05, [pair.difference for pair in found]) <= 0.97


@pytest.mark.parametrize("n_documents", [14, 40, 100, 1_000])
def test_of_100_pairs_of_equal_systems_about_5_differ_significantly(n_documents: int) -> None:
    a, b, documents = changed(n_documents, 0.0)
    found = pairs(a, b, documents, within=(0.0, 1.0), samples=1_000)
    assert 0.03 <= np.mean([pair.p_value < 0.05 for pair in found]) <= 0.07
