"""attribute: the grid's cells and what is told of them, resuming, and what is refused."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragkit.config.load import Source, build
from ragkit.data.files import read_json, read_jsonl, write_jsonl
from ragkit.errors import ConfigError, DataError, EndpointError, RunError
from ragkit.rag.prompts import REFUSAL
from ragkit.stages import attribute
from ragkit.stages.attribute import Config

TOPICS = ["fuse", "relay", "valve", "pump", "sensor", "battery"]
FACTS = ["holds twelve volts", "opens after thirty seconds", "needs a green cable"]
BM25 = {"type": "bm25"}
# what the server answers to a question about a topic, and why it is wrong if it is
SAID = {
    "fuse": ("The fuse holds twelve volts.", None),
    "relay": (REFUSAL, "refused wrongly"),
    "valve": ("It opens after thirty seconds.", "retrieved but unused"),
    "pump": ("Twelve.", "wrong from the right passage"),
    "sensor": ("forty", "not retrieved"),
    "battery": ("The battery holds twelve volts.", None),
    "user": ("somebody", "answered the unanswerable"),
    "password": ("nothing", "not in the corpus"),
}


def question(topic: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"q-{topic}",
        "question": f"what of the {topic} holds twelve volts?",
        "answers": [f"The {topic} holds twelve volts."],
        "positive_ids": [f"{topic}-0"],
        **more,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a corpus of 18 passages in 6 documents, and a question for each of `SAID`."""
    folder = tmp_path / "data"
    write_jsonl(
        folder / "corpus.jsonl",
        (
            {"id": f"{t}-{i}", "doc_id": t, "text": f"The {t} {FACTS[i]}. It is red."}
            for t in TOPICS
            for i in range(3)
        ),
    )
    asked = [question(t) for t in TOPICS if t != "sensor"]
    asked.append(
        question("sensor", question="what has a red light, the sensor or the green cable?")
    )
    asked.append(question("user", answers=[], positive_ids=[], answerable=False))
    asked.append(question("password", positive_ids=[]))
    write_jsonl(folder / "test.jsonl", asked)
    return folder


@pytest.fixture
def server(chat_server: Any, says: Any) -> Any:
    """A server that answers each question as `SAID` has it."""
    chat_server.reply = lambda request: says(SAID[topic_of(request)][0])
    return chat_server


def topic_of(request: dict[str, Any]) -> str:
    asked = request["messages"][-1]["content"].rpartition("Question: ")[2]
    return next(t for t in ("sensor", *SAID) if t in asked)


@pytest.fixture
def values(data: Path, tmp_path: Path, tiny_encoder: Path, server: Any) -> dict[str, Any]:
    """A grid of two retrievers and two answerers."""
    remote = {"type": "openai", "model": "m", "base_url": server.url, "max_retries": 0}
    return {
        "examples": str(data / "test.jsonl"),
        "output": str(tmp_path / "run"),
        "retrievers": {"vectors": {"type": "dense", "model": str(tiny_encoder)}, "words": BM25},
        "answerers": {
            "copied": {"type": "extractive", "model": str(tiny_encoder)},
            "told": {**remote, "concurrency": 1},
        },
        "n_passages": 2,
    }


@pytest.fixture
def small(values: dict[str, Any]) -> dict[str, Any]:
    """One retriever and the server."""
    told = {"told": values["answerers"]["told"]}
    return {**values, "retrievers": {"words": BM25}, "answerers": told}


def test_every_cell_is_an_evaluation_and_its_metrics_are_in_the_grid(
    stage: Callable[..., Path], values: dict[str, Any]
) -> None:
    path = stage("attribute", **values)
    result = read_json(path / "attribution.json")
    assert list(result["cells"]) == [
        "vectors | copied | retrieved", "vectors | told | retrieved",
        "words | copied | retrieved", "words | told | retrieved",
        "copied | gold", "told | gold",
    ]  # fmt: skip
    for name, metrics in result["cells"].items():
        cell = path / "cells" / name.replace(" | ", "+")
        assert read_json(cell / "metrics.json")["metrics"] == metrics
        assert read_json(cell / "run.json")["status"] == "done"
        assert ("recall@1" in metrics) == ("gold" not in name)
    gain = result["differences"]["told | gold - words | told | retrieved"]
    assert gain["kind"] == "ceiling"
    assert gain["mean"] == pytest.approx(
        result["cells"]["told | gold"]["f1"]["mean"]
        - result["cells"]["words | told | retrieved"]["f1"]["mean"]
    )
    assert len(result["differences"]) == 10
    assert (result["metric"], result["threshold"], result["system"]) == ("f1", 0.5, "words | told")


