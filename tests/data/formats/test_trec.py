"""TREC's judgements and runs."""

from pathlib import Path

import pytest

from ragkit.data.formats import trec
from ragkit.data.formats.dataset import Dataset, Options
from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError

RUN = "q1 Q0 d2 1 7.5 ragkit\nq1 Q0 d1 2 7.5 ragkit\nq2 Q0 d1 1 -1 ragkit\n"


def test_judgements_and_ties_of_a_run_come_back_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "a.trec").write_text(RUN)
    (tmp_path / "b.txt").write_text("q1 0 d1 2\nq1 0 d2 0\nq2 0 d1 -1\n")
    (tmp_path / "README.txt").write_text("four words of text\n")
    found = trec.read(tmp_path, Options())
    assert found.runs == {"run": {"q1": {"d2": 7.5, "d1": 7.5}, "q2": {"d1": -1.0}}}
    assert found.qrels == {"qrels": {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}}
    assert found.notes == []
    trec.write(tmp_path / "out", found, Options())
    assert (tmp_path / "out" / "run.trec").read_text() == RUN
    assert (tmp_path / "out" / "qrels.trec").read_text() == (tmp_path / "b.txt").read_text()


def test_what_a_run_says_beside_the_scores_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bm25.run"
    path.write_text("q1 Q0 d1 2 1.0 bm25\nq1 Q0 d2 1 2.00000000001 bm25\n")
    found = trec.read(path, Options(corpus={"d1": Passage("d1", "x")}))
    assert found.notes == [
        "bm25.run: 1 query not in the order of the scores; evaluations go by the score and not by "
        "the rank.",
        "bm25.run: 1 score with more than nine digits were rounded to them, more than trec_eval's "
        "numbers have.",
        "bm25.run: the tag is ragkit now, and was bm25.",
        "run: 1 passage not in the corpus (the first: d2).",
    ]


def test_questions_are_exported_with_the_grades_that_they_had(tmp_path: Path) -> None:
    graded = Example("q1", "x", (), ("d1",), meta={"relevance": {"d1": 3, "d2": 0}})
    splits = {"dev": [graded], "test": [Example("q2", "y", (), ("d1", "d2"))]}
    corpus = {key: Passage(key, "x") for key in ("d1", "d2")}
    trec.write(tmp_path, Dataset(corpus, splits), Options())
    assert (tmp_path / "dev.qrels.trec").read_text() == "q1 0 d1 3\nq1 0 d2 0\n"
    assert (tmp_path / "test.qrels.trec").read_text() == "q2 0 d1 1\nq2 0 d2 1\n"


def test_all_malformed_lines_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    path.write_bytes(
        b"q1 Q0 d1 1 1.0 x\nq1 Q0 d1 2 0.5 x\nq1 Q0 d2 3 nan x\nq1 Q0 d3 4 high x\n"
        b"q1 d4\nq1 Q0 d\xff 1 1.0 x\n"
    )
    with pytest.raises(DataError) as caught:
        trec.read(path, Options())
    assert str(caught.value).splitlines() == [
        f"{path}:2: 'q1' has 'd1' twice",
        f"{path}:3: score: a number was expected, not 'nan'",
        f"{path}:4: score: a number was expected, not 'high'",
        f"{path}:5: 6 columns were expected, not 2",
        f"{path}:6: byte 0xff is not UTF-8",
    ]
    path.write_text("q1 0 d1 1\nq1 0 d2 yes\n")
    with pytest.raises(DataError, match=r"a\.run:2: relevance: a whole number was expected"):
        trec.read(path, Options())
    path.write_text("")
    with pytest.raises(DataError, match="neither judgements"):
        trec.read(path, Options())


def test_a_run_is_read_as_it_was_written_and_its_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text(RUN)
    assert trec.read_run(path) == {"q1": {"d2": 7.5, "d1": 7.5}, "q2": {"d1": -1.0}}
    path.write_text(RUN + "q3 Q0 d1 1 high ragkit\nq3 Q0\n")
    with pytest.raises(DataError, match=r"run\.trec:4: score: .*'high'\n.*run\.trec:5: 6 columns"):
        trec.read_run(path)
