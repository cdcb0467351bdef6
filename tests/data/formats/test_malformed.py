"""Files that were cut or garbled: they are read, or what is wrong is said, without a traceback."""

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragkit.data.formats import FORMATS, detect
from ragkit.data.formats.dataset import Chat, Dataset, Options
from ragkit.data.schema import Turn
from ragkit.errors import DataError

JUNK = (
    "null", "[]", "{}", "3", "true", '""', '" "', "[null]", '{"a": 1}', ",", "\t", "\n", '"',
    "NaN", '"\\ud800"', "--5", "\u00b2",
)  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_garbled_file_is_read_or_told_as_wrong(
    name: str, dataset: Dataset, data: st.DataObject
) -> None:
    chats = [Chat("c1", (Turn("user", "Hi"), Turn("assistant", "Hello")))]
    whole = Dataset(dataset.corpus, dataset.splits, chats)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        FORMATS[name].write(folder, whole, Options())
        path = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file())))
        text = path.read_text()
        ends = [i for i, c in enumerate(text) if c in ' ,:[]{}"\t\n'] + [len(text)]
        start, end = sorted(data.draw(st.tuples(*[st.sampled_from(ends)] * 2)))
        path.write_text(text[:start] + data.draw(st.sampled_from(JUNK)) + text[end:])
        with contextlib.suppress(DataError):
            detect(folder)
        with contextlib.suppress(DataError):
            found = FORMATS[name].read(folder, Options())
            for example in found.examples:
                assert {*example.positive_ids, *example.negative_ids} <= set(found.corpus)
            FORMATS[name].write(folder / "again", found, Options())
