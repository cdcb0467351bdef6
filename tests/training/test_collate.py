"""Batches: each passage once, known positives masked, negatives drawn afresh and reproducibly."""

import pytest

from ragkit.data.schema import Example, Turn, known_positives
from ragkit.training.collate import Pair, PairCollator, PairDataset

POOL = tuple(f"n{i}" for i in range(8))


def collator(*examples: Example) -> PairCollator:
    """Return a collator whose texts have one token: 1, 2, ... queries, 101, 102, ... passages."""
    passages = sorted({i for e in examples for i in (*e.positive_ids, *e.negative_ids)})
    return PairCollator(
        queries={e.id: [i] for i, e in enumerate(examples, start=1)},
        passages={passage_id: [i] for i, passage_id in enumerate(passages, start=101)},
        known=known_positives(examples),
    )


def test_each_distinct_passage_is_encoded_once() -> None:
    a = Example("a", "a?", positive_ids=("p1",), negative_ids=("p2", "p3"))
    b = Example("b", "b?", positive_ids=("p1",), negative_ids=("p3",))
    c = Example("c", "c?", positive_ids=("p2",))
    pairs = [Pair(a, "p1", ("p2", "p3")), Pair(b, "p1", ("p3",)), Pair(c, "p2", ())]
    batch = collator(a, b, c)(pairs)
    assert batch["token_ids"] == [[1], [2], [3], [101], [102], [103]]
    assert batch["n_queries"] == 3
    assert batch["positive"].tolist() == [0, 0, 1]
    assert batch["ignore"].shape == (3, 3)
    assert not batch["ignore"].any()
    assert batch["example_ids"] == ["a", "b", "c"]


def test_other_positives_of_a_question_are_masked_and_its_own_is_not() -> None:
    a = Example("a", "a?", positive_ids=("p1", "p2"), negative_ids=("p3",))
    b = Example("b", "b?", positive_ids=("p2",))
    batch = collator(a, b)([Pair(a, "p1", ("p3",)), Pair(b, "p2", ())])
    # columns: p1, p2, p3
    assert batch["positive"].tolist() == [0, 1]
    assert batch["ignore"].tolist() == [[False, True, False], [False, False, False]]


def test_all_positives_of_the_same_question_are_masked_whichever_example_names_them() -> None:
    a = Example("a", "What is it?", positive_ids=("p1",))
    b = Example("b", "what  is IT?", positive_ids=("p2",))
    elsewhere = Example("c", "What is it?", positive_ids=("p3",))
    other = Example("d", "Which?", positive_ids=("p3",))
    pairs = [Pair(a, "p1", ()), Pair(b, "p2", ()), Pair(other, "p3", ())]
    batch = collator(a, b, elsewhere, other)(pairs)
    assert batch["ignore"].tolist() == [
        [False, True, True],
        [True, False, True],
        [False, False, False],
    ]


def test_the_same_words_after_another_conversation_are_another_question() -> None:
    a = Example("a", "And then?", positive_ids=("p1",), history=(Turn("user", "The pump stops."),))
    b = Example("b", "And then?", positive_ids=("p2",), history=(Turn("user", "The fuse blows."),))
    batch = collator(a, b)([Pair(a, "p1", ()), Pair(b, "p2", ())])
    assert not batch["ignore"].any()


def test_a_negative_that_became_a_positive_is_masked() -> None:
    a = Example("a", "a?", positive_ids=("p1",), negative_ids=("p2",))
    relabelled = Example("b", "a?", positive_ids=("p2",))
    batch = collator(a, relabelled)([Pair(a, "p1", ("p2",))])
    assert batch["ignore"].tolist() == [[False, True]]


def test_examples_without_positives_are_left_out() -> None:
    answered = Example("a", "a?", positive_ids=("p1",))
    dataset = PairDataset([answered, Example("b", "b?", answerable=False)], 1, 0)
    assert [dataset[i].example for i in range(len(dataset))] == [answered]


def drawn(dataset: PairDataset, epoch: int) -> list[tuple[str, ...]]:
    dataset.begin_epoch(epoch)
    return [dataset[i].negative_ids for i in range(len(dataset))]


def test_negatives_are_drawn_afresh_each_epoch_and_reproducibly() -> None:
    examples = [Example(f"q{i}", f"{i}?", (), ("p",), POOL) for i in range(20)]
    dataset = PairDataset(examples, 3, seed=7)
    first, second = drawn(dataset, 0), drawn(dataset, 1)
    assert all(len(set(ids)) == 3 and set(ids) <= set(POOL) for ids in first)
    assert first != second
    assert drawn(PairDataset(examples, 3, seed=7), 0) == first == drawn(dataset, 0)
    assert drawn(PairDataset(examples, 3, seed=8), 0) != first
    assert {i for ids in first for i in ids} == set(POOL)


def test_what_an_example_draws_does_not_depend_on_the_others() -> None:
    examples = [Example(f"q{i}", f"{i}?", (), ("p",), POOL) for i in range(5)]
    assert drawn(PairDataset(examples[::-1], 3, 7), 2)[::-1] == drawn(
        PairDataset(examples, 3, 7), 2
    )


@pytest.mark.parametrize(("pool", "expected"), [(POOL[:2], {"n0", "n1"}), ((), set())])
def test_an_example_with_fewer_negatives_gives_what_it_has(
    pool: tuple[str, ...], expected: set[str]
) -> None:
    (ids,) = drawn(PairDataset([Example("q", "q?", (), ("p",), pool)], 4, 0), 0)
    assert set(ids) == expected and len(ids) == len(expected)


def test_every_positive_has_its_turn() -> None:
    dataset = PairDataset([Example("q", "q?", positive_ids=("p1", "p2", "p3"))], 0, 0)
    seen = set()
    for epoch in range(30):
        dataset.begin_epoch(epoch)
        seen.add(dataset[0].positive_id)
    assert seen == {"p1", "p2", "p3"}
