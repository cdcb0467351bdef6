"""The journal: what was bought is on disk, whatever instant the process is killed at."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.data.journal import Journal, passage_sha256, read_journal, recording_key
from ragkit.errors import DataError


def record(key: str, response: str, **more: object) -> dict[str, Any]:
    return {
        "key": key,
        "passage_sha256": passage_sha256(key),
        "style": "factoid",
        "response": response,
        **more,
    }


FIRST = record("first", 'An answer with "quotes", a\nnewline and é.')
NEXT = record("next", '[{"question": "Why {x}?", "answer": "日本"}]', usage={"prompt": {"n": 7}})
LATER = record("later", "bought after the accident")


def line(of: dict[str, Any]) -> bytes:
    return json.dumps(of, ensure_ascii=False).encode() + b"\n"


def test_records_are_found_by_key_when_the_journal_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append(FIRST)
    journal.append(NEXT)
    assert journal.by_key == Journal(path).by_key == {"first": FIRST, "next": NEXT}


def test_a_record_is_in_the_file_as_soon_as_it_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).append(FIRST)
    assert path.read_bytes() == line(FIRST)


@settings(deadline=None, max_examples=6)
@given(response=st.text(max_size=30), n=st.integers())
def test_a_line_cut_at_any_byte_costs_only_itself(
    tmp_path_factory: pytest.TempPathFactory, response: str, n: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    last = record("last", response.encode(errors="ignore").decode(), usage={"n": n})
    raw = line(last)
    for cut in range(len(raw)):
        path.write_bytes(line(FIRST) + raw[:cut])
        whole = cut == len(raw) - 1  # all but its newline
        assert list(read_journal(path)) == ([FIRST, last] if whole else [FIRST])


def test_a_journal_cut_at_any_byte_takes_further_records_and_is_read_again(tmp_path: Path) -> None:
    raw = line(NEXT)
    for cut in range(len(raw)):
        path = tmp_path / f"{cut}.jsonl"
        path.write_bytes(line(FIRST) + raw[:cut])
        Journal(path).append(LATER)
        kept = [FIRST, NEXT, LATER] if cut == len(raw) - 1 else [FIRST, LATER]
        assert list(read_journal(path)) == kept
        assert Journal(path).by_key == {r["key"]: r for r in kept}


def test_a_cut_line_is_told_in_the_log(tmp_path: Path, log_lines: list[str]) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line(FIRST) + line(NEXT)[:20])
    assert list(read_journal(path)) == [FIRST]
    assert log_lines == [f"{path}:2: cut short, left out"]


def test_a_journal_that_was_killed_before_its_first_byte_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.touch()
    journal = Journal(path)
    assert journal.by_key == {}
    journal.append(FIRST)
    assert list(read_journal(path)) == [FIRST]


def test_a_whole_line_that_is_no_json_is_told_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line(FIRST) + b"{'single': 'quotes'}\n")
    with pytest.raises(DataError, match=r"journal\.jsonl:2: not a journal record"):
        list(read_journal(path))


def test_a_record_without_its_fields_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"key": "k", "style": "factoid"}\n')
    with pytest.raises(DataError, match="1: a record without passage_sha256, response"):
        list(read_journal(path))


def test_a_line_that_is_json_but_no_object_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"5\n")
    with pytest.raises(DataError, match=r"journal\.jsonl:1: not a journal record"):
        list(read_journal(path))


def test_a_recording_without_key_is_found_by_passage_and_style(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    bare = {k: v for k, v in FIRST.items() if k != "key"}
    path.write_bytes(line(bare))
    key = recording_key(passage_sha256("first"), "factoid")
    assert Journal(path).by_key == {key: {"key": key, **bare}}
