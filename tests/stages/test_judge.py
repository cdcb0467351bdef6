"""`ragkit judge` against a real server: scores, refusals, and nothing bought twice."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.files import read_json, read_jsonl, sha256_file, write_json, write_jsonl
from ragkit.errors import ConfigError, DataError, EndpointError, ModelError
from ragkit.evaluation.significance import interval
from ragkit.log import Meter
from ragkit.stages import STAGES

QUESTIONS = 60
Reply = Callable[[str, dict[str, list[str]]], Any]


def tagged(text: str) -> dict[str, list[str]]:
    """Return what stands between the tags of a prompt, by tag."""
    found: dict[str, list[str]] = {}
    for tag, inside in re.findall(r"<(\w+)>\n(.*?)\n</\1>", text, re.DOTALL):
        found.setdefault(tag, []).append(inside)
    return found


def honest(system: str, said: dict[str, list[str]]) -> Any:
    """Judge as the answers below deserve: right, half right or wrong."""
    if '"claims"' in system:
        passages = " ".join(said["passage"])
        claims = re.split(r"(?<=\.) ", said["answer"][0])
        return {"claims": [{"claim": c, "supported": c in passages} for c in claims]}
    if '"better"' in system:
        reference = said.get("reference", [""])[0]
        first, second = (reference in said[name][0] for name in ("answer_1", "answer_2"))
        return {"reason": "", "better": "tie" if first == second else "1" if first else "2"}
    good = any(reference in said["answer"][0] for reference in said["reference"])
    levels = (
        ("right", "partly", "wrong") if '"right"' in system else ("correct", *["incorrect"] * 2)
    )
    half = "half" in said["answer"][0]
    return {"reason": "read", "verdict": levels[0 if good else 1 if half else 2]}


@dataclass
class JudgeServer:
    """The chat server as a judge; `reply` is what it says to (instructions, what is tagged)."""

    server: Any
    says: Callable[[str], Any]
    reply: Reply = honest
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server.reply = self._answer

    def _answer(self, request: dict[str, Any]) -> Any:
        system, text = (m["content"] for m in request["messages"])
        self.texts.append(text)
        said = self.reply(system, tagged(text))
        return said if not isinstance(said, str | dict) else self.says(
            said if isinstance(said, str) else json.dumps(said)
        )  # fmt: skip


@pytest.fixture
def judge_server(chat_server: Any, says: Any) -> JudgeServer:
    return JudgeServer(chat_server, says)


def record(i: int, **changes: Any) -> dict[str, Any]:
    """Return a prediction: of four answers two are right, one half right and one wrong."""
    answers = [f"It is value{i}.", f"The value{i} is it.", "It is half of it.", "Nothing like it."]
    return {
        "id": f"q{i}",
        "question": f"What is value {i}?",
        "answer": answers[i % 4],
        "abstained": False,
        "answerable": True,
        "references": [f"value{i}"],
        "passages": [{"id": f"p{i}", "score": 2.0}, {"id": f"p{i + 1}", "score": 1.0},
                     {"id": "p0", "score": 0.5}],
        "answer_passage_ids": [f"p{i}"],
        "positive_ids": [f"p{i}"],
        "document": f"d{i // 2}",
        "scores": {"f1": 0.25},
        "latency_ms": 1.0,
        "slices": ["even" if i % 2 == 0 else "odd"],
        **changes,
    }  # fmt: skip


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Write the directory of an eval-e2e run, with two passages an answer; return it."""
    corpus = tmp_path / "corpus.jsonl"
    texts = ("It is value{}.", "The value{} is it.")
    write_jsonl(
        corpus,
        (
            {"id": f"p{i}", "doc_id": f"d{i // 2}", "text": texts[i % 4 % 2].format(i)}
            for i in range(QUESTIONS + 1)
        ),
    )

    def write(name: str, records: list[dict[str, Any]] | None = None) -> Path:
        path = tmp_path / name
        write_jsonl(path / "predictions.jsonl", records or [record(i) for i in range(QUESTIONS)])
        cell = {"mean": 0.25, "ci95": None, "n": QUESTIONS, "clusters": 30}
        metrics = {"metrics": {"f1": cell}, "slices": {"even": {"f1": cell}}, "questions": {}}
        write_json(path / "metrics.json", metrics)
        inputs = {"corpus": {"path": str(corpus), "sha256": sha256_file(corpus)}}
        config = {"corpus": str(corpus), "n_passages": 2}
        write_json(path / "run.json", {"config": config, "inputs": inputs})
        return path

    return write


