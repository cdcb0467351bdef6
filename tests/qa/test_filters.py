"""Each filter on a question that it is for, the order of the filters, and the account they keep."""

from dataclasses import replace
from typing import Any

import pytest

from ragkit.config.teaching import Filters
from ragkit.data.schema import Passage, Turn
from ragkit.qa.candidates import Candidate
from ragkit.qa.filters import FirstFilters, Sieve

SHORT = "too short, too long or without answer"
ANSWERED = "answered, and should not be"
NONE_SAID = "answered that there is no answer"


def candidate(
    question: str, answer: str = "12 hours", split: str = "train", **more: Any
) -> Candidate:
    values = {"passage_ids": ("p",), "doc_id": "d", "style": "factoid", **more}
    return Candidate(question=question, answer=answer, split=split, **values)


def reasons(
    *candidates: Candidate,
    held_out: tuple[str, ...] = (),
    leak: float = 0.7,
    text: str = "text",
    language: str = "",
    **config: Any,
) -> list[str | None]:
    first = FirstFilters(Filters(leak_rouge_l=leak, **config), held_out, language)
    return [first.reason(c, [Passage("p", text)]) for c in candidates]


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
        "What is the limit according to this?",
        "Which values are in the text above?",
        "How long is the cable in the text?",
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
        "How do I save the document as PDF?",
        "Where is the text box for the name?",
        "How is it marked according to the Machinery Directive?",
        "What is in the document root of the server?",
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
    a = candidate("How long does a red one hold its clock?", split="test")
    b = candidate("How long does a blue one hold its clock?", split="test")
    c = candidate("How long does a green one hold its clock?", split="dev")
    assert reasons(a, b, c) == [None, None, "leak"]


def test_a_leak_does_not_take_its_neighbours_with_it() -> None:
    held = candidate("one two three four five", split="test")
    leak = candidate("one two three four six")
    # F1 0.8 with the leak, 0.4 with the held-out question
    other = candidate("two three four six seven")
    assert reasons(held, leak, other) == [None, "leak", None]


NEARLY = (
    "How can somebody reset the alarm of a gateway with the red button behind its front cover",
    "How can anybody reset the alarm of the gateway with a red button behind the front cover",
)


def test_questions_of_nearly_the_same_content_words_are_near_duplicates() -> None:
    # reset, alarm, gateway, red, button, behind, front, cover and how of both; somebody and anybody
    one, two = ("reset alarm gateway red button behind front cover pump valve relay fuse display "
                "port cable battery user backup log sensor supply"), "now"  # fmt: skip
    found = reasons(candidate(one), candidate(f"{one} {two}"), candidate(one.replace("fuse", "x")))
    # 21 of 22 words are common; 20 of 22 are 0.909; both are over 0.9
    assert found == [None, "near-duplicate", "near-duplicate"]
    assert reasons(*map(candidate, NEARLY)) == [None, None]  # 9 of 11


def test_stop_words_and_order_make_no_other_question() -> None:
    found = reasons(
        candidate("How long is the clock of a B200 held without power?"),
        candidate("Without power, how long does a B200 hold?"),
        candidate("How long, without power, is the B200 clock held?"),
    )
    assert found == [None, None, "near-duplicate"]


def test_questions_that_differ_in_a_figure_are_not_near_duplicates() -> None:
    text = "reset alarm gateway red button behind front cover pump valve relay fuse of model {}"
    found = reasons(*(candidate(text.format(name)) for name in ("B200", "B400", "b400 the")))
    assert found == [None, None, "near-duplicate"]


def test_a_near_duplicate_of_what_was_rejected_is_kept() -> None:
    text = "How long does a B200 hold its clock?"
    found = reasons(candidate(f"According to this, {text}"), candidate(f"according to it, {text}"))
    assert found == ["does not stand alone", None]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_question_that_is_copied_from_its_passage_is_rejected(split: str) -> None:
    text = "The gateway holds its clock for 72 hours without power."
    question = "gateway holds its clock for 72 hours without power"
    assert reasons(candidate(question, split=split), text=text) == ["copied from the passage"]
    assert reasons(candidate(f"{question} {question[:12]} or what"), text=text) == [None]
    assert reasons(candidate(question), text=text, copied=1.0) == ["copied from the passage"]


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_an_answer_that_says_that_there_is_none_is_rejected(split: str) -> None:
    item = candidate("How long is the cable?", "The passage does not say.", split)
    assert reasons(item) == [NONE_SAID]


GERMAN = "Das Gerät hält die Uhrzeit ohne Strom für mindestens zweiundsiebzig Stunden."
ENGLISH = "The device keeps the time of day without any power for at least seventy-two hours."


def test_a_question_in_another_language_than_its_passage_is_rejected() -> None:
    german = candidate("Wie lange hält das Gerät die Uhrzeit ohne Strom?", "Drei Tage lang.")
    english = candidate("How long does the device keep the time?", "For three days.")
    assert reasons(german, english, text=GERMAN) == [None, "in another language"]
    assert reasons(german, english, text=ENGLISH) == ["in another language", None]
    assert reasons(german, english, text=ENGLISH, language="German") == [
        None, "in another language",
    ]  # fmt: skip


