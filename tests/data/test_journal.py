"""The journal: what was bought is on disk, whatever instant the process is killed at."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.data.journal import (
    Journal,
    Recording,
    passage_sha256,
    read_journal,
    recording_key,
)
from ragkit.errors import DataError, RunError


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
    journal.append([FIRST])
    journal.append([NEXT, LATER])
    for opened in (journal, Journal(path)):
        assert [opened.get(k) for k in ("first", "next", "later")] == [FIRST, NEXT, LATER]
        assert opened.get("other") is None
        assert (len(opened), "next" in opened, "other" in opened) == (3, True, False)


def test_records_that_are_appended_together_are_found_each(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append([NEXT, FIRST])
    journal.append([])
    assert path.read_bytes() == line(NEXT) + line(FIRST)
    assert (journal.get("first"), journal.get("next")) == (FIRST, NEXT)


def test_a_record_is_in_the_file_as_soon_as_it_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).append([FIRST])
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
        Journal(path).append([LATER])
        kept = [FIRST, NEXT, LATER] if cut == len(raw) - 1 else [FIRST, LATER]
        assert list(read_journal(path)) == kept
        opened = Journal(path)
        assert len(opened) == len(kept)
        assert all(opened.get(r["key"]) == r for r in kept)


def test_a_cut_line_is_told_in_the_log(tmp_path: Path, log_lines: list[str]) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line(FIRST) + line(NEXT)[:20])
    assert list(read_journal(path)) == [FIRST]
    assert log_lines == [f"{path}:2: cut short, left out"]


def test_a_journal_that_was_killed_before_its_first_byte_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.touch()
    journal = Journal(path)
    assert len(journal) == 0
    journal.append([FIRST])
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


def bare(of: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in of.items() if k != "key"}


def test_a_recording_without_key_is_found_by_passage_and_style(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line(bare(FIRST)))
    key = recording_key(passage_sha256("first"), "factoid")
    assert key in Journal(path)
    found = Recording(path).get(passage_sha256("first"), "factoid")
    assert found is not None and found["response"] == FIRST["response"]
    assert Recording(path).get(passage_sha256("first"), "how-to") is None
    assert Recording(path).get(passage_sha256("second"), "factoid") is None


def test_of_two_recordings_of_one_passage_and_style_the_later_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line(FIRST) + line({**FIRST, "key": "again", "response": "second"}))
    found = Recording(path).get(passage_sha256("first"), "factoid")
    assert found is not None and found["response"] == "second"


def test_a_passage_is_known_by_its_texts_and_their_borders() -> None:
    assert passage_sha256("ab", "c") != passage_sha256("a", "bc") != passage_sha256("abc")


def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder; a journal is a file"):
        list(read_journal(tmp_path))


def test_a_journal_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="no journal can be kept there: (Not a dir|File exists)"):
        Journal(tmp_path / "file" / "journal.jsonl")


@pytest.mark.parametrize("broken", ["fsync", "truncate"])
def test_a_full_disk_is_one_message_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append([FIRST])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        if broken == "truncate":  # not even that is possible any more
            patch.setattr("os.truncate", full)
        with pytest.raises(RunError, match=r"journal\.jsonl: cannot be written: No space left"):
            journal.append([NEXT, LATER])
    assert journal.get("first") == FIRST
    assert "next" not in journal and "later" not in journal
    if broken == "fsync":
        assert path.read_bytes() == line(FIRST)
    journal.append([LATER])
    assert Journal(path).get("first") == FIRST
    assert Journal(path).get("later") == journal.get("later") == LATER


FULL = """
import json, resource, signal, sys
from pathlib import Path
from ragkit.data.journal import Journal
from ragkit.errors import RunError

path, records, limit = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(path)
journal.append(records[:1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    journal.append(records[1:-1])
except RunError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(records[-1:])
"""


@pytest.mark.parametrize(("size", "count", "limit"), [(1000, 2, 700), (200, 20, 4000)])
def test_a_file_that_may_grow_no_further_keeps_its_whole_records(
    tmp_path: Path, size: int, count: int, limit: int
) -> None:
    path = tmp_path / "journal.jsonl"
    records = [FIRST, *(record(f"k{i}", "z" * size) for i in range(count)), LATER]
    given = [sys.executable, "-c", FULL, str(path), json.dumps(records), str(limit)]
    printed = subprocess.run(given, capture_output=True, text=True, check=True).stdout
    assert printed == f"{path}: cannot be written: File too large\n"
    assert list(read_journal(path)) == [FIRST, LATER]


def test_the_line_that_another_process_left_unfinished_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append([FIRST])
    with path.open("ab") as f:  # another process on the same journal, killed while it wrote
        f.write(line(NEXT)[:40])
    journal.append([LATER])
    assert path.read_bytes() == line(FIRST) + line(LATER)
    assert journal.get("later") == Journal(path).get("later") == LATER


def test_the_last_line_is_found_however_long_it_is(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    long = record("long", "x" * 200_000)
    path.write_bytes(line(FIRST) + line(long)[:-5])
    assert len(Journal(path)) == 1
    assert path.read_bytes() == line(FIRST)
    path.write_bytes(line(FIRST) + line(long)[:-1])
    assert len(Journal(path)) == 2


def test_who_asks_reads_first_what_others_have_bought(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    mine, other = Journal(path), Journal(path)
    mine.append([FIRST])
    with other.asking() as news:
        assert news and other.get("first") == FIRST
        other.append([NEXT])
    with other.asking() as news:
        assert not news
    with mine.asking() as news:
        assert news and mine.get("next") == NEXT


def test_only_one_asks_with_a_journal_and_the_others_wait(
    tmp_path: Path, log_lines: list[str]
) -> None:
    path = tmp_path / "journal.jsonl"
    journal, other = Journal(path), Journal(path)
    seen: list[int] = []

    def ask() -> None:
        with other.asking() as news:
            seen.append(len(other) if news else -1)

    with journal.asking():
        waiting = threading.Thread(target=ask)
        waiting.start()
        while not log_lines:
            time.sleep(0.01)
        journal.append([FIRST])
        assert not seen
    waiting.join(timeout=30)
    assert seen == [1]
    assert log_lines == [f"{path}: waiting for another run that asks with this journal"]


def test_of_two_records_of_one_key_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line(FIRST) + line({**FIRST, "response": "bought twice"}))
    journal = Journal(path)
    assert journal.get("first") == FIRST
    journal.append([{**FIRST, "response": "and again"}])
    assert journal.get("first") == Journal(path).get("first") == FIRST