@pytest.fixture
def values(judge_server: JudgeServer, write_run: Callable[..., Path], tmp_path: Path) -> Any:
    """A configuration that judges the run above."""
    server = {"type": "openai", "model": "m", "base_url": judge_server.server.url}
    return {
        "runs": [str(write_run("system"))],
        "judge": {**server, "max_retries": 0, "concurrency": 2},
        "output": str(tmp_path / "run"),
    }


Stage = Callable[..., Path]


def test_a_judged_run_is_the_run_with_the_judges_scores(
    stage: Stage, values: Any, judge_server: JudgeServer
) -> None:
    path = stage("judge", **values)
    predictions = read_jsonl(path / "predictions.jsonl")
    scores = {r["id"]: r["scores"]["correct"] for r in predictions}
    assert scores == {f"q{i}": float(i % 4 < 2) for i in range(QUESTIONS)}
    for i, found in enumerate(predictions):
        said = found.pop("judge")["correct"]
        assert (said["score"], said["reason"], said["failed"]) == (scores[f"q{i}"], "read", None)
        assert found.pop("scores") == {"f1": 0.25, "correct": scores[f"q{i}"]}
        assert {**found, "scores": {"f1": 0.25}} == record(i)
    metrics = read_json(path / "metrics.json")
    documents = [f"d{i // 2}" for i in range(QUESTIONS)]
    expected = interval(list(scores.values()), documents, within=(0, 1))
    cell = {"mean": 0.5, "ci95": [expected.low, expected.high], "n": QUESTIONS, "clusters": 30}
    assert metrics["metrics"]["correct"] == cell
    assert metrics["metrics"]["f1"]["mean"] == 0.25
    assert metrics["slices"]["even"].keys() == {"f1", "correct"}
    assert metrics["slices"]["odd"]["correct"]["n"] == QUESTIONS / 2
    assert len(judge_server.texts) == QUESTIONS + 20


def test_what_the_judge_was_and_how_it_stood_its_trial_is_recorded(
    stage: Stage, values: Any, judge_server: JudgeServer
) -> None:
    path = stage("judge", **values)
    part = read_json(path / "metrics.json")["judge"]
    assert (part["model"], part["server"], part["temperature"]) == (
        "m", judge_server.server.url, 0.0,
    )  # fmt: skip
    found = part["criteria"]["correct"]
    assert (found["asked"], found["failed"], found["failed_rate"]) == (QUESTIONS, 0, 0.0)
    assert found["controls"] == {"right": [10, 10], "wrong": [10, 10]}
    assert re.fullmatch("[0-9a-f]{64}", found["prompt_sha256"])
    assert part["cost"] == {
        "requests": QUESTIONS + 20, "prompt_tokens": 7 * (QUESTIONS + 20),
        "completion_tokens": 3 * (QUESTIONS + 20), "dollars": None,
    }  # fmt: skip
    lines = read_jsonl(path / "judgements.jsonl")
    assert sum(line["kind"] == "control" for line in lines) == 20
    assert all(line["holds"] for line in lines if line["kind"] == "control")
    marks = {r["judge"]["correct"]["mark"] for r in read_jsonl(path / "predictions.jsonl")}
    assert marks == {found["mark"]}


def test_another_prompt_or_judge_is_another_mark(stage: Stage, values: Any, tmp_path: Path) -> None:
    own = tmp_path / "prompts"
    own.mkdir()
    (own / "correct-verdict.txt").write_text('Return {"verdict": "correct"} or "incorrect".\n')
    changes: list[dict[str, Any]] = [
        {}, {"prompts": str(own)}, {"scale": "rubric"},
        {"judge": {**values["judge"], "model": "n"}},
        {"judge": {**values["judge"], "temperature": 0.5}},
    ]  # fmt: skip
    marks = set()
    for i, change in enumerate(changes):
        path = stage("judge", **{**values, **change, "output": str(tmp_path / f"run-{i}")})
        marks.add(read_json(path / "metrics.json")["judge"]["criteria"]["correct"]["mark"])
    assert len(marks) == len(changes)


