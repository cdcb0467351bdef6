"""Strings packed in bytes."""

from hypothesis import given
from hypothesis import strategies as st

from ragkit.data.strings import Strings


@given(st.lists(st.text() | st.just("\ud83d")))
def test_strings_come_out_as_they_went_in(texts: list[str]) -> None:
    packed = Strings()
    for text in texts:
        packed.append(text)
    assert [packed[i] for i in range(len(packed))] == texts