def test_a_language_that_is_not_known_or_not_asked_after_is_not_judged() -> None:
    german = candidate("Wie lange hält das Gerät die Uhrzeit ohne Strom?", "Drei Tage lang.")
    assert reasons(german, text=ENGLISH, language="Klingon") == [None]
    first = FirstFilters(Filters(language=False), ())
    assert first.reason(german, [Passage("p", ENGLISH)]) is None


@pytest.mark.parametrize(
    "question",
    ["What does the passage say about fuses?", "one two three four five six", "one two three five"],
)
def test_a_test_question_is_held_to_form_alone(question: str) -> None:
    text, held_out = "one two three four five six", ("one two three five",)
    train, test = (candidate(question, split=split) for split in ("train", "test"))
    assert reasons(train, held_out=held_out, text=text) != [None]
    assert reasons(test, held_out=held_out, text=text) == [None]
    near = candidate(f"{question}, the a", split="test")
    assert reasons(test, near, held_out=held_out, text=text) == [None, None]


def test_a_test_question_without_form_is_rejected() -> None:
    held = [candidate("Reset?", split="test"), candidate("How is it reset?", "", split="test")]
    same = candidate("How long does a B200 hold?", split="test")
    assert reasons(*held, same, same) == [SHORT, SHORT, None, "duplicate"]


def test_an_unanswerable_question_has_no_answer_and_every_other_has_one() -> None:
    question = "How long does a B200 hold?"
    open_ = candidate(question, "", answerable=False)
    assert reasons(open_) == [None]
    assert reasons(candidate(question, "12 hours", answerable=False)) == [ANSWERED]


HISTORY = (Turn("user", "What does a B200 hold?"), Turn("assistant", "Its clock."))


def test_a_follow_up_need_not_stand_alone() -> None:
    # its words are common to many conversations
    other = (Turn("user", "What does a B400 hold?"), Turn("assistant", "Its log."))
    found = reasons(candidate("What is it for?", history=HISTORY),
                    candidate("For how long does it hold it?", history=other),
                    candidate("For how long does it hold?", history=HISTORY))  # fmt: skip
    assert found == [None, None, None]


def test_a_follow_up_leaks_with_its_turns() -> None:
    held = candidate("For how long does it hold it?", split="test", history=HISTORY)
    other = (Turn("user", "What does a B400 hold?"), Turn("assistant", "Its log."))
    again = (Turn("user", "What does a B200 hold?"), Turn("assistant", "The time."))
    question = "For how long does it hold?"
    found = reasons(held, candidate(question, history=other), candidate(question, history=again),
                    candidate("For how long does it hold it?", history=again,
                              passage_ids=("b",)))  # fmt: skip
    assert found == [None, None, "leak", "leak"]


def test_an_answer_before_a_follow_up_that_is_none_refuses_it() -> None:
    history = (HISTORY[0], Turn("assistant", "The passage does not mention it."))
    assert reasons(candidate("And for how long?", history=history)) == [NONE_SAID]


def test_the_same_follow_up_after_the_same_turns_is_a_duplicate() -> None:
    item = candidate("And for how long?", history=HISTORY)
    assert reasons(item, item) == [None, "duplicate"]


def joined(*made: Candidate, first: FirstFilters | None = None) -> tuple[list[Candidate], Any]:
    """Take candidates through first filters and joining; return what is left and the reasons."""
    first, written = first or FirstFilters(Filters(), ()), []
    sieve = Sieve(written.append)
    kept = [c for c in made if first.reason(c, [Passage("x", "text")]) is None]
    left = list(first.join(lambda: kept, sieve))
    return left, [(record["passage_ids"], record["reason"]) for record in written]


QUESTION = "How long does a B200 hold?"


def test_what_two_passages_ask_in_the_same_words_is_one_example_of_both() -> None:
    made = [
        candidate(QUESTION, "72 hours", passage_ids=("a",)),
        candidate(QUESTION.upper(), "three days", passage_ids=("b",)),
        candidate(QUESTION, "72 hours", passage_ids=("c",)),
        candidate(QUESTION, "", passage_ids=("d",), answerable=False),
    ]
    (whole,), rejected = joined(*made)
    assert whole.example.positive_ids == ("a", "b", "c")
    assert whole.example.answers == ("72 hours", "three days")
    assert (whole.example.id, whole.question) == (made[0].example.id, QUESTION)
    assert rejected == [
        (["b"], "duplicate"), (["c"], "duplicate"), (["d"], "answered, and should not be"),
    ]  # fmt: skip


