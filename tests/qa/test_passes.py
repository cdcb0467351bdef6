"""Second answers, their support, and the critic: what they are shown and what they decide."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ragkit.data.schema import Passage, Turn
from ragkit.qa.asking import Item
from ragkit.qa.candidates import Candidate
from ragkit.qa.filters import Sieve
from ragkit.qa.passes import criticised, second_answers, supported
from ragkit.qa.prompts import ANSWER_SCHEMA, VERDICT_SCHEMA, Prompts

CORPUS = {
    "a": Passage("a", "The B200 takes 24 V and holds its clock for 72 hours.", title="B200"),
    "b": Passage("b", "The B400 takes 48 V.", title="B400"),
}
GOOD = {"clear": True, "answered": True, "correct": True, "reason": "fine"}


def candidate(question: str, answer: str = "24 V", **more: Any) -> Candidate:
    values = {"passage_ids": ("a",), "doc_id": "d", "style": "factoid", "split": "train", **more}
    return Candidate(question=question, answer=answer, **values)


@dataclass
class Desk:
    """Answers by the question, and keeps what it was asked."""

    replies: dict[str, str | None]
    asked: list[Item] = field(default_factory=list)
    schemas: list[Any] = field(default_factory=list)

    def ask(self, items: Callable[[], Iterable[Item]], schema: Any) -> None:
        self.asked += items()
        self.schemas.append(schema)

    def answer(self, item: Item) -> str | None:
        said = item.chat[-1]["content"]
        return next((reply for q, reply in self.replies.items() if q in said), None)


class Written(list[dict[str, Any]]):
    """What a sieve wrote."""

    @property
    def reasons(self) -> dict[str, tuple[str, str]]:
        """Reason and detail by question."""
        return {r["question"]: (r["reason"], r.get("detail", "")) for r in self}


Pass = Callable[..., Iterator[Candidate]]


def through(
    one: Pass, candidates: Sequence[Candidate], desk: Desk
) -> tuple[list[Candidate], Written]:
    written = Written()
    left = one(lambda: candidates, CORPUS, desk, Prompts(), Sieve(written.append))
    return list(left), written


def test_the_second_answer_replaces_the_first() -> None:
    item = candidate("What does a B200 take?", "12 V")
    desk = Desk({"What does a B200 take?": '{"answer": "24 V"}'})
    left, written = through(second_answers, [item], desk)
    assert [(c.question, c.answer) for c in left] == [("What does a B200 take?", "24 V")]
    assert not written
    (asked,) = desk.asked
    assert "12 V" not in str(asked.chat)
    assert "B200\nThe B200 takes 24 V" in asked.chat[-1]["content"]
    assert desk.schemas == [ANSWER_SCHEMA]


def test_a_question_without_a_second_answer_is_rejected_unless_it_shall_have_none() -> None:
    questions = [
        candidate("Who is empty?"),
        candidate("Who is silent?"),
        candidate("Who is unreadable?"),
        candidate("Who is open?", "", answerable=False),
        candidate("Who is answered?", "", answerable=False),
    ]
    desk = Desk({
        "Who is empty?": '{"answer": ""}',
        "Who is unreadable?": "I would say 24 V.",
        "Who is open?": '{"answer": " "}',
        "Who is answered?": '{"answer": "24 V"}',
    })  # fmt: skip
    left, written = through(second_answers, questions, desk)
    assert [(c.question, c.answer) for c in left] == [("Who is open?", "")]
    assert written.reasons == {
        "Who is empty?": ("no second answer", "the passage does not answer it"),
        "Who is silent?": ("no second answer", "no answer in the teacher's JSON"),
        "Who is unreadable?": ("no second answer", "no answer in the teacher's JSON"),
        "Who is answered?": ("answered, and should not be", "24 V"),
    }


def test_test_questions_get_second_answers_too() -> None:
    desk = Desk({"How?": '{"answer": "so"}', "Why?": '{"answer": ""}'})
    made = [candidate("How?", split="test"), candidate("Why?", split="test")]
    left, _ = through(second_answers, made, desk)
    assert [c.answer for c in left] == ["so"]


def test_a_question_over_two_is_asked_with_both_passages() -> None:
    desk = Desk({})
    through(second_answers, [candidate("One?"), candidate("Both?", passage_ids=("b", "a"))], desk)
    one, both = desk.asked
    said = both.chat[-1]["content"]
    assert said.index("The B400 takes") < said.index("The B200 takes")
    assert one.subject != both.subject


def history(*turns: str) -> tuple[Turn, ...]:
    return tuple(Turn(role, t) for role, t in zip(("user", "assistant") * 9, turns, strict=False))


FIRST, SECOND = "What does a B200 take?", "And how long does it hold?"
TALK = [
    candidate(FIRST, "999 V"),
    candidate(SECOND, "9 years", history=history(FIRST, "999 V")),
    candidate("Its clock?", "No.", history=history(FIRST, "999 V", SECOND, "9 years")),
]


def test_a_follow_up_is_asked_after_the_second_answers_of_the_turns_before() -> None:
    desk = Desk({"Its clock?": '{"answer": "Yes."}', SECOND: '{"answer": "72 hours"}',
                 FIRST: '{"answer": "24 V"}'})  # fmt: skip
    left, written = through(second_answers, TALK, desk)
    assert [c.answer for c in left] == ["24 V", "72 hours", "Yes."]
    assert [c.history for c in left] == [
        (), history(FIRST, "24 V"), history(FIRST, "24 V", SECOND, "72 hours"),
    ]  # fmt: skip
    assert not written
    said = [item.chat[-1]["content"] for item in desk.asked]
    assert not any("999" in text or "9 years" in text for text in said)
    assert f"User: {FIRST}\nAssistant: 24 V\nUser: {SECOND}" in said[-1]


def test_what_follows_a_turn_without_second_answer_is_not_asked_and_refused() -> None:
    desk = Desk({SECOND: '{"answer": "72 hours"}', FIRST: '{"answer": ""}'})
    left, written = through(second_answers, TALK, desk)
    assert left == []
    refused = ("follows a refused turn", "")
    none = ("no second answer", "the passage does not answer it")
    assert written.reasons == {FIRST: none, SECOND: refused, "Its clock?": refused}
    assert len({item.style for item in desk.asked}) == 1


def test_what_follows_a_turn_that_the_critic_refused_is_refused() -> None:
    bad = json.dumps({**GOOD, "correct": False, "reason": "72 hours"})
    desk = Desk({f"{SECOND}\n\n": bad, "?": json.dumps(GOOD)})
    left, written = through(criticised, [*TALK, candidate(SECOND, passage_ids=("b",))], desk)
    assert [c.question for c in left] == [FIRST]
    assert written.reasons["Its clock?"] == ("follows a refused turn", "")
    assert [r["reason"] for r in written] == [
        "refused by the critic", "follows a refused turn", "refused by the critic",
    ]  # fmt: skip


def test_a_wrong_answer_before_a_question_makes_it_unsupported() -> None:
    right = candidate(SECOND, "72 hours", history=history(FIRST, "24 V"))
    assert kept(0.5, right) == [SECOND]
    assert kept(0.5, replace(right, history=history(FIRST, "999 V"))) == []
    assert kept(0.5, replace(right, history=history("Of 999 V?", "999 V"))) == [SECOND]


def test_second_answers_are_recorded_under_their_question_and_turns() -> None:
    desk = Desk({"What?": '{"answer": "A B200."}'})
    later = candidate("How?", history=history("What?", "A B200."))
    through(second_answers, [candidate("How?"), later], desk)
    through(criticised, [candidate("How?", "one"), candidate("How?", "two")], desk)
    styles = {item.style: item.style.split()[0] for item in desk.asked}
    assert list(styles.values()) == ["answer", "answer", "answer", "critic", "critic"]


def kept(least: float, *candidates: Candidate, language: str | None = None) -> list[str]:
    sieve = Sieve(lambda _: None)
    return [c.question for c in supported(candidates, CORPUS, least, language, sieve)]


def test_an_answer_whose_words_are_in_passage_title_or_question_is_supported() -> None:
    made = [
        candidate("In passage?", "clock hours"),
        candidate("In title and question lithium?", "B200 lithium"),
        candidate("Half?", "clock lithium"),
        candidate("Figure?", "clock hours 73"),
    ]
    assert kept(0.5, *made) == ["In passage?", "In title and question lithium?", "Half?"]
    assert kept(0.51, *made) == ["In passage?", "In title and question lithium?"]
    assert len(kept(0.0, *made)) == 4


def test_test_and_unanswerable_questions_need_no_support() -> None:
    made = [
        candidate("Test?", "wrong", split="test"),
        candidate("Dev?", "wrong", split="dev"),
        candidate("Open?", "", answerable=False),
    ]
    assert kept(0.5, *made) == ["Test?", "Open?"]


def test_an_answer_in_another_language_than_its_passage_cannot_be_compared() -> None:
    german = candidate("Wie viel?", "Vierundzwanzig Stunden")
    assert kept(0.5, german) == []
    assert kept(0.5, german, language="de") == ["Wie viel?"]
    assert kept(0.5, german, language="en") == []


@pytest.mark.parametrize("wrong", ["clear", "answered", "correct"])
def test_the_critic_refuses_what_fails_in_one_of_three(wrong: str) -> None:
    verdict = json.dumps({**GOOD, wrong: False, "reason": "because"})
    desk = Desk({"Who is good?": json.dumps(GOOD), "Who is bad?": verdict})
    left, written = through(criticised, [candidate("Who is good?"), candidate("Who is bad?")], desk)
    assert [c.question for c in left] == ["Who is good?"]
    assert written.reasons == {"Who is bad?": ("refused by the critic", "because")}
    assert desk.schemas == [VERDICT_SCHEMA]
    assert desk.asked[0].chat[-1]["content"].endswith("Question: Who is good?\n\nAnswer: 24 V")


def test_of_an_unanswerable_question_the_critic_must_say_that_it_is_not_answered() -> None:
    made = [candidate(q, "", answerable=False) for q in ("Who is open?", "Who is not?")]
    desk = Desk({
        "Who is open?": json.dumps({**GOOD, "answered": False, "correct": False}),
        "Who is not?": json.dumps(GOOD),
    })  # fmt: skip
    left, _ = through(criticised, made, desk)
    assert [c.question for c in left] == ["Who is open?"]
    assert "Answer: (none: the passages do not answer it)" in desk.asked[0].chat[-1]["content"]


def test_what_the_critic_did_not_judge_is_refused() -> None:
    desk = Desk({"Who is in prose?": "It looks fine to me."})
    made = [candidate("Who is silent?"), candidate("Who is in prose?")]
    left, written = through(criticised, made, desk)
    assert left == []
    assert set(written.reasons.values()) == {
        ("not judged by the critic", "no judgement in the critic's JSON")
    }


def test_test_questions_are_not_shown_to_the_critic() -> None:
    made = [candidate("Test?", split="test"), candidate("Dev?", split="dev")]
    desk = Desk({})
    left, _ = through(criticised, made, desk)
    assert [c.question for c in left] == ["Test?"]
    assert len(desk.asked) == 1 and "Dev?" in desk.asked[0].chat[-1]["content"]
