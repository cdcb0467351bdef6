"""Candidates between two filters, and the examples that they become."""

from pathlib import Path

from ragkit.data.schema import Turn, parse_example
from ragkit.qa.candidates import Candidate, merged, read_candidates, write_candidates

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


def test_what_others_made_adds_their_passages_and_answers_once() -> None:
    found = merged(PLAIN.example, [(("b", "c"), "12 hours"), (("a",), "half a day"), (("e",), "")])
    assert found.positive_ids == ("a", "b", "c", "e")
    assert found.answers == ("12 hours", "half a day")
