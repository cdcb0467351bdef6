"""DALM's CSVs in both conventions of their columns."""

import csv
from pathlib import Path

import pytest

from ragkit.config.blocks import Columns, QuestionColumns
from ragkit.data.formats import dalm
from ragkit.data.formats.dataset import Dataset, Options
from ragkit.errors import DataError


@pytest.mark.parametrize(
    "header",
    [
        "Title,Passage,Query,Answer",
        "Title,Abstract,Question,Answer",
        "title,ABSTRACT,question,answer",
    ],
)
def test_both_conventions_are_read_and_rows_of_a_passage_share_its_id(
    header: str, tmp_path: Path
) -> None:
    path = tmp_path / "train.csv"
    rows = ["Pump,It starts.,When?,Now", 'Pump,It starts.,Why?,""', "Pump,It starts.,When?,Soon"]
    path.write_text("\ufeff" + "\n".join([header, *rows]) + "\n")
    assert dalm.looks_like(path)
    found = dalm.read(path, Options())
    when, why = found.splits["train"]
    assert (when.question, when.answers) == ("When?", ("Now", "Soon"))
    assert (why.question, why.answers) == ("Why?", ())
    assert when.positive_ids == why.positive_ids == tuple(found.corpus)
    passage = found.corpus[when.positive_ids[0]]
    assert (passage.title, passage.text) == ("Pump", "It starts.")
    assert found.notes == [
        "train.csv: 1 row of a question that came before (another answer or passage of it) became "
        "one example with that."
    ]


def test_columns_can_be_named_and_others_go_into_meta(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Doc,Ask,Reply,Year\nIt starts.,When?,Now,1999\n")
    options = Options(Columns(text="Doc"), QuestionColumns(question="Ask", answers="Reply"))
    example = dalm.read(tmp_path, options).splits["examples"][0]
    assert (example.question, example.answers, example.meta) == (
        "When?",
        ("Now",),
        {"Year": "1999"},
    )
    with pytest.raises(DataError, match=r"a\.csv: no column 'Text'; there are Doc, Ask, Reply"):
        dalm.read(tmp_path, Options(Columns(text="Text")))
    with pytest.raises(DataError, match=r"a\.csv: no column of passages; there are Doc"):
        dalm.read(tmp_path, Options())
    with pytest.raises(DataError, match=r"columns\.section: DALM's rows have columns\.text"):
        dalm.read(tmp_path, Options(Columns(section="Year")))


def test_rows_without_a_question_are_passages(tmp_path: Path) -> None:
    (tmp_path / "knowledge.csv").write_text("Title,Abstract\nPump,It starts.\nValve,It opens.\n")
    (tmp_path / "toy.csv").write_text("Question,Abstract\nWhen?,It starts.\n,It leaks.\n")
    found = dalm.read(tmp_path, Options())
    assert [p.rendered for p in found.corpus.values()] == [
        "Pump\nIt starts.", "Valve\nIt opens.", "It starts.", "It leaks.",
    ]  # fmt: skip
    assert [e.question for e in found.examples] == ["When?"]
    assert found.notes == ["toy.csv has no column of answers."]


def test_an_export_has_the_columns_that_are_asked_for(dataset: Dataset, tmp_path: Path) -> None:
    options = Options(Columns(text="Abstract"), QuestionColumns(question="Question"))
    dalm.write(tmp_path, dataset, options)
    with (tmp_path / "train.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == [
        "Title", "Abstract", "Question", "Answer", "passage_id", "question_id",
    ]  # fmt: skip
    assert [(r["Title"], r["Question"], r["Answer"]) for r in rows] == [
        ("Pump", "When does the pump start?", "at 5 volts"),
        ("Pump", "When does the pump start?", "5 volts"),
        ("Valve", "When does it open?", "in winter"),
        ("Pump", "When does it open?", "in winter"),
    ]
    assert rows[0]["Abstract"] == "The pump starts at 5 volts.\nIt stops at 3."
    with (tmp_path / "corpus.csv").open(newline="") as f:
        assert [row["passage_id"] for row in csv.DictReader(f)] == ["p1", "p2", "p3"]


def test_bad_rows_are_told_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Passage,Query,question_id\n,When?,1\nx,Why?,1\nx,What?,1\nx,Why?\n")
    with pytest.raises(DataError) as caught:
        dalm.read(path, Options())
    assert str(caught.value).splitlines() == [
        f"{path}:2: the text of a passage is empty",
        f"{path}:4: question_id: '1' is already that of another question",
        f"{path}:5: 2 cells where the header has 3",
    ]
    path.write_text("")
    with pytest.raises(DataError, match="a.csv: the file is empty"):
        dalm.read(path, Options())
