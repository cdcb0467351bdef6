"""eval-retriever, eval-e2e and compare on a small corpus: the files, and what is refused."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ragkit.config.blocks import Dense
from ragkit.data.files import read_corpus, read_examples, read_json, read_jsonl, write_jsonl
from ragkit.data.schema import Example, Passage, qrels_of
from ragkit.errors import ConfigError, DataError, EndpointError, RunError
from ragkit.evaluation.ranking import evaluate
from ragkit.evaluation.summary import mean_scores
from ragkit.rag.answerers import Answer
from ragkit.retrieval import fusion
from ragkit.retrieval.bm25 import Bm25Searcher
from ragkit.retrieval.searchers import DenseSearcher
from ragkit.stages import answering, eval_e2e

TOPICS = ["fuse", "relay", "valve", "pump", "sensor", "battery"]
FACTS = ["holds twelve volts", "opens after thirty seconds", "needs a green cable"]
BM25 = {"type": "bm25"}


def passage_id(topic: str, i: int) -> str:
    return f"{topic}-{i}"


def question(name: str, topic: str, i: int, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "question": f"what of the {topic} {FACTS[i]}?",
        "answers": [f"The {topic} {FACTS[i]}."],
        "positive_ids": [passage_id(topic, i)],
        **more,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a corpus of 18 passages in 6 documents, and examples.

    test: a question about the first passage of each document, and an unanswerable one;
    train: the documents fuse and relay; dev: the document battery
    """
    folder = tmp_path / "data"
    write_jsonl(
        folder / "corpus.jsonl",
        (
            {"id": passage_id(t, i), "doc_id": t, "text": f"The {t} {FACTS[i]}. It is red."}
            for t in TOPICS
            for i in range(3)
        ),
    )
    test = [question(f"q-{t}", t, 0, meta={"kind": "a" if t < "p" else "b"}) for t in TOPICS]
    nobody = {"id": "q-none", "question": "who is the user?", "answerable": False}
    write_jsonl(folder / "test.jsonl", [*test, nobody])
    train = [question(f"t-{t}", t, 2) for t in TOPICS[:2]]
    write_jsonl(folder / "train.jsonl", [{**e, "question": e["question"][5:]} for e in train])
    write_jsonl(folder / "dev.jsonl", [question("d-1", "battery", 1)])
    return folder


@pytest.fixture
def values(data: Path, tmp_path: Path, tiny_encoder: Path) -> dict[str, Any]:
    """What the evaluations below have in common."""
    return {"examples": str(data / "test.jsonl"), "output": str(tmp_path / "run"), "timed": 0}


@pytest.fixture
def e2e(values: dict[str, Any], tiny_encoder: Path) -> dict[str, Any]:
    answerer = {"type": "extractive", "model": str(tiny_encoder)}
    return {**values, "retriever": BM25, "answerer": answerer}


# eval-retriever


