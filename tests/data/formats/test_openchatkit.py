"""OpenChatKit's text of human and bot, plain and compressed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from ragkit.data.formats import openchatkit
from ragkit.data.formats.dataset import Chat, Dataset, Options
from ragkit.data.schema import Turn
from ragkit.errors import DataError

TEXT = "<human>: Write a list:\n- one\n<bot>: - two\n\n- three\n<human>: Thanks <bot>: no\n<bot>: "
TURNS = (
    Turn("user", "Write a list:\n- one"),
    Turn("assistant", "- two\n\n- three"),
    Turn("user", "Thanks <bot>: no"),
    Turn("assistant", ""),
)


@pytest.mark.parametrize("above", ["", "It is Monday.\nBe kind."])
def test_turns_begin_with_a_line_and_may_have_many(above: str) -> None:
    system = (Turn("system", above),) if above else ()
    text = f"{above}\n{TEXT}" if above else TEXT
    assert openchatkit.turns_of(text) == (*system, *TURNS)
    assert openchatkit.render((*system, *TURNS)) == text


def test_an_import_and_an_export_give_the_same_lines(
    jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    records = [{"id": "a 1", "text": TEXT, "source": "x"}, {"id": "2", "text": "<human>: Hi"}]
    found = openchatkit.read(jsonl("chats.jsonl", *records), Options())
    assert found.chats[0] == Chat("a-1", TURNS, {"source": "x", "original_id": "a 1"})
    assert openchatkit.write(tmp_path / "out", found, Options()) == []
    lines = (tmp_path / "out" / "chat.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == records


def test_other_spacing_is_counted(jsonl: Callable[..., Path]) -> None:
    found = openchatkit.read(jsonl("a.jsonl", {"text": "\n<human>:Hi\n<bot>: Yes"}), Options())
    assert found.chats[0].messages == (Turn("user", "Hi"), Turn("assistant", "Yes"))
    assert found.notes == ["1 text had other white space around the tags than an export writes."]


def test_compressed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b'{"text": "<human>: Hi"}\n'))
    assert openchatkit.looks_like(path)
    assert openchatkit.read(path, Options()).chats[0].messages == (Turn("user", "Hi"),)


def test_messages_that_would_be_read_as_two_are_left_out(tmp_path: Path) -> None:
    chats = [Chat("a", (Turn("user", "x\n<bot>: y"),)), Chat("b", (Turn("user", "x"),))]
    notes = openchatkit.write(tmp_path, Dataset(chats=chats), Options())
    assert notes[0].startswith("1 conversation left out: <human>: or <bot>: begins a line")
    assert len((tmp_path / "chat.jsonl").read_text().splitlines()) == 1


def test_questions_are_exported_with_their_history_and_first_answer(
    dataset: Dataset, tmp_path: Path
) -> None:
    openchatkit.write(tmp_path, dataset, Options())
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [
        "<human>: When does the pump start?\n<bot>: at 5 volts",
        "<human>: Is there a valve?\n<bot>: Yes,\nthere is.\n"
        "<human>: When does it open?\n<bot>: in winter",
    ]
    assert not (tmp_path / "test.jsonl").exists()


def test_all_malformed_lines_are_told_at_once(jsonl: Callable[..., Path]) -> None:
    path = jsonl("a.jsonl", {"text": "no turns"}, {"text": 3}, {"text": "<bot>: x"})
    with pytest.raises(DataError) as caught:
        openchatkit.read(path, Options())
    assert str(caught.value).splitlines() == [
        f"{path}:1: text: no line begins with <human>: or <bot>:",
        f"{path}:2: an object with a text was expected",
    ]


def test_ragkits_own_chats_are_checked(jsonl: Callable[..., Path]) -> None:
    path = jsonl("chat.jsonl", {"id": "1", "messages": [{"role": "judge", "content": "x"}]})
    with pytest.raises(DataError, match=r"chat\.jsonl:1: role: user, assistant or system"):
        openchatkit.read_chats(path, None)
