"""Evaluated run directories, written by hand, as compare and report read them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ragkit.data.files import read_json, write_json, write_jsonl
from ragkit.errors import DataError
from ragkit.stages import compare as compare_stage
from ragkit.stages.evaluated import Systems, is_ceiling, read_questions, read_ranking

Stage = Callable[..., Path]
Record = dict[str, Any]
FILES = ("per_query.jsonl", "predictions.jsonl")
QUESTIONS = 12
LOW, HIGH = [0.25] * QUESTIONS, [0.75] * QUESTIONS


def record(file: str, i: int, score: float = 0.5, **changes: Any) -> Record:
    asked = {
        "id": f"q{i}", "question": f"What is {i}?", "document": f"d{i}", "positive_ids": [f"p{i}"],
        "slices": ["odd" if i % 2 else "even"],
    }  # fmt: skip
    if file == "per_query.jsonl":
        return {**asked, "top_ids": [f"p{i}"], "scores": {"ndcg@10": score}, **changes}
    said = {
        "answer": f"It is {i}.", "abstained": False, "answerable": True, "references": [f"{i}"],
        "passages": [{"id": f"p{i}", "score": 1.0}], "answer_passage_ids": [f"p{i}"],
    }  # fmt: skip
    return {**asked, **said, "scores": {"f1": score}, **changes}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a run directory with a question a score, or with the records given; return it."""

    def run(
        name: str,
        scores: list[float] = LOW,
        records: list[Record] | None = None,
        file: str = "predictions.jsonl",
        **account: Any,
    ) -> Path:
        path = tmp_path / name
        command = "eval-e2e" if file == "predictions.jsonl" else "eval-retriever"
        told = {"command": command, "config": {}, "inputs": {}, "status": "done", **account}
        told |= {"code": "", "starts": [], "provenance": {}, "timings": {}}
        write_json(path / "run.json", told)
        found = records or [record(file, i, score) for i, score in enumerate(scores)]
        write_jsonl(path / file, found)
        return path

    return run


@pytest.fixture
def compared(stage: Stage, tmp_path: Path) -> Callable[..., Path]:
    """Compare run directories; return where that is."""
    output = str(tmp_path / "compared")
    return lambda *paths: stage("compare", True, runs=list(map(str, paths)), output=output)


def said(path: Path) -> str:
    """Return what is printed about a comparison, in one line."""
    console = Console(width=200, record=True)
    with console.capture() as captured:
        console.print(compare_stage.show(path), markup=False)
    return " ".join(captured.get().split())


def headline(stage: Stage, *paths: Path, folder: Path) -> str:
    """Return the first headline of a report of run directories."""
    path = stage("report", True, runs=list(map(str, paths)), output=str(folder / "report"))
    return str(read_json(path / "report.json")["headlines"][0]["statement"])


@pytest.mark.parametrize("command", ["compare", "report"])
@pytest.mark.parametrize("file", FILES)
def test_a_question_that_is_in_a_file_twice_is_an_error_with_its_line(
    stage: Stage, write: Callable[..., Path], tmp_path: Path, command: str, file: str
) -> None:
    records = [record(file, i) for i in (0, 1, 0)]
    path = write("twice", records=records, file=file)
    with pytest.raises(DataError, match=rf"twice/{file}:3: id: 'q0' is already in this file"):
        stage(command, runs=[str(path)], output=str(tmp_path / "out"))


@pytest.mark.parametrize("command", ["compare", "report"])
@pytest.mark.parametrize(
    ("file", "key"),
    [(FILES[0], key) for key in record(FILES[0], 0)]
    + [(FILES[1], key) for key in record(FILES[1], 0)],
)
def test_a_record_without_a_field_is_told_with_its_line(
    stage: Stage, write: Callable[..., Path], tmp_path: Path, command: str, file: str, key: str
) -> None:
    short = record(file, 1)
    del short[key]
    path = write("foreign", records=[record(file, 0), short], file=file)
    with pytest.raises(DataError, match=rf"foreign/{file}:2: {key}: missing; was this file") as e:
        stage(command, runs=[str(path)], output=str(tmp_path / "out"))
    assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 7}, "id: a text was expected, not '7'"),
        ({"abstained": "no"}, "abstained: true or false was expected"),
        ({"positive_ids": "p1"}, "positive_ids: a list of texts"),
        ({"scores": {"f1": "0.5"}}, "scores: a number for each metric"),
        ({"scores": {"f1": True}}, "scores: a number for each metric"),
        ({"passages": ["p1"]}, "passages: a list of {id, score}"),
        ({"history": [{"role": "user"}]}, "history: a list of {role, content}"),
        ({"judge": {"correct": {}}}, "judge: what a judge said by criterion, each with its mark"),
    ],
)
def test_a_field_of_another_shape_is_told(
    write: Callable[..., Path], change: Record, message: str
) -> None:
    path = write("odd", records=[record(FILES[1], 1, **change)])
    with pytest.raises(DataError, match=f"predictions.jsonl:1: {message}"):
        read_questions(path / FILES[1])