def test_a_corpus_is_encoded_once_for_all_answerers(
    stage: Callable[..., Path], values: dict[str, Any]
) -> None:
    path = stage("attribute", **values)
    assert [p.name for p in (path / "indexes").iterdir()] == ["vectors"]
    for answerer in ("copied", "told"):
        config = read_json(path / "cells" / f"vectors+{answerer}+retrieved" / "run.json")["config"]
        assert config["retriever"]["index"] == str(path / "indexes" / "vectors")


def test_every_wrong_answer_has_one_line_with_its_reason(
    stage: Callable[..., Path], small: dict[str, Any]
) -> None:
    path = stage("attribute", **small)
    lines = {line["id"]: line for line in read_jsonl(path / "attribution.jsonl")}
    wrong = {f"q-{topic}": reason for topic, (_, reason) in SAID.items() if reason}
    assert {question: line["reason"] for question, line in lines.items()} == wrong
    result = read_json(path / "attribution.json")
    assert result["reasons"] == Counter(wrong.values())
    assert result["questions"] == {"all": 8, "wrong": 6, "failed": 0}
    pump = lines["q-pump"]
    assert (pump["answer"], pump["references"]) == ("Twelve.", ["The pump holds twelve volts."])
    assert (pump["positive_ids"], pump["rank"]) == (["pump-0"], 1)
    # one word of one, and of four: the article does not count
    assert (pump["score"], pump["gold_score"], pump["correct"]) == (0.4, 0.4, None)
    assert pump["passage_ids"][0] == "pump-0" and len(pump["passage_ids"]) == 2
    sensor = lines["q-sensor"]
    assert sensor["rank"] > 2 and "sensor-0" not in sensor["passage_ids"]


def test_another_metric_or_threshold_is_another_rule(
    stage: Callable[..., Path], small: dict[str, Any], server: Any
) -> None:
    stage("attribute", **small)
    asked = len(server.requests)
    for rule, wrong in (({"threshold": 0.4}, 5), ({"metric": "em"}, 6), ({"threshold": 0.5}, 6)):
        path = stage("attribute", **small, **rule)
        assert read_json(path / "attribution.json")["questions"]["wrong"] == wrong
    assert len(server.requests) == asked  # nothing is asked again


def test_a_question_without_an_answer_is_told_apart_and_paired_with_nothing(
    stage: Callable[..., Path], small: dict[str, Any], server: Any, response: Any
) -> None:
    reply = server.reply
    server.reply = lambda r: response(500) if topic_of(r) == "fuse" else reply(r)
    path = stage("attribute", **small, max_failed=0.2)
    lines = {line["id"]: line for line in read_jsonl(path / "attribution.jsonl")}
    assert "q-fuse" not in lines
    result = read_json(path / "attribution.json")
    assert result["questions"]["failed"] == 1
    assert sum(result["reasons"].values()) == result["questions"]["wrong"] == len(lines)
    [ceiling] = result["differences"].values()
    assert ceiling["wins"] + ceiling["ties"] + ceiling["losses"] == 6  # 7 answerable, one failed


def test_the_system_that_is_named_is_the_one_that_is_explained(
    stage: Callable[..., Path], values: dict[str, Any]
) -> None:
    path = stage("attribute", **values, system="words|copied")
    assert read_json(path / "attribution.json")["system"] == "words | copied"
    answers = {
        r["id"]: r["answer"]
        for r in read_jsonl(path / "cells" / "words+copied+retrieved" / "predictions.jsonl")
    }
    lines = read_jsonl(path / "attribution.jsonl")
    assert lines and all(line["answer"] == answers[line["id"]] for line in lines)


def test_what_is_printed_tells_the_grid_the_differences_and_the_reasons(
    ragkit: Callable[..., Any], values: dict[str, Any], tmp_path: Path
) -> None:
    config = tmp_path / "grid.yaml"
    config.write_text(str(values).replace("'", '"'))
    outcome = ragkit("attribute", "-c", str(config))
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert "words instead of vectors, with told:" in said
    assert "told instead of copied, with gold passages:" in said
    assert "Why 6 of 8 answers of words | told are wrong (f1 below 0.5):" in said
    assert re.search(r"refused wrongly +1 +17%", outcome.out)
    assert "of 1 the passage is at ranks 3 to 10 for" in said
    assert "refused wrongly, for example q-relay: what of the relay holds twelve volts?" in said
    assert "answer: (abstained) expected: The relay holds twelve volts." in said


