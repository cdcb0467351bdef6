"""The table of hashes, against a dict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragkit.data import hashes
from ragkit.data.hashes import HashTable


@given(
    added=st.dictionaries(st.integers(-(2**63), 2**64 - 1), st.integers(0, 2**40), max_size=60),
    asked=st.lists(st.integers(-(2**63), 2**64 - 1), max_size=10),
    recent=st.integers(1, 20),
)
def test_it_holds_what_a_dict_holds(added: dict[int, int], asked: list[int], recent: int) -> None:
    expected = {key % 2**64: value for key, value in added.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashes, "_RECENT", recent)
        table = HashTable()
        for key, value in expected.items():
            assert key not in table
            table.add(key, value)
            assert table.get(key) == value
    assert len(table) == len(expected)
    for key in [*added, *asked]:
        assert table.get(key) == expected.get(key % 2**64)
        assert (key in table) is (key % 2**64 in expected)


def test_a_negative_hash_is_known_by_its_bits() -> None:
    table = HashTable()
    table.add(-1, 7)
    assert table.get(2**64 - 1) == 7
