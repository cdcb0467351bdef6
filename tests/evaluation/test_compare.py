"""Comparing systems question by question: differences by hand, and what is refused."""

import math
import random

import pytest

from ragkit.errors import DataError
from ragkit.evaluation.compare import compare, compare_slices, leading, shared_metrics
from ragkit.evaluation.significance import holm, paired
from ragkit.evaluation.summary import summarise

QUESTIONS = [f"q{i}" for i in range(8)]
CLUSTERS = {q: f"d{i // 2}" for i, q in enumerate(QUESTIONS)}
BASE = [0.0, 1.0, 0.0, 0.5, 1.0, 0.0, 0.25, 0.0]
BETTER = [1.0, 1.0, 0.5, 0.5, 1.0, 0.5, 0.25, 1.0]
WORSE = [0.0, 0.5, 0.0, 0.5, 0.5, 0.0, 0.25, 0.0]


def sheet(values: list[float]) -> dict[str, dict[str, float]]:
    return {"f1": dict(zip(QUESTIONS, values, strict=True))}


SYSTEMS = {"better": sheet(BETTER), "base": sheet(BASE), "worse": sheet(WORSE)}


def test_every_system_has_its_means_and_all_but_the_baseline_a_difference() -> None:
    found = compare(SYSTEMS, CLUSTERS, ["f1"], "base")
    assert found["baseline"] == "base"
    assert list(found["systems"]) == ["better", "base", "worse"]
    assert found["systems"]["better"] == summarise(SYSTEMS["better"], CLUSTERS)
    assert list(found["differences"]) == ["better", "worse"]


def test_a_difference_is_system_minus_baseline_with_wins_ties_and_losses() -> None:
    differences = compare(SYSTEMS, CLUSTERS, ["f1"], "base")["differences"]
    better, worse = differences["better"]["f1"], differences["worse"]["f1"]
    assert better["mean"] == pytest.approx((5.75 - 2.75) / 8)
    assert (better["wins"], better["ties"], better["losses"]) == (4, 4, 0)
    assert worse["mean"] == pytest.approx((1.75 - 2.75) / 8)
    assert (worse["wins"], worse["ties"], worse["losses"]) == (0, 6, 2)
    assert better["ci95"][0] < better["mean"] < better["ci95"][1]


def test_questions_are_paired_by_id_whatever_their_order() -> None:
    turned = {"f1": dict(reversed(SYSTEMS["better"]["f1"].items()))}
    found = compare({"base": SYSTEMS["base"], "x": turned}, CLUSTERS, ["f1"], "base")
    expected = paired(BASE, BETTER, [CLUSTERS[q] for q in QUESTIONS], within=(0.0, 1.0))
    difference = found["differences"]["x"]["f1"]
    assert difference["mean"] == expected.difference.mean
    assert difference["ci95"] == [expected.difference.low, expected.difference.high]
    assert difference["p"] == expected.p_value


def test_p_values_are_corrected_for_all_differences_of_systems_and_metrics() -> None:
    rng = random.Random(0)
    systems = {
        name: {m: {q: rng.random() for q in QUESTIONS} for m in ("f1", "em", "map")}
        for name in ("base", "x", "y")
    }
    del systems["base"]["map"]["q0"], systems["x"]["map"]["q0"], systems["y"]["map"]["q0"]
    found = compare(systems, CLUSTERS, ["map", "f1", "em"], "base")
    cells = [cell for row in found["differences"].values() for cell in row.values()]
    assert found["comparisons"] == len(cells) == 6
    assert [c["p_holm"] for c in cells] == holm([c["p"] for c in cells])
    assert max(c["p_holm"] / c["p"] for c in cells) == pytest.approx(6.0)
    assert list(found["differences"]["x"]) == ["map", "f1", "em"]
    for metric in ("map", "em"):
        alone = compare(systems, CLUSTERS, [metric], "base")["differences"]["y"][metric]
        together = found["differences"]["y"][metric]
        assert {**alone, "p_holm": together["p_holm"]} == together


def test_one_system_alone_has_no_differences() -> None:
    found = compare({"base": sheet(BASE)}, CLUSTERS, ["f1"], "base")
    assert found["differences"] == {}
    assert found["comparisons"] == 0
    assert found["systems"]["base"]["f1"]["mean"] == pytest.approx(2.75 / 8)


def test_questions_of_one_document_have_a_difference_without_interval() -> None:
    together = dict.fromkeys(QUESTIONS, "one")
    difference = compare(SYSTEMS, together, ["f1"], "base")["differences"]["better"]["f1"]
    assert difference["ci95"] is None
    assert difference["mean"] == pytest.approx(3 / 8)


