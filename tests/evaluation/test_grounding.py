"""Answers against their passages, by values worked out by hand."""

import pytest

from ragkit.evaluation.grounding import citation_scores, figure_precision, k_precision

PASSAGES = ["The relay opens after 30 seconds.", "The pump takes 24 V."]


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("Relay opens the pump!", 1.0),  # articles, case and marks do not count
        ("relay relay", 0.5),  # once in the passages
        ("the relay closes quickly now", 0.25),
        ("The.", None),
        ("", None),
    ],
)
def test_k_precision_is_the_share_of_words_from_the_passages(
    answer: str, share: float | None
) -> None:
    assert k_precision(answer, PASSAGES) == share


def test_without_passages_no_word_is_from_them() -> None:
    assert k_precision("relay", []) == 0.0
    assert figure_precision("30", []) == 0.0


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("It takes 24 V and opens after 30 s.", 1.0),
        ("It takes 24 V, or 48 V.", 0.5),
        ("30, 30 and 31", 0.5),
        ("It opens.", None),
    ],
)
def test_figures_that_no_passage_has_are_counted(answer: str, share: float | None) -> None:
    assert figure_precision(answer, PASSAGES) == share


@pytest.mark.parametrize(
    ("cited", "scores"),
    [
        (["a", "x", "[9]"], {"citation_precision": 1 / 3, "citation_recall": 0.5}),
        (["a", "b"], {"citation_precision": 1.0, "citation_recall": 1.0}),
        ([], {"citation_recall": 0.0}),
    ],
)
def test_citations_are_right_where_they_name_the_positives(
    cited: list[str], scores: dict[str, float]
) -> None:
    assert citation_scores(cited, ["a", "b"]) == scores
