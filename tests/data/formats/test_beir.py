"""BEIR folders: grades, splits, ids, and what is malformed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ragkit.data.formats import beir
from ragkit.data.formats.dataset import Dataset, Options
from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError


@pytest.fixture
def folder(jsonl: Callable[..., Path], tmp_path: Path) -> Path:
    """A BEIR folder with grades, a title without a text, and ids with white space."""
    jsonl("corpus.jsonl",
          {"_id": "d1", "title": "Pump", "text": "It starts.", "metadata": {"url": "u"}},
          {"_id": "d 2", "title": "", "text": "It opens."},
          {"_id": 3, "title": "Only a title", "text": ""})  # fmt: skip
    jsonl("queries.jsonl",
          {"_id": "q1", "text": "When?", "metadata": {}},
          {"_id": "q 2", "text": "Why?", "metadata": {"kind": "reason"}},
          {"_id": "q3", "text": "Who?"})  # fmt: skip
    (tmp_path / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td 2\t0", "q 2\td 2\t1"]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "qrels" / "train.tsv").write_text("q1\t3\t1\n")
    return tmp_path


def test_grades_splits_and_ids_are_read(folder: Path) -> None:
    found = beir.read(folder, Options())
    assert list(found.corpus.values()) == [
        Passage("d1", "It starts.", "Pump", meta={"url": "u"}),
        Passage("d-2", "It opens.", meta={"original_id": "d 2"}),
        Passage("3", "Only a title"),
    ]
    assert found.splits == {
        "test": [
            Example("q1", "When?", (), ("d1",), meta={"relevance": {"d1": 2, "d-2": 0}}),
            Example("q-2", "Why?", (), ("d-2",), meta={"kind": "reason", "original_id": "q 2"}),
        ],
        "train": [Example("q1", "When?", (), ("3",))],
        "examples": [Example("q3", "Who?")],
    }
    assert found.notes == [
        "1 passage without a text got the title as their text: ragkit's passages are never empty.",
        "1 query without judgements: in examples.jsonl.",
        "1 judgement graded above 1: positive_ids do not grade; the grades are in meta.relevance, "
        "and go back with an export.",
        "1 judgement of not relevant: not among positive_ids; they are in meta.relevance, and go "
        "back with an export.",
        "1 passage id had white space, which became '-' ('d 2' is 'd-2' now); what it was is in "
        "meta.original_id.",
        "1 query id had white space, which became '-' ('q 2' is 'q-2' now); what it was is in "
        "meta.original_id.",
    ]


def test_an_import_and_an_export_give_the_same_judgements_and_ids(
    folder: Path, tmp_path: Path
) -> None:
    beir.write(tmp_path / "out", beir.read(folder, Options()), Options())
    qrels = tmp_path / "out" / "qrels"
    assert (qrels / "test.tsv").read_text() == (folder / "qrels" / "test.tsv").read_text()
    assert (qrels / "train.tsv").read_text() == "query-id\tcorpus-id\tscore\nq1\t3\t1\n"
    queries = [json.loads(x) for x in (tmp_path / "out/queries.jsonl").read_text().splitlines()]
    assert queries == [
        {"_id": "q1", "text": "When?", "metadata": {}},
        {"_id": "q 2", "text": "Why?", "metadata": {"kind": "reason"}},
        {"_id": "q3", "text": "Who?", "metadata": {}},
    ]
    corpus = [json.loads(x) for x in (tmp_path / "out/corpus.jsonl").read_text().splitlines()]
    assert corpus[1] == {"_id": "d 2", "title": "", "text": "It opens.", "metadata": {}}


def test_judgements_of_what_is_not_there_are_told_or_set_aside(folder: Path) -> None:
    path = folder / "qrels" / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq9\td1\t1\nq1\td9\t1\nq1\td1\t0.5\nq1 d1 1\n"
                    "q1\td1\t1\nq1\td1\t1\n")  # fmt: skip
    with pytest.raises(DataError) as caught:
        beir.read(folder, Options())
    expected = "three columns and a whole score were expected: 'query-id\\tcorpus-id\\tscore'"
    assert str(caught.value).splitlines() == [
        f"{path}:2: query-id: 'q9' is not in queries.jsonl",
        f"{path}:3: corpus-id: 'd9' is not in corpus.jsonl",
        f"{path}:4: {expected}",
        f"{path}:5: {expected}",
        f"{path}:7: 'q1' and 'd1' are judged twice",
    ]
    found = beir.read(folder, Options(skip_bad=folder / "bad-lines.jsonl"))
    assert [e.positive_ids for e in found.splits["test"]] == [("d1",)]


def test_bad_passages_and_queries_are_told_with_their_lines(
    jsonl: Callable[..., Path], folder: Path
) -> None:
    path = jsonl("corpus.jsonl", {"_id": "d1", "text": "one"}, {"_id": "d1", "text": "two"},
                 {"text": "no id"}, {"_id": "d2", "text": " ", "title": ""}, ["list"])  # fmt: skip
    with pytest.raises(DataError) as caught:
        beir.read(folder, Options())
    assert str(caught.value).splitlines() == [
        f"{path}:2: id: 'd1' is already the id of another text",
        f"{path}:3: id: text or a whole number was expected, not None",
        f"{path}:4: text: empty, and no title",
        f"{path}:5: a JSON object was expected",
    ]


def test_two_files_of_one_split_are_an_error(folder: Path) -> None:
    (folder / "qrels" / "dev.tsv").write_text("q1\td1\t1\n")
    (folder / "qrels" / "valid.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(DataError, match=r"valid\.tsv: a second file of dev"):
        beir.read(folder, Options())


def test_one_id_for_different_questions_of_two_splits_cannot_be_written(tmp_path: Path) -> None:
    splits = {"train": [Example("q1", "When?")], "test": [Example("q1", "Why?")]}
    with pytest.raises(DataError, match="test: id: 'q1' is that of another question"):
        beir.write(tmp_path, Dataset(splits=splits), Options())
