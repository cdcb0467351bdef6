"""Agreement with people, prediction-powered means and noise: by hand, reference and coverage."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from ragkit.errors import DataError
from ragkit.evaluation.agreement import against_people, kappa, noise, prediction_powered
from ragkit.evaluation.significance import interval


def own(n: int, name: str = "d") -> list[str]:
    """Return a cluster for each of n questions."""
    return [f"{name}{i}" for i in range(n)]


# kappa


def test_kappa_of_a_table_is_what_it_is_by_hand() -> None:
    # both yes 20, only the first 5, only the second 10, neither 15: 0.7 observed, 0.5 by chance
    a = [1] * 20 + [1] * 5 + [0] * 10 + [0] * 15
    b = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert kappa(a, b).value == pytest.approx(0.4)


def test_a_quadratic_kappa_counts_a_half_step_a_quarter() -> None:
    a, b = [0, 0.5, 1, 1], [0, 0.5, 1, 0.5]
    observed = 0.25 / 4
    pa, pb = {0: 0.25, 0.5: 0.25, 1: 0.5}, {0: 0.25, 0.5: 0.5, 1: 0.25}
    chance = sum(pa[x] * pb[y] * (x - y) ** 2 for x in pa for y in pb)
    assert kappa(a, b, quadratic=True).value == pytest.approx(1 - observed / chance)


@pytest.mark.parametrize("quadratic", [False, True])
def test_kappa_equals_scikit_learns(quadratic: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        a = rng.choice([0, 0.5, 1], 40)
        b = np.where(rng.random(40) < 0.4, a, rng.choice([0, 0.5, 1], 40))
        weights = "quadratic" if quadratic else None
        # whole numbers: scikit-learn takes 0.5 for a measurement
        theirs = cohen_kappa_score(2 * a, 2 * b, weights=weights)
        assert kappa(a, b, quadratic=quadratic).value == pytest.approx(theirs, abs=1e-12)


def test_two_raters_who_say_the_same_of_everything_have_no_kappa() -> None:
    found = kappa([1, 1, 1], [1, 1, 1])
    assert (found.value, found.low, found.high) == (None, None, None)


def test_two_raters_who_agree_in_all_have_a_kappa_of_one_without_width() -> None:
    found = kappa([0, 1, 1, 0, 1, 0], [0, 1, 1, 0, 1, 0])
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_one_document_gives_no_interval() -> None:
    found = kappa([0, 1, 1, 0], [0, 1, 0, 0], ["d"] * 4)
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == (None, None)


def test_the_interval_of_kappa_is_the_jackknifes_over_documents() -> None:
    a, b = [1, 1, 0, 0, 1, 0, 1, 0], [1, 0, 0, 0, 1, 1, 1, 0]
    documents = ["x", "x", "y", "y", "z", "z", "w", "w"]
    without = []
    for left_out in "xyzw":
        kept = [i for i, d in enumerate(documents) if d != left_out]
        without.append(cohen_kappa_score([a[i] for i in kept], [b[i] for i in kept]))
    error = math.sqrt(3 / 4 * np.square(np.subtract(without, np.mean(without))).sum())
    found = kappa(a, b, documents)
    assert found.value is not None and found.high is not None
    assert found.low == pytest.approx(found.value - stats.t.ppf(0.975, 3) * error)
    assert found.high == 1.0  # where it would be above
    assert found.value + stats.t.ppf(0.975, 3) * error > 1


def test_the_interval_of_kappa_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    people = rng.random((1_000, 150)) < 0.6
    judged = np.where(rng.random(people.shape) < 0.2, ~people, people)
    right, said = 0.8, 0.6 * 0.8 + 0.4 * 0.2
    chance = 0.6 * said + 0.4 * (1 - said)
    truth = (right - chance) / (1 - chance)
    covered = 0
    for a, b in zip(people.astype(float), judged.astype(float), strict=True):
        found = kappa(a, b)
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / len(people) <= 0.97


@pytest.mark.parametrize(("a", "b"), [([], []), ([1], [1, 0])])
def test_values_that_cannot_be_paired_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(DataError):
        kappa(a, b)


# prediction-powered means


def test_a_prediction_powered_mean_is_what_it_is_by_hand() -> None:
    # around their means, over n = N = 4: labels (1, -1, 1, -1) / 8; the judge's (1, -3, 1, 1) / 16
    # and (1, -1, -1, 1) / 8. Product 1/32, squares 3/64 and 1/16: lambda = (1/32) / (7/64) = 2/7
    found = prediction_powered([1, 0, 1, 0], [1, 0, 1, 1], [1, 0, 0, 1], own(4), own(4, "r"))
    assert found.power == pytest.approx(2 / 7)
    assert found.mean.value == pytest.approx(1 / 2 + 2 / 7 * (1 / 2 - 3 / 4))
    # residuals (3, -2, 3, -4) / 28 and four of 1/28; leverages (1, 9, 1, 1) / 28 and four of 4/28
    squares = 2 * (3 / 27) ** 2 + (2 / 19) ** 2 + (4 / 27) ** 2 + 4 * (1 / 24) ** 2
    margin = stats.t.ppf(0.975, 3) * math.sqrt(4 / 3 * squares)
    assert found.mean.low == pytest.approx(3 / 7 - margin)
    assert found.mean.high == pytest.approx(3 / 7 + margin)


def test_without_the_judge_it_is_the_mean_of_the_labels_with_its_clustered_interval() -> None:
    rng = np.random.default_rng(3)
    human, judged, rest = (rng.integers(2, size=n).astype(float) for n in (60, 60, 200))
    documents = [f"d{i // 3}" for i in range(60)]  # of one size both variances are the same
    found = prediction_powered(human, judged, rest, documents, own(200, "r"), power=0.0)
    classical = interval(human, documents)
    assert (found.mean.value, found.mean.low, found.mean.high) == pytest.approx(
        (classical.mean, classical.low, classical.high)
    )


def test_where_each_question_is_its_own_document_lambda_is_the_papers() -> None:
    rng = np.random.default_rng(1)
    human = rng.random(50)
    judged, rest = human + rng.normal(0, 0.3, 50), rng.random(300) + rng.normal(0, 0.3, 300)
    covariance = np.cov(human, judged, ddof=0)[0, 1]
    best = covariance / 50 / (judged.var() / 50 + rest.var() / 300)
    found = prediction_powered(human, judged, rest, own(50), own(300, "r"))
    assert found.power == pytest.approx(best)


def test_a_good_judge_narrows_the_interval_and_a_useless_one_leaves_it() -> None:
    rng = np.random.default_rng(2)
    human, rest = (rng.random(n) < 0.6 for n in (100, 900))
    clusters = own(100), own(900, "r")

    def width(judged: object, others: object, power: float | None = None) -> float:
        ours, theirs = (np.asarray(v, float) for v in (judged, others))
        mean = prediction_powered(human.astype(float), ours, theirs, *clusters, power=power).mean
        assert mean.low is not None and mean.high is not None
        return mean.high - mean.low

    alone = width(human, rest, power=0.0)
    assert width(human, rest) < 0.4 * alone
    constant = width(np.ones(100), np.ones(900))
    assert constant == pytest.approx(alone)
    inverted = width(~human, ~rest)  # lambda would be negative: clipped
    assert inverted == pytest.approx(alone, rel=0.02)


def test_an_inverted_judge_is_not_used_at_all() -> None:
    found = prediction_powered([1, 0, 1, 0], [0, 1, 0, 1], [0, 1, 1], own(4), own(3, "r"))
    assert (found.power, found.mean.value) == (0.0, 0.5)


def test_without_unlabelled_questions_the_labels_are_all_there_is() -> None:
    found = prediction_powered([1, 0, 1, 1], [1, 1, 1, 0], [], own(4), [])
    assert (found.power, found.mean.value, found.drawn_z) == (0.0, 0.75, None)
    assert found.mean.low is not None


def test_labels_of_one_document_give_a_mean_without_interval() -> None:
    found = prediction_powered([1, 0], [1, 0], [1, 1], ["d", "d"], ["d", "e"])
    assert (found.mean.value, found.mean.low, found.mean.high) == (0.5, None, None)


@pytest.mark.parametrize(("documents", "labels"), [(100, 100), (14, 60)])
def test_intervals_cover_as_often_as_they_say_where_documents_are_in_both_parts(
    documents: int, labels: int
) -> None:
    rng, draws, per_document = np.random.default_rng(0), 2_000, 5 if documents > 50 else 20
    clusters = np.repeat([f"d{i}" for i in range(documents)], per_document)
    # right with the document's probability, 0.35 or 0.85; the judge is wrong on 15%, and generous
    chance = rng.choice([0.35, 0.85], (draws, documents)).repeat(per_document, axis=1)
    people = rng.random(chance.shape) < chance
    judged = np.where(rng.random(chance.shape) < 0.15, rng.random(chance.shape) < 0.9, people)
    covered, width, alone = 0, 0.0, 0.0
    for y, f in zip(people.astype(float), judged.astype(float), strict=True):
        order = rng.permutation(len(y))
        a, b = order[:labels], order[labels:]
        parts = y[a], f[a], f[b], clusters[a], clusters[b]
        found = prediction_powered(*parts).mean
        classical = prediction_powered(*parts, power=0.0).mean
        assert None not in (found.low, found.high, classical.low, classical.high)
        covered += found.low <= 0.6 <= found.high
        width, alone = width + found.high - found.low, alone + classical.high - classical.low
    assert 0.93 <= covered / draws <= 0.97
    assert width < alone


def test_labels_that_are_no_random_draw_are_seen() -> None:
    judged = [0.0] * 19 + [1.0]
    rest = [1.0] * 150 + [0.0] * 50
    found = prediction_powered(judged, judged, rest, own(20), own(200, "r"))
    assert found.drawn_z is not None and found.drawn_z > 5


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(DataError, match="2 scores and 1 clusters of the rest"):
        prediction_powered([1, 0], [1, 0], [1, 1], own(2), ["r"])
    with pytest.raises(DataError, match="2 and 1 values and 2 clusters"):
        prediction_powered([1, 0], [1], [], own(2), [])


# noise, and all together


def test_noise_is_the_share_that_changes_and_what_that_does_to_the_mean() -> None:
    # variances 1/3 and 0, their mean 1/6, of ten questions
    found = noise([[1, 1, 0], [1, 1, 1]], 10)
    assert found == pytest.approx({"changed": 0.5, "sd_of_mean": math.sqrt(1 / 60)})
    with pytest.raises(DataError):
        noise([[1.0], [0.0]], 2)


def test_labels_meet_scores_and_what_was_settled_is_left_out_of_the_agreement() -> None:
    scores = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0, "e": 1.0, "f": 0.0}
    labels = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0, "unjudged": 1.0}
    documents = {q: q for q in scores}
    found = against_people(scores, labels, {"d"}, documents)
    assert (found["labels"], found["ppi"]["n"], found["ppi"]["unlabelled"]) == (5, 4, 2)
    assert found["agreement"]["raw"]["mean"] == pytest.approx(2 / 3)
    assert found["agreement"]["raw"]["n"] == 3
    assert "kappa_quadratic" not in found["agreement"]
    half = against_people(scores, {**labels, "b": 0.5}, {"d"}, documents)["agreement"]
    assert half["kappa"]["value"] < half["kappa_quadratic"]["value"]
    assert found["ppi"]["labels_alone"]["mean"] == 0.75
    with pytest.raises(DataError, match="no label is of a question that has a judgement"):
        against_people(scores, {"other": 1.0}, set(), documents)