def test_the_retriever_evaluation_leaves_rankings_judgements_scores_and_metrics(
    stage: Callable[..., Path], values: dict[str, Any], tiny_encoder: Path
) -> None:
    dense = {"type": "dense", "model": str(tiny_encoder)}
    path = stage("eval-retriever", **values, retriever=dense, top_k=5)
    qrels = [line.split() for line in (path / "qrels.trec").read_text().splitlines()]
    assert qrels == [[f"q-{t}", "0", f"{t}-0", "1"] for t in TOPICS]
    ranked: dict[str, list[tuple[str, int, float]]] = {}
    for line in (path / "run.trec").read_text().splitlines():
        query, q0, passage, rank, score, _ = line.split()
        assert q0 == "Q0"
        ranked.setdefault(query, []).append((passage, int(rank), float(score)))
    assert list(ranked) == [*(f"q-{t}" for t in TOPICS), "q-none"]
    for found in ranked.values():
        # more than top_k: recall@10 and ndcg@10 look deeper
        assert [rank for _, rank, _ in found] == list(range(1, 11))
        assert [s for *_, s in found] == sorted((s for *_, s in found), reverse=True)
    records = {r["id"]: r for r in read_jsonl(path / "per_query.jsonl")}
    metrics = read_json(path / "metrics.json")
    assert set(metrics["metrics"]) == {"recall@1", "recall@5", "recall@10", "ndcg@10", "mrr@10"}
    for name, cell in metrics["metrics"].items():
        scores = [records[f"q-{t}"]["scores"][name] for t in TOPICS]
        assert cell["mean"] == pytest.approx(sum(scores) / 6)
        assert (cell["n"], cell["clusters"]) == (6, 6)
        assert cell["ci95"] is None or cell["ci95"][0] <= cell["mean"] <= cell["ci95"][1]
    reciprocal = {
        q: next((1 / rank for p, rank, _ in found if p == f"{q[2:]}-0"), 0.0)
        for q, found in ranked.items()
    }
    assert all(records[f"q-{t}"]["scores"]["mrr@10"] == reciprocal[f"q-{t}"] for t in TOPICS)
    assert records["q-fuse"]["document"] == "fuse"
    assert records["q-fuse"]["top_ids"] == [p for p, *_ in ranked["q-fuse"]]
    assert records["q-none"]["scores"] == {}
    assert metrics["questions"] == {"all": 7, "with positives": 6, "unanswerable": 1}
    assert metrics["timings"]["searching"] >= 0
    assert read_json(path / "run.json")["status"] == "done"


def test_words_find_the_passages_that_hold_them(
    stage: Callable[..., Path], values: dict[str, Any]
) -> None:
    path = stage("eval-retriever", **values, retriever=BM25, metrics=["recall@1", "map"])
    metrics = read_json(path / "metrics.json")["metrics"]
    assert {name: cell["mean"] for name, cell in metrics.items()} == {"recall@1": 1.0, "map": 1.0}


def test_an_unknown_metric_is_told_before_the_work(
    stage: Callable[..., Path], values: dict[str, Any]
) -> None:
    missing = {"type": "dense", "model": "./no-such-model"}
    with pytest.raises(DataError, match="recal@10"):
        stage("eval-retriever", **values, retriever=missing, metrics=["recal@10"])