def test_lines_that_are_no_records_and_files_without_any_are_told(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    file.write_text('[1]\n{"id": \n')
    with pytest.raises(
        DataError, match=r"jsonl:1: a JSON object was expected \(1 more bad lines\)$"
    ):
        read_questions(file)
    file.write_text("")
    with pytest.raises(DataError, match="no record in it"):
        read_questions(file)


def test_slices_that_systems_see_otherwise_are_not_compared(
    write: Callable[..., Path], compared: Callable[..., Path]
) -> None:
    """As "seen documents" of two training sets."""

    def of(seen: set[int]) -> list[Record]:
        slices = [["odd" if i % 2 else "even", *(["seen"] if i in seen else [])] for i in range(8)]
        return [record(FILES[0], i, slices=names) for i, names in enumerate(slices)]

    runs = [write(n, records=of(s), file=FILES[0]) for n, s in (("a", {0, 1}), ("b", {2, 3}))]
    untrained = write("c", records=of(set()), file=FILES[0])
    path = compared(*runs, untrained)
    assert list(read_json(path / "comparison.json")["retrieval"]["slices"]) == ["even", "odd"]
    path = compared(runs[0], untrained)  # one that does not know a slice does not contradict
    found = read_json(path / "comparison.json")["retrieval"]["slices"]
    assert list(found) == ["even", "odd", "seen"]
    assert found["seen"]["systems"]["c"]["ndcg@10"]["n"] == 2


def test_gold_passages_are_a_ceiling_also_when_they_were_judged(
    stage: Stage, write: Callable[..., Path], compared: Callable[..., Path], tmp_path: Path
) -> None:
    base, tuned = write("base", LOW), write("tuned", HIGH)
    gold = write("gold", [1.0] * QUESTIONS, config={"passages": "gold"})
    judged = write("judged", [1.0] * QUESTIONS, command="judge", config={"runs": ["gold"]})
    assert [is_ceiling(p) for p in (base, gold, judged)] == [False, True, True]
    for ceiling in (gold, judged):
        path = compared(base, tuned, ceiling)
        assert read_json(path / "comparison.json")["answers"]["ceilings"] == [ceiling.name]
        assert "answers: highest f1 is tuned with 0.750, +0.500 from base" in said(path)
        assert f"given the right passages, and so left out here: {ceiling.name}" in said(path)
        assert "tuned" in headline(stage, base, tuned, ceiling, folder=tmp_path)
    assert "left out here" not in said(compared(gold, base))  # the baseline is none of the rivals
    path = compared(base, judged)
    assert "answers: no system is above base, whose f1 is 0.250; given the right" in said(path)


def test_a_comparison_whose_runs_are_gone_still_knows_its_ceilings(
    stage: Stage, write: Callable[..., Path], compared: Callable[..., Path], tmp_path: Path
) -> None:
    gold = write("gold", [1.0] * QUESTIONS, config={"passages": "gold"})
    path = compared(write("base", LOW), write("tuned", HIGH), gold)
    gold.rename(tmp_path / "moved")
    assert "tuned" in headline(stage, path, folder=tmp_path)


def test_the_headline_of_a_comparison_prefers_a_gain_that_is_shown(
    write: Callable[..., Path], compared: Callable[..., Path]
) -> None:
    sure = [0.35] * QUESTIONS
    lucky = [1.0 if i % 2 else 0.0 for i in range(QUESTIONS)]
    path = compared(write("base", LOW), write("lucky", lucky), write("sure", sure))
    gains = read_json(path / "comparison.json")["answers"]["differences"]
    assert gains["lucky"]["f1"]["mean"] == 0.25 > gains["sure"]["f1"]["mean"]
    assert gains["lucky"]["f1"]["ci95"][0] < 0
    assert "answers: highest f1 of those shown to gain is sure with 0.350" in said(path)


def test_a_question_without_an_answer_keeps_its_retrieval_scores(
    stage: Stage, write: Callable[..., Path], compared: Callable[..., Path], log_lines: list[str]
) -> None:
    whole = [record(FILES[1], i, scores={"f1": 0.5, "ndcg@10": 0.5}) for i in range(QUESTIONS)]
    failed = [{**whole[0], "answer": "", "failed": True, "scores": {"ndcg@10": 0.5}}, *whole[1:]]
    path = compared(write("base", records=whole), write("broken", records=failed))
    cells = read_json(path / "comparison.json")["answers"]["systems"]["base"]
    assert (cells["f1"]["n"], cells["ndcg@10"]["n"]) == (QUESTIONS - 1, QUESTIONS)
    assert any("answers: 1 questions that a system gave no answer to" in x for x in log_lines)
    slices = read_json(path / "comparison.json")["answers"]["slices"]
    assert slices["even"]["systems"]["base"]["f1"]["n"] == QUESTIONS // 2 - 1


def test_systems_asked_other_questions_are_refused(write: Callable[..., Path]) -> None:
    systems = Systems("answers")
    systems.add("base", write("base", LOW), FILES[1])
    message = "base and fewer were not asked the same questions .12 and 11; 'q11' is in one"
    with pytest.raises(DataError, match=message):
        systems.add("fewer", write("fewer", LOW[1:]), FILES[1])
    other = [record(FILES[1], i, positive_ids=["p0"]) for i in range(QUESTIONS)]
    with pytest.raises(DataError, match=r"question 'q1' is another one here than in .*base"):
        systems.add("other", write("other", records=other), FILES[1])
    assert list(systems.paths) == list(systems.sheets) == ["base"]


def test_the_ranking_of_a_judged_run_is_that_of_what_was_judged(
    write: Callable[..., Path],
) -> None:
    plain = write("plain")
    judged = write("judged", command="judge", config={"runs": ["plain"]})
    assert read_ranking(judged) == {}
    (plain / "run.trec").write_text("q0 Q0 p0 1 2.5 ragkit\n")
    assert read_ranking(judged) == read_ranking(plain) == {"q0": {"p0": 2.5}}
    gold = write("gold", config={"passages": "gold"})
    (gold / "run.trec").write_text("q0 Q0 p0 1 1 ragkit\n")
    assert read_ranking(gold) == {}