def test_where_no_answer_is_wrong_it_is_said(
    stage: Callable[..., Path], small: dict[str, Any], data: Path, capsys: Any
) -> None:
    from rich.console import Console

    write_jsonl(data / "test.jsonl", [question("fuse"), question("battery")])
    Console(width=100).print(attribute.show(stage("attribute", **small)))
    assert "words | told: none of 2 answers is wrong (f1 below 0.5)" in capsys.readouterr().out


# resuming


def test_a_grid_that_broke_goes_on_and_asks_nothing_twice(
    stage: Callable[..., Path], values: dict[str, Any], server: Any, says: Any, response: Any
) -> None:
    reply = server.reply
    # with gold passages all 8 questions are answered, with the first retriever 3
    server.reply = lambda r: reply(r) if len(server.requests) < 12 else response(401)
    with pytest.raises(EndpointError):
        stage("attribute", **values)
    answered = [str(r["messages"]) for r in server.requests[:11]]
    server.requests.clear()
    server.reply = reply
    path = stage("attribute", **values)
    again = [str(r["messages"]) for r in server.requests]
    assert len(again) == 24 - 11
    assert not set(answered[8:]) & set(again[:5])
    assert read_json(path / "run.json")["status"] == "done"
    assert read_json(path / "attribution.json")["questions"] == {"all": 8, "wrong": 6, "failed": 0}


def test_a_done_grid_asks_nothing_and_may_be_extended(
    stage: Callable[..., Path], values: dict[str, Any], server: Any
) -> None:
    first = (stage("attribute", **values) / "attribution.json").read_bytes()
    server.requests.clear()
    path = stage("attribute", **values)
    assert (path / "attribution.json").read_bytes() == first
    assert server.requests == []
    values["retrievers"]["flat"] = {**BM25, "b": 0.0}
    result = read_json(stage("attribute", **values) / "attribution.json")
    assert (result["system"], len(result["cells"])) == ("flat | told", 8)
    assert len(server.requests) == 8


def test_a_system_that_has_changed_under_its_name_is_refused(
    stage: Callable[..., Path], small: dict[str, Any]
) -> None:
    stage("attribute", **small)
    small["retrievers"] = {"words": {**BM25, "b": 0.0}}
    with pytest.raises(RunError, match=r"words\+told\+retrieved: made by a different run"):
        stage("attribute", **small)


# judged runs


def judged_run(path: Path, folder: Path, verdicts: dict[str, float], **changed: Any) -> Path:
    """Write what `ragkit judge` leaves of a cell; `changed` is of the first verdict alone."""
    records = read_jsonl(path / "cells" / "words+told+retrieved" / "predictions.jsonl")
    for record in records:
        if record["id"] in verdicts:
            record["scores"]["correct"] = verdicts[record["id"]]
    first = next(iter(verdicts), None)
    write_jsonl(
        folder / "predictions.jsonl",
        ({**r, **changed} if r["id"] == first else r for r in records),
    )
    return folder


def test_a_judge_that_sees_it_otherwise_is_a_reason_and_nothing_is_answered_again(
    stage: Callable[..., Path], small: dict[str, Any], tmp_path: Path, server: Any
) -> None:
    path = stage("attribute", **small)
    server.requests.clear()
    verdicts = {"q-pump": 1.0, "q-fuse": 0.0, "q-valve": 0.0, "q-battery": 1.0}
    judged = judged_run(path, tmp_path / "judged", verdicts)
    stage("attribute", **small, judged=str(judged))
    lines = {line["id"]: line for line in read_jsonl(path / "attribution.jsonl")}
    found = {q: line["reason"] for q, line in lines.items() if q in verdicts}
    assert found == {
        "q-pump": "judge disagreement",
        "q-fuse": "judge disagreement",
        "q-valve": "retrieved but unused",
    }
    assert (lines["q-fuse"]["score"], lines["q-fuse"]["correct"]) == (1.0, 0.0)
    assert server.requests == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": "why?"}, r"question 'q-fuse' \('why\?'\) is not one of the examples"),
        ({"id": "q-x"}, "question 'q-x' .* it judged another test set"),
        ({"answer": "no"}, r"is 'no', and words \| told answered .*cells/words\+told\+retrieved"),
    ],
)
def test_a_judged_run_of_other_questions_or_answers_is_refused(
    stage: Callable[..., Path],
    small: dict[str, Any],
    tmp_path: Path,
    changed: dict[str, str],
    message: str,
) -> None:
    path = stage("attribute", **small)
    judged = judged_run(path, tmp_path / "judged", {"q-fuse": 1.0}, **changed)
    with pytest.raises(DataError, match=message):
        stage("attribute", **small, judged=str(judged))