def test_one_question_has_a_difference_that_proves_nothing() -> None:
    systems = {"base": {"f1": {"q0": 0.0}}, "x": {"f1": {"q0": 1.0}}}
    difference = compare(systems, CLUSTERS, ["f1"], "base")["differences"]["x"]["f1"]
    assert (difference["mean"], difference["ci95"], difference["p"]) == (1.0, None, 1.0)
    assert difference["detectable"] is None


def test_a_difference_of_scores_is_at_most_1() -> None:
    first, second = dict.fromkeys(QUESTIONS, 0.0), dict.fromkeys(QUESTIONS, 1.0)
    systems = {"a": {"em": first}, "b": {"em": {**second, "q0": 0.0}}}
    low, high = compare(systems, CLUSTERS, ["em"], "a")["differences"]["b"]["em"]["ci95"]
    assert low < 7 / 8 < high == 1.0


def test_a_score_that_is_no_number_is_named_with_its_system_and_question() -> None:
    broken = {"f1": {**SYSTEMS["better"]["f1"], "q3": math.nan}}
    with pytest.raises(DataError, match="x: f1 of question 'q3' is nan"):
        compare({"base": SYSTEMS["base"], "x": broken}, CLUSTERS, ["f1"], "base")


def test_a_metric_without_common_questions_is_named() -> None:
    with pytest.raises(
        DataError, match="em: no question that better, base, worse all have a score of"
    ):
        compare({n: {**s, "em": s["f1"]} if n != "worse" else s for n, s in SYSTEMS.items()},
                CLUSTERS, ["f1", "em"], "base")  # fmt: skip
    with pytest.raises(DataError, match="f1: no question that base, x all"):
        compare({"base": SYSTEMS["base"], "x": {"f1": {}}}, CLUSTERS, ["f1"], "base")


def test_an_unknown_baseline_is_named_with_the_systems_there_are() -> None:
    with pytest.raises(DataError, match="no system 'bse'; there are better, base, worse"):
        compare(SYSTEMS, CLUSTERS, ["f1"], "bse")


def test_a_question_that_a_system_has_no_score_of_is_left_out_of_the_metric() -> None:
    short = {"f1": {q: s for q, s in SYSTEMS["better"]["f1"].items() if q != "q3"}}
    found = compare({"base": SYSTEMS["base"], "short": short}, CLUSTERS, ["f1"], "base")
    assert [row["f1"]["n"] for row in found["systems"].values()] == [7, 7]
    cell = found["differences"]["short"]["f1"]
    assert cell["wins"] + cell["ties"] + cell["losses"] == 7
    gains = [s - SYSTEMS["base"]["f1"][q] for q, s in short["f1"].items()]
    assert cell["mean"] == pytest.approx(sum(gains) / 7)


def test_shared_metrics_are_those_that_every_system_has_scores_of() -> None:
    systems = {
        "a": {"f1": {"q": 1.0}, "em": {"q": 1.0}, "map": {"q": 1.0}},
        "b": {"em": {"q": 1.0}, "f1": {"q": 0.0}, "map": {"another": 1.0}},
    }
    assert shared_metrics(systems, ["map", "em", "bleu", "f1"]) == ["em", "f1"]


def gain(mean: float, low: float, p_holm: float = 0.01) -> dict[str, dict[str, object]]:
    return {"f1": {"mean": mean, "ci95": [low, 1.0], "p_holm": p_holm}}


def test_a_shown_gain_leads_before_a_larger_one_that_is_not_and_ceilings_never_do() -> None:
    rows = {"gold": gain(0.9, 0.8), "lucky": gain(0.5, -0.1), "sure": gain(0.2, 0.1)}
    assert leading(rows, "f1", "base") == "gold"
    assert leading(rows, "f1", "base", ["gold"]) == "sure"
    assert leading(rows, "f1", "base", ["gold", "sure"]) == "lucky"
    assert leading(rows, "f1", "base", rows) == "base"
    assert leading({}, "f1", "base") == "base"


def test_a_gain_that_the_correction_takes_away_is_not_shown() -> None:
    rows = {"many": gain(0.5, 0.1, p_holm=0.05), "sure": gain(0.2, 0.1, p_holm=0.049)}
    assert leading(rows, "f1", "base") == "sure"


def test_slices_are_compared_unless_all_scored_questions_or_none_are_in_them() -> None:
    systems = {"base": sheet(BASE), "x": {"f1": dict(list(sheet(BETTER)["f1"].items())[:6])}}
    slices = {
        "half": QUESTIONS[:3],
        "whole": QUESTIONS[:6],
        "unscored": QUESTIONS[6:],
        "nobody": ["q99"],
    }
    found = compare_slices(systems, slices, CLUSTERS, "f1", "base")
    assert list(found) == ["half"]
    # base 0, 1, 0 and the other 1, 1, 0.5
    assert found["half"]["differences"]["x"]["f1"]["mean"] == pytest.approx(0.5)
    assert found["half"]["systems"]["base"]["f1"]["n"] == 3
