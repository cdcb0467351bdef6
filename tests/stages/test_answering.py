"""eval-e2e's answers: questions without one, citations, speed, cost, and ChatRAG-Bench's rules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.files import read_json, read_jsonl, write_jsonl
from ragkit.errors import DataError, EndpointError

THINGS = ["fuse", "relay", "valve", "pump"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two passages a document, and a question about the first of each."""
    folder = tmp_path / "data"
    write_jsonl(folder / "corpus.jsonl", (
        {"id": f"{t}-{i}", "doc_id": t, "text": f"The {t} {said}."}
        for t in THINGS for i, said in enumerate(["holds twelve volts", "opens after 30 seconds"])
    ))  # fmt: skip
    write_jsonl(folder / "test.jsonl", (
        {"id": t, "question": f"What does the {t} hold?", "answers": ["Twelve volts."],
         "positive_ids": [f"{t}-0"]}
        for t in THINGS
    ))  # fmt: skip
    return folder


@pytest.fixture
def asks(data: Path, tmp_path: Path, chat_server: Any) -> dict[str, Any]:
    """An evaluation that asks the chat server."""
    answerer = {"type": "openai", "model": "m", "base_url": chat_server.url, "max_retries": 0}
    return {
        "examples": str(data / "test.jsonl"), "output": str(tmp_path / "run"),
        "retriever": {"type": "bm25"}, "answerer": answerer,
    }  # fmt: skip


def predictions(path: Path) -> dict[str, dict[str, Any]]:
    return {r["id"]: r for r in read_jsonl(path / "predictions.jsonl")}


def test_a_question_without_an_answer_is_a_third_state(
    stage: Callable[..., Path], asks: dict[str, Any], chat_server: Any, says: Any, response: Any
) -> None:
    right = says("Twelve volts.")
    chat_server.reply = lambda r: response(500) if "the pump hold" in str(r) else right
    with pytest.raises(EndpointError, match=r"1 of 4 .* \(pump\), more than max_failed \(0.02\)"):
        stage("eval-e2e", **asks)
    path = stage("eval-e2e", **{**asks, "output": asks["output"] + "-2"}, max_failed=0.25)
    found, metrics = predictions(path), read_json(path / "metrics.json")
    assert (found["pump"]["failed"], found["pump"]["answer"]) == (True, "")
    assert "f1" not in found["pump"]["scores"] and "recall@1" in found["pump"]["scores"]
    assert metrics["questions"]["failed"] == 1
    assert (metrics["metrics"]["f1"]["mean"], metrics["metrics"]["f1"]["n"]) == (1.0, 3)
    assert metrics["metrics"]["recall@1"]["n"] == 4


def test_systems_are_compared_on_the_questions_that_all_answered(
    stage: Callable[..., Path], asks: dict[str, Any], chat_server: Any, says: Any, response: Any,
    tmp_path: Path, log_lines: list[str],
) -> None:  # fmt: skip
    chat_server.reply = lambda _: says("Twelve volts.")
    whole = stage("eval-e2e", **asks)
    lacking = lambda r: response(500) if "the pump hold" in str(r) else says("Nothing.")  # noqa: E731
    chat_server.reply = lacking
    part = stage("eval-e2e", **{**asks, "output": asks["output"] + "-2"}, max_failed=0.25)
    runs, output = [str(whole), str(part)], str(tmp_path / "compared")
    path = stage("compare", runs=runs, labels=["a", "b"], output=output)
    found = read_json(path / "comparison.json")["answers"]
    assert found["systems"]["a"]["f1"]["n"] == found["systems"]["b"]["f1"]["n"] == 3
    assert found["differences"]["b"]["f1"]["losses"] == 3
    assert "1 questions that a system gave no answer to are left out" in "\n".join(log_lines)


