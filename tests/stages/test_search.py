"""search: a question, or a file of them, over a corpus."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragkit.config.load import Source, build
from ragkit.data.files import read_jsonl, write_jsonl
from ragkit.errors import ConfigError, RunError
from ragkit.stages import STAGES, pipeline

TOPICS = ["fuse", "relay", "valve", "pump"]
BM25 = {"type": "bm25"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    passages = [{"id": t, "title": f"The {t}", "text": f"A {t} takes a cable."} for t in TOPICS]
    write_jsonl(folder / "corpus.jsonl", passages)
    write_jsonl(folder / "test.jsonl", [{"id": f"q-{t}", "question": f"{t}?"} for t in TOPICS])
    return folder


@pytest.fixture
def values(data: Path, tmp_path: Path) -> dict[str, Any]:
    return {"retriever": BM25, "output": str(tmp_path / "run")}


def test_a_question_finds_its_passages_with_score_title_and_text(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    corpus = str(data / "corpus.jsonl")
    path = stage("search", **values, query="what takes a relay cable", corpus=corpus, top_k=2)
    (result,) = read_jsonl(path / "results.jsonl")
    first, second = result["passages"]
    assert first.pop("score") > second["score"]
    assert first == {"id": "relay", "title": "The relay", "text": "A relay takes a cable."}
    lines = [line.split() for line in (path / "run.trec").read_text().splitlines()]
    assert [(line[0], line[2], line[3]) for line in lines] == [
        ("query", "relay", "1"),
        ("query", second["id"], "2"),
    ]


def test_a_file_of_questions_is_searched_in_the_corpus_beside_it(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    path = stage("search", **values, query=str(data / "test.jsonl"))
    found = {r["id"]: [p["id"] for p in r["passages"]] for r in read_jsonl(path / "results.jsonl")}
    assert found == {f"q-{t}": [t] for t in TOPICS}
    assert "4 questions searched" in str(STAGES["search"].load().show(path))


def test_a_dense_search_finds_the_passage_that_is_asked_for_word_by_word(
    stage: Callable[..., Path], values: dict[str, Any], data: Path, tiny_encoder: Path
) -> None:
    values["retriever"] = {"type": "dense", "model": str(tiny_encoder)}
    corpus = str(data / "corpus.jsonl")
    path = stage("search", **values, query="The pump\nA pump takes a cable.", corpus=corpus)
    (result,) = read_jsonl(path / "results.jsonl")
    assert result["passages"][0]["id"] == "pump"
    assert result["passages"][0]["score"] == pytest.approx(1.0, abs=1e-3)
    assert len(result["passages"]) == 4


def test_nothing_found_says_so(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    path = stage("search", **values, query="zzz", corpus=str(data / "corpus.jsonl"))
    assert read_jsonl(path / "results.jsonl")[0]["passages"] == []
    assert "nothing found" in str(STAGES["search"].load().show(path))


def test_a_question_without_a_corpus_asks_which_one(
    stage: Callable[..., Path], values: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"corpus: missing; which passages"):
        stage("search", **values, query="what takes a cable")


def test_a_file_that_is_not_there_is_named(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl: no such file"):
        stage("search", **values, query=str(data / "none.jsonl"))


def test_a_weight_that_is_chosen_on_dev_cannot_be_searched_with(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    values["retriever"] = {"type": "fused", "method": "weighted"}
    with pytest.raises(ConfigError, match="give a number"):
        stage("search", **values, query=str(data / "test.jsonl"))


def test_questions_that_changed_are_not_passed_off_as_searched(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    stage("search", **values, query=str(data / "test.jsonl"))
    write_jsonl(data / "test.jsonl", [{"id": "new", "question": "pump?"}])
    with pytest.raises(RunError, match=r"test\.jsonl has changed"):
        stage("search", **values, query=str(data / "test.jsonl"))


def test_a_pipeline_searches_for_the_questions_that_an_earlier_step_makes(
    data: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("text\nThe retry limit of a gateway is 20 requests.\n")
    steps = [
        {"id": "qa", "run": "qa-gen", "with": {"input": str(tmp_path / "rows.csv")}},
        {"id": "find", "run": "search", "with": {"query": "@qa/train.jsonl", "retriever": BM25}},
    ]
    source = Source({"steps": steps, "output": str(tmp_path / "run")})
    planned = pipeline.plan(build(pipeline.Config, source), source, tmp_path / "run")
    assert [item.step.id for item in planned] == ["qa", "find"]


def test_bad_lines_are_set_aside_where_that_is_wanted(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    for name in ("corpus", "test"):
        with (data / f"{name}.jsonl").open("a") as f:
            f.write("{}\n")
    path = stage("search", **values, query=str(data / "test.jsonl"), skip_bad=True)
    assert len(read_jsonl(path / "results.jsonl")) == len(TOPICS)
    assert len(read_jsonl(path / "bad-lines.jsonl")) == 2
