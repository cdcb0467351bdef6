"""Batches: each passage once, known positives masked, negatives drawn afresh and reproducibly."""

import math
from typing import Any

import pytest
import torch

from ragkit.config.training import Contrastive
from ragkit.data.schema import Example, Turn, known_positives
from ragkit.errors import DataError
from ragkit.training.candidates import candidates
from ragkit.training.collate import Pair, PairCollator, PairDataset
from ragkit.training.examples import check_contrast

POOL = tuple(f"n{i}" for i in range(8))


def collator(*examples: Example) -> PairCollator:
    """Return a collator whose texts have one token: 1, 2, ... queries, 101, 102, ... passages."""
    passages = sorted({i for e in examples for i in (*e.positive_ids, *e.negative_ids)})
    return PairCollator(
        queries={e.id: [i] for i, e in enumerate(examples, start=1)},
        passages={passage_id: [i] for i, passage_id in enumerate(passages, start=101)},
        known=known_positives(examples),
    )


def ignored(batch: dict[str, Any]) -> list[list[bool]]:
    """Return for each query which passages of the batch are no negatives of it."""
    return candidates(batch["rows"]).ignore.tolist()


def test_each_distinct_passage_is_encoded_once() -> None:
    a = Example("a", "a?", positive_ids=("p1",), negative_ids=("p2", "p3"))
    b = Example("b", "b?", positive_ids=("p1",), negative_ids=("p3",))
    c = Example("c", "c?", positive_ids=("p2",))
    pairs = [Pair(a, "p1", ("p2", "p3")), Pair(b, "p1", ("p3",)), Pair(c, "p2", ())]
    batch = collator(a, b, c)(pairs)
    assert batch["token_ids"] == [[1], [2], [3], [101], [102], [103]]
    assert batch["n_queries"] == 3
    assert batch["rows"]["positive"].tolist() == [0, 0, 1]
    assert batch["rows"]["passages"].tolist() == [0, 1, 2]
    assert ignored(batch) == [[False] * 3] * 3
    assert batch["example_ids"] == ["a", "b", "c"]
    assert batch["passage_ids"] == ["p1", "p2", "p3"]


def test_other_positives_of_a_question_are_masked_and_its_own_is_not() -> None:
    a = Example("a", "a?", positive_ids=("p1", "p2"), negative_ids=("p3",))
    b = Example("b", "b?", positive_ids=("p2",))
    batch = collator(a, b)([Pair(a, "p1", ("p3",)), Pair(b, "p2", ())])
    # columns: p1, p2, p3
    assert batch["rows"]["positive"].tolist() == [0, 1]
    assert ignored(batch) == [[False, True, False], [False, False, False]]


def test_all_positives_of_the_same_question_are_masked_whichever_example_names_them() -> None:
    a = Example("a", "What is it?", positive_ids=("p1",))
    b = Example("b", "what  is IT?", positive_ids=("p2",))
    elsewhere = Example("c", "What is it?", positive_ids=("p3",))
    other = Example("d", "Which?", positive_ids=("p3",))
    pairs = [Pair(a, "p1", ()), Pair(b, "p2", ()), Pair(other, "p3", ())]
    batch = collator(a, b, elsewhere, other)(pairs)
    assert ignored(batch) == [
        [False, True, True],
        [True, False, True],
        [False, False, False],
    ]


def test_the_same_words_after_another_conversation_are_another_question() -> None:
    a = Example("a", "And then?", positive_ids=("p1",), history=(Turn("user", "The pump stops."),))
    b = Example("b", "And then?", positive_ids=("p2",), history=(Turn("user", "The fuse blows."),))
    batch = collator(a, b)([Pair(a, "p1", ()), Pair(b, "p2", ())])
    assert ignored(batch) == [[False, False], [False, False]]


def test_a_negative_that_became_a_positive_is_masked() -> None:
    a = Example("a", "a?", positive_ids=("p1",), negative_ids=("p2",))
    relabelled = Example("b", "a?", positive_ids=("p2",))
    batch = collator(a, relabelled)([Pair(a, "p1", ("p2",))])
    assert ignored(batch) == [[False, True]]


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