def test_cited_passages_are_taken_out_of_the_answer_and_scored(
    stage: Callable[..., Path], asks: dict[str, Any], chat_server: Any, says: Any
) -> None:
    asks["answerer"]["cite"] = True
    chat_server.reply = lambda r: says(
        "Twelve volts [2] [9]." if "fuse hold" in str(r) else "Twelve volts [1]."
    )
    path = stage("eval-e2e", **asks, n_passages=2)
    assert "number of the passage" in chat_server.requests[0]["messages"][0]["content"]
    found = predictions(path)
    assert {r["answer"] for r in found.values()} == {"Twelve volts."}
    second = found["fuse"]["passages"][1]["id"]
    assert found["fuse"]["answer_passage_ids"] == [second, "[9]"]
    for name, record in found.items():
        right = record["answer_passage_ids"][0] == f"{name}-0"
        assert record["scores"]["citation_recall"] == float(right)
        precision = right / len(record["answer_passage_ids"])
        assert record["scores"]["citation_precision"] == precision


def test_what_a_server_took_is_timed_and_counted(
    stage: Callable[..., Path], asks: dict[str, Any], chat_server: Any, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 100, output: 1000}\n")
    path = stage("eval-e2e", **asks, prices=str(prices))
    metrics = read_json(path / "metrics.json")
    assert len(chat_server.requests) == 4  # nobody is asked again to be timed
    assert metrics["cost"] == {
        "requests": 4, "prompt_tokens": 28, "completion_tokens": 12,
        "dollars": pytest.approx((28 * 100 + 12 * 1000) / 1e6),
    }  # fmt: skip
    for part in metrics["speed"].values():
        assert 0 < part["ms_p50"] <= part["ms_p95"] and part["questions_per_s"] > 0
    assert metrics["speed"]["answering"]["tokens_per_s"] > 0


def test_a_local_system_is_timed_on_single_questions(
    stage: Callable[..., Path], asks: dict[str, Any], tiny_encoder: Path
) -> None:
    asks["answerer"] = {"type": "extractive", "model": str(tiny_encoder)}
    path = stage("eval-e2e", **asks, timed=2)
    metrics = read_json(path / "metrics.json")
    assert metrics["cost"] is None
    assert metrics["speed"]["answering"]["ms_p50"] > 0
    assert metrics["speed"]["answering"]["tokens_per_s"] is None
    path = stage("eval-e2e", **{**asks, "output": asks["output"] + "-2"}, timed=0)
    assert read_json(path / "metrics.json")["speed"]["retrieval"]["ms_p50"] is None


def test_replies_without_an_answer_are_asked_again_and_were_paid_for(
    stage: Callable[..., Path], asks: dict[str, Any], chat_server: Any, says: Any
) -> None:
    chat_server.reply = lambda r: says("" if "the pump hold" in str(r) else "Twelve volts.")
    with pytest.raises(EndpointError, match=r"1 of 4 questions got no answer \(pump\)"):
        stage("eval-e2e", **asks)
    chat_server.reply = lambda _: says("Twelve volts.")
    path = stage("eval-e2e", **asks)
    assert len(chat_server.requests) == 5
    assert predictions(path)["pump"]["answer"] == "Twelve volts."
    assert read_json(path / "metrics.json")["cost"]["requests"] == 5


def test_gold_passages_are_all_given_however_many(
    stage: Callable[..., Path], asks: dict[str, Any], data: Path, chat_server: Any
) -> None:
    both = [{**r, "positive_ids": [f"{r['id']}-0", f"{r['id']}-1"]}
            for r in read_jsonl(data / "test.jsonl")]  # fmt: skip
    write_jsonl(data / "test.jsonl", both)
    stage("eval-e2e", **asks, passages="gold", n_passages=1)
    for request in chat_server.requests:
        assert "[2]" in request["messages"][-1]["content"]


def chatrag(asks: dict[str, Any]) -> dict[str, Any]:
    return {**asks, "protocol": "chatrag-bench"}


@pytest.mark.parametrize("retriever", ["bm25", "dense", "fused"])
def test_chatrag_bench_searches_the_document_of_the_question(
    stage: Callable[..., Path], asks: dict[str, Any], tiny_encoder: Path, retriever: str
) -> None:
    del asks["answerer"]
    dense = {"type": "dense", "model": str(tiny_encoder)}
    fused = {"type": "fused", "dense": dense}
    asks["retriever"] = {"bm25": {"type": "bm25"}, "dense": dense, "fused": fused}[retriever]
    path = stage("eval-retriever", **chatrag(asks))
    metrics = read_json(path / "metrics.json")["metrics"]
    assert list(metrics) == ["recall@1", "recall@5", "recall@20"]
    assert metrics["recall@5"]["mean"] == 1.0  # two passages a document
    for record in read_jsonl(path / "per_query.jsonl"):
        assert {i.split("-")[0] for i in record["top_ids"]} == {record["id"]}


