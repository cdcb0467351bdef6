"""What a test set shares with training: questions, documents, and copies of passages."""

import random

import pytest

from ragkit.data.nearduplicates import overlap_f1, words
from ragkit.data.schema import Example, Passage
from ragkit.evaluation.leakage import Leakage, find_leakage, near_questions

TEXT = "The relay opens after thirty seconds when the battery is low and the pump stops by itself."


def asked(*questions: str) -> list[Example]:
    return [Example(f"{i}", question) for i, question in enumerate(questions)]


def test_a_question_stands_in_training_whatever_its_case_and_marks() -> None:
    test, train = asked("How long does it hold?"), asked("Other.", "how long DOES it hold")
    assert near_questions(test, train, 1.0) == [(test[0], train[1])]


def test_the_limit_is_reached_by_the_longest_common_order_of_words() -> None:
    test, train = asked("one two three four"), asked("one two three five")  # F1 is 0.75
    assert near_questions(test, train, 0.75) == [(test[0], train[0])]
    assert near_questions(test, train, 0.751) == []
    assert near_questions(test, asked("four three two one"), 0.3) == []  # F1 is 0.25: order counts


def test_a_leaked_question_is_counted_once() -> None:
    test, train = asked("one two three", "four five six"), asked("one two three", "one two three")
    assert near_questions(test, train, 0.8) == [(test[0], train[0])]


def test_leaks_are_those_of_a_search_through_all_pairs() -> None:
    rng = random.Random(0)

    def sentences(count: int) -> list[Example]:
        return asked(*(" ".join(rng.choices("abcde", k=rng.randint(1, 6))) for _ in range(count)))

    test, train = sentences(60), sentences(40)
    for limit in (0.5, 0.8, 1.0):
        slow = [
            next(
                (e for e in train if overlap_f1(words(t.question), words(e.question)) >= limit),
                None,
            )
            for t in test
        ]
        expected = [(t, e) for t, e in zip(test, slow, strict=True) if e]
        assert near_questions(test, train, limit) == expected
        assert len(expected) > 0


@pytest.mark.parametrize(("test", "train"), [([], ["a"]), (["a"], []), (["?!"], ["?!"])])
def test_nothing_leaks_from_or_into_nothing(test: list[str], train: list[str]) -> None:
    assert near_questions(asked(*test), asked(*train), 0.1) == []


def corpus(**texts: str) -> dict[str, Passage]:
    return {i: Passage(i, text, doc_id=i.split("_")[0]) for i, text in texts.items()}


def about(name: str, *passages: str) -> Example:
    return Example(name, f"what of {name}?", positive_ids=passages)


def test_a_copy_of_a_trained_passage_in_another_document_is_a_leak() -> None:
    passages = corpus(a_0=TEXT, b_0=TEXT + " Now.", c_0="Fuses are red, and every sensor is green.")
    test = [about("q1", "b_0"), about("q2", "c_0"), Example("q3", "nothing?")]
    found = find_leakage(test, [about("t", "a_0")], passages, ["q2"])
    assert found == Leakage(near={"q2"}, copied={"q1"}, seen={"q1"})
    assert found.contaminated == {"q1", "q2"}


def test_a_document_that_training_saw_is_seen_and_no_leak() -> None:
    passages = corpus(a_0=TEXT, a_1="Fuses are red.", b_0="Pumps are blue.")
    test = [about("q1", "a_0"), about("q2", "a_1"), about("q3", "b_0", "a_1")]
    found = find_leakage(test, [about("t", "a_0")], passages, [])
    assert found == Leakage(seen={"q1", "q2", "q3"})


def test_copies_with_another_figure_are_other_passages() -> None:
    passages = corpus(a_0=f"{TEXT} It takes 12 V.", b_0=f"{TEXT} It takes 24 V.")
    found = find_leakage([about("q", "b_0")], [about("t", "a_0")], passages, [])
    assert found == Leakage()


def test_training_without_passages_in_the_corpus_shares_none() -> None:
    found = find_leakage([about("q", "a_0")], [about("t", "gone")], corpus(a_0=TEXT), [])
    assert found == Leakage()
