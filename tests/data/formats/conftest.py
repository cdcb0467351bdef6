"""Files and data that the tests of several formats share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.formats.dataset import Dataset
from ragkit.data.schema import Example, Passage, Turn


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes objects as the lines of a file in the test's folder."""

    def write(name: str, *records: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write


@pytest.fixture
def dataset() -> Dataset:
    """Passages, questions of two splits, and among them what some format cannot hold."""
    corpus = [
        Passage("p1", "The pump starts at 5 volts.\nIt stops at 3.", "Pump", "manual", {"page": 1}),
        Passage("p2", "The valve opens in winter: „kalt“.", "Valve", "manual"),
        Passage("p3", "Nobody asks about the fuse."),
    ]
    history = (Turn("user", "Is there a valve?"), Turn("assistant", "Yes,\nthere is."))
    train = [
        Example("q1", "When does the pump start?", ("at 5 volts", "5 volts"), ("p1",), ("p2",)),
        Example("q2", "When does it open?", ("in winter",), ("p2", "p1"), history=history),
    ]
    test = [Example("q3", "What is the fuse for?", answerable=False, meta={"context_ids": ["p3"]})]
    return Dataset({p.id: p for p in corpus}, {"train": train, "test": test})