def test_a_rubric_knows_half_right_answers(stage: Stage, values: Any) -> None:
    path = stage("judge", **values, scale="rubric")
    scores = [r["scores"]["correct"] for r in read_jsonl(path / "predictions.jsonl")]
    assert scores == [1.0, 1.0, 0.5, 0.0] * (QUESTIONS // 4)


def test_faithfulness_is_judged_by_the_passages_that_the_answerer_got(
    stage: Stage, values: Any, judge_server: JudgeServer
) -> None:
    path = stage("judge", **values, criteria=["faithful"])
    predictions = read_jsonl(path / "predictions.jsonl")
    assert [r["scores"]["faithful"] for r in predictions] == [
        float(i % 4 < 2) for i in range(QUESTIONS)
    ]
    # two of the three that were retrieved
    (asked,) = (t for t in judge_server.texts if "What is value 9?" in t and "The value9" in t)
    assert tagged(asked)["passage"] == ["The value9 is it.", "It is value10."]


def test_a_conversation_is_shown_to_the_judge_as_it_was_recorded(
    stage: Stage, values: Any, write_run: Callable[..., Path], judge_server: JudgeServer
) -> None:
    before = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?"}]
    records = [record(i, history=before) for i in range(4)]
    values["runs"] = [str(write_run("talks", records))]
    stage("judge", **values)
    asked = "User: Hello.\nAssistant: Yes?\nUser: What is value 3?"
    assert asked in [tagged(text)["question"][0] for text in judge_server.texts]


def test_more_passages_than_are_recorded_are_warned_of(
    stage: Stage, values: Any, tmp_path: Path, log_lines: list[str]
) -> None:
    account = read_json(tmp_path / "system" / "run.json")
    account["config"]["n_passages"] = 12
    write_json(tmp_path / "system" / "run.json", account)
    stage("judge", **values, criteria=["faithful"])
    said = "answers were made from 12 passages, and predictions.jsonl names 10"
    assert any(said in line for line in log_lines)


def test_abstentions_failed_questions_and_those_without_reference_are_not_asked_about(
    stage: Stage, values: Any, write_run: Callable[..., Path], judge_server: JudgeServer
) -> None:
    changes: dict[int, dict[str, Any]] = {
        0: {"answer": "", "abstained": True},
        1: {"answer": "", "failed": "no answer"},
        2: {"references": []},
        3: {"answerable": False, "references": []},
    }
    records = [record(i, **changes.get(i, {})) for i in range(QUESTIONS)]
    values["runs"] = [str(write_run("other", records))]
    path = stage("judge", **values, criteria=["correct", "faithful"])
    scores = [r["scores"] for r in read_jsonl(path / "predictions.jsonl")]
    assert scores[0] == {"f1": 0.25, "correct": 0.0}  # abstained: wrong, and it claims nothing
    assert scores[1] == {"f1": 0.25}
    assert scores[2].keys() == scores[3].keys() == {"f1", "faithful"}
    found = read_json(path / "metrics.json")["judge"]["criteria"]
    correct, faithful = found["correct"], found["faithful"]
    assert (correct["asked"], correct["settled"], correct["left_out"]) == (QUESTIONS - 4, 1, 3)
    assert (faithful["asked"], faithful["settled"], faithful["left_out"]) == (QUESTIONS - 2, 0, 2)


def test_a_better_run_is_preferred_and_orders_that_disagree_are_ties(
    stage: Stage, values: Any, write_run: Callable[..., Path], judge_server: JudgeServer
) -> None:
    worse = [record(i, answer="Something else.") for i in range(QUESTIONS)]
    values["runs"].append(str(write_run("baseline", worse)))

    def biased(system: str, said: dict[str, list[str]]) -> Any:
        real = "Something else." in said.get("answer_1", []) + said.get("answer_2", [])
        if real and re.match(r"What is value \d\?", said["question"][0]):
            return {"reason": "", "better": "1"}  # whatever stands first
        return honest(system, said)

    judge_server.reply = biased
    path = stage("judge", **values)
    scores = [r["scores"]["preferred"] for r in read_jsonl(path / "predictions.jsonl")]
    assert scores[:10] == [0.5] * 10
    assert scores[10:] == [1.0 if i % 4 < 2 else 0.5 for i in range(10, QUESTIONS)]
    found = read_json(path / "metrics.json")["judge"]["criteria"]
    assert list(found) == ["correct", "preferred"]  # by default, with a baseline
    assert found["preferred"]["orders_agree"] == pytest.approx(1 - 10 / QUESTIONS)


def test_a_judge_that_calls_everything_right_is_refused_before_it_is_asked_about_the_run(
    stage: Stage, values: Any, judge_server: JudgeServer
) -> None:
    judge_server.reply = lambda *_: {"reason": "fine", "verdict": "correct"}
    told = r"m is not fit to judge by 'correct'.* told 10 of 10 right ones, 0 of 10 wrong ones"
    with pytest.raises(ModelError, match=told):
        stage("judge", **values)
    assert len(judge_server.texts) == 20


def test_a_judge_that_is_let_through_with_one_verdict_for_all_is_refused_in_the_end(
    stage: Stage, values: Any, judge_server: JudgeServer
) -> None:
    judge_server.reply = lambda *_: {"reason": "fine", "verdict": "correct"}
    with pytest.raises(ModelError, match="gave 1 by 'correct' to every one of 60 answers, and no"):
        stage("judge", **values, control_accuracy=0)


def test_a_server_that_fails_is_not_taken_for_a_bad_judge(
    stage: Stage, values: Any, judge_server: JudgeServer, response: Any
) -> None:
    def failing(system: str, said: dict[str, list[str]]) -> Any:
        planted_wrong = (
            said["answer"][0].startswith("value") and said["answer"] != said["reference"]
        )
        return response(500, "{}") if planted_wrong else honest(system, said)

    judge_server.reply = failing
    with pytest.raises(EndpointError, match="10 of 20 planted answers, .* got no reply"):
        stage("judge", **values)
    judge_server.reply = honest
    assert (stage("judge", **values) / "metrics.json").exists()


def test_a_judge_stands_every_trial_before_it_is_asked_about_the_run(
    stage: Stage, values: Any, judge_server: JudgeServer
) -> None:
    def blind(system: str, said: dict[str, list[str]]) -> Any:
        return {"claims": []} if '"claims"' in system else honest(system, said)

    judge_server.reply = blind
    with pytest.raises(ModelError, match="not fit to judge by 'faithful'.* told 0 of 10 right"):
        stage("judge", **values, criteria=["correct", "faithful"])
    assert len(judge_server.texts) == 40


def test_a_judge_that_prefers_what_stands_first_is_refused(
    stage: Stage, values: Any, write_run: Callable[..., Path], judge_server: JudgeServer
) -> None:
    values["runs"].append(str(write_run("baseline", [record(i, answer="?") for i in range(60)])))
    judge_server.reply = lambda *_: {"reason": "", "better": "1"}
    with pytest.raises(ModelError, match="told 0 of 10 right ones, 0 of 10 wrong ones"):
        stage("judge", **values, criteria=["preferred"])


def test_a_judge_that_talks_nonsense_is_refused_with_examples(
    stage: Stage, values: Any, judge_server: JudgeServer
) -> None:
    judge_server.reply = lambda *_: "Well, that\ndepends."
    with pytest.raises(ModelError) as caught:
        stage("judge", **values)
    assert "no verdict in the reply: 'Well, that depends.'" in str(caught.value)
    assert len(judge_server.texts) == 20


def fails_on_every_tenth(reply: Any) -> Reply:
    """Fail on the answers to ten percent of the questions, not on the planted ones."""

    def judged(system: str, said: dict[str, list[str]]) -> Any:
        planted = said["answer"][0].startswith("value")
        return reply if "0?" in said["question"][0] and not planted else honest(system, said)

    return judged


def test_a_judge_that_fails_on_a_tenth_stops_the_run_and_says_where(
    stage: Stage, values: Any, judge_server: JudgeServer, tmp_path: Path
) -> None:
    judge_server.reply = fails_on_every_tenth("I cannot say.")
    with pytest.raises(EndpointError) as caught:
        stage("judge", **values)
    lines = str(caught.value).splitlines()
    assert lines[0] == "6 of 60 judgements by 'correct' failed, more than max_failed (2%)"
    assert lines[1] == "  q0: no verdict in the reply: 'I cannot say.'"
    assert lines[-1].startswith("6 replies cannot be read, and are not bought again")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_within_the_limit_failures_are_a_third_state(
    stage: Stage, values: Any, judge_server: JudgeServer, log_lines: list[str]
) -> None:
    judge_server.reply = fails_on_every_tenth("I cannot say.")
    with pytest.raises(EndpointError):
        stage("judge", **values)
    judge_server.texts.clear()
    path = stage("judge", **values, max_failed=0.1)  # what only stops a run may be changed
    assert judge_server.texts == []
    result = read_json(path / "metrics.json")
    found = result["judge"]["criteria"]["correct"]
    assert (found["failed"], found["failed_rate"]) == (6, 0.1)
    assert found["failed_ids"] == [f"q{i}" for i in range(0, 60, 10)]
    assert result["metrics"]["correct"]["n"] == 54
    assert result["metrics"]["correct"]["mean"] == pytest.approx(27 / 54)
    failed = [r for r in read_jsonl(path / "predictions.jsonl") if "correct" not in r["scores"]]
    assert [r["judge"]["correct"]["failed"] for r in failed] == ["no verdict in the reply"] * 6
    lines = [r for r in read_jsonl(path / "judgements.jsonl") if r["failed"]]
    assert [r["replies"] for r in lines] == [["I cannot say."]] * 6


def test_what_got_no_reply_is_all_that_is_asked_again(
    stage: Stage, values: Any, judge_server: JudgeServer, response: Any
) -> None:
    judge_server.reply = fails_on_every_tenth(response(500, "{}"))
    with pytest.raises(EndpointError, match="6 got no reply; the others are in the journal"):
        stage("judge", **values)
    judge_server.texts.clear()
    judge_server.reply = honest
    path = stage("judge", **values)
    assert sorted(tagged(t)["question"][0] for t in judge_server.texts) == [
        f"What is value {i}?" for i in range(0, 60, 10)
    ]
    assert read_json(path / "metrics.json")["metrics"]["correct"]["n"] == QUESTIONS


def test_an_interrupted_run_asks_nothing_twice(
    stage: Stage, values: Any, judge_server: JudgeServer, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    values |= {"replicates": 1, "replicate_questions": 10}
    whole = stage("judge", **{**values, "output": str(tmp_path / "whole")})
    journal, everything, advance = tmp_path / "run" / "journal.jsonl", 90, Meter.advance
    assert len(judge_server.texts) == everything
    known = 0
    for replies in (7, 13, 20):
        left = [replies]

        def press(meter: Meter, n: int = 1) -> None:
            advance(meter, n)
            left[0] -= n  # noqa: B023  (called in this turn of the loop)
            if left[0] <= 0:  # noqa: B023
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Meter, "advance", press)
            stage("judge", **values)
        assert len(read_jsonl(journal)) >= known + replies
        known = len(read_jsonl(journal))
    path = stage("judge", **values)
    # not by the server's count: what was in flight at the interrupt may reach it late
    bought = read_json(path / "costs.json")["judge"]["asked_by_this_start"]
    assert bought == everything - known
    assert len({r["key"] for r in read_jsonl(journal)}) == len(read_jsonl(journal)) == everything
    for name in ("predictions.jsonl", "judgements.jsonl"):
        assert (path / name).read_bytes() == (whole / name).read_bytes()


def test_one_verdict_for_all_is_said_aloud_where_the_judge_has_stood_its_trial(
    stage: Stage, values: Any, write_run: Callable[..., Path], log_lines: list[str]
) -> None:
    values["runs"] = [str(write_run("best", [record(i, answer=f"value{i}") for i in range(60)]))]
    path = stage("judge", **values)
    assert read_json(path / "metrics.json")["judge"]["criteria"]["correct"]["constant"]
    said = "m gave 1 by 'correct' to every one of 60 answers; it did tell"
    assert any(line.startswith(said) for line in log_lines)


@pytest.mark.parametrize(("n", "refused"), [(20, True), (19, False)])
def test_one_verdict_for_all_is_refused_where_nothing_could_be_planted(
    stage: Stage, values: Any, write_run: Callable[..., Path], n: int, refused: bool
) -> None:
    same = [record(i, answer=f"Yes{i}.", references=["Yes"]) for i in range(n)]
    values["runs"] = [str(write_run("same", same))]
    if refused:
        with pytest.raises(
            ModelError, match="no planted answers show that it can tell right from wrong"
        ):
            stage("judge", **values)
    else:
        found = read_json(stage("judge", **values) / "metrics.json")["judge"]["criteria"]["correct"]
        assert found["controls"] == {"right": [0, 0], "wrong": [0, 0]}


def test_replicates_show_how_often_a_judge_changes_its_mind(
    stage: Stage, values: Any, judge_server: JudgeServer
) -> None:
    asked: dict[str, int] = {}

    def moody(system: str, said: dict[str, list[str]]) -> Any:
        question = said["question"][0]
        if said["answer"][0].startswith("value"):  # planted
            return honest(system, said)
        asked[question] = asked.get(question, 0) + 1
        if question.endswith("3?"):  # wrong, and once in three right
            return {"reason": "", "verdict": "correct" if asked[question] == 2 else "incorrect"}
        return honest(system, said)

    judge_server.reply = moody
    path = stage("judge", **values, replicates=2, replicate_questions=QUESTIONS)
    found = read_json(path / "metrics.json")["judge"]["criteria"]["correct"]["noise"]
    assert (found["questions"], found["replicates"]) == (QUESTIONS, 2)
    assert found["changed"] == pytest.approx(6 / QUESTIONS)
    # each of the six has two equal of three: variance 1/3
    assert found["sd_of_mean"] == pytest.approx((6 / 3 / QUESTIONS / QUESTIONS) ** 0.5)
    assert set(asked.values()) == {3}


def labels(path: Path, records: list[dict[str, Any]]) -> str:
    write_jsonl(path, records)
    return str(path)


def test_peoples_labels_measure_the_judge_and_correct_its_mean(
    stage: Stage, values: Any, tmp_path: Path
) -> None:
    # people agree but for one of the first twelve
    people = [{"id": f"q{i}", "correct": int(i % 4 < 2 and i != 4)} for i in range(12)]
    path = stage("judge", **values, human=labels(tmp_path / "labels.jsonl", people))
    found = read_json(path / "metrics.json")["judge"]["human"]
    assert found["agreement"]["raw"]["mean"] == pytest.approx(11 / 12)
    # 6 of the 12 right by the judge, 5 by people: by chance (5 * 6 + 7 * 6) / 144
    assert found["agreement"]["kappa"]["value"] == pytest.approx((11 / 12 - 0.5) / 0.5)
    ppi = found["ppi"]
    assert (ppi["n"], ppi["unlabelled"]) == (12, QUESTIONS - 12)
    assert ppi["labels_alone"]["mean"] == pytest.approx(5 / 12)
    assert ppi["mean"] == pytest.approx(5 / 12 + ppi["lambda"] * (0.5 - 0.5))
    assert 0 < ppi["lambda"] <= 1
    alone = ppi["labels_alone"]["ci95"]
    assert ppi["ci95"][1] - ppi["ci95"][0] < alone[1] - alone[0]


def test_chosen_labels_are_warned_of(
    stage: Stage, values: Any, tmp_path: Path, log_lines: list[str]
) -> None:
    right = [i for i in range(QUESTIONS) if i % 4 < 2]
    chosen = [{"id": f"q{i}", "correct": 1} for i in right[:20]] + [{"id": "q2", "correct": 0}]
    stage("judge", **values, human=labels(tmp_path / "labels.jsonl", chosen))
    assert any("do not look like a random draw" in line for line in log_lines)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"id": "q99", "correct": 1}, r"labels.jsonl:2: id: the judged run has no question 'q99'"),
        ({"id": "q1", "correct": 1}, r"labels.jsonl:2: id: 'q1' is already in this file"),
        ({"id": "q2", "correct": 0.7}, r"labels.jsonl:2: correct: 0.7 is none of 0, 0.5 and 1"),
        ({"id": "q2", "correct": "yes"}, "correct: 'yes' is none of"),
        ({"id": "q2"}, 'labels.jsonl:2: {"id": ..., "correct": ...} was expected'),
    ],
)
def test_labels_that_are_none_are_told_with_their_line_before_anything_is_asked(
    stage: Stage, values: Any, judge_server: JudgeServer, tmp_path: Path, bad: Any, said: str
) -> None:
    human = labels(tmp_path / "labels.jsonl", [{"id": "q1", "correct": 1}, bad])
    with pytest.raises(DataError, match=said):
        stage("judge", **values, human=human)
    assert judge_server.texts == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"criteria": ["preferred"]}, "preferred needs a second run"),
        ({"criteria": ["correct", "correct"]}, "one is named twice"),
        ({"runs": 2, "criteria": ["correct"]}, "a baseline is for it alone"),
        ({"criteria": ["helpful"]}, "criteria"),
        ({"criteria": ["faithful"], "human": True}, "labels are of `correct`"),
        ({"criteria": ["faithful"], "scale": "rubric"}, "scale: goes with correct"),
        ({"corpus": "."}, "corpus: goes with faithful"),
    ],
)
def test_criteria_that_do_not_fit_are_told_at_once(
    stage: Stage, values: Any, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    if change.get("runs"):
        change = {**change, "runs": values["runs"] * 2}
    if change.get("human"):
        change = {**change, "human": labels(tmp_path / "labels.jsonl", [{"id": "q1"}])}
    with pytest.raises(ConfigError, match=said):
        stage("judge", **{**values, **change})


def test_a_folder_without_the_wanted_instructions_is_refused(
    stage: Stage, values: Any, tmp_path: Path
) -> None:
    (tmp_path / "prompts").mkdir()
    with pytest.raises(ConfigError, match="has none of correct-verdict.txt in it"):
        stage("judge", **values, prompts=str(tmp_path / "prompts"))


def test_runs_that_cannot_be_judged_are_told(
    stage: Stage, values: Any, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    def refused(error: type[Exception], said: str, **change: Any) -> None:
        with pytest.raises(error, match=said):
            stage("judge", **{**values, "output": str(tmp_path / "refused"), **change})

    judged = stage("judge", **values)
    refused(ConfigError, "is a judged run; name the eval-e2e run itself", runs=[str(judged)])
    unfinished = write_run("unfinished")
    (unfinished / "metrics.json").unlink()
    refused(DataError, "there is no metrics.json in it", runs=[str(unfinished)])
    twice = write_run("twice", [record(1), record(1)])
    refused(DataError, "jsonl:2: id: 'q1' is already in this file", runs=[str(twice)])
    short = record(1)
    del short["references"]
    refused(DataError, "jsonl:1: references: missing", runs=[str(write_run("short", [short]))])
    other = write_run("other", [record(i) for i in range(5)])
    refused(DataError, r"not asked the questions of .*'q5'", runs=[*values["runs"], str(other)])
    nothing = [record(i, abstained=True, references=[]) for i in range(5)]
    path = str(write_run("nothing", nothing))
    refused(DataError, "none of 5 questions can be judged by it; it needs an answer", runs=[path])
    refused(DataError, "correct: none of 5 questions", runs=[path], criteria=["correct"])


def test_passages_are_looked_up_in_the_corpus_of_the_run(
    stage: Stage, values: Any, tmp_path: Path, log_lines: list[str]
) -> None:
    other = tmp_path / "other.jsonl"
    passages = read_jsonl(tmp_path / "corpus.jsonl")
    write_jsonl(other, passages[:-1])
    faithful = {**values, "criteria": ["faithful"]}
    with pytest.raises(DataError, match="1 passages of .*system are not in it .'p60'.; name the"):
        stage("judge", **faithful, corpus=str(other))
    write_jsonl(other, [*passages, {"id": "p99", "text": "One more."}])
    stage("judge", **faithful, corpus=str(other))
    assert any("not the corpus that" in line for line in log_lines)
    (tmp_path / "corpus.jsonl").unlink()
    with pytest.raises(ConfigError, match="corpus: .*corpus.jsonl, of .*system, is not there"):
        stage("judge", **{**faithful, "output": str(tmp_path / "gone")})


def test_a_judged_run_is_shown_to_a_newcomer(
    stage: Stage, values: Any, write_run: Callable[..., Path], tmp_path: Path, ragkit: Any
) -> None:
    values["runs"].append(str(write_run("baseline", [record(i, answer="?") for i in range(60)])))
    people = [{"id": f"q{i}", "correct": int(i % 4 < 2)} for i in range(0, 60, 5)]
    values |= {"human": labels(tmp_path / "labels.jsonl", people), "replicates": 1}
    (tmp_path / "c.yaml").write_text(json.dumps(values))
    done = ragkit("judge", "-c", str(tmp_path / "c.yaml"))
    assert done.code == 0
    shown = " ".join(done.out.split())
    for line in (
        "judged by m (http://127.0.0.1",
        "correct: share of the answers that agree with a reference",
        "60 answers asked for; the judge failed on none",
        "planted answers of known verdict that it told: 10 of 10 right ones, 10 of 10 wrong ones",
        "both orders of the two answers gave the same winner: 100%",
        "asked again 1 times of 50 questions: 0% change, which moves the mean by 0.0000",
        "people and judge agree on 100% of 12 answers",
        "their 12 labels alone",
        "no price known",
    ):
        assert line in shown


def test_a_dry_run_says_what_it_may_come_to_and_asks_nothing(
    values: Any, judge_server: JudgeServer, tmp_path: Path, ragkit: Any
) -> None:
    (tmp_path / "prices.yaml").write_text("m: {input: 1, output: 2}\n")
    values["prices"] = str(tmp_path / "prices.yaml")
    (tmp_path / "c.yaml").write_text(json.dumps(values))
    done = ragkit("judge", "-c", str(tmp_path / "c.yaml"), "--dry-run")
    assert done.code == 0
    assert "# correct: 60 answers, 0 settled without the judge, 20 planted" in done.out
    assert "# m: 80 requests, 0 of them in the journal; to ask: 80" in done.out
    assert judge_server.texts == [] and not (tmp_path / "run").exists()


def test_a_limit_stops_the_run_and_the_next_start_goes_on(
    stage: Stage, values: Any, judge_server: JudgeServer
) -> None:
    with pytest.raises(EndpointError, match=r"max_requests \(5\) is reached: 15 of 20 planted"):
        stage("judge", **values, max_requests=5)
    with pytest.raises(EndpointError, match=r"max_requests \(30\) is reached: 45 of 60 judge"):
        stage("judge", **values, max_requests=30)
    path = stage("judge", **values)
    assert len(judge_server.texts) == len(set(judge_server.texts)) == QUESTIONS + 20
    assert read_json(path / "costs.json")["judge"]["asked_by_this_start"] == 45


def test_judged_runs_are_compared_like_the_runs_that_were_judged(
    stage: Stage, values: Any, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    best = write_run("best", [record(i, answer=f"value{i}") for i in range(QUESTIONS)])
    judged = [
        stage("judge", **{**values, "runs": [str(path)], "output": str(tmp_path / name)})
        for name, path in (("one", tmp_path / "system"), ("two", best))
    ]
    path = stage("compare", runs=list(map(str, judged)), output=str(tmp_path / "compared"))
    difference = read_json(path / "comparison.json")["answers"]["differences"]["two"]["correct"]
    assert difference["mean"] == 0.5
    assert (difference["wins"], difference["losses"]) == (30, 0)


def test_runs_that_were_judged_in_different_ways_are_not_compared(
    stage: Stage, values: Any, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    other = {**values, "runs": [str(write_run("other"))], "scale": "rubric"}
    judged = [stage("judge", **values), stage("judge", **{**other, "output": str(tmp_path / "b")})]
    with pytest.raises(DataError, match="correct was judged in different ways"):
        stage("compare", runs=list(map(str, judged)), output=str(tmp_path / "compared"))
    with pytest.raises(DataError, match="correct was judged in different ways"):
        stage("report", runs=list(map(str, judged)), output=str(tmp_path / "reported"))


@pytest.fixture
def tiny_generator(tiny_encoder: Path, tmp_path: Path) -> Path:
    """The folder of a random one-layer GPT-2 that reads the tiny encoder's tokens."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.model_max_length = 1024
    sizes = {"n_positions": 1024, "n_embd": 32, "n_layer": 1, "n_head": 2}
    ends = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes, **ends
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "generator")
    tokenizer.save_pretrained(tmp_path / "generator")
    return tmp_path / "generator"


def test_an_evaluation_of_ragkits_own_is_judged_by_a_tiny_local_model(
    stage: Stage, tiny_encoder: Path, tiny_generator: Path, tmp_path: Path, write_run: Any
) -> None:
    write_run("unused")  # for its corpus
    examples = [
        {"id": f"q{i}", "question": f"what is value{i}?", "answers": [f"value{i}"],
         "positive_ids": [f"p{i}"]}
        for i in range(8)
    ]  # fmt: skip
    write_jsonl(tmp_path / "test.jsonl", examples)
    evaluated = stage(
        "eval-e2e", examples=str(tmp_path / "test.jsonl"), output=str(tmp_path / "e2e"),
        retriever={"type": "bm25"}, answerer={"type": "extractive", "model": str(tiny_encoder)},
    )  # fmt: skip
    judge = {"type": "hf", "model": str(tiny_generator), "max_new_tokens": 4, "device": "cpu"}
    values = {"runs": [str(evaluated)], "judge": judge, "output": str(tmp_path / "run")}
    with pytest.raises(ModelError, match="is not fit to judge by 'correct'"):
        stage("judge", **values, controls=4)
    assert len(read_jsonl(tmp_path / "run" / "journal.jsonl")) == 4
    path = stage(  # a random model says nothing that can be read: all of it is the third state
        "judge", **values, controls=4, control_accuracy=0, max_failed=1,
    )  # fmt: skip
    found = read_json(path / "metrics.json")
    assert found["judge"]["criteria"]["correct"]["failed_rate"] == 1.0
    assert found["judge"]["server"] == "local, by transformers"
    assert found["judge"]["cost"]["dollars"] == 0.0
    assert "correct" not in found["metrics"]
    assert "f1" in found["metrics"]
    assert str(STAGES["judge"].load().show(path))
