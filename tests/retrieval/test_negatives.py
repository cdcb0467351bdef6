"""Hard negatives: what is dropped, by hand; and that nobody is dropped for having too few."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from ragkit.data.schema import Example, Passage
from ragkit.retrieval.negatives import Mined, mine

LONG = "the gateway has one fuse of twelve volts behind the red cover"
CORPUS = {p.id: p for p in (Passage(f"p{i}", f"passage number {i} says {i * 7}") for i in range(9))}
RANKING = {f"p{i}": 1.0 - i / 10 for i in range(9)}  # p0 first


def mined(
    *examples: Example,
    corpus: Mapping[str, Passage] = CORPUS,
    n: int = 3,
    **options: object,
) -> Mined:
    settings = {"cosine": None, "n": n, **options}
    return mine(examples, corpus, [RANKING] * len(examples), **settings)


def cosines(*values: float) -> Callable[[int, Sequence[str]], np.ndarray]:
    """Return the similarities of every question with p0, p1, ..."""
    return lambda _, ids: np.array([values[int(i[1:])] for i in ids], np.float32)


def test_the_highest_that_are_no_positives_are_taken_in_order() -> None:
    result = mined(Example("q", "what?", positive_ids=("p1",)))
    assert result.examples[0].negative_ids == ("p0", "p2", "p3")
    assert result.dropped == {
        "a positive of this question": 1,
        "a near-duplicate of a positive": 0,
    }
    assert result.too_few == []


def test_a_passage_is_never_a_negative_of_a_question_that_another_example_answers_with_it() -> None:
    first = Example("q1", "What is it?", positive_ids=("p0",))
    second = Example("q2", " what  is IT?", positive_ids=("p2",))
    result = mined(first, second)
    assert [e.negative_ids for e in result.examples] == [("p1", "p3", "p4")] * 2
    assert result.dropped["a positive of this question"] == 4


@pytest.mark.parametrize("text", [LONG, LONG.upper() + "!", LONG + " today"])
def test_near_duplicates_of_a_positive_are_dropped(text: str) -> None:
    corpus = CORPUS | {"p0": Passage("p0", LONG), "p1": Passage("p1", text)}
    result = mined(Example("q", "what?", positive_ids=("p0",)), corpus=corpus)
    assert result.examples[0].negative_ids == ("p2", "p3", "p4")
    assert result.dropped["a near-duplicate of a positive"] == 1


def test_a_passage_with_other_facts_is_no_near_duplicate() -> None:
    other = "the gateway has one relay of thirty volts behind the green cover"
    corpus = CORPUS | {"p0": Passage("p0", LONG), "p1": Passage("p1", other)}
    result = mined(Example("q", "what?", positive_ids=("p0",)), corpus=corpus)
    assert result.examples[0].negative_ids == ("p1", "p2", "p3")


def test_near_duplicates_of_what_another_example_answers_with_are_dropped() -> None:
    corpus = CORPUS | {"p0": Passage("p0", LONG), "p1": Passage("p1", LONG + " today")}
    first = Example("q1", "what?", positive_ids=("p0",))
    second = Example("q2", "what?", positive_ids=("p5",))
    assert mined(first, second, corpus=corpus).examples[1].negative_ids == ("p2", "p3", "p4")


def test_candidates_above_a_share_of_the_lowest_positive_are_dropped() -> None:
    # the lowest positive has 0.8, the limit is 0.8 * 0.9 = 0.72: p1 and p4 are too near
    similarity = cosines(0.9, 0.73, 0.8, 0.71, 0.95, 0.5, 0.1, 0.0, -0.5)
    example = Example("q", "what?", positive_ids=("p0", "p2"))
    result = mined(example, cosine=similarity, max_share=0.9)
    assert result.examples[0].negative_ids == ("p3", "p5", "p6")
    assert result.dropped["too near to the question"] == 2


def test_without_cosines_nothing_is_too_near() -> None:
    result = mined(Example("q", "what?", positive_ids=("p8",)), max_share=0.1)
    assert result.examples[0].negative_ids == ("p0", "p1", "p2")


def test_each_example_asks_for_its_own_cosines() -> None:
    def cosine(query: int, ids: Sequence[str]) -> np.ndarray:
        low = query == 1  # everything is too near to the second question
        return np.array([1.0 if low or i == "p8" else 0.0 for i in ids], np.float32)

    examples = [Example(f"q{i}", f"what {i}?", positive_ids=("p8",)) for i in range(2)]
    result = mined(*examples, cosine=cosine)
    assert [e.negative_ids for e in result.examples] == [("p0", "p1", "p2"), ()]
    assert result.too_few == ["q1"]


def test_fewer_than_asked_are_kept_and_reported_and_no_example_is_dropped() -> None:
    positives = tuple(f"p{i}" for i in range(7))
    few, none = (
        Example("few", "a?", positive_ids=positives),
        Example("none", "b?", answerable=False),
    )
    many = Example("many", "c?", positive_ids=("p0",))
    result = mined(few, none, many)
    assert [e.id for e in result.examples] == ["few", "none", "many"]
    assert [e.negative_ids for e in result.examples] == [("p7", "p8"), (), ("p1", "p2", "p3")]
    assert result.too_few == ["few"]


def test_everything_else_of_an_example_stays() -> None:
    example = Example("q", "what?", ("an answer",), ("p0",), meta={"page": 3})
    (result,) = mined(example).examples
    assert result == replace(example, negative_ids=("p1", "p2", "p3"))


def test_sampling_draws_from_all_candidates_and_is_reproducible() -> None:
    examples = [Example(f"q{i}", f"what {i}?", positive_ids=("p8",)) for i in range(30)]
    drawn = [e.negative_ids for e in mined(*examples, pick="sample", seed=1).examples]
    assert all(len(set(ids)) == 3 for ids in drawn)
    assert {i for ids in drawn for i in ids} == CORPUS.keys() - {"p8"}
    again = [e.negative_ids for e in mined(*examples[::-1], pick="sample", seed=1).examples]
    assert again[::-1] == drawn  # an example's draw does not depend on the others
    other = [e.negative_ids for e in mined(*examples, pick="sample", seed=2).examples]
    assert other != drawn
