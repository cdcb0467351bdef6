"""qa-gen's kinds of questions, its reading texts and its second passes, as they are written."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from ragkit.data.files import read_jsonl
from ragkit.data.schema import Example, Turn

SPLITS = ("train", "dev", "test")
PASSAGES = 24
QaGen = Callable[..., Any]
GERMAN = "Sie läuft nach einer vollen Ladung {} Stunden lang, aber nicht länger."


def test_a_conversation_gives_follow_ups_with_the_turns_before_them(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any
) -> None:
    made = qa_gen(**{**pumps, "styles": ["conversation"]}, turns=5)
    assert all("a conversation of 5 turns" in r.system for r in teacher.asked("conversation"))
    by_passage: dict[str, list[Example]] = {}
    for example in made.examples:
        by_passage.setdefault(example.positive_ids[0], []).append(example)
    assert len(by_passage) == PASSAGES
    for passage_id, found in by_passage.items():
        asked = made.corpus[passage_id].text.split()[1:3]
        hours = made.corpus[passage_id].text.split()[4]
        first, second, third = sorted(found, key=lambda e: len(e.history))
        assert (first.question, first.history) == (
            f"What do you know of the {' '.join(asked)}?",
            (),
        )
        opening = (Turn("user", first.question), Turn("assistant", f"It runs {hours} hours."))
        assert (second.question, second.history) == ("And after a full charge?", opening)
        assert third.history == (
            *opening,
            Turn("user", second.question),
            Turn("assistant", second.answers[0]),
        )
    # two thirds of the questions are the same words after other turns
    assert made.rejected("duplicate") == made.rejected("near-duplicate") == []
    assert all(len(e.positive_ids) == 1 for e in made.examples)
    follow_ups = {name: len(found) * 2 // 3 for name, found in made.splits.items()}
    card = made.card
    for name, n in follow_ups.items():
        assert f"| {name} | {n * 3 // 2} | 0 | {n} |" in card


def test_the_same_follow_up_after_the_same_turns_is_one_example_of_both_passages(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, pairs: Any
) -> None:
    teacher.replies["conversation"] = lambda r: pairs(
        (f"What do {r.facts[0][0]} ones do?", "Each runs."), ("And for how long?", r.facts[0][2])
    )
    made = qa_gen(**{**pumps, "styles": ["conversation"], "splits": {"dev": 0, "test": 0}})
    found = made.examples
    assert Counter((len(e.history), len(e.positive_ids)) for e in found) == {(0, 2): 12, (2, 2): 12}
    assert {e.answers for e in found if e.history} == {
        (f"{hours}", f"{hours + 1}") for hours in range(2, 26, 2)
    }
    assert len(made.rejected("duplicate")) == 24


def test_a_question_over_two_passages_has_both_as_positives(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any
) -> None:
    made = qa_gen(**{**pumps, "styles": ["multi-passage"]})
    requests = teacher.asked("multi-passage")
    assert len(requests) == 12  # the first passage of a document has none before it
    for request in requests:
        first, second = request.facts
        assert first[0] == second[0]
        assert request.text.index("Passage 1:") < request.text.index(first[1])
        assert request.text.index("Passage 2:") < request.text.index(second[1])
    found = made.examples
    assert len(found) == 12
    for example in found:
        pump, fan = (made.corpus[i] for i in example.positive_ids)
        assert "pump" in pump.text and "fan" in fan.text
        assert {pump.source, fan.source} == {example.meta["doc_id"]}


def test_unanswerable_questions_have_their_share_in_every_split_and_no_answer(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, write_passages_csv: Any
) -> None:
    things = [f"{a}{b}" for a in "bcdfgklmnp" for b in ("ump", "an", "ake", "ore", "eed", "oil")]
    rows = [
        (f"{thing} guide-{n}", f"The {colour} {thing} runs {i + 2} hours after a full charge.")
        for i, thing in enumerate(things)
        for n, colour in enumerate(("red", "green", "blue", "white"))
    ]
    pumps["input"] = write_passages_csv(rows)
    made = qa_gen(**{**pumps, "styles": ["factoid", "how-to"], "unanswerable": 0.25})
    found = made.splits
    open_ = {name: [e for e in examples if not e.answerable] for name, examples in found.items()}
    assert all(open_.values())
    share = sum(map(len, open_.values())) / sum(map(len, found.values()))
    assert share == pytest.approx(0.25, abs=0.03)
    about = set(made.corpus)
    for example in (e for examples in open_.values() for e in examples):
        assert (example.answers, example.positive_ids) == ((), ())
        assert example.question.startswith("Who built")
        assert example.meta["style"] == "unanswerable" and example.meta["about"] in about
    card = made.card
    for name in SPLITS:
        assert f"| {name} | {len(found[name])} | {len(open_[name])} | 0 |" in card


def test_a_question_that_shall_have_no_answer_and_that_another_passage_answers_is_rejected(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, pairs: Any
) -> None:
    asked = "How long does the red pump run?"
    teacher.replies["unanswerable"] = lambda r: pairs(
        (asked if r.facts[0][:2] == ("red", "pump") else "", "")
    )
    teacher.replies["factoid"] = lambda r: pairs(
        (
            "How long does the RED pump run?" if r.facts[0][:2] == ("blue", "fan") else "",
            "It runs.",
        ),
        (f"What does the {' '.join(r.facts[0][:2])} do?", "It runs."),
    )
    made = qa_gen(**{**pumps, "unanswerable": 0.49, "splits": {"dev": 0, "test": 0}})
    (found,) = made.rejected("answered, and should not be")
    assert (found["question"], found["detail"]) == (asked, "It runs.")
    assert asked not in {e.question for e in made.examples}
    assert made.funnel["answered, and should not be"] == 1


@pytest.mark.parametrize("bad", ["The passage does not mention that.", GERMAN])
def test_a_passage_whose_answer_is_refused_is_no_positive_of_anothers_question(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, pairs: Any, bad: str
) -> None:
    teacher.replies["factoid"] = lambda r: pairs(
        (
            f"How long does the {r.facts[0][0]} device of this guide run?",
            f"It runs {r.facts[0][2]} hours." if "pump" in r.facts[0] else bad,
        )
    )
    made = qa_gen(**{**pumps, "splits": {"dev": 0, "test": 0}})
    found = made.examples
    assert len(found) == 12
    assert all("pump" in made.corpus[i].text for e in found for i in e.positive_ids)
    assert all(len(e.answers) == 1 for e in found)
    assert made.rejected("duplicate") == []


def test_reading_texts_by_patterns_are_of_training_passages_and_at_most_n(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, write_passages_csv: Any
) -> None:
    text = (
        "The {0} pump runs {1} hours after a full charge. A charger is a box that fills the "
        "battery of the {0} pump from the mains. The battery gets warm because the charger sends "
        "it a strong current. However, the case stays cool enough to be touched by hand."
    )
    rows = [(f"{c}-guide", text.format(c, i + 2)) for i, c in enumerate(["red", "green", "blue"])]
    pumps["input"] = write_passages_csv([*rows, *((f"{n}", text.format(n, n)) for n in range(9))])
    of_n = {}
    for n in (1, 3):
        reading = {"by": "patterns", "n": n}
        made = qa_gen(**{**pumps, "output": f"{pumps['output']}{n}"}, reading=reading)
        training = made.documents("train")
        of_n[n] = read_jsonl(made.path / "reading.jsonl")
        assert 0 < len(training) < len(made.corpus)
        assert {made.corpus[chat["id"]].source for chat in of_n[n]} == training
        for chat in of_n[n]:
            assert chat["meta"]["doc_id"] == made.corpus[chat["id"]].source
            assert [m["role"] for m in chat["messages"]] == ["user", "assistant"] * n
            assert len(chat["meta"]["kinds"]) == n
            assert made.corpus[chat["id"]].text[:40] in chat["messages"][0]["content"]
    assert teacher.asked("reading") == []


def test_reading_texts_by_the_teacher_are_asked_for_once_and_as_many_as_wanted(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any
) -> None:
    values = {**pumps, "reading": {"by": "teacher", "n": 4}}
    made = qa_gen(**values)
    training = made.documents("train")
    requests = teacher.asked("reading")
    assert {f"{r.facts[0][0]}-guide" for r in requests} == training
    assert len(requests) == 2 * len(training)
    assert all("Write 4 reading exercises" in r.system for r in requests)
    chats = read_jsonl(made.path / "reading.jsonl")
    assert {chat["meta"]["doc_id"] for chat in chats} == training
    for chat in chats:
        assert chat["meta"]["kinds"] == ["teacher"] * 4
        exercises = [m["content"] for m in chat["messages"] if m["role"] == "user"]
        assert [e.splitlines()[-1][:10] for e in exercises] == [f"Exercise {i}" for i in range(4)]
        assert {m["content"] for m in chat["messages"][1::2]} == {"It runs."}
    teacher.forget()
    again = {**values, "output": f"{pumps['output']}-again", "journal": made.journal}
    assert read_jsonl(qa_gen(**again).path / "reading.jsonl") == chats
    assert teacher.asked() == []


def test_the_second_teachers_answers_are_the_final_ones(
    qa_gen: QaGen, passes: dict[str, Any], teacher: Any
) -> None:
    teacher.replies["answer"] = lambda r: {
        "answer": "" if r.facts[0][0] == "blue" else f"After a full charge {r.facts[0][2]} hours."
    }
    made = qa_gen(**passes)
    assert {r.model for r in teacher.asked("factoid")} == {"asks"}
    assert {r.model for r in teacher.asked("answer")} == {"answers"}
    for request in teacher.asked("answer"):
        colour, thing, hours = request.facts[0]
        assert request.text.endswith(f"Question: How long does the {colour} {thing} run?")
        assert request.text.count(f"{hours} hours") == 1  # in the passage; no answer is shown
    found = made.examples
    assert len(found) == PASSAGES - 2
    for example in found:
        hours = made.corpus[example.positive_ids[0]].text.split()[4]
        assert example.answers == (f"After a full charge {hours} hours.",)
    unanswered = made.rejected("no second answer")
    assert [r["doc_id"] for r in unanswered] == ["blue-guide"] * 2
    assert made.funnel["no second answer"] == 2


def test_a_question_of_two_passages_has_second_answers_alone(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, pairs: Any
) -> None:
    teacher.replies["factoid"] = lambda r: pairs(
        (f"How long do {r.facts[0][0]} ones run?", f"first {r.facts[0][2]}")
    )
    second = {**pumps["teacher"], "model": "answers"}
    made = qa_gen(**{**pumps, "answers": second, "splits": {"dev": 0, "test": 0}})
    found = made.examples
    assert {len(e.positive_ids) for e in found} == {2}
    assert {e.answers for e in found} == {
        tuple(f"It runs {h} hours after a full charge." for h in (hours, hours + 1))
        for hours in range(2, 26, 2)
    }


def test_what_the_critic_refuses_is_counted_and_test_questions_are_not_shown_to_it(
    qa_gen: QaGen, passes: dict[str, Any], teacher: Any
) -> None:
    teacher.replies["critic"] = lambda r: {
        "clear": "fan" not in r.facts[0],
        "answered": True,
        "correct": True,
        "reason": "which fan?",
    }
    made = qa_gen(**passes)
    found = made.splits
    shown = {f"{r.facts[0][0]}-guide" for r in teacher.asked("critic")}
    assert shown == made.documents("train", "dev")
    assert made.documents("test").isdisjoint(shown) and made.documents("test")
    assert {r.model for r in teacher.asked("critic")} == {"judges"}
    assert all("Answer: It runs" in r.text for r in teacher.asked("critic"))  # the second answer
    refused = made.rejected("refused by the critic")
    assert {r["doc_id"] for r in refused} == shown
    assert {r["detail"] for r in refused} == {"which fan?"}
    assert made.funnel["refused by the critic"] == len(refused) == len(shown)
    assert any("fan" in e.question for e in found["test"])
    assert not any("fan" in e.question for n in ("train", "dev") for e in found[n])
