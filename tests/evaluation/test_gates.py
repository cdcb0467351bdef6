"""Gates: what a text means, which bound counts, and the XML that CI systems read."""

from typing import Any
from xml.etree import ElementTree

import pytest

from ragkit.errors import DataError
from ragkit.evaluation.gates import Gate, as_junit, judge, parse_gate

DIFFERENCES: dict[str, dict[str, dict[str, Any]]] = {
    "tuned": {
        "recall@5": {"mean": 0.05, "ci95": [-0.01, 0.11]},
        "mrr@10": {"mean": 0.2, "ci95": [0.1, 0.3]},
    },
    "a: b": {"recall@5": {"mean": -0.2, "ci95": [-0.3, -0.1]}},
    "one document": {"f1": {"mean": 0.4, "ci95": None}},
}


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("recall@5 >= -0.01", Gate("recall@5", -0.01)),
        (" ndcg@10>=.02 ", Gate("ndcg@10", 0.02)),
        ("tuned: f1 >= +3", Gate("f1", 3.0, "tuned")),
        ("a: b: f1 >= 0", Gate("f1", 0.0, "a: b")),
    ],
)
def test_a_text_means_a_gate(text: str, gate: Gate) -> None:
    assert parse_gate(text) == gate
    assert parse_gate(str(gate)) == gate


@pytest.mark.parametrize(
    "text", ["", "f1", "f1 > 0", "f1 <= 0", "f1 >= much", ">= 1", "f1 >= 0.1 mean", "f1>="]
)
def test_other_texts_mean_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no gate; one is"):
        parse_gate(text)


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("tuned: recall@5 >= -0.01", [True]),
        ("tuned: recall@5 >= -0.009", [False]),  # the mean is far above it: not what counts
        ("recall@5 >= -0.3", [True, True]),
        ("recall@5 >= -0.05", [True, False]),
        ("mrr@10 >= 0.1", [True]),
        ("f1 >= -1", [False]),  # no interval shows nothing
    ],
)
def test_the_bound_of_the_interval_decides(text: str, passed: list[bool]) -> None:
    assert [v.passed for v in judge([parse_gate(text)], DIFFERENCES)] == passed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("map >= 0", "nothing is compared by map; there are f1, mrr@10, recall@5"),
        ("other: f1 >= 0", "other was not compared by f1; there are one document"),
        ("tuned: f1 >= 0", "tuned was not compared by f1"),
    ],
)
def test_a_gate_about_nothing_is_an_error(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        judge([parse_gate(text)], DIFFERENCES)
    with pytest.raises(DataError, match="no differences at all"):
        judge([parse_gate(text)], {})


def test_the_xml_has_a_case_a_verdict() -> None:
    gates = [parse_gate("recall@5 >= -0.05"), parse_gate("f1 >= 0")]
    suite = ElementTree.fromstring(as_junit(judge(gates, DIFFERENCES)))
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    cases = [(c.get("classname"), c.get("name"), c.find("failure") is None) for c in suite]
    assert cases == [
        ("ragkit.tuned", "recall@5 >= -0.05", True),
        ("ragkit.a: b", "recall@5 >= -0.05", False),
        ("ragkit.one document", "f1 >= 0", False),
    ]
    failure = suite[1].find("failure")
    assert failure is not None and failure.get("message") == "-0.2000, lower bound -0.3000"
