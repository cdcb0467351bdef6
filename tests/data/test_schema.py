"""Passages and examples: what is accepted, and what a refusal says."""

from typing import Any

import pytest

from ragkit.data.schema import (
    Example,
    Passage,
    Turn,
    distinct_passages,
    known_positives,
    parse_example,
    parse_passage,
    qrels_of,
    unique_passages,
)
from ragkit.errors import DataError


def test_a_passage_with_all_fields_goes_to_json_and_back() -> None:
    passage = Passage("p1", "Text.", "Title", "doc", {"page": 3})
    assert parse_passage(passage.to_json()) == passage


def test_an_example_with_all_fields_goes_to_json_and_back() -> None:
    turns = (Turn("user", "Hi"), Turn("assistant", "Hello"))
    example = Example(
        "e1", "Why?", ("Because",), ("p1",), ("p2",), turns, True, {"style": "x"}, {"p1": 1.5}
    )
    assert parse_example(example.to_json()) == example


def test_an_unanswerable_example_keeps_that_on_its_way_through_json() -> None:
    example = Example("e1", "Why?", answerable=False)
    assert example.to_json() == {"id": "e1", "question": "Why?", "answerable": False}
    assert parse_example(example.to_json()) == example


def test_empty_fields_are_not_written() -> None:
    assert Passage("p", "Text.").to_json() == {"id": "p", "text": "Text."}
    assert Example("e", "Why?").to_json() == {"id": "e", "question": "Why?"}


def test_a_passage_is_rendered_with_its_title_above_or_alone() -> None:
    assert Passage("p", "Text.", "Title").rendered == "Title\nText."
    assert Passage("p", "Text.").rendered == "Text."


def test_the_source_of_a_passage_is_its_document_or_itself() -> None:
    assert Passage("p", "Text.", doc_id="d").source == "d"
    assert Passage("p", "Text.").source == "p"


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"id": "p"}, "text: missing"),
        ({"id": "p", "text": "  \n"}, "text: empty"),
        ({"id": "p", "text": 3}, "text: a string, not 3"),
        ({"text": "x"}, "id: missing"),
        ({"id": "", "text": "x"}, "id: missing"),
        ({"id": 1.5, "text": "x"}, "id: a string, not 1.5"),
        ({"id": True, "text": "x"}, "id: a string, not True"),
        ({"id": "a b", "text": "x"}, "id: 'a b' has white space in it"),
        ({"id": "p", "text": "x", "doc_id": "a\tb"}, "doc_id: 'a\\tb' has white space in it"),
        ({"id": "p", "text": "x", "title": ["T"]}, "title: a string, not"),
        ({"id": "p", "text": "x", "meta": "m"}, "meta: an object, not 'm'"),
        ({"id": "p", "text": "x", "txet": "y"}, "txet: unknown field"),
        (["p"], "a JSON object was expected"),
        (None, "a JSON object was expected"),
    ],
)
def test_a_passage_that_is_wrong_is_refused_with_the_field(record: object, problem: str) -> None:
    with pytest.raises(ValueError, match="^" + problem.replace("\\", "\\\\").replace(".", r"\.")):
        parse_passage(record)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"question": ""}, "question: empty"),
        ({"question": None}, "question: missing"),
        ({"answers": "one"}, "answers: a list of strings, not 'one'"),
        ({"positive_ids": [1]}, "positive_ids: a list of strings"),
        ({"negative_ids": {"a": 1}}, "negative_ids: a list of strings"),
        ({"scores": {"p": "high"}}, "scores: p: a number was expected, not 'high'"),
        ({"scores": {"p": True}}, "scores: p: a number was expected, not True"),
        ({"answerable": "no"}, "answerable: true or false, not 'no'"),
        ({"answerable": False, "positive_ids": ["p"]}, "answerable: false, but it has"),
        ({"history": "x"}, "history: a list, not 'x'"),
        ({"history": [{"role": "user"}]}, "history: each turn is {role, content}"),
        ({"history": [{"role": "system", "content": "x"}]}, "history: role is user or assistant"),
        ({"anwsers": ["x"]}, "anwsers: unknown field"),
    ],
)
def test_an_example_that_is_wrong_is_refused_with_the_field(
    change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=f"^{problem}"):
        parse_example({"id": "e", "question": "Why?", **change})


def test_a_number_as_an_id_becomes_a_string() -> None:
    assert parse_passage({"id": 7, "text": "x"}).id == "7"
    assert parse_example({"id": 0, "question": "x"}).id == "0"


def test_null_fields_are_as_good_as_absent_ones() -> None:
    record = {"id": "p", "text": "x", "title": None, "meta": None}
    assert parse_passage(record) == Passage("p", "x")


def test_a_null_doc_id_is_as_good_as_none() -> None:
    assert parse_passage({"id": "p", "text": "x", "doc_id": None}) == Passage("p", "x")


def test_one_id_for_two_texts_is_refused_with_both_places() -> None:
    pair = [("c.jsonl:1", Passage("p", "One.")), ("c.jsonl:9", Passage("p", "Two."))]
    with pytest.raises(DataError) as caught:
        unique_passages(pair)
    message = str(caught.value)
    assert message.startswith("c.jsonl:9: id: 'p' is already the id of another text (c.jsonl:1:")
    assert "'One.'" in message
    assert "'Two.'" in message


def test_one_id_for_one_text_under_two_titles_is_refused() -> None:
    with pytest.raises(DataError, match="'p' is already the id of another text"):
        unique_passages([("a", Passage("p", "One.", "T")), ("b", Passage("p", "One."))])


def test_the_same_passage_twice_is_kept_once_and_order_stays() -> None:
    found = unique_passages([(x, Passage(x, "Text.")) for x in ("b", "a", "b")])
    assert list(found) == ["b", "a"]


def test_passages_that_stream_are_distinct_too() -> None:
    found = distinct_passages((x, Passage(x, "Text.")) for x in ("b", "a", "b", "c"))
    assert [p.id for p in found] == ["b", "a", "c"]


def test_one_id_for_two_texts_that_stream_is_refused_with_both_places() -> None:
    trio = [("x:1", Passage("o", "O.")), ("x:2", Passage("p", "One.")), ("x:9", Passage("p", "2."))]
    with pytest.raises(DataError) as caught:
        list(distinct_passages(trio))
    assert str(caught.value) == (
        "x:9: id: 'p' is already the id of another text (x:2; here: '2.'); "
        "ids must be unique in a corpus"
    )
    with pytest.raises(DataError, match="'p' is already"):
        list(distinct_passages([("", Passage("p", "One.", "T")), ("", Passage("p", "One."))]))


def test_examples_without_positives_are_not_judged() -> None:
    examples = [Example("a", "?", positive_ids=("p", "q")), Example("b", "?")]
    assert qrels_of(examples) == {"a": {"p": 1, "q": 1}}


def test_the_same_question_in_other_case_and_spacing_shares_its_positives() -> None:
    examples = [
        Example("a", "Why  me?", positive_ids=("p",)),
        Example("b", "why me?", positive_ids=("q",)),
        Example("c", "why me?", positive_ids=("r",), history=(Turn("user", "Hi"),)),
    ]
    assert known_positives(examples) == {
        "why me?": frozenset({"p", "q"}),
        "hi\nwhy me?": frozenset({"r"}),
    }
