"""Sentences: where a text is cut, and that nothing of it is lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.rag.sentences import sentences


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" \n ", []),
        ("No end", ["No end"]),
        ("It opens. It closes! Why? Because.", ["It opens.", "It closes!", "Why?", "Because."]),
        ("Set it to 3.5 volts. Then wait.", ["Set it to 3.5 volts.", "Then wait."]),
        ("Version 4.2 is out. Version 4.3 is not.", ["Version 4.2 is out.", "Version 4.3 is not."]),
        ("Use a tool, e.g. Windows or a key.", ["Use a tool, e.g. Windows or a key."]),
        ("See fig. 3 for it. Go on.", ["See fig. 3 for it.", "Go on."]),
        ("Ask J. Smith. He knows.", ["Ask J. Smith.", "He knows."]),
        ("Run `stop`. `start` follows.", ["Run `stop`.", "`start` follows."]),
        ("it ends. and goes on in lower case.", ["it ends. and goes on in lower case."]),
        ("A line\nanother line\n\nand one more", ["A line", "another line", "and one more"]),
        ("1. Open it.\n2. Close it.", ["1. Open it.", "2. Close it."]),
        ("a) Open it.\nb) Close it.", ["a) Open it.", "b) Close it."]),
        ("Port | Rating\nUSB | 500 mA", ["Port | Rating", "USB | 500 mA"]),
    ],
)
def test_a_text_is_cut_at_sentence_ends_and_lines(text: str, found: list[str]) -> None:
    assert sentences(text) == found


@pytest.mark.parametrize(
    "text",
    ['It says "Stop." Then it stops.', "Wait (see page 3.) Then go.", "Read [1.] Then write."],
)
def test_a_closing_quote_or_bracket_stays_with_its_sentence(text: str) -> None:
    first, second = sentences(text)
    assert f"{first} {second}" == text
    assert second.startswith("Then")


@pytest.mark.parametrize("unit", ["24 V", "70 C", "2 A", "12 m"])
def test_a_unit_of_one_letter_is_no_initial(unit: str) -> None:
    assert sentences(f"It takes {unit}. The rest is lost.") == [
        f"It takes {unit}.",
        "The rest is lost.",
    ]


TEXTS = st.text(st.sampled_from("ab AB.!?()\"'[]12\n`|"), max_size=60)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(TEXTS)
def test_every_sentence_stands_in_the_text_in_order_and_nothing_is_lost(text: str) -> None:
    place = 0
    for sentence in sentences(text):
        assert sentence == sentence.strip() != ""
        start = text.find(sentence, place)
        assert start >= 0
        assert not text[place:start].strip()
        place = start + len(sentence)
    assert not text[place:].strip()
