"""ChatRAG-Bench's rules: the query, the document, and what is a refusal."""

import pytest

from ragkit.data.schema import Example, Passage, Turn
from ragkit.evaluation import chatrag


def test_the_query_is_the_last_five_messages_with_their_roles() -> None:
    turns = [Turn("user" if i % 2 == 0 else "assistant", f"m{i}") for i in range(6)]
    asked = chatrag.query(Example("q", "and now?", history=tuple(turns)))
    assert asked == "user: m2\nagent: m3\nuser: m4\nagent: m5\nuser: and now?"
    assert chatrag.query(Example("q", "what?")) == "user: what?"


def test_the_document_is_that_of_the_passage_or_the_one_that_the_file_named() -> None:
    corpus = {"d::1": Passage("d::1", "text", doc_id="d")}
    assert chatrag.document_of(Example("q", "?", positive_ids=("d::1",)), corpus) == "d"
    named = Example("q", "?", meta={"context_document": "e"})
    assert chatrag.document_of(named, corpus) == "e"
    assert chatrag.document_of(Example("q", "?"), corpus) is None


@pytest.mark.parametrize(
    "answer",
    [
        "Sorry. I cannot find the answer based on the context.",
        "I'm NOT ABLE TO say.",
        "The text does not provide this.",
        "There is no information in the context.",
    ],
)
def test_an_answer_that_says_that_there_is_none_is_a_refusal(answer: str) -> None:
    assert chatrag.refuses(answer)


@pytest.mark.parametrize("answer", ["It is 12 V.", "", "You find it in the office."])
def test_other_answers_are_none(answer: str) -> None:
    assert not chatrag.refuses(answer)
