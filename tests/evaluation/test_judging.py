"""What judges are asked, how replies are read, and the answers that are planted to try them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from ragkit.data.schema import Passage, Turn
from ragkit.evaluation.controls import Control, plant, shares
from ragkit.evaluation.judging import (
    NO_REPLY,
    Case,
    Correct,
    Criterion,
    Faithful,
    Judgement,
    Preferred,
    judgement,
)

PASSAGES = (Passage("p1", "The fuse holds twelve volts. It is red.", "Fuses", "fuses"),)
CASE = Case(
    "q1", "fuses", "What does the fuse hold?", "Twelve volts.", references=("twelve volts",),
    passages=PASSAGES, other="Red.",
)  # fmt: skip
OTHER = Case(
    "q2", "pumps", "When does the pump start?", "At noon.", references=("after thirty seconds",),
    passages=(Passage("p2", "The pump starts after thirty seconds.", doc_id="pumps"),),
    other="Later.",
)  # fmt: skip
VERDICT, RUBRIC, FAITHFUL, PREFERRED = (
    Correct("verdict"),
    Correct("rubric"),
    Faithful(),
    Preferred(),
)


def read(criterion: Criterion, *replies: Any) -> Judgement:
    return judgement(criterion, [r if isinstance(r, str) else json.dumps(r) for r in replies])


# correct


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ({"reason": "same", "verdict": "correct"}, 1.0),
        ({"reason": "other", "verdict": "incorrect"}, 0.0),
        ({"verdict": "[[Correct]]"}, 1.0),
        ("It names the value, so my verdict is [[incorrect]].", 0.0),
        ('<think>[[correct]]?</think>It does not. [[incorrect]]', 0.0),
        ('First {"verdict": "correct"}, as said: {"verdict": "correct", "reason": "same"}', 1.0),
    ],
)  # fmt: skip
def test_a_verdict_is_read_as_json_or_in_localrqas_brackets(reply: Any, score: float) -> None:
    found = read(VERDICT, reply)
    assert (found.score, found.failed) == (score, "")


@pytest.mark.parametrize(("verdict", "score"), [("right", 1.0), ("partly", 0.5), ("wrong", 0.0)])
def test_a_rubric_has_three_levels(verdict: str, score: float) -> None:
    found = read(RUBRIC, {"reason": "why", "verdict": verdict})
    assert (found.score, found.said) == (score, {"reason": "why", "verdict": verdict})


@pytest.mark.parametrize(
    ("criterion", "reply", "why"),
    [
        (VERDICT, "It is correct.", "no verdict in the reply"),
        (VERDICT, "[[correct]] or [[incorrect]]", "more than one verdict in the reply"),
        (VERDICT, '{"verdict": "correct"} no: {"verdict": "incorrect"}', "more than one verdict"),
        (VERDICT, '{"verdict": "maybe"}', "'maybe' is none of correct, incorrect"),
        (VERDICT, '{"verdict": true}', "'True' is none of correct, incorrect"),
        (VERDICT, '{"verdict": 1.0}', "'1.0' is none of"),
        (VERDICT, '{"verdict": "right"}', "'right' is none of correct, incorrect"),
        (RUBRIC, '{"verdict": "correct"}', "'correct' is none of right, partly, wrong"),
        (VERDICT, '{"verdict": "corr', "no verdict in the reply"),
        (VERDICT, '[{"score": 1}]', "no verdict in the reply"),
        (FAITHFUL, '{"claims": "none"}', "claims: not a list"),
        (FAITHFUL, '{"claims": [{"claim": "a", "supported": "yes"}]}', "claims: not a list"),
        (FAITHFUL, '{"claims": [{"supported": true}]}', "claims: not a list"),
        (FAITHFUL, "[[correct]]", "no list of claims in the reply"),
    ],
)
def test_what_is_no_verdict_fails_and_has_no_score(
    criterion: Criterion, reply: str, why: str
) -> None:
    found = read(criterion, reply)
    assert found.score is None
    assert why in found.failed
    assert found.said == {"replies": [reply]}


def test_no_reply_and_an_empty_one_fail_too() -> None:
    assert judgement(VERDICT, [None]) == Judgement(None, failed=NO_REPLY)
    assert judgement(VERDICT, [" \n"]) == Judgement(None, failed="an empty reply")
    assert judgement(PREFERRED, ['{"better": "1"}', None]) == Judgement(None, failed=NO_REPLY)


def test_only_answered_questions_with_references_are_judged_for_correctness() -> None:
    assert VERDICT.applies(CASE)
    for change in ({"answer": None}, {"references": ()}, {"answerable": False}):
        assert not VERDICT.applies(replace(CASE, **change))


def test_an_abstention_is_wrong_without_asking() -> None:
    found = VERDICT.settled(replace(CASE, answer="", abstained=True))
    assert found is not None and found.score == 0.0
    assert VERDICT.settled(CASE) is None


def test_a_judge_sees_the_conversation_all_references_and_the_answer() -> None:
    history = (Turn("user", "About the fuse."), Turn("assistant", "Yes?"))
    case = replace(CASE, history=history, references=("twelve volts", "12 V"))
    (asked,) = VERDICT.asks(case)
    assert asked == (
        "<question>\nUser: About the fuse.\nAssistant: Yes?\nUser: What does the fuse hold?\n"
        "</question>\n\n<reference>\ntwelve volts\n</reference>\n\n<reference>\n12 V\n</reference>"
        "\n\n<answer>\nTwelve volts.\n</answer>"
    )


# faithful


def test_faithfulness_is_the_share_of_claims_that_are_supported() -> None:
    claims = [{"claim": "a", "supported": True}, {"claim": "b", "supported": False}] * 2
    assert read(FAITHFUL, {"claims": [*claims, claims[0]]}).score == pytest.approx(3 / 5)


def test_an_answer_without_claims_has_no_score_and_did_not_fail() -> None:
    assert read(FAITHFUL, {"claims": []}) == Judgement(None, {"claims": []})


def test_an_abstention_claims_nothing_and_an_answer_from_nothing_is_not_faithful() -> None:
    assert not FAITHFUL.applies(replace(CASE, abstained=True))
    assert FAITHFUL.applies(replace(CASE, answerable=False, references=()))
    nothing = FAITHFUL.settled(replace(CASE, passages=()))
    assert nothing is not None and nothing.score == 0.0


def test_a_judge_of_faithfulness_sees_passages_with_their_titles_and_no_reference() -> None:
    (asked,) = FAITHFUL.asks(CASE)
    assert asked.startswith("<passage>\nFuses\nThe fuse holds twelve volts. It is red.\n</passage>")
    assert "twelve volts\n</reference>" not in asked


# preferred


@pytest.mark.parametrize(
    ("first", "second", "score", "orders"),
    [
        ("1", "2", 1.0, ["won", "won"]),
        ("2", "1", 0.0, ["lost", "lost"]),
        ("1", "1", 0.5, ["won", "lost"]),
        ("2", "2", 0.5, ["lost", "won"]),
        ("tie", "2", 0.5, ["tie", "won"]),
        ("1", "tie", 0.5, ["won", "tie"]),
        ("tie", "tie", 0.5, ["tie", "tie"]),
    ],
)
def test_only_a_win_in_both_orders_is_one(
    first: str, second: str, score: float, orders: list[str]
) -> None:
    found = read(PREFERRED, {"better": first}, {"better": second})
    assert (found.score, found.said["orders"]) == (score, orders)


def test_an_order_that_fails_fails_the_question() -> None:
    assert read(PREFERRED, {"better": "1"}, "the first").failed == "no better answer in the reply"
    assert "none of 1, 2, tie" in read(PREFERRED, {"better": "1"}, {"better": "both"}).failed


def test_the_second_order_exchanges_the_answers_and_nothing_else() -> None:
    first, second = PREFERRED.asks(CASE)
    assert "<answer_1>\nTwelve volts.\n</answer_1>\n\n<answer_2>\nRed.\n</answer_2>" in first
    assert second == PREFERRED.asks(replace(CASE, answer="Red.", other="Twelve volts."))[0]
    assert "none: the documents do not answer" in PREFERRED.asks(replace(CASE, answerable=False))[0]


@pytest.mark.parametrize(
    ("change", "tie"),
    [
        ({"other": "twelve volts"}, True),
        ({"abstained": True, "other_abstained": True}, True),
        ({"abstained": True}, False),
    ],
)
def test_equal_answers_and_two_abstentions_are_a_tie_without_asking(
    change: dict[str, Any], tie: bool
) -> None:
    found = PREFERRED.settled(replace(CASE, **change))
    assert (found is not None and found.score == 0.5) is tie


# controls


def test_planted_answers_are_references_of_the_question_and_of_another() -> None:
    right, wrong = VERDICT.planted(CASE, OTHER) or (CASE, CASE)
    assert (right.answer, wrong.answer) == ("twelve volts", "after thirty seconds")
    assert wrong.references == CASE.references
    for change in ({"references": ("The twelve volts.",)}, {"references": ()}):
        assert VERDICT.planted(CASE, replace(OTHER, **change)) is None


def test_a_sentence_is_planted_with_its_own_passages_and_with_foreign_ones() -> None:
    right, wrong = FAITHFUL.planted(CASE, OTHER) or (CASE, CASE)
    assert right.answer == wrong.answer == "The fuse holds twelve volts."
    assert (right.passages, wrong.passages) == (PASSAGES, OTHER.passages)
    assert FAITHFUL.planted(CASE, replace(OTHER, passages=PASSAGES)) is None
    assert FAITHFUL.planted(CASE, replace(OTHER, passages=())) is None


def test_a_planted_pair_wins_once_and_loses_once() -> None:
    right, wrong = PREFERRED.planted(CASE, OTHER) or (CASE, CASE)
    assert (right.answer, right.other) == (wrong.other, wrong.answer)
    assert right.answer == "twelve volts"


def many(n: int) -> list[Case]:
    return [
        replace(CASE, id=f"q{i}", document=f"d{i // 2}", references=(f"value{i}",))
        for i in range(n)
    ]


def test_controls_are_drawn_by_the_seed_half_of_them_right_and_of_other_documents() -> None:
    cases = many(40)
    found = plant(VERDICT, cases, 10, seed=1)
    assert [c.right for c in found] == [True, False] * 5
    assert len({c.case.id for c in found}) == 5
    assert found == plant(VERDICT, cases, 10, seed=1) != plant(VERDICT, cases, 10, seed=2)
    document = {case.references[0]: case.document for case in cases}
    assert all(document[str(c.case.answer)] != c.case.document for c in found if not c.right)


def test_one_question_has_no_controls_and_two_of_one_document_have_each_others() -> None:
    assert plant(VERDICT, many(1), 10, seed=0) == []
    assert len(plant(VERDICT, many(2), 10, seed=0)) == 4
    assert plant(FAITHFUL, many(2), 10, seed=0) == []  # of the same passages


def test_a_control_holds_on_its_side_of_the_middle() -> None:
    right, wrong = Control(CASE, True), Control(CASE, False)
    scores = [1.0, 0.5, 0.0, None]
    assert [right.holds(Judgement(s)) for s in scores] == [True, False, False, False]
    assert [wrong.holds(Judgement(s)) for s in scores] == [False, False, True, False]
    always = [Judgement(1.0)] * 4
    assert shares([right, wrong, right, wrong], always) == {"right": [2, 2], "wrong": [0, 2]}
