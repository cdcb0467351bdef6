"""Each filter on a pair that it is for, the order of the filters, and the account they keep."""

import random

import pytest

from ragkit.data.nearduplicates import overlap_f1, words
from ragkit.data.schema import Passage
from ragkit.qa.filters import Candidate, Filter, _Neighbours
from ragkit.qa.prompts import QuestionAnswer, Request

SHORT = "too short, too long or without answer"


def candidate(question: str, answer: str = "12 hours", split: str = "train") -> Candidate:
    return Candidate(
        Request(Passage("p", "text"), "factoid"), QuestionAnswer(question, answer), split
    )


def reasons(*candidates: Candidate, held_out: tuple[str, ...] = (), leak: float = 0.7) -> list:
    keep = Filter(held_out, leak)
    return [keep.reason(c) for c in candidates]


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Reset how?", "Press it.", SHORT),
        ("B200 reset button", "Press it.", None),
        (" ".join(["word"] * 60), "Press it.", None),
        (" ".join(["word"] * 61), "Press it.", SHORT),
        ("How long does it hold?", "", SHORT),
    ],
)
def test_three_to_sixty_words_and_an_answer_are_kept(
    question: str, answer: str, reason: str | None
) -> None:
    assert reasons(candidate(question, answer)) == [reason]


@pytest.mark.parametrize(
    "question",
    [
        "What does the passage say about fuses?",
        "Which limit is given in this document?",
        "What is shown in the above text?",
        "According to the guide, how long is the cable?",
        "What is it used for?",
        "how do they work",
        "Why does this happen?",
    ],
)
def test_a_question_that_points_at_its_passage_does_not_stand_alone(question: str) -> None:
    assert reasons(candidate(question)) == ["does not stand alone"]


@pytest.mark.parametrize(
    "question",
    [
        "How long does the B200 hold its clock?",
        "What does it take to reset a B200 gateway?",
        "Can a gateway print context menus?",
        "Which textual alarms does the B200 send?",
    ],
)
def test_a_question_that_names_its_subject_stands_alone(question: str) -> None:
    assert reasons(candidate(question)) == [None]


def test_the_same_words_again_are_a_duplicate_whatever_their_case_and_marks() -> None:
    found = reasons(
        candidate("How long does a B200 hold?"),
        candidate("how long does a b200 hold"),
        candidate("How long does a B400 hold?"),
    )
    assert found == [None, "duplicate", None]


def test_a_question_of_the_test_set_is_a_duplicate_in_training() -> None:
    question = "How long does a B200 hold?"
    assert reasons(candidate(question, split="test"), candidate(question)) == [None, "duplicate"]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_training_question_near_a_held_out_one_is_a_leak(split: str) -> None:
    # 8 of 10 and 9 words in common, in order: F1 is 16/19; 6 of 10 and 10: F1 is 0.6.
    held = candidate("How long does a B200 hold its clock without power?", split=split)
    near = candidate("How long does a B200 hold its clock unplugged?")
    far = candidate("How long does a B200 take to start after power?")
    assert reasons(held, near, far) == [None, "leak", None]


def test_a_question_of_a_held_out_file_is_a_leak_in_training_only() -> None:
    question = "How long does a B200 hold its clock?"
    held_out = ("how long does a B200 hold its clock",)
    assert reasons(candidate(question), held_out=held_out) == ["leak"]
    assert reasons(candidate(question, split="test"), held_out=held_out) == [None]


def test_the_limit_itself_is_a_leak() -> None:
    # three of four words in order on both sides: F1 is 0.75
    held, near = candidate("one two three four", split="test"), candidate("one two three five")
    assert reasons(held, near, leak=0.75) == [None, "leak"]
    assert reasons(held, near, leak=0.76) == [None, None]


def test_a_dev_question_is_measured_against_test_and_a_test_question_against_nothing() -> None:
    a = candidate("How long does a B200 hold its clock?", split="test")
    b = candidate("How long does a B400 hold its clock?", split="test")
    c = candidate("How long does a B500 hold its clock?", split="dev")
    assert reasons(a, b, c) == [None, None, "leak"]


def test_a_leak_does_not_take_its_neighbours_with_it() -> None:
    held = candidate("one two three four five", split="test")
    leak = candidate("one two three four six")
    # F1 0.8 with the leak, 0.4 with the held-out question
    other = candidate("two three four six seven")
    assert reasons(held, leak, other) == [None, "leak", None]


def test_the_funnel_counts_everything_once_and_adds_up() -> None:
    keep = Filter(["what is the longest cable that fits"], 0.7)
    for item in (
        candidate("Reset?"),
        candidate("What does the text say?"),
        candidate("How long does a B200 hold?"),
        candidate("How long does a B200 hold?"),
        candidate("What is the longest cable that fits?"),
        candidate("Which fuse is in a B200?"),
    ):
        keep.reason(item)
    keep.unreadable()
    funnel = keep.funnel.to_json()
    assert funnel == {
        "unreadable answers": 1,
        "generated": 6,
        SHORT: 1,
        "does not stand alone": 1,
        "duplicate": 1,
        "leak": 1,
        "kept": 2,
    }
    assert list(funnel)[0] == "unreadable answers" and list(funnel)[-1] == "kept"


def test_the_nearest_question_is_that_of_a_search_through_all() -> None:
    rng = random.Random(0)
    vocabulary = ["a", "b", "c", "d", "e", "a", "a"]  # many repeats, which the bound must allow for

    def sentence() -> list[str]:
        return [rng.choice(vocabulary) for _ in range(rng.randint(1, 9))]

    held = [sentence() for _ in range(30)]
    near = _Neighbours(" ".join(s) for s in held)
    for _ in range(300):
        asked = sentence()
        assert near.nearest(asked) == max(overlap_f1(asked, h) for h in held)


def test_nothing_is_near_where_no_word_is_shared() -> None:
    assert _Neighbours(["one two"]).nearest(words("three four")) == 0.0
    assert _Neighbours([]).nearest(words("three four")) == 0.0
