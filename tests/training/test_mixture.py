"""Shares of an epoch, and turns in which sources give their items."""

from collections import Counter

import pytest

from ragkit.training.mixture import Mixture, Source, shares


def source(name: str, size: int, weight: float = 1.0) -> Source:
    return Source(size, lambda number, epoch: (name, number, epoch), weight)


def epoch_of(mixture: Mixture, epoch: int) -> list[tuple[str, int, int]]:
    mixture.begin_epoch(epoch)
    return [mixture[i] for i in range(len(mixture))]


@pytest.mark.parametrize(
    ("sizes", "weights", "expected"),
    [
        ([10], [3.0], [10]),
        ([10, 10], [1, 1], [10, 10]),
        ([90, 10], [1, 1], [50, 50]),
        ([90, 10], [3, 1], [75, 25]),
        ([5, 5], [2, 1], [7, 3]),  # 6.67 and 3.33: the larger remainder gets what is left
        ([1, 1, 1], [1, 1, 1], [1, 1, 1]),
        ([20, 3, 3], [1, 1e-6, 1e-6], [24, 1, 1]),  # not none, in any epoch
    ],
)
def test_an_epoch_is_shared_out_by_weight(
    sizes: list[int], weights: list[float], expected: list[int]
) -> None:
    assert shares(sizes, weights) == expected


def test_an_account_says_what_an_epoch_has_of_each_source() -> None:
    def item(number: int, _: int) -> int:
        return number

    mixture = Mixture([Source(90, item, 3.0, "qa.jsonl"), Source(10, item, 1.0, "chat.jsonl")], 0)
    assert mixture.account() == (
        "an epoch has 100 items: 75 (75.0%) from the 90 of qa.jsonl, "
        "25 (25.0%) from the 10 of chat.jsonl"
    )


def test_a_single_source_gives_each_item_once_an_epoch() -> None:
    found = epoch_of(Mixture([source("a", 7)], 0), 3)
    assert found == [("a", i, 3) for i in range(7)]


def test_no_item_comes_again_before_all_others_were_there() -> None:
    mixture = Mixture([source("large", 90), source("small", 10)], 0)
    seen: Counter[tuple[str, int]] = Counter()
    for epoch in range(9):
        found = epoch_of(mixture, epoch)
        assert Counter(name for name, _, _ in found) == {"large": 50, "small": 50}
        seen.update((name, number) for name, number, _ in found)
        for name in ("large", "small"):
            counts = [n for (of, _), n in seen.items() if of == name]
            assert max(counts) - min(counts) <= 1
    assert {n for (of, _), n in seen.items() if of == "small"} == {45}
    assert {n for (of, _), n in seen.items() if of == "large"} == {5}


def test_an_epoch_is_the_same_whenever_it_is_asked_for() -> None:
    sources = [source("a", 30, 2.0), source("b", 10)]
    whole = Mixture(sources, 0)
    expected = [epoch_of(whole, e) for e in range(4)]
    assert epoch_of(Mixture(sources, 0), 3) == expected[3]
    assert epoch_of(Mixture(sources, 1), 3) != expected[3]
    assert expected[2] != expected[3]
