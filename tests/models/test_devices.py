"""Devices: which one a process gets, and work side by side on a CPU's threads."""

import threading
from collections.abc import Iterator

import pytest
import torch

from ragkit.errors import ModelError
from ragkit.models.devices import pick_device, side_by_side

CPU = torch.device("cpu")


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_each_rank_of_a_machine_has_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1)
    assert pick_device("cpu") == CPU


def test_a_device_that_is_not_there_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="device: cuda is not available"):
        pick_device("cuda")


def test_results_come_in_order_from_threads_that_do_not_share_operations(
    three_threads: None,
) -> None:
    gate = threading.Barrier(3, timeout=60)

    def work(item: int) -> tuple[int, int]:
        gate.wait()  # broken unless three are at work at once
        return item, torch.get_num_threads()

    assert list(side_by_side(work, range(6), CPU)) == [(i, 1) for i in range(6)]
    assert torch.get_num_threads() == 3


def test_one_item_has_all_threads(three_threads: None) -> None:
    assert list(side_by_side(lambda _: torch.get_num_threads(), [0], CPU)) == [3]


def test_an_accelerator_takes_one_item_at_a_time(three_threads: None) -> None:
    workers = side_by_side(lambda _: threading.current_thread(), [0, 1], torch.device("cuda"))
    assert set(workers) == {threading.current_thread()}


def test_a_failure_is_raised_and_the_threads_are_given_back(three_threads: None) -> None:
    def fail(item: int) -> int:
        if item == 1:
            raise ValueError("no")
        return item

    with pytest.raises(ValueError, match="no"):
        list(side_by_side(fail, range(9), CPU))
    assert torch.get_num_threads() == 3
