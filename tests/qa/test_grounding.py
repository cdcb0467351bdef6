"""Copied questions, supported answers and answers that give none, by their words."""

import pytest

from ragkit.qa.grounding import content_words, is_copied, says_no_answer, support

TEXT = "The B200 gateway holds its clock for 72 hours without power when the battery is charged."


@pytest.mark.parametrize(
    ("question", "share", "copied"),
    [
        # nine words of the passage in a row, of ten
        ("gateway holds its clock for 72 hours without power today?", 0.8, True),
        ("gateway holds its clock for 72 hours without power today?", 0.9, True),
        ("gateway holds its clock for 72 hours without power today?", 0.95, False),
        # six in a row of ten
        ("How long, holds its clock for 72 hours, or not?", 0.6, True),
        ("How long, holds its clock for 72 hours, or not?", 0.61, False),
        # five are a term, however few others there are
        ("holds its clock for 72", 0.5, False),
        ("holds its clock for 72 hours", 1.0, True),
        # all words are in it, but not in a row
        ("battery charged hours 72 clock its holds gateway", 0.5, False),
    ],
)
def test_a_question_is_copied_by_the_share_of_one_run_of_words(
    question: str, share: float, copied: bool
) -> None:
    assert is_copied(question, [TEXT], share) is copied


def test_a_question_may_be_copied_from_any_of_the_passages() -> None:
    assert is_copied("holds its clock for 72 hours", ["Other words.", TEXT], 0.8)
    assert not is_copied("holds its clock for 72 hours", [], 0.8)


@pytest.mark.parametrize(
    ("answer", "text", "share"),
    [
        ("It holds the clock.", TEXT, 1.0),  # hold, clock
        ("The clocks are held by lithium.", TEXT, 1 / 3),  # clock; held and lithium are not in it
        ("Charging the battery helps.", TEXT, 2 / 3),  # charg, batte; not helps
        ("72 hours", TEXT, 1.0),
        ("73 hours", TEXT, 0.0),  # a figure that the passage does not have
        ("For 72 hours, at 24 V", TEXT, 0.0),
        ("24V", "It takes 24 V.", 1.0),
        ("24 V", "It takes 24V.", 1.0),
        ("48V", "It takes 24 V.", 0.0),
        ("24A", "It takes 24 V.", 0.0),
        ("1000 hours", "It lasts 1,000 hours.", 1.0),
        ("1,000 hours", "It lasts 1000 hours.", 1.0),
        ("000 hours", "It lasts 1,000 hours.", 0.0),
        ("two relays", "It has 2 relays.", 1.0),
        ("2 relays", "It has two relays.", 1.0),
        ("3 relays", "It has two relays.", 0.0),
        ("retry limit", "Set max_retry_limit to 5.", 1.0),
        ("max_retry_limit", "Set max_retry_limit to 5.", 1.0),
        ("IPv6 port 502", "ipv6 on Port 502", 1.0),
        ("", TEXT, 1.0),
        ("Yes.", TEXT, 0.0),
        ("It is not.", TEXT, 1.0),  # nothing but stop words
    ],
)
def test_an_answer_is_supported_by_the_share_of_its_words_in_the_passage(
    answer: str, text: str, share: float
) -> None:
    assert support(answer, [text]) == pytest.approx(share)


def test_an_answer_may_rest_on_several_passages() -> None:
    texts = ["It takes 24 volts.", "The fuse is slow."]
    assert support("24 volts, slow fuse", texts) == 1.0
    assert support("24 volts, slow fuse", texts[:1]) == 0.5
    assert support("24 volts, slow fuse", []) == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "The passage does not mention the limit.",
        "The passage doesn't say.",
        "The text doesn’t state it.",
        "This is not specified in the document.",
        "There is no limit mentioned in the text.",
        "It is not explicitly stated in the given context.",
        "No information is provided.",
        "There is no such information about fuses.",
    ],
)
def test_an_answer_that_gives_none_is_known(answer: str) -> None:
    assert says_no_answer(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "12 hours",
        "",
        "No, the B200 does not provide diagnostic information.",
        "It does not include a power supply.",
        "No, it is not needed.",
        "The text is stored in a file.",
        "The passage does not mention it. " + "But there is much else to say. " * 10,
    ],
)
def test_an_answer_that_says_no_is_an_answer(answer: str) -> None:
    assert not says_no_answer(answer)


def test_content_words_are_what_a_question_is_about_and_how_it_asks() -> None:
    assert content_words("How long does the B200 hold its clock without power?") == [
        "how", "long", "b200", "hold", "clock", "without", "power",
    ]  # fmt: skip
    assert content_words("Is it so?") == ["is", "it", "so"]