def test_negatives_of_the_batch_are_drawn_from_those_of_all_its_questions() -> None:
    """LocalRQA's pooled sample: a share of the batch size, whoever the negatives belong to."""
    examples = [Example(f"q{i}", f"{i}?", (), (f"p{i}",), POOL[i:]) for i in range(8)]
    whole = collator(*examples)
    loss = Contrastive(hard_neg_ratio=0.4)
    pooled = PairCollator(whole.queries, whole.passages, whole.known, loss, batch_size=8)
    dataset = PairDataset(examples, None, 0)
    drawn = set()
    for epoch in range(30):
        dataset.begin_epoch(epoch)
        pairs = [dataset[i] for i in range(8)]
        batch = pooled(pairs)
        assert batch["passage_ids"][:8] == [f"p{i}" for i in range(8)]
        assert batch["passage_ids"] == pooled(pairs)["passage_ids"]  # again: the same
        negatives = batch["passage_ids"][8:]
        assert len(set(negatives)) == 3  # 0.4 * 8, rounded
        drawn.update(negatives)
    assert drawn == set(POOL)


def test_a_pooled_negative_is_never_a_positive_of_the_batch_and_there_is_at_least_one() -> None:
    a = Example("a", "a?", positive_ids=("p1",), negative_ids=("p2", "p3"))
    b = Example("b", "b?", positive_ids=("p2",), negative_ids=("p1",))
    whole = collator(a, b)
    pooled = PairCollator(
        whole.queries, whole.passages, whole.known, Contrastive(hard_neg_ratio=0.05)
    )
    dataset = PairDataset([a, b], None, 0)
    for epoch in range(10):
        dataset.begin_epoch(epoch)
        assert pooled([dataset[0], dataset[1]])["passage_ids"] == ["p1", "p2", "p3"]


def test_what_a_batch_can_hold_at_most_follows_from_its_size() -> None:
    example = Example("a", "a?", positive_ids=("p1",))
    whole = collator(example)

    def limits(size: int | None, **loss: Any) -> object:
        made = PairCollator(whole.queries, whole.passages, whole.known, Contrastive(**loss), size)
        return made([Pair(example, "p1", ())])["rows"]["limits"]

    assert limits(16, n_negatives=3) == (16, 64)
    assert limits(16, hard_neg_ratio=0.25) == (16, 20)
    assert limits(None) is None


def test_the_teachers_scores_of_what_was_drawn_come_with_the_batch() -> None:
    a = Example("a", "a?", (), ("p1",), ("p2", "p3"), scores={"p1": 9.0, "p2": 1.5, "p3": -2.0})
    b = Example("b", "b?", (), ("p2",), ("p1",), scores={"p2": 4.0})
    c = Example("c", "c?", (), ("p4",), ("p1",), scores={"p1": 4.0})
    whole = collator(a, b, c)
    loss = Contrastive(distillation={"method": "kl"})
    taught = PairCollator(whole.queries, whole.passages, whole.known, loss)
    batch = taught([Pair(a, "p1", ("p3",)), Pair(b, "p2", ("p1",)), Pair(c, "p4", ("p1",))])
    assert batch["passage_ids"] == ["p1", "p2", "p4", "p3"]
    # b has no score of a second candidate and c none of its positive: both are left out
    nan = math.nan
    expected = torch.tensor([[9.0, 1.5, nan, -2.0], [nan] * 4, [nan] * 4])
    torch.testing.assert_close(batch["teacher"], expected, equal_nan=True)


def test_one_passage_gives_nothing_to_contrast() -> None:
    examples = [Example("a", "a?", positive_ids=("p1",)), Example("b", "b?", positive_ids=("p1",))]
    with pytest.raises(DataError, match=r"nothing to contrast: .* one passage only \(p1\)"):
        check_contrast(examples, Contrastive(), 64)


def test_a_question_alone_in_its_batch_gives_nothing_to_contrast() -> None:
    examples = [Example("a", "a?", positive_ids=("p1",)), Example("b", "b?", positive_ids=("p2",))]
    with pytest.raises(DataError, match="loop.batch_size is 1"):
        check_contrast(examples, Contrastive(), 1)
    check_contrast(examples, Contrastive(), 2)
    check_contrast(examples, Contrastive(), 1, mines=True)
    check_contrast([Example("a", "a?", (), ("p1",), ("p2",))], Contrastive(), 1)


def test_distillation_without_scores_is_an_error_and_missing_ones_are_counted_once(
    log_lines: list[str],
) -> None:
    loss = Contrastive(distillation={})
    bare = Example("a", "a?", (), ("p1",), ("p2",))
    scored = Example("b", "b?", (), ("p1",), ("p2",), scores={"p1": 1.0, "p2": 0.0})
    with pytest.raises(DataError, match="no training example has a teacher's scores"):
        check_contrast([bare], loss, 4)
    check_contrast([bare, scored, scored], loss, 4)
    (line,) = log_lines
    assert line.startswith("1 of 3 training examples have no teacher's scores")
