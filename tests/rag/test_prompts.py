"""The generator's prompt, word by word, and what counts as a refusal."""

import pytest

from ragkit.config.answering import Prompting
from ragkit.data.schema import Example, Passage, Turn
from ragkit.rag.prompts import (
    CITE,
    REFUSAL,
    is_refusal,
    messages,
    plain_text,
    without_citations,
)

PASSAGES = [Passage("a", "It takes 24 V.", title="B200"), Passage("b", "It takes 48 V.")]
SYSTEM = Prompting().system.replace("{refusal}", REFUSAL)
HISTORY = (Turn("user", "Which one?"), Turn("assistant", "The B200."))


def test_the_prompt_is_instructions_history_passages_and_question() -> None:
    found = messages(Example("q", "What does it take?", history=HISTORY), PASSAGES)
    assert found == [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "Which one?"},
        {"role": "assistant", "content": "The B200."},
        {
            "role": "user",
            "content": "Passages:\n\n[1] B200\nIt takes 24 V.\n\n[2] It takes 48 V.\n\n"
            "Question: What does it take?",
        },
    ]


def test_the_instructions_name_the_refusal_that_is_looked_for() -> None:
    assert REFUSAL in SYSTEM
    assert is_refusal(REFUSAL)


def test_the_reference_answers_are_not_in_the_prompt() -> None:
    example = Example("q", "What does it take?", ("a secret answer",), ("a",))
    assert "secret" not in str(messages(example, PASSAGES))


def test_models_without_a_template_get_one_text_that_ends_where_the_answer_begins() -> None:
    chat = messages(Example("q", "What does it take?", history=HISTORY), PASSAGES[1:])
    assert plain_text(chat) == (
        f"{SYSTEM}\n\nWhich one?\n\nAnswer: The B200.\n\nPassages:\n\n[1] It takes 48 V.\n\n"
        "Question: What does it take?\n\nAnswer:"
    )


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n",
        "I cannot answer this from the documents",
        "  i CANNOT answer\nthis from the documents. ",
        "I cannot answer this from the documents. They are about gateways.",
    ],
)
def test_the_refusal_is_known_whatever_its_case_spaces_and_tail(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    ["24 V", "No.", "The guide says: I cannot answer this from the documents.", "I cannot"],
)
def test_an_answer_is_no_refusal(answer: str) -> None:
    assert not is_refusal(answer)


@pytest.mark.parametrize(
    ("answer", "text", "ids"),
    [
        ("It is red [1]. It holds [2, 1].", "It is red. It holds.", ("a", "b")),
        ("It is red [3]", "It is red", ("[3]",)),  # there is no third passage
        ("It is red [0].", "It is red.", ("[0]",)),
        ("It is [red].", "It is [red].", ()),
        ("[1]", "", ("a",)),
    ],
)
def test_numbers_of_passages_are_taken_out_of_an_answer(
    answer: str, text: str, ids: tuple[str, ...]
) -> None:
    assert without_citations(answer, [Passage("a", "x"), Passage("b", "y")]) == (text, ids)


def test_citations_are_asked_for_in_the_instructions() -> None:
    asked = messages(Example("q", "?"), [], cite=True)
    assert asked[0]["content"] == f"{SYSTEM} {CITE}"
