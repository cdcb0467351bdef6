"""Mining again: when it happens, what an epoch draws from, and what a resumed one reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from ragkit.data.files import read_jsonl, write_jsonl
from ragkit.data.schema import Example
from ragkit.errors import RunError
from ragkit.training.collate import PairDataset
from ragkit.training.remining import RemineNegatives, negatives_file

BARE = [Example(f"q{i}", f"what {i}?", positive_ids=("p",)) for i in range(3)]
MINED = [Example(e.id, e.question, (), ("p",), ("old",)) for e in BARE]


class Miner:
    """Gives every example one negative, named by the count of the mining."""

    def __init__(self, folder: Path, examples: Sequence[Example] = MINED, every: int = 1) -> None:
        self.count = 0
        self.learnt: list[Sequence[Example]] = []
        self.dataset = PairDataset(examples, 1, 0)
        self.arguments = TrainingArguments(output_dir=str(folder / "out"), use_cpu=True)
        self.callback = RemineNegatives(
            folder,
            self.dataset,
            None,
            self.mine,
            every,
            self.learnt.append,  # type: ignore[arg-type]
            lambda: None,
        )

    def mine(self, _: Any) -> list[Example]:
        self.count += 1
        again = [Example(e.id, e.question, (), ("p",), (f"n{self.count}",)) for e in BARE]
        return [*again, Example("without", "a positive?")]

    def begin(self, progress: float) -> tuple[str, ...]:
        """Begin an epoch; return what its first example draws from."""
        state = TrainerState(epoch=progress)
        self.callback.on_epoch_begin(self.arguments, state, TrainerControl())
        return self.dataset[0].example.negative_ids


def test_the_first_epoch_keeps_the_negatives_that_it_has(tmp_path: Path) -> None:
    miner = Miner(tmp_path)
    assert [miner.begin(e) for e in (0, 1, 2)] == [("old",), ("n1",), ("n2",)]


def test_without_negatives_the_first_epoch_is_mined_too(tmp_path: Path) -> None:
    miner = Miner(tmp_path, BARE)
    assert [miner.begin(e) for e in (0, 1)] == [("n1",), ("n2",)]


def test_between_two_minings_the_last_ones_stay(tmp_path: Path) -> None:
    miner = Miner(tmp_path, every=2)
    found = [miner.begin(e) for e in range(5)]
    assert found == [("old",), ("old",), ("n1",), ("n1",), ("n2",)]
    assert {p.name for p in tmp_path.glob("neg*")} == {
        "negatives-epoch-2.jsonl", "negatives-epoch-4.jsonl"
    }  # fmt: skip


def test_the_passages_of_new_negatives_are_told_before_they_are_drawn(tmp_path: Path) -> None:
    miner = Miner(tmp_path)
    miner.begin(1)
    assert [e.negative_ids for e in miner.learnt[-1]] == [("n1",)] * 3


@pytest.mark.parametrize("progress", [1.0, 1.5])
def test_a_resumed_epoch_takes_what_was_mined_for_it(tmp_path: Path, progress: float) -> None:
    Miner(tmp_path).begin(1)
    other = Miner(tmp_path)
    other.count = 7
    assert other.begin(progress) == ("n1",)
    assert other.count == 7
    assert read_jsonl(negatives_file(tmp_path, 1))[0] == {"id": "q0", "negative_ids": ["n1"]}


def test_an_epoch_whose_negatives_are_lost_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"negatives-epoch-1\.jsonl: missing; .*--restart"):
        Miner(tmp_path).begin(1.5)
    write_jsonl(negatives_file(tmp_path, 1), [{"id": e.id, "negative_ids": ["x"]} for e in BARE])
    assert Miner(tmp_path).begin(1.5) == ("x",)