def test_questions_without_passages_to_find_measure_no_retriever(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    write_jsonl(data / "test.jsonl", [{"id": "q", "question": "who?", "answerable": False}])
    with pytest.raises(DataError, match="no example has positive_ids"):
        stage("eval-retriever", **values, retriever=BM25)


def test_passages_that_the_corpus_lacks_are_named_with_their_line(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    write_jsonl(data / "test.jsonl", [question("a", "fuse", 0), question("b", "lamp", 0)])
    with pytest.raises(DataError, match=r"test\.jsonl:2: .*unknown passage 'lamp-0' .* 18 pass"):
        stage("eval-retriever", **values, retriever=BM25)


@pytest.mark.parametrize("command", ["eval-retriever", "eval-e2e"])
def test_training_examples_split_the_results_into_seen_and_unseen_documents(
    stage: Callable[..., Path], e2e: dict[str, Any], data: Path, command: str
) -> None:
    if command == "eval-retriever":
        del e2e["answerer"]
    path = stage(command, **e2e, train=[str(data / "train.jsonl")], slices=["kind"])
    metrics = read_json(path / "metrics.json")
    sizes = {name: part["recall@1"]["n"] for name, part in metrics["slices"].items() if part}
    sizes = {name: n for name, n in sizes.items() if not name.endswith("(none)")}
    assert sizes == {"seen documents": 2, "unseen documents": 4, "kind=a": 2, "kind=b": 4}
    file = "per_query.jsonl" if command == "eval-retriever" else "predictions.jsonl"
    slices = {r["id"]: r["slices"] for r in read_jsonl(path / file)}
    assert set(slices["q-fuse"]) == {"kind=a", "seen documents", "answerable"}
    assert set(slices["q-pump"]) == {"kind=b", "unseen documents", "answerable"}
    assert set(slices["q-none"]) == {"kind=(none)", "unanswerable"}
    assert metrics["leakage"] == {
        "near_questions": 0, "near_passages": 0, "contaminated": 0, "seen_documents": 2,
        "without": None,
    }  # fmt: skip


@pytest.mark.parametrize("command", ["eval-retriever", "eval-e2e"])
def test_a_test_question_that_was_trained_on_is_an_error_unless_accepted(
    stage: Callable[..., Path], e2e: dict[str, Any], data: Path, command: str
) -> None:
    if command == "eval-retriever":
        del e2e["answerer"]
    leaked = question("leaked", "fuse", 0)
    write_jsonl(data / "train.jsonl", [{**leaked, "question": leaked["question"].upper()}])
    e2e |= {"train": [str(data / "train.jsonl")], "leak_rouge_l": 0.9}
    with pytest.raises(DataError) as caught:
        stage(command, **e2e)
    message = str(caught.value)
    assert message.startswith("1 of 7 test questions")
    assert "test q-fuse: what of the fuse holds twelve volts?" in message
    assert "train leaked: WHAT OF THE FUSE" in message
    assert "accept_leaks=true" in message
    path = stage(command, **{**e2e, "output": e2e["output"] + "-2"}, accept_leaks=True)
    metrics = read_json(path / "metrics.json")
    assert metrics["slices"]["seen documents"]["recall@1"]["n"] == 1
    assert metrics["leakage"]["near_questions"] == metrics["leakage"]["contaminated"] == 1
    assert metrics["leakage"]["without"]["recall@1"]["n"] == 5
    assert metrics["metrics"]["recall@1"]["n"] == 6


def fused(encoder: Path, **more: Any) -> dict[str, Any]:
    dense = {"type": "dense", "model": str(encoder)}
    return {"type": "fused", "method": "weighted", "dense": dense, **more}


def best_weights(corpus: dict[str, Passage], examples: list[Example], encoder: Path) -> list[float]:
    """Return the weights of dense with the highest mean nDCG@10, by trying all."""
    queries, qrels = [e.question for e in examples], qrels_of(examples)
    dense = DenseSearcher(corpus, Dense(type="dense", model=str(encoder))).search(queries, 1000)
    bm25 = Bm25Searcher(corpus).search(queries, 1000)
    scores = {}
    for step in range(21):
        ranked = {
            e.id: fusion.weighted(d, b, step / 20, 10)
            for e, d, b in zip(examples, dense, bm25, strict=True)
        }
        scores[step / 20] = mean_scores(evaluate(qrels, ranked, ["ndcg@10"]))["ndcg@10"]
    top = max(scores.values())
    return [weight for weight, score in scores.items() if score == top]


def test_the_fusion_weight_is_chosen_on_dev_and_not_on_the_test_questions(
    stage: Callable[..., Path], values: dict[str, Any], data: Path, tiny_encoder: Path
) -> None:
    # Words lead to another passage than the one meant; the encoder knows neither.
    wrong = [{**question(f"d-{t}", t, 0), "positive_ids": [f"{t}-2"]} for t in TOPICS]
    write_jsonl(data / "dev.jsonl", wrong)
    corpus = read_corpus(data / "corpus.jsonl")
    best = {
        name: best_weights(corpus, read_examples(data / f"{name}.jsonl"), tiny_encoder)
        for name in ("dev", "test")
    }
    path = stage("eval-retriever", **values, retriever=fused(tiny_encoder))
    weight = read_json(path / "metrics.json")["settings"]["fusion_weight"]
    assert weight == min(best["dev"], key=lambda w: abs(w - 0.5))
    assert weight not in best["test"]


def test_a_fusion_weight_that_is_given_is_used(
    stage: Callable[..., Path], values: dict[str, Any], data: Path, tiny_encoder: Path
) -> None:
    (data / "dev.jsonl").unlink()
    path = stage("eval-retriever", **values, retriever=fused(tiny_encoder, weight=0.3))
    assert read_json(path / "metrics.json")["settings"] == {"fusion_weight": 0.3}


def test_a_fusion_weight_cannot_be_chosen_on_the_test_questions(
    stage: Callable[..., Path], values: dict[str, Any], data: Path, tiny_encoder: Path
) -> None:
    (data / "dev.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"chosen on dev examples, and no dev\.jsonl"):
        stage("eval-retriever", **values, retriever=fused(tiny_encoder))


def test_an_index_of_another_corpus_is_refused(
    stage: Callable[..., Path],
    values: dict[str, Any],
    data: Path,
    tmp_path: Path,
    tiny_encoder: Path,
) -> None:
    write_jsonl(tmp_path / "other.jsonl", [{"id": "fuse-0", "text": "The fuse is new."}])
    index = stage(
        "index",
        corpus=str(tmp_path / "other.jsonl"),
        model=str(tiny_encoder),
        output=str(tmp_path / "index"),
    )
    dense = {"type": "dense", "model": str(tiny_encoder), "index": str(index)}
    with pytest.raises(DataError, match="another corpus"):
        stage("eval-retriever", **values, retriever=dense)


# eval-e2e


def test_the_whole_evaluation_leaves_predictions_rankings_and_metrics(
    stage: Callable[..., Path], e2e: dict[str, Any]
) -> None:
    path = stage("eval-e2e", **e2e)
    records = {r["id"]: r for r in read_jsonl(path / "predictions.jsonl")}
    assert list(records) == [*(f"q-{t}" for t in TOPICS), "q-none"]
    fuse = records["q-fuse"]
    assert fuse["question"] == "what of the fuse holds twelve volts?"
    assert fuse["references"] == ["The fuse holds twelve volts."]
    assert fuse["passages"][0]["id"] == "fuse-0"
    assert fuse["passages"][0]["score"] > fuse["passages"][1]["score"]
    assert fuse["positive_ids"] == ["fuse-0"] and fuse["document"] == "fuse"
    assert fuse["latency_ms"] > 0
    assert set(fuse["answer_passage_ids"]) <= {p["id"] for p in fuse["passages"][:3]}
    assert set(fuse["scores"]) == {
        *("recall@1", "recall@5", "recall@10", "ndcg@10", "mrr@10"),
        *("em", "f1", "rouge_1", "rouge_2", "rouge_l"),
        *("k_precision", "citation_precision", "citation_recall"),
    }
    metrics = read_json(path / "metrics.json")
    for name, cell in metrics["metrics"].items():
        scores = [records[f"q-{t}"]["scores"][name] for t in TOPICS]
        assert cell["mean"] == pytest.approx(sum(scores) / 6)
        assert (cell["n"], set(cell)) == (6, {"mean", "ci95", "n", "clusters"})
    assert metrics["metrics"]["k_precision"]["mean"] == 1.0  # it takes sentences out of passages
    assert {"retrieval", "answering"} <= set(metrics["timings"])
    assert len((path / "run.trec").read_text().splitlines()) > 7
    assert {r["id"] for r in read_jsonl(path / "answers.jsonl")} == {
        r["id"] for r in read_jsonl(path / "predictions.jsonl")
    }


def test_unanswerable_questions_count_for_abstention_alone(
    stage: Callable[..., Path], e2e: dict[str, Any]
) -> None:
    # BM25 finds nothing for a question of unknown words: there the answerer abstains.
    path = stage("eval-e2e", **e2e)
    none = {r["id"]: r for r in read_jsonl(path / "predictions.jsonl")}["q-none"]
    assert none["scores"] == {} and none["answerable"] is False
    assert (none["abstained"], none["answer"], none["passages"]) == (True, "", [])
    whole = read_json(path / "metrics.json")["whole_set"]
    assert (whole["abstention_precision"], whole["abstention_recall"]) == (1.0, 1.0)
    assert 0 < whole["bleu"] <= 100


def test_gold_passages_are_the_positives_and_nothing_is_retrieved(
    stage: Callable[..., Path], e2e: dict[str, Any]
) -> None:
    e2e["retriever"] = {"type": "dense", "model": "./no-such-model"}
    path = stage("eval-e2e", **e2e, passages="gold")
    for record in read_jsonl(path / "predictions.jsonl"):
        assert [p["id"] for p in record["passages"]] == record["positive_ids"]
        assert record["answer_passage_ids"] == record["positive_ids"]
    metrics = read_json(path / "metrics.json")
    answers = {"em", "f1", "rouge_1", "rouge_2", "rouge_l", "k_precision"}
    assert set(metrics["metrics"]) == answers
    assert "retrieval" not in metrics["timings"]


class Stub:
    """Answers every question alike, notes whom it answered, and fails where it is told to."""

    def __init__(self, fails_on: str = "") -> None:
        self.fails_on, self.asked = fails_on, []
        self.given: dict[str, list[str]] = {}

    def answer(
        self, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]
    ) -> Iterator[tuple[int, Answer]]:
        for i, (example, found) in enumerate(zip(examples, passages, strict=True)):
            if example.id == self.fails_on:
                raise EndpointError("the server is gone")
            self.asked.append(example.id)
            self.given[example.id] = [p.id for p in found]
            yield i, Answer(f"answer of {example.id}", False, 1.0, usage={"n": 1})


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub()
    monkeypatch.setattr(answering, "build_answerer", lambda _: made)
    return made


def test_the_answerer_gets_the_best_passages_and_no_more(
    stage: Callable[..., Path], e2e: dict[str, Any], stub: Stub
) -> None:
    path = stage("eval-e2e", **e2e, n_passages=2)
    for record in read_jsonl(path / "predictions.jsonl"):
        assert stub.given[record["id"]] == [p["id"] for p in record["passages"][:2]]
    assert len(stub.given["q-fuse"]) == 2


def test_a_run_that_broke_in_the_middle_asks_only_what_was_not_answered(
    stage: Callable[..., Path], e2e: dict[str, Any], stub: Stub
) -> None:
    stub.fails_on = "q-sensor"
    with pytest.raises(EndpointError, match="the server is gone"):
        stage("eval-e2e", **e2e)
    assert stub.asked == ["q-fuse", "q-relay", "q-valve", "q-pump"]
    stub.fails_on = ""
    path = stage("eval-e2e", **e2e)
    assert Counter(stub.asked) == Counter([*(f"q-{t}" for t in TOPICS), "q-none"])
    answers = {r["id"]: r["answer"] for r in read_jsonl(path / "predictions.jsonl")}
    assert answers == {q: f"answer of {q}" for q in stub.asked}
    assert read_json(path / "run.json")["status"] == "done"


def test_an_answer_that_was_cut_short_by_a_kill_is_asked_again(
    stage: Callable[..., Path], e2e: dict[str, Any], stub: Stub
) -> None:
    stub.fails_on = "q-valve"
    with pytest.raises(EndpointError):
        stage("eval-e2e", **e2e)
    saved = Path(e2e["output"]) / "answers.jsonl"
    saved.write_bytes(saved.read_bytes()[:-20])
    stub.fails_on = ""
    path = stage("eval-e2e", **e2e)
    asked = Counter(stub.asked)
    assert (asked["q-fuse"], asked["q-relay"], asked["q-valve"]) == (1, 2, 1)
    assert len(read_jsonl(path / "predictions.jsonl")) == 7


def test_a_failure_after_the_answers_does_not_buy_them_again(
    stage: Callable[..., Path], e2e: dict[str, Any], stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RunError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(eval_e2e, "write_json", broken)
        with pytest.raises(RunError, match="the disk is full"):
            stage("eval-e2e", **e2e)
    stage("eval-e2e", **e2e)
    assert max(Counter(stub.asked).values()) == 1


def test_answers_bought_before_the_server_refused_are_not_bought_again(
    stage: Callable[..., Path],
    e2e: dict[str, Any],
    chat_server: Any,
    says: Any,
    response: Any,
    log_lines: list[str],
) -> None:
    e2e["answerer"] = {
        "type": "openai",
        "model": "m",
        "base_url": chat_server.url,
        "concurrency": 1,
        "max_retries": 0,
    }
    chat_server.reply = lambda _: says("fine") if len(chat_server.requests) < 4 else response(401)
    with pytest.raises(EndpointError) as caught:
        stage("eval-e2e", **e2e)
    assert "OPENAI_API_KEY is refused" in "\n".join([*log_lines, str(caught.value)])
    answered = [str(r["messages"]) for r in chat_server.requests[:3]]
    chat_server.requests.clear()
    chat_server.reply = lambda _: says("fine")
    stage("eval-e2e", **e2e)
    again = [str(r["messages"]) for r in chat_server.requests]
    assert not set(answered) & set(again)
    assert len(again) == 4


def test_questions_without_an_answer_are_an_error_and_the_others_are_kept(
    stage: Callable[..., Path], e2e: dict[str, Any], chat_server: Any, says: Any, response: Any
) -> None:
    e2e["answerer"] = {
        "type": "openai",
        "model": "m",
        "base_url": chat_server.url,
        "max_retries": 0,
    }
    chat_server.reply = lambda r: response(500) if "of the pump" in str(r) else says("fine")
    with pytest.raises(EndpointError, match=r"1 of 7 questions got no answer \(q-pump\)"):
        stage("eval-e2e", **e2e)
    chat_server.reply = lambda _: says("fine")
    path = stage("eval-e2e", **e2e)
    assert len(chat_server.requests) == 8
    assert {r["answer"] for r in read_jsonl(path / "predictions.jsonl")} == {"fine"}


def test_a_done_evaluation_is_not_done_again(
    stage: Callable[..., Path], e2e: dict[str, Any], stub: Stub
) -> None:
    first = (stage("eval-e2e", **e2e) / "metrics.json").read_bytes()
    assert (stage("eval-e2e", **e2e) / "metrics.json").read_bytes() == first
    assert len(stub.asked) == 7


# compare


@pytest.fixture
def evaluated(
    stage: Callable[..., Path], e2e: dict[str, Any], data: Path, tmp_path: Path, tiny_encoder: Path
) -> dict[str, str]:
    """Three evaluated systems: two retrievers and a whole one."""
    common = {"examples": e2e["examples"], "train": [str(data / "train.jsonl")]}
    dense = {"type": "dense", "model": str(tiny_encoder)}
    systems: dict[str, dict[str, Any]] = {
        "words": {"command": "eval-retriever", "retriever": BM25},
        "vectors": {"command": "eval-retriever", "retriever": dense},
        "whole": {"command": "eval-e2e", "retriever": BM25, "answerer": e2e["answerer"]},
    }
    return {
        name: str(stage(**system, **common, output=str(tmp_path / name)))
        for name, system in systems.items()
    }


def test_runs_are_compared_with_those_of_their_kind(
    stage: Callable[..., Path], evaluated: dict[str, str], tmp_path: Path
) -> None:
    path = stage("compare", runs=list(evaluated.values()), output=str(tmp_path / "compared"))
    result = read_json(path / "comparison.json")
    assert set(result) == {"retrieval", "answers"}
    assert set(result["answers"]["systems"]) == {"whole"}
    assert result["answers"]["differences"] == {}
    retrieval = result["retrieval"]
    assert retrieval["baseline"] == "words"
    means = {
        name: {m: c["mean"] for m, c in read_json(Path(p) / "metrics.json")["metrics"].items()}
        for name, p in evaluated.items()
        if name != "whole"
    }
    for name, cells in retrieval["systems"].items():
        assert {m: c["mean"] for m, c in cells.items()} == pytest.approx(means[name])
    for metric, cell in retrieval["differences"]["vectors"].items():
        assert cell["mean"] == pytest.approx(means["vectors"][metric] - means["words"][metric])
        assert cell["wins"] + cell["ties"] + cell["losses"] == 6
    sizes = {
        name: next(iter(part["systems"]["words"].values()))["n"]
        for name, part in retrieval["slices"].items()
    }
    assert sizes == {"seen documents": 2, "unseen documents": 4}


def test_labels_and_baseline_are_the_users(
    stage: Callable[..., Path], evaluated: dict[str, str], tmp_path: Path
) -> None:
    runs = [evaluated["words"], evaluated["vectors"]]
    path = stage(
        "compare", runs=runs, labels=["a", "b"], baseline="b", output=str(tmp_path / "compared")
    )
    retrieval = read_json(path / "comparison.json")["retrieval"]
    assert retrieval["baseline"] == "b"
    assert list(retrieval["differences"]) == ["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a"]}, "2 different ones are needed"),
        ({"labels": ["a", "a"]}, "2 different ones are needed"),
        ({"baseline": "vektors"}, "no run 'vektors'; there are words, vectors"),
    ],
)
def test_labels_that_do_not_fit_the_runs_are_refused(
    stage: Callable[..., Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    runs = [tmp_path / "words", tmp_path / "vectors"]
    for path in runs:
        path.mkdir()
    with pytest.raises(DataError, match=message):
        stage("compare", runs=list(map(str, runs)), output=str(tmp_path / "compared"), **change)


def test_a_folder_without_an_evaluation_is_named(
    stage: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="data: no evaluation in it"):
        stage("compare", runs=[str(data)], output=str(tmp_path / "compared"))


def test_evaluations_of_different_questions_are_not_compared(
    stage: Callable[..., Path], evaluated: dict[str, str], data: Path, tmp_path: Path
) -> None:
    lines = (data / "test.jsonl").read_text().splitlines()
    write_jsonl(data / "fewer.jsonl", map(json.loads, lines[1:]))
    fewer = stage(
        "eval-retriever",
        examples=str(data / "fewer.jsonl"),
        retriever=BM25,
        output=str(tmp_path / "fewer"),
    )
    with pytest.raises(DataError, match="words and fewer were not asked the same questions"):
        stage("compare", runs=[evaluated["words"], str(fewer)], output=str(tmp_path / "compared"))


def test_training_examples_beside_the_test_are_checked_without_being_named(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    same = [question("t-1", "fuse", 0)]
    write_jsonl(data / "train.jsonl", same)
    with pytest.raises(DataError, match="6 of 7 test questions stand in the training examples"):
        stage("eval-retriever", **values, retriever=BM25)


def test_follow_ups_of_other_conversations_are_no_leak(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    def follow_up(name: str, before: str) -> dict[str, Any]:
        turns = [{"role": "user", "content": before}, {"role": "assistant", "content": "yes."}]
        asked = question(name, "fuse", 0) | {"question": "and the valve?"}
        return {**asked, "history": turns}

    write_jsonl(data / "train.jsonl", [follow_up("t-1", "does the pump start by itself at six?")])
    write_jsonl(data / "test.jsonl", [follow_up("q-1", "what of the twelve volts then?")])
    assert (stage("eval-retriever", **values, retriever=BM25) / "metrics.json").exists()


def test_a_document_of_any_positive_makes_a_question_a_seen_one(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    both = question("q-1", "valve", 0) | {"positive_ids": ["valve-0", "fuse-1"]}
    write_jsonl(data / "test.jsonl", [both])
    path = stage("eval-retriever", **values, retriever=BM25)
    (record,) = read_jsonl(path / "per_query.jsonl")
    assert record["slices"] == ["seen documents"]


def measured(stage: Callable[..., Path], values: dict[str, Any], name: str, **more: Any) -> str:
    return str(stage("eval-retriever", **{**values, "output": values["output"] + name}, **more))


def test_runs_on_other_questions_of_the_same_ids_are_not_compared(
    stage: Callable[..., Path], values: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    first = measured(stage, values, "a", retriever=BM25)
    write_jsonl(data / "test.jsonl", [question(f"q-{t}", t, 1) for t in TOPICS])
    second = measured(stage, values, "b", retriever=BM25)
    with pytest.raises(DataError, match="is another one here"):
        stage("compare", runs=[first, second], output=str(tmp_path / "c"))


def test_a_comparison_says_so_where_nothing_is_above_the_baseline(
    stage: Callable[..., Path], values: dict[str, Any], tiny_encoder: Path, tmp_path: Path
) -> None:
    from rich.console import Console

    from ragkit.stages import compare

    dense = {"type": "dense", "model": str(tiny_encoder)}
    runs = [measured(stage, values, n, retriever=r) for n, r in (("a", BM25), ("b", dense))]
    path = stage("compare", runs=runs, output=str(tmp_path / "c"), labels=["bm25", "dense"])
    console = Console(width=120, record=True)
    with console.capture() as captured:
        console.print(compare.show(path), markup=False)
    gain = read_json(path / "comparison.json")["retrieval"]["differences"]["dense"]["ndcg@10"]
    assert gain["mean"] < 0 and gain["detectable"] > 0
    assert "no system is above bm25" in captured.get()


def test_the_page_and_the_file_of_losses_show_where_a_system_lost(
    stage: Callable[..., Path], evaluated: dict[str, str], tmp_path: Path
) -> None:
    path = stage("compare", runs=list(evaluated.values()), output=str(tmp_path / "c"))
    lost = read_jsonl(path / "losses.jsonl")
    sheets = {
        name: {
            r["id"]: r["scores"]["ndcg@10"]
            for r in read_jsonl(Path(p) / "per_query.jsonl")
            if r["scores"]
        }
        for name, p in evaluated.items()
        if name != "whole"
    }
    change = {q: sheets["vectors"][q] - s for q, s in sheets["words"].items()}
    worse = sorted((c, q) for q, c in change.items() if c < 0)
    assert worse and [r["id"] for r in lost] == [q for _, q in worse[:20]]
    first = lost[0]
    assert first["scores"]["after"] - first["scores"]["before"] == pytest.approx(worse[0][0])
    assert (first["baseline"], first["system"], first["metric"]) == ("words", "vectors", "ndcg@10")
    assert first["before"]["passage_ids"][0] in first["positive_ids"]
    page = (path / "comparison.md").read_text()
    assert "| vectors |" in page and "Where vectors lost most (ndcg@10, from words)" in page
    assert f"({first['id']}) |" in page and "| at 1 |" in page


def test_a_gate_that_does_not_hold_ends_with_its_own_exit_code(
    ragkit: Callable[..., Any], evaluated: dict[str, str], tmp_path: Path
) -> None:
    runs = ("compare", evaluated["words"], evaluated["vectors"])
    gates = ("--gate", "ndcg@10 >= 0", "--gate", "vectors: recall@10 >= -1")
    for _ in range(2):  # a run that is done says it again
        failed = ragkit(*runs, *gates, "-o", str(tmp_path / "gated"))
        assert failed.code == 3
        assert "ragkit: 1 of 2 gates do not hold" in failed.err
        assert "vectors: ndcg@10 >= 0: -" in failed.err
        assert "gate vectors: recall@10 >= -1, vectors: holds" in " ".join(failed.out.split())
    assert read_json(tmp_path / "gated" / "run.json")["status"] == "done"
    assert 'failures="1"' in (tmp_path / "gated" / "junit.xml").read_text()
    assert "| vectors: ndcg@10 >= 0 | **no** |" in (tmp_path / "gated/comparison.md").read_text()
    held = ragkit(*runs, "--gate", "ndcg@10 >= -1", "-o", str(tmp_path / "held"))
    assert held.code == 0
    wrong = ragkit(*runs, "--gate", "ndcg@10 > 0", "-o", str(tmp_path / "wrong"))
    assert wrong.code == 1 and "is no gate; one is" in wrong.err
    none = ragkit(*runs, "-o", str(tmp_path / "none"))
    assert none.code == 0 and not (tmp_path / "none" / "junit.xml").exists()


def test_a_gate_that_does_not_hold_ends_a_pipeline(
    ragkit: Callable[..., Any], evaluated: dict[str, str], tmp_path: Path
) -> None:
    runs = [evaluated["words"], evaluated["vectors"]]
    steps = [
        {"id": "first", "run": "compare", "with": {"runs": runs, "gates": ["ndcg@10 >= 0"]}},
        {"id": "second", "run": "compare", "with": {"runs": runs}},
    ]
    (tmp_path / "p.yaml").write_text(json.dumps({"steps": steps}))
    done = ragkit("run", str(tmp_path / "p.yaml"), "-o", str(tmp_path / "p"))
    assert done.code == 3 and "gates do not hold" in done.err
    assert (tmp_path / "p" / "first").exists() and not (tmp_path / "p" / "second").exists()
