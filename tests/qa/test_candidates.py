"""Candidates between two filters, and the examples that they become."""

from dataclasses import replace
from pathlib import Path

from ragkit.data.schema import Turn, parse_example
from ragkit.qa.candidates import Candidate, read_candidates, write_candidates

PLAIN = Candidate("How long?", "12 hours", ("a", "b"), "d", "multi-passage", "train")
FOLLOW_UP = Candidate(
    "And then?", "Ü", ("a",), "d", "conversation", "test",
    (Turn("user", "How?"), Turn("assistant", "So.")),
)  # fmt: skip
OPEN = Candidate("Why?", "", ("a",), "d", "unanswerable", "dev", answerable=False)


def test_candidates_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    path = write_candidates(tmp_path / "c.jsonl", iter([PLAIN, FOLLOW_UP, OPEN]))
    assert list(read_candidates(path)) == [PLAIN, FOLLOW_UP, OPEN]


def test_an_example_has_the_passages_answer_and_history_of_its_candidate() -> None:
    plain, follow_up, open_ = (c.example for c in (PLAIN, FOLLOW_UP, OPEN))
    assert (plain.positive_ids, plain.answers) == (("a", "b"), ("12 hours",))
    assert plain.meta == {"style": "multi-passage", "doc_id": "d"}
    assert follow_up.history == FOLLOW_UP.history
    assert (open_.positive_ids, open_.answers, open_.answerable) == ((), (), False)
    assert open_.meta["about"] == "a"
    for example in (plain, follow_up, open_):
        assert parse_example(example.to_json()) == example


def test_the_id_of_an_example_is_of_its_passage_turns_and_question() -> None:
    later = Candidate("How long?", "13 hours", ("a", "c"), "e", "factoid", "dev")
    assert later.example.id == PLAIN.example.id
    alone = Candidate("And then?", "Ü", ("a",), "d", "conversation", "test")
    other = Candidate("How long?", "12 hours", ("b", "a"), "d", "multi-passage", "train")
    assert len({c.example.id for c in (PLAIN, FOLLOW_UP, alone, other, OPEN)}) == 5


def test_what_others_made_adds_their_passages_and_answers_once(tmp_path: Path) -> None:
    others = ((("b", "c"), "12 hours"), (("a",), "half a day"), (("e",), ""))
    whole = replace(PLAIN, others=others)
    assert list(read_candidates(write_candidates(tmp_path / "c.jsonl", [whole]))) == [whole]
    assert whole.example.positive_ids == ("a", "b", "c", "e")
    assert whole.example.answers == ("12 hours", "half a day")
    assert whole.example.id == PLAIN.example.id


def test_questions_are_equal_by_their_characters_and_the_users_turns() -> None:
    def key(question: str, *turns: str) -> int:
        pairs = ((Turn("user", t), Turn("assistant", "Yes.")) for t in turns)
        history = tuple(turn for pair in pairs for turn in pair)
        return replace(PLAIN, question=question, history=history).key

    assert key("How do I  compile Ü?") == key("how do i compile U\u0308")
    different = ["How do I compile C++?", "How do I compile C#?", "Is x > 5?", "Is x < 5?"]
    assert len({key(question) for question in different}) == 4
    assert key("And then?", "How?") == key("and then", "How") != key("And then?", "Why?")
