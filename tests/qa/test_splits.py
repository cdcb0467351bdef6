"""The split of documents: seeded, stable, of the sizes asked for, the same in every process."""

import json
import os
import subprocess
import sys

import pytest

from ragkit.qa.splits import document_groups, split_documents

NAMES = [f"Guide {i}, größer" for i in range(4_000)]


def test_the_shares_are_those_asked_for() -> None:
    found = list(split_documents(NAMES, dev=0.1, test=0.25).values())
    # three standard deviations of a binomial over 4,000 documents
    assert found.count("dev") == pytest.approx(400, abs=57)
    assert found.count("test") == pytest.approx(1_000, abs=83)
    assert found.count("train") == 4_000 - found.count("dev") - found.count("test")


def test_a_share_of_nothing_takes_no_document() -> None:
    assert set(split_documents(NAMES, dev=0, test=0).values()) == {"train"}
    assert set(split_documents(NAMES, dev=0.5, test=0.5).values()) == {"dev", "test"}


def test_the_order_and_number_of_documents_does_not_move_any_of_them() -> None:
    whole = split_documents(NAMES, 0.1, 0.1)
    part = split_documents(NAMES[::-7], 0.1, 0.1)
    assert part == {name: whole[name] for name in NAMES[::-7]}
    assert list(part) == NAMES[::-7]


def test_another_seed_is_another_split() -> None:
    first, second = (split_documents(NAMES, 0.2, 0.2, seed) for seed in (0, 1))
    moved = sum(first[name] != second[name] for name in NAMES)
    # two independent draws of .6/.2/.2 differ with probability 1 - .36 - .04 - .04 = .56
    assert moved == pytest.approx(0.56 * 4_000, abs=95)


def test_a_larger_dev_share_takes_only_from_training() -> None:
    small, large = (split_documents(NAMES, dev, 0.1) for dev in (0.1, 0.3))
    for name in NAMES:
        assert small[name] == large[name] or (small[name], large[name]) == ("train", "dev")


def test_two_processes_with_different_hash_seeds_split_alike() -> None:
    program = (
        "import json, sys; from ragkit.qa.splits import split_documents; "
        "names = {f'doc {i}' for i in range(200)}; "
        "print(json.dumps(split_documents(names, 0.2, 0.2), sort_keys=True), hash('a'))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.rsplit(" ", 1)
        for seed in ("1", "2")
    ]
    (first, first_hash), (second, second_hash) = outputs
    assert first_hash != second_hash
    assert first == second
    assert json.loads(first) == split_documents([f"doc {i}" for i in range(200)], 0.2, 0.2)


def test_documents_that_are_kept_together_are_in_one_split() -> None:
    together = {f"Guide {i}, größer": f"Guide {i - i % 4}, größer" for i in range(400)}
    found = split_documents(NAMES, 0.3, 0.3, together=together)
    for i in range(400):
        assert found[f"Guide {i}, größer"] == found[f"Guide {i - i % 4}, größer"]
    assert len({found[f"Guide {i}, größer"] for i in range(0, 400, 4)}) == 3
    alone = split_documents(NAMES, 0.3, 0.3)
    assert all(found[name] == alone[name] for name in NAMES[400:])


def test_documents_that_share_a_fifth_of_the_smaller_ones_passages_are_a_group() -> None:
    sizes = {"a": 100, "b": 10, "c": 11}
    groups = [["a", "b"], ["b", "a", "a"], ["a", "c"], ["a", "c"]]
    # 2 of 10, and 2 of 11
    assert document_groups(sizes, groups) == {"b": "a"}


def test_groups_that_share_a_document_are_one_under_its_first_name() -> None:
    sizes = dict.fromkeys("abcde", 5)
    groups = [["d", "e"], ["c", "d"], ["a", "b"]]
    assert document_groups(sizes, groups) == {"b": "a", "d": "c", "e": "c"}


def test_two_documents_are_a_group_whoever_else_has_their_passages() -> None:
    # a and c share five passages of ten, each with another large document between them
    sizes = {"a": 10, "c": 10, **{f"b{i}": 100 for i in range(5)}}
    assert document_groups(sizes, [["a", f"b{i}", "c"] for i in range(5)]) == {"c": "a"}


def test_copies_within_a_document_make_no_group() -> None:
    assert document_groups({"a": 2, "b": 2}, [["a", "a"], ["b", "b"]]) == {}


@pytest.mark.parametrize(
    ("documents", "sizes"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (5, (3, 1, 1)), (10, (8, 1, 1))],
)
def test_few_documents_leave_no_split_empty_that_can_have_one(
    documents: int, sizes: tuple[int, int, int]
) -> None:
    names = [f"Guide {i}" for i in range(documents)]
    for seed in range(30):
        found = list(split_documents(names, 0.1, 0.1, seed).values())
        counts = tuple(found.count(split) for split in ("train", "dev", "test"))
        assert counts == sizes or 0 not in counts
        assert "train" in split_documents(names, 0.45, 0.45, seed).values()
    assert set(split_documents(names, 0, 0).values()) == {"train"}
