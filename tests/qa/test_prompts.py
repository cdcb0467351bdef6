"""What a teacher is asked, and its answers in the many forms that models give them."""

import pytest

from ragkit.data.schema import Passage
from ragkit.qa.prompts import STYLES, QuestionAnswer, Request, chat, dump, parse

PAIR = '{"question": "How long?", "answer": "12 hours"}'
WANTED = [QuestionAnswer("How long?", "12 hours")]


@pytest.mark.parametrize("style", STYLES)
def test_the_prompt_holds_style_number_title_and_text(style: str) -> None:
    request = Request(Passage("p", "It takes {braces} too.", title="Guide"), style)
    system, user = chat(request, 7)
    assert (system["role"], user["role"]) == ("system", "user")
    assert f"Write 7 {STYLES[style]}." in system["content"]
    assert '{"pairs": [{"question": "...", "answer": "..."}]}' in system["content"]
    assert user["content"].endswith("Guide\nIt takes {braces} too.")


def test_a_request_is_named_by_passage_and_style() -> None:
    assert Request(Passage("p", "t"), "how-to").key == ("p", "how-to")


@pytest.mark.parametrize(
    "response",
    [
        f'{{"pairs": [{PAIR}]}}',
        f"[{PAIR}]",
        f'```json\n{{"pairs": [{PAIR}]}}\n```',
        f'Here are the pairs:\n\n{{"pairs": [{PAIR}]}}\n\nI hope this helps!',
        '{"pairs": [{"question": " How long?\\n", "answer": " 12 hours "}]}',
        f'{{"notes": "none", "pairs": [{PAIR[:-1]}, "score": 5}}]}}',
    ],
    ids=["object", "list", "fence", "remarks", "spaces", "more-keys"],
)
def test_pairs_are_read_whatever_is_wrapped_around_them(response: str) -> None:
    assert parse(response) == WANTED


@pytest.mark.parametrize("answer", ["", ', "answer": null', ', "answer": 12', ', "answer": []'])
def test_a_pair_without_an_answer_text_has_an_empty_one(answer: str) -> None:
    assert parse(f'{{"pairs": [{{"question": "How long?"{answer}}}]}}') == [
        QuestionAnswer("How long?", "")
    ]


def test_no_pairs_are_no_error() -> None:
    assert parse('{"pairs": []}') == []


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ("I cannot do that.", "no JSON"),
        ("", "no JSON"),
        (f'{{"pairs": [{PAIR}, {{"question": "cut o', "broken JSON"),
        ('{"questions": []}', "no list of pairs"),
        ('{"pairs": "none"}', "no list of pairs"),
        ('{"pairs": [{"answer": "12 hours"}]}', "a pair without a question"),
        ('{"pairs": [{"question": 5, "answer": "a"}]}', "a pair without a question"),
        ('{"pairs": ["How long?"]}', "a pair without a question"),
    ],
)
def test_what_is_no_list_of_pairs_says_why(response: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(response)


def test_what_is_dumped_is_read_back() -> None:
    pairs = [*WANTED, QuestionAnswer('Was heißt "größer"?', "} ] \n { [")]
    assert parse(dump(pairs)) == pairs


def test_remarks_with_brackets_before_the_json_do_not_hide_it() -> None:
    said = 'Sure [as asked], {thinking}: {"pairs": [{"question": "Why?", "answer": "So."}]}'
    assert parse(said) == [QuestionAnswer("Why?", "So.")]
