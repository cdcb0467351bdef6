"""Which format a file or folder is of, and the ids and splits that formats share."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ragkit.data.formats import detect
from ragkit.data.formats.dataset import Collected, Ids, distinct, split_of
from ragkit.data.schema import Passage
from ragkit.errors import DataError


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("train_w_q.jsonl", {"gold_docs": [], "questions": ["x"]}, "localrqa"),
        ("a.csv", "Title;Abstract;question\n", "dalm"),
        ("a.csv", '\ufeff"Passage","Query"\n', "dalm"),
        ("a.csv", "Title,Abstract\n", "table"),
        ("a.jsonl", {"question": "x", "passage_id": "y"}, "table"),
        ("dev-v2.0.json", {"version": "v2.0", "data": [{"paragraphs": []}]}, "squad"),
        ("a.jsonl", {"text": "Hello.\n<human>: Hi"}, "openchatkit"),
        ("a.jsonl", {"text": "about <human>: tags"}, "table"),
        ("run", "q1 Q0 d1 1 0.5 bm25\n", "trec"),
        ("qrels.txt", "q1 0 d1 1\n", "trec"),
    ],
)
def test_a_format_is_found_by_content(
    name: str, content: object, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert detect(path) == expected
    assert detect(tmp_path) == expected


def test_an_unknown_or_doubtful_input_lists_the_formats(
    jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    every = "localrqa, dalm, beir, squad, chatrag, openchatkit, trec, table"
    (tmp_path / "notes.txt").write_text("nothing of the kind")
    with pytest.raises(DataError, match=f"not of a format that is known.*--from: {every}"):
        detect(tmp_path)
    jsonl("a.jsonl", {"text": "<human>: Hi"})
    jsonl("b_w_q.jsonl", {"gold_docs": [], "questions": ["x"]})
    with pytest.raises(DataError, match="could be localrqa or openchatkit; say it with --from"):
        detect(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train_w_qa.jsonl", "train"),
        ("eval_w_q.jsonl", "dev"),
        ("dev-v1.1.json", "dev"),
        ("qa_valid.csv", "dev"),
        ("Test.json", "test"),
        ("qa_v2dev.jsonl", "dev"),
        ("latest.csv", "examples"),
        ("training.csv", "examples"),
    ],
)
def test_a_split_is_a_word_of_the_name(name: str, split: str) -> None:
    assert split_of(Path(name)) == split


def test_ids_lose_their_white_space_and_are_taken_once() -> None:
    ids = Ids()
    assert ids.take("a b\tc") == "a-b-c"
    assert ids.take(7) == "7"
    for wrong in ("a-b-c", "", " ", None, True, 1.5):
        with pytest.raises(ValueError, match="id: "):
            ids.take(wrong)
    assert ids.make("x") != ids.make("x")
    assert ids.changed == {"a b\tc": "a-b-c"}


def test_a_passage_is_kept_once_and_its_other_fields_are_not_lost_silently() -> None:
    passages = Collected({})
    assert passages.add(Passage("a", "x", meta={"page": 1})) == "a"
    assert passages.add(Passage("a", "x", meta={"page": 1})) == "a"
    assert list(passages.notes()) == []
    assert passages.add(Passage("a", "x", meta={"page": 2})) == "a"
    assert len(list(passages.notes())) == 1
    with pytest.raises(ValueError, match="'a' is already the id of another text"):
        passages.add(Passage("a", "y"))


def test_repeated_answers_go_with_their_offsets() -> None:
    assert distinct(["a", " ", "b", "a"], [1, 2, 3, 4]) == (("a", "b"), [1, 3])
    assert distinct(["a", "b"], [1]) == (("a", "b"), None)
