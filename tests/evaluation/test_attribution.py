"""Why an answer is wrong: one record for each reason, and what decides between two of them."""

from typing import Any

import pytest

from ragkit.data.schema import Passage
from ragkit.evaluation.attribution import Attempt, Reason, Rule, reason_of

CORPUS = {
    p: Passage(p, text)
    for p, text in {
        "fuse": "The fuse holds twelve volts.",
        "relay": "The relay opens after thirty seconds.",
        "valve": "The valve is green.",
    }.items()
}
RULE = Rule("f1", 0.5)


def attempt(
    ranking: str = "relay fuse valve",
    gold: float = 0.0,
    correct: float | None = None,
    f1: float | None = 0.0,
    **record: Any,
) -> Attempt:
    """Return an attempt at a question that the passage `fuse` answers; two passages are given."""
    scores = {} if f1 is None else {"f1": f1}
    default = {
        "answer": "thirty amps", "abstained": False, "answerable": True, "positive_ids": ["fuse"],
        "answer_passage_ids": [], "scores": scores, "failed": False,
    }  # fmt: skip
    right = {**default, "scores": {"f1": gold}}
    return Attempt({**default, **record}, ranking.split(), 2, right, correct)


def reason(*args: Any, **more: Any) -> Reason | None:
    return reason_of(attempt(*args, **more), CORPUS, RULE)


def test_a_right_answer_has_no_reason() -> None:
    assert reason(f1=0.5) is None
    assert reason(answerable=False, positive_ids=[], f1=None, abstained=True, answer="") is None


def test_an_answer_that_nothing_scores_has_no_reason() -> None:
    assert reason(f1=None) is None


def test_a_question_without_an_answer_is_neither_right_nor_wrong() -> None:
    assert reason("valve", failed=True, f1=None, answer="") is None
    assert reason("valve", failed=True, answerable=False) is None


def test_a_judge_and_a_metric_that_differ_are_a_reason_before_any_other() -> None:
    assert reason("valve", correct=1.0) is Reason.DISAGREEMENT
    assert reason(f1=1.0, correct=0.0) is Reason.DISAGREEMENT
    assert reason(f1=0.5, correct=0.5) is None


def test_a_judge_that_agrees_or_judges_alone_leaves_the_other_reasons() -> None:
    assert reason("valve", correct=0.0) is Reason.NOT_RETRIEVED
    assert reason("valve", f1=None, correct=0.0) is Reason.NOT_RETRIEVED
    assert reason("valve", f1=None, correct=1.0) is None


def test_an_answer_to_the_unanswerable_is_wrong_without_any_score() -> None:
    assert reason(answerable=False, positive_ids=[], f1=None) is Reason.ANSWERED


@pytest.mark.parametrize("positives", [[], ["gone"]])
def test_a_question_of_which_no_passage_is_known_is_not_in_the_corpus(positives: list[str]) -> None:
    assert reason(positive_ids=positives, abstained=True) is Reason.NOT_IN_CORPUS


def test_a_positive_below_the_passages_that_were_given_is_not_retrieved() -> None:
    below = attempt("relay valve fuse")
    assert reason_of(below, CORPUS, RULE) is Reason.NOT_RETRIEVED
    assert (below.given, below.rank) == (["relay", "valve"], 3)
    assert attempt("relay valve").rank is None


def test_to_decline_is_wrong_only_with_a_positive_at_hand() -> None:
    assert reason(abstained=True, answer="") is Reason.REFUSED
    assert reason("relay valve", abstained=True, answer="") is Reason.NOT_RETRIEVED


def test_where_an_answer_was_taken_from_says_whether_the_positive_was_used() -> None:
    # the words say the contrary each time
    assert reason(answer="thirty seconds", answer_passage_ids=["fuse", "relay"]) is Reason.MISUSED
    assert reason(answer="twelve volts", answer_passage_ids=["relay"]) is Reason.UNUSED


def test_an_answer_that_is_right_from_the_positives_alone_was_drawn_away_by_others() -> None:
    assert reason(answer="twelve volts", gold=1.0) is Reason.UNUSED
    assert reason(answer="twelve volts", gold=0.0) is Reason.MISUSED


def test_gold_passages_say_nothing_where_some_of_them_were_not_given() -> None:
    both = ["fuse", "valve"]
    assert reason(answer="twelve volts", gold=1.0, positive_ids=both) is Reason.MISUSED


def test_else_the_passage_with_most_of_the_words_is_the_one_that_was_used() -> None:
    assert reason(answer="the fuse holds") is Reason.MISUSED
    assert reason(answer="it opens after seconds, twelve") is Reason.UNUSED
    # "the" is no word, and of "holds thirty" either passage has one
    assert reason(answer="the holds thirty") is Reason.MISUSED


@pytest.mark.parametrize("answer", ["amps and twelve more", "!"])
def test_an_answer_with_words_of_its_own_used_no_passage(answer: str) -> None:
    assert reason("fuse", answer=answer) is Reason.UNUSED


def test_every_reason_is_given_for_something_here() -> None:
    found = {
        reason(correct=1.0),
        reason(answerable=False),
        reason(positive_ids=[]),
        reason("relay"),
        reason(abstained=True),
        reason(answer="thirty seconds"),
        reason(answer="twelve volts"),
    }
    assert found == set(Reason)
