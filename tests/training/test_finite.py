"""A loss that is not a number stops training, with the batch's ids in a file and in the message."""

import json
import math
from pathlib import Path

import pytest
import torch

from ragkit.errors import ModelError
from ragkit.training import finite
from ragkit.training.finite import LossWatch

IDS = {"example_ids": [f"q{i}" for i in range(7)], "passage_ids": ["p1", "p2"]}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_batch_is_named_and_written_down(value: float, tmp_path: Path) -> None:
    watch = LossWatch(tmp_path)
    watch.see(torch.tensor(1.5), example_ids=["fine"], passage_ids=["p"])
    file = tmp_path / "bad-batch.json"
    assert not file.exists()
    with pytest.raises(ModelError) as error:
        watch.see(torch.tensor(value, requires_grad=True), **IDS)
    message = str(error.value)
    assert f"the loss is {value} on a batch with the examples q0, q1, q2, q3, q4, ..." in message
    assert str(file) in message
    assert json.loads(file.read_text()) == {"loss": str(value), **IDS}


def test_without_a_folder_the_message_has_it_all() -> None:
    watch = LossWatch()
    watch.see(torch.tensor(1.0), example_ids=["fine"], passage_ids=[])
    with pytest.raises(ModelError, match=r"examples a, b; lower the learning rate"):
        watch.see(torch.tensor(math.nan), example_ids=["a", "b"], passage_ids=[])


def test_before_anything_was_learned_it_is_the_model_that_is_broken() -> None:
    with pytest.raises(ModelError, match=r"examples a; nothing was learned .* not all numbers"):
        LossWatch().see(torch.tensor(math.nan), example_ids=["a"], passage_ids=[])


class Copy:
    """A copy to the host that is under way."""

    def __init__(self) -> None:
        self.here = self.waited = False

    def query(self) -> bool:
        return self.here

    def synchronize(self) -> None:
        self.here = self.waited = True


def test_a_loss_of_a_device_is_looked_at_when_it_has_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = [Copy(), Copy(), Copy()]
    under_way = iter(copies)
    monkeypatch.setattr(finite, "copied_to_host", lambda loss: (loss, next(under_way)))
    watch = LossWatch(tmp_path)
    watch.see(torch.tensor(1.0), example_ids=["a"], passage_ids=[])
    watch.see(torch.tensor(math.nan), example_ids=["b"], passage_ids=[])
    copies[0].here = True
    watch.see(torch.tensor(math.nan), example_ids=["c"], passage_ids=[])
    assert [c.waited for c in copies] == [False] * 3
    with pytest.raises(ModelError, match="examples b"):
        watch.check()
    assert [c.waited for c in copies] == [False, True, False]
