"""A corpus that stays in its file: the same passages as one in memory, the same complaints."""

from pathlib import Path

import pytest

from ragkit.data.corpus import CorpusFile, open_corpus
from ragkit.data.files import read_corpus, read_jsonl, write_jsonl
from ragkit.errors import DataError

PASSAGES = [
    {"id": "a", "text": "the fuse", "title": "Gateway"},
    {"id": "é", "text": "zwölf volts", "meta": {"n": 1}},
    {"id": "c", "text": "a relay", "doc_id": "d"},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "corpus.jsonl", PASSAGES)
    return tmp_path / "corpus.jsonl"


def test_passages_are_those_of_the_file_in_its_order(path: Path) -> None:
    corpus, expected = open_corpus(path), read_corpus(path)
    assert list(corpus) == ["a", "é", "c"]
    assert dict(corpus) == expected == dict(CorpusFile(path))
    assert len(corpus) == 3
    assert "b" not in corpus


def test_blank_lines_a_mark_at_the_start_and_passages_given_twice_do_no_harm(path: Path) -> None:
    first, *others = path.read_text().splitlines()
    path.write_text(f"\ufeff{first}\n\n{others[0]}\r\n{first}\n  \n{others[1]}", encoding="utf-8")
    corpus = open_corpus(path)
    assert list(corpus) == ["a", "é", "c"]
    assert dict(corpus) == read_corpus(path)


def test_one_id_of_two_texts_is_refused_with_both_lines(path: Path) -> None:
    with path.open("a") as f:
        f.write('{"id": "a", "text": "another"}\n')
    with pytest.raises(DataError, match=r"corpus.jsonl:4: id: 'a' is already .*corpus.jsonl:1; "):
        open_corpus(path)


def test_malformed_lines_are_refused_or_set_aside(path: Path, tmp_path: Path) -> None:
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join(["{", first, '{"id": "x"}', *others]))
    with pytest.raises(DataError, match="corpus.jsonl:1: .*\n.*corpus.jsonl:3: "):
        open_corpus(path)
    corpus = open_corpus(path, tmp_path / "bad-lines.jsonl")
    assert list(corpus) == ["a", "é", "c"]
    assert corpus["c"].text == "a relay"
    assert [r["line"] for r in read_jsonl(tmp_path / "bad-lines.jsonl")] == [1, 3]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_passages_is_refused(content: str, path: Path) -> None:
    path.write_text(content)
    with pytest.raises(DataError, match="no passages in it"):
        open_corpus(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        open_corpus(tmp_path / "corpus.jsonl")


def test_a_compressed_corpus_is_read_too(path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    compressed = path.with_suffix(".jsonl.zst")
    compressed.write_bytes(zstandard.compress(path.read_bytes()))
    assert dict(open_corpus(compressed)) == read_corpus(path)


def test_ids_that_are_numbers_are_found_by_their_digits(path: Path) -> None:
    write_jsonl(path, [{"id": 7, "text": "the fuse"}, {"id": "b", "text": "a relay"}])
    corpus = open_corpus(path)
    assert list(corpus) == ["7", "b"] and corpus["7"].text == "the fuse"
    assert dict(corpus) == read_corpus(path)
