"""ragkit's own files: whole or not at all, and malformed lines told or set aside."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from ragkit.data import files
from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError, RunError

GOOD = '{"id": "a", "text": "One."}\n'


def test_a_writer_that_raises_leaves_the_old_file_whole_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.atomic_write(path) as f:
        f.write("new, but not all of it")
        f.flush()
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_not_there_before_all_of_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "x.txt"
    with files.atomic_write(path) as f:
        f.write("text")
        f.flush()
        assert not path.exists()
    assert path.read_text() == "text"


def test_records_that_cannot_be_made_leave_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    files.write_jsonl(path, [{"n": 1}])

    def records() -> object:
        yield {"n": 2}
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        files.write_jsonl(path, records())
    assert files.read_jsonl(path) == [{"n": 1}]


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(tmp_path / "x.json", {"mean": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"x\.json: cannot be written: Not a directory"):
        files.write_json(tmp_path / "file" / "deeper" / "x.json", {})


def test_lines_end_in_a_bare_newline_and_text_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert files.write_jsonl(path, [{"t": "é"}, {"t": "日"}]) == 2
    assert path.read_bytes() == '{"t": "é"}\n{"t": "日"}\n'.encode()


def test_passages_and_examples_written_are_read_the_same(tmp_path: Path) -> None:
    passages = {"a": Passage("a", "One.\n\u2028Two.", "T", "d", {"k": [1]}), "b": Passage("b", "x")}
    examples = [Example("e", "Why?", ("so",), ("a",), ("b",))]
    files.write_passages(tmp_path / "corpus.jsonl", passages.values())
    files.write_examples(tmp_path / "train.jsonl", examples)
    corpus = files.read_corpus(tmp_path / "corpus.jsonl")
    assert corpus == passages
    assert files.read_examples(tmp_path / "train.jsonl", corpus) == examples


def test_passages_are_read_one_at_a_time_and_malformed_lines_told_at_the_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "passages.jsonl"
    path.write_text(GOOD + "{oh\n" + GOOD.replace("a", "b"))
    found = files.read_passages(path)
    assert [next(found).id, next(found).id] == ["a", "b"]
    with pytest.raises(DataError, match=r"passages\.jsonl:2: not JSON"):
        next(found)


def test_all_malformed_lines_are_told_at_once_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(GOOD + "\n{not json}\n" + '{"id": "b"}\n' + '{"text": "x"}\n')
    with pytest.raises(DataError) as caught:
        files.read_corpus(path)
    assert str(caught.value).splitlines() == [
        f"{path}:3: not JSON: Expecting property name enclosed in double quotes (column 2)",
        f"{path}:4: text: missing",
        f"{path}:5: id: missing",
    ]


def test_of_many_malformed_lines_ten_are_told_and_all_counted(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("[]\n" * 25)
    with pytest.raises(DataError) as caught:
        files.read_corpus(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == f"{path}: 25 bad lines in all (--skip-bad sets them aside)"


def test_skip_bad_sets_malformed_lines_aside_and_counts_them(
    tmp_path: Path, log_lines: list[str]
) -> None:
    path, aside = tmp_path / "corpus.jsonl", tmp_path / "bad-lines.jsonl"
    path.write_text("{oh\n" + GOOD + '{"id": "b"}\n')
    assert list(files.read_corpus(path, aside)) == ["a"]
    found = files.read_jsonl(aside)
    assert [(r["line"], r["text"].strip()) for r in found] == [(1, "{oh"), (3, '{"id": "b"}')]
    assert [r["file"] for r in found] == [str(path)] * 2
    assert found[1]["reason"] == "text: missing"
    assert log_lines == [f"{path}: bad lines set aside: 2, in {aside}"]


def test_without_bad_lines_nothing_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(GOOD)
    files.read_corpus(tmp_path / "corpus.jsonl", tmp_path / "bad-lines.jsonl")
    assert not (tmp_path / "bad-lines.jsonl").exists()


def test_lines_set_aside_again_by_a_resumed_run_are_in_the_file_once(tmp_path: Path) -> None:
    path, aside = tmp_path / "corpus.jsonl", tmp_path / "bad-lines.jsonl"
    path.write_text("{oh\n" + GOOD)
    files.read_corpus(path, aside)
    files.read_corpus(path, aside)
    assert len(files.read_jsonl(aside)) == 1


def test_an_example_naming_an_unknown_passage_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(
        '{"id": "e1", "question": "?", "positive_ids": ["a"]}\n'
        '{"id": "e2", "question": "?", "positive_ids": ["zz"]}\n'
        '{"id": "e3", "question": "?", "negative_ids": ["yy"]}\n'
    )
    with pytest.raises(DataError) as caught:
        files.read_examples(path, {"a": Passage("a", "One.")})
    assert str(caught.value).splitlines() == [
        f"{path}:2: positive_ids: unknown passage 'zz' (the corpus has 1 passages; was it chunked "
        "again?)",
        f"{path}:3: negative_ids: unknown passage 'yy' (the corpus has 1 passages; was it chunked "
        "again?)",
    ]


def test_a_repeated_example_id_is_told(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"id": "e", "question": "a"}\n{"id": "e", "question": "b"}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:2: id: 'e' is already in this file"):
        files.read_examples(path)


def test_two_texts_of_one_id_are_told_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(GOOD + '{"id": "a", "text": "Two."}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: id: 'a' .*corpus\.jsonl:1: 'One\.'"):
        files.read_corpus(path)


@pytest.mark.parametrize("text", ["", "\n\n  \n"])
def test_an_empty_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"x\.jsonl: no passages in it"):
        files.read_corpus(path)
    with pytest.raises(DataError, match=r"x\.jsonl: no examples in it"):
        files.read_examples(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: No such file"):
        files.read_corpus(tmp_path / "none.jsonl")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert files.read_corpus(path) == {"a": Passage("a", "One.")}


def test_bytes_that_are_not_utf_8_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(GOOD.encode() + '{"id": "b", "text": "Café"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: byte 0xe9 is not UTF-8"):
        files.read_corpus(path)


def test_skip_bad_sets_a_line_that_is_not_utf_8_aside(tmp_path: Path) -> None:
    path, aside = tmp_path / "corpus.jsonl", tmp_path / "bad-lines.jsonl"
    path.write_bytes(GOOD.encode() + b'{"id": "b", "text": "Caf\xe9"}\n')
    assert list(files.read_corpus(path, aside)) == ["a"]
    assert [r["line"] for r in files.read_jsonl(aside)] == [2]


@pytest.mark.parametrize(
    "line", ['{"id":"a","text":"x","meta":{"n":NaN}}', '{"id":"a","text":"\\ud83d"}']
)
def test_what_cannot_be_written_is_refused_when_it_is_read(tmp_path: Path, line: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=r"corpus\.jsonl:1: "):
        files.read_corpus(path)


def test_a_line_that_is_nested_too_deeply_is_told_or_set_aside_like_any_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n' + "[" * 100_000 + "]" * 100_000 + "\n")
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: nested too deeply$"):
        files.read_corpus(path)
    assert list(files.read_corpus(path, tmp_path / "bad-lines.jsonl")) == ["a"]


def test_the_column_of_a_line_that_breaks_off_is_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "a",\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl:1: not JSON: .* \(column 12\)$"):
        files.read_corpus(path)


def test_json_that_is_broken_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{\n"a": 1,\n}')
    with pytest.raises(DataError, match=r"x\.json:3: not JSON"):
        files.read_json(path)


def test_an_unknown_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(DataError, match=r"^encoding: 'utf-9' is not known"):
        files.read_text(tmp_path / "x.txt", "utf-9")


def test_file_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    raw = os.urandom(3_000_000)
    (tmp_path / "x").write_bytes(raw)
    assert files.sha256_file(tmp_path / "x") == hashlib.sha256(raw).hexdigest()


def test_texts_that_differ_only_in_where_they_are_cut_have_other_hashes() -> None:
    assert files.sha256_text("a", "b") != files.sha256_text("ab", "")
    assert files.sha256_text("ab") != files.sha256_text("ab", "")
    assert files.sha256_text("a", "b") == files.sha256_text("a", "b")


def test_trec_files_have_the_columns_of_trec_eval(tmp_path: Path) -> None:
    files.write_trec_run(tmp_path / "run", {"q1": {"b": 1 / 3, "a": 0.25}}, tag="me")
    files.write_trec_qrels(tmp_path / "qrels", {"q1": {"a": 1, "b": 2}})
    assert (tmp_path / "run").read_text() == "q1 Q0 b 1 0.333333333 me\nq1 Q0 a 2 0.25 me\n"
    assert (tmp_path / "qrels").read_text() == "q1 0 a 1\nq1 0 b 2\n"


def test_a_written_json_file_ends_in_a_newline(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", {"a": "é"})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "é" in text
    assert json.loads(text) == {"a": "é"}
