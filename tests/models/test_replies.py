"""JSON in replies: with what models put around it."""

import pytest

from ragkit.models.replies import json_values, pieces_without_thought, without_thought


@pytest.mark.parametrize(
    "reply",
    ['{"a": [1]}', 'Sure!\n```json\n{"a": [1]}\n```', '<think>[2] or {"a": 3}</think>{"a": [1]}',
     'the answer is [2] perhaps</think> {"a": [1]}', '{"a": [1]} I hope that this helps.'],
)  # fmt: skip
def test_the_values_of_a_reply_come_with_those_inside_them(reply: str) -> None:
    assert list(json_values(reply)) == [{"a": [1]}, [1]]


def test_a_string_says_what_is_broken() -> None:
    (broken,) = json_values('{"a": "cut o')
    assert broken.startswith("broken JSON in the answer: Unterminated string")
    assert "nested too deeply" in str(list(json_values("[" * 100_000))[-1])


def test_a_thought_is_no_part_of_what_was_said() -> None:
    assert without_thought("<think>[[correct]]?</think>\n[[incorrect]]") == "\n[[incorrect]]"


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["Twe", "lve ", "volts"], ["Twe", "lve ", "volts"]),
        (["<thi", "nk>a</th", "ink>\n\n", "Twe", "lve"], ["Twe", "lve"]),
        (["\n<think>a</think> Twelve", " volts"], ["Twelve", " volts"]),
        (["<", "b>x"], ["<b>x"]),
        (["<think>a", " and no end"], []),
        (["<th"], ["<th"]),
        ([], []),
    ],
)
def test_pieces_begin_after_the_thought(pieces: list[str], expected: list[str]) -> None:
    assert list(pieces_without_thought(pieces)) == expected