def test_a_folder_without_verdicts_is_no_judged_run(
    stage: Callable[..., Path], small: dict[str, Any], tmp_path: Path, data: Path
) -> None:
    with pytest.raises(DataError, match="no run directory of ragkit judge"):
        stage("attribute", **small, judged=str(data))
    path = stage("attribute", **small)
    judged = judged_run(path, tmp_path / "judged", {})
    with pytest.raises(DataError, match="no record has a judge's verdict"):
        stage("attribute", **small, judged=str(judged))


# configuration


def config(data: Path, **more: Any) -> Config:
    return build(Config, Source({"examples": str(data / "test.jsonl"), **more}))


def test_an_encoder_alone_is_compared_with_the_embedded_one(data: Path, tiny_encoder: Path) -> None:
    made = config(data, retriever={"model": str(tiny_encoder)})
    assert {n: getattr(r, "model", "") for n, r in made.retrievers.items()} == {
        "base": "embedded",
        "tuned": str(tiny_encoder),
    }
    assert {n: a.type for n, a in made.answerers.items()} == {"extractive": "extractive"}
    assert made.explained.system == "tuned | extractive"
    assert config(data).explained.system == "base | extractive"


def test_a_configuration_that_was_recorded_can_be_given_again(
    data: Path, tiny_encoder: Path
) -> None:
    made = config(data, retriever={"model": str(tiny_encoder)})
    assert build(Config, Source(made.model_dump(mode="json"))) == made


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metric": "f2"}, "metric: 'f2': should be 'em', 'f1', 'rouge_1', 'rouge_2' or 'rouge_l'"),
        ({"threshold": 0}, "threshold: 0: should be greater than 0"),
        ({"system": "tuned"}, "'tuned' is not in the grid; there are 'base | extractive'"),
        ({"system": "extractive | gold"}, "'extractive | gold' is not in the grid"),
        ({"retrievers": {"a|b": BM25}}, r"retrievers: 'a\|b' is no name: letters, digits"),
        ({"retrievers": {"a": BM25, "A": BM25}}, "retrievers: a and A would have one folder"),
        ({"answerers": {"../x": {"type": "extractive"}}}, r"answerers: '\.\./x' is no name"),
        ({"retriever": BM25, "retrievers": {"a": BM25}}, "makes a grid of its own; .* are a"),
        ({"retrievers": {"a": {"type": "bm52"}}}, "retrievers.a.type: 'bm52' is not one of bm25"),
        ({"judged": "nowhere"}, "judged: 'nowhere': no such file or folder"),
    ],
)
def test_a_grid_that_cannot_be_is_told(data: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(data, **values)


def test_without_an_answer_to_compare_with_nothing_is_explained(
    stage: Callable[..., Path], small: dict[str, Any], data: Path, server: Any
) -> None:
    write_jsonl(
        data / "test.jsonl",
        [
            question("user", positive_ids=[], answerable=False, answers=[]),
            question("fuse", answers=[]),
        ],
    )
    with pytest.raises(DataError, match=r"test\.jsonl: no answerable question with answers"):
        stage("attribute", **small)
    assert server.requests == []


def test_leaks_are_told_before_the_first_cell_and_can_be_accepted_then(
    stage: Callable[..., Path], small: dict[str, Any], data: Path
) -> None:
    write_jsonl(data / "train.jsonl", [question("fuse")])
    small["leak_rouge_l"] = 0.9
    with pytest.raises(DataError, match="1 of 8 test questions stand in the training examples"):
        stage("attribute", **small)
    path = stage("attribute", **small, accept_leaks=True)
    lines = {line["id"]: line["slices"] for line in read_jsonl(path / "attribution.jsonl")}
    assert "unseen documents" in lines["q-pump"]


def test_a_weight_without_dev_examples_is_told_before_the_first_cell(
    stage: Callable[..., Path], small: dict[str, Any], server: Any, tiny_encoder: Path
) -> None:
    dense = {"type": "dense", "model": str(tiny_encoder)}
    small["retrievers"] = {"both": {"type": "fused", "method": "weighted", "dense": dense}}
    with pytest.raises(ConfigError, match=r"chosen on dev examples, and no dev\.jsonl"):
        stage("attribute", **small)
    assert server.requests == []
    small["retrievers"]["both"]["weight"] = 0.5
    path = stage("attribute", **small)
    assert (path / "indexes" / "both" / "embeddings.npy").exists()