def test_chatrag_bench_counts_refusals(
    stage: Callable[..., Path], asks: dict[str, Any], data: Path, chat_server: Any, says: Any
) -> None:
    nobody = [
        {"id": i, "question": f"Who made it {i}?", "answerable": False,
         "meta": {"context_document": "fuse"}}
        for i in ("refused", "answered")
    ]  # fmt: skip
    write_jsonl(data / "test.jsonl", [*read_jsonl(data / "test.jsonl")[:1], *nobody])
    chat_server.reply = lambda r: says(
        "Sorry. I cannot find the answer." if "refused?" in str(r) else "Twelve volts."
    )
    path = stage("eval-e2e", **chatrag(asks))
    found = predictions(path)
    scores = {i: record["scores"]["f1"] for i, record in found.items()}
    assert scores == {"fuse": 1.0, "refused": 1.0, "answered": 0.0}
    assert [r["abstained"] for r in found.values()] == [False, True, False]
    assert set(found["refused"]["scores"]) == {"f1"}
    ordinary = stage("eval-e2e", **{**asks, "output": asks["output"] + "-2"})
    assert predictions(ordinary)["refused"]["scores"].keys() == {"k_precision"}


def test_chatrag_bench_needs_to_know_the_document(
    stage: Callable[..., Path], asks: dict[str, Any], data: Path
) -> None:
    lost = {"id": "lost", "question": "Who?", "answerable": False}
    write_jsonl(data / "test.jsonl", [*read_jsonl(data / "test.jsonl"), lost])
    with pytest.raises(DataError, match="'lost': protocol chatrag-bench searches the question's"):
        stage("eval-e2e", **chatrag(asks))


def test_a_question_of_chatrag_bench_about_a_document_without_passages_is_named(
    stage: Callable[..., Path], asks: dict[str, Any], data: Path
) -> None:
    lost = {"id": "lost", "question": "Who?", "answerable": False,
            "meta": {"context_document": "lamp"}}  # fmt: skip
    write_jsonl(data / "test.jsonl", [*read_jsonl(data / "test.jsonl"), lost])
    with pytest.raises(DataError, match="'lost': it is about document 'lamp', of which the corpus"):
        stage("eval-e2e", **chatrag(asks))


def test_a_document_that_import_renamed_is_found_by_its_old_name(
    stage: Callable[..., Path], asks: dict[str, Any], data: Path
) -> None:
    corpus = read_jsonl(data / "corpus.jsonl")
    write_jsonl(data / "corpus.jsonl", [{**p, "meta": {"original_doc_id": "the fuse"}}
                if p["doc_id"] == "fuse" else p for p in corpus])  # fmt: skip
    lost = {"id": "lost", "question": "Who opens?", "answerable": False,
            "meta": {"context_document": "the fuse"}}  # fmt: skip
    write_jsonl(data / "test.jsonl", [*read_jsonl(data / "test.jsonl"), lost])
    found = predictions(stage("eval-e2e", **chatrag(asks)))
    assert {p["id"] for p in found["lost"]["passages"]} == {"fuse-1"}


def test_words_of_refusal_in_the_answer_to_an_answerable_question_are_an_answer(
    stage: Callable[..., Path], asks: dict[str, Any], chat_server: Any, says: Any
) -> None:
    chat_server.reply = lambda _: says("It is unable to hold more than twelve volts.")
    found = predictions(stage("eval-e2e", **chatrag(asks)))
    assert not any(record["abstained"] for record in found.values())


def test_a_slice_by_a_key_that_no_example_has_is_told_before_the_work(
    stage: Callable[..., Path], asks: dict[str, Any], chat_server: Any
) -> None:
    with pytest.raises(DataError, match="no example has 'kindd' in its meta; the keys are: none"):
        stage("eval-e2e", **asks, slices=["kindd"])
    assert not chat_server.requests
