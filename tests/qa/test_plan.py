"""The plan: who is asked what, the same each time that it is read."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ragkit.data.schema import Passage
from ragkit.qa.plan import Plan
from ragkit.qa.prompts import Request


def of(document: str, *texts: str) -> list[Passage]:
    return [Passage(f"{document}{i}", text, doc_id=document) for i, text in enumerate(texts)]


def plan(passages: Sequence[Passage], *styles: str, **values: Any) -> Plan:
    read: Callable[[], Sequence[Passage]] = lambda: passages  # noqa: E731
    return Plan(passages=read, styles=styles, **values)


def asked(requests: Sequence[Request]) -> list[tuple[tuple[str, ...], str]]:
    return [(r.passage_ids, r.style) for r in requests]


MANY = of("d", *(f"text number {i}" for i in range(2_000)))


def test_every_style_is_asked_about_every_passage_in_their_order() -> None:
    found = plan([*of("a", "one", "two"), *of("b", "three")], "factoid", "how-to").requests()
    assert asked(list(found)) == [
        ((name,), style) for name in ("a0", "a1", "b0") for style in ("factoid", "how-to")
    ]


def test_a_plan_is_the_same_each_time_that_it_is_read() -> None:
    made = plan(MANY, "factoid", "multi-passage", unanswerable=0.3)
    assert list(made.requests()) == list(made.requests())


@pytest.mark.parametrize(("styles", "share"), [(1, 0.1), (3, 0.1), (3, 0.25), (2, 0.0)])
def test_the_share_of_unanswerable_questions_is_the_one_that_is_wanted(
    styles: int, share: float
) -> None:
    names = ("factoid", "how-to", "keyword")[:styles]
    counts = Counter(r.style for r in plan(MANY, *names, unanswerable=share).requests())
    found = counts["unanswerable"] / counts.total()
    assert counts.total() == styles * len(MANY) + counts["unanswerable"]
    assert found == pytest.approx(share, abs=0.015 if share else 0)


def test_another_seed_asks_others_for_what_has_no_answer() -> None:
    first, again, other = (
        {r.passage_ids for r in plan(MANY, "factoid", unanswerable=0.1, seed=s).requests()
         if r.style == "unanswerable"}
        for s in (0, 0, 1)
    )  # fmt: skip
    assert first == again != other


def test_a_passage_is_asked_for_what_has_no_answer_whatever_stands_before_it() -> None:
    def chosen(passages: Sequence[Passage]) -> set[tuple[str, ...]]:
        requests = plan(passages, "factoid", unanswerable=0.2).requests()
        return {r.passage_ids for r in requests if r.style == "unanswerable"}

    assert chosen(MANY[1_000:]) == {i for i in chosen(MANY) if int(i[0][1:]) >= 1_000}


def test_a_question_over_two_passages_takes_the_earlier_one_with_the_most_common_words() -> None:
    passages = of("a", "red green blue", "red green white", "black red", "white green red now")
    found = asked(list(plan(passages, "multi-passage").requests()))
    # of the four words of the last, all three of the second are in it
    assert found[-1] == (("a1", "a3"), "multi-passage")
    assert [ids for ids, _ in found] == [("a0", "a1"), ("a0", "a2"), ("a1", "a3")]


def test_the_partner_of_a_passage_is_of_its_document_and_near() -> None:
    passages = [*of("a", "red green"), *of("b", "red green", "red blue"), *of("a", "red green")]
    assert asked(list(plan(passages, "multi-passage").requests())) == [
        (("b0", "b1"), "multi-passage")
    ]
    far = of("c", "red", *("one", "two", "three", "four", "five"), "red")
    assert asked(list(plan(far, "multi-passage").requests())) == []
    near = of("c", "red", *("one", "two", "three", "four"), "red")
    assert asked(list(plan(near, "multi-passage").requests())) == [(("c0", "c5"), "multi-passage")]


def test_a_passage_without_common_words_has_no_partner() -> None:
    assert list(plan(of("a", "red", "blue"), "multi-passage").requests()) == []


def test_a_limit_is_of_the_first_passages_that_are_not_left_out() -> None:
    made = plan(MANY, "factoid", limit=3, left_out={"d0", "d2", "d7"})
    assert [p.id for p in made.asked()] == ["d1", "d3", "d4"]
    assert [r.passage_ids for r in made.requests()] == [("d1",), ("d3",), ("d4",)]


def test_what_is_left_out_is_nobodys_partner() -> None:
    passages = of("a", "red green", "red green", "red blue")
    found = plan(passages, "multi-passage", left_out={"a1"}).requests()
    assert [r.passage_ids for r in found] == [("a0", "a2")]