def test_only_what_passed_the_filters_between_is_joined() -> None:
    first = FirstFilters(Filters(), ())
    made = [candidate(QUESTION, f"{n} hours", passage_ids=(n,)) for n in "123"]
    assert [first.reason(c, [Passage("x", "text")]) for c in made] == [None] * 3
    (left,) = first.join(lambda: made[1:], Sieve(lambda _: None))  # the first was not supported
    assert (left.example.positive_ids, left.example.answers) == (("2", "3"), ("2 hours", "3 hours"))


def test_the_same_passage_asks_a_question_once() -> None:
    first = FirstFilters(Filters(), ())
    asked = [candidate(QUESTION), candidate(QUESTION.lower(), "13 hours"), candidate(QUESTION)]
    found = [first.reason(c, [Passage("x", "text")]) for c in asked]
    assert found == [None, "duplicate", "duplicate"]


def test_an_answer_that_says_that_there_is_none_is_joined_with_nothing() -> None:
    none = candidate(QUESTION, "The passage does not mention it.", passage_ids=("b",))
    (left,), rejected = joined(candidate(QUESTION, passage_ids=("a",), split="test"), none)
    assert left.example.positive_ids == ("a",) and not rejected


def test_what_a_passage_of_another_split_asks_too_is_a_leak_and_joined_with_nothing() -> None:
    held = candidate(QUESTION, passage_ids=("a",), split="test")
    dev = candidate(QUESTION, passage_ids=("b",), split="dev")
    assert reasons(held, dev, candidate(QUESTION, passage_ids=("c",))) == [None, "leak", "leak"]
    (left,), rejected = joined(held, dev)
    assert left.example.positive_ids == ("a",) and not rejected


@pytest.mark.parametrize("split", ["test", "train"])
def test_an_unanswerable_question_that_another_passage_answers_is_rejected(split: str) -> None:
    open_ = candidate(QUESTION, "", passage_ids=("a",), answerable=False, split="test")
    left, rejected = joined(open_, candidate(QUESTION, passage_ids=("b",), split=split))
    assert [c.passage_ids for c in left] == ([("b",)] if split == "test" else [])
    assert rejected == [(["a"], "answered, and should not be")]


def test_questions_that_differ_in_a_symbol_are_not_joined() -> None:
    made = [candidate(f"What if the load is {s} 5 kW?", passage_ids=(s,)) for s in "<>"]
    assert reasons(*made) == [None, "near-duplicate"]  # and not a duplicate
    assert len(joined(*(replace(c, split="test") for c in made))[0]) == 2


@pytest.mark.parametrize("other", ["BrindleOS 3", "BrindleOS 4"])
def test_a_question_about_another_version_is_no_leak(other: str) -> None:
    held = candidate("What is the default update mode on BrindleOS 4?", split="test")
    asked = candidate(f"What is the default update mode on {other}, then?", passage_ids=("b",))
    assert reasons(held, asked) == [None, "leak" if other == "BrindleOS 4" else None]


def test_dev_questions_are_no_leaks_of_each_other() -> None:
    made = [candidate(f"How long does the {name} clock hold its time?", split="dev",
                      passage_ids=(name,), doc_id=name) for name in ("red", "blue")]  # fmt: skip
    train = candidate("How long does the green clock hold its time?", doc_id="g")
    assert reasons(*made, train) == [None, None, "leak"]


@pytest.mark.parametrize(
    ("question", "kept"),
    [("ปั๊มต้องทำงานที่แรงดันเท่าใดเมื่ออุณหภูมิของน้ำสูงกว่าหกสิบองศาเซลเซียสในฤดูร้อน", True),
     ("ポンプ" * 61, False), ("泵的额定压力是多少", True), ("泵？", False)],
)  # fmt: skip
def test_a_question_without_spaces_is_as_long_as_its_characters_by_three(
    question: str, kept: bool
) -> None:
    assert reasons(candidate(question), language="?") == [None if kept else SHORT]


def test_the_account_counts_everything_once_in_the_order_of_the_filters() -> None:
    written: list[dict[str, Any]] = []
    sieve = Sieve(written.append)
    sieve.unreadable("no JSON", ("p",), "x" * 3_000)
    sieve.reject(candidate("Reset?"), SHORT)
    sieve.reject(candidate("A lamp?"), SHORT)
    sieve.reject(candidate("How is it?"), "refused by the critic", detail="vague")
    sieve.counts["generated"], sieve.counts["kept"], sieve.counts["requests"] = 5, 2, 9
    counts = sieve.to_json()
    requests = ["requests", "requests without answer", "unreadable answers"]
    made = ["generated", *Sieve.REASONS, *Sieve.BY_A_PERSON, "kept"]
    assert list(counts) == [*requests, *made]
    assert {name: n for name, n in counts.items() if n} == {
        "requests": 9, "unreadable answers": 1, "generated": 5, SHORT: 2,
        "refused by the critic": 1, "kept": 2,
    }  # fmt: skip
    assert len(written[0]["answer"]) == 2_000 and written[0]["passage_ids"] == ["p"]
    assert written[3]["detail"] == "vague"
    assert (written[1]["question"], written[1]["split"]) == ("Reset?", "train")
