"""qa-gen: what it writes, whoever the teacher is, and that a killed run buys nothing twice."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from ragkit.data.files import read_corpus, read_examples, read_json, read_jsonl, write_jsonl
from ragkit.data.nearduplicates import overlap_f1, words
from ragkit.errors import ConfigError, DataError, EndpointError
from ragkit.qa.splits import split_documents

FINAL = ["corpus.jsonl", "train.jsonl", "dev.jsonl", "test.jsonl", "rejected.jsonl"]
FINAL += ["funnel.json", "DATA_CARD.md"]
SPLITS = {"dev": 0.25, "test": 0.25}
DEMO = Path(__file__).parents[2] / "data" / "demo" / "passages.csv"
DOCUMENTS, STYLES = 12, ["factoid", "how-to"]


def letters(number: int) -> str:
    """Return a number in letters: figures would tell questions from each other."""
    return str(number).translate(str.maketrans("0123456789", "abcdefghij"))


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    """A CSV of 12 documents with two passages each, all of different words."""
    rng = random.Random(0)
    path = tmp_path / "passages.csv"
    with path.open("w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f)
        rows.writerow(["title", "section", "text"])
        for i in range(DOCUMENTS):
            for part in ("Use", "Care"):
                name = " ".join(f"word{letters(n)}" for n in rng.sample(range(10_000), 8))
                rows.writerow([f"Guide {i}", part, f"{name}. The {part} takes {i + 2} hours."])
    return path


def subject(request: dict[str, Any]) -> list[str]:
    """Return the words of the passage that a request is about."""
    text = str(request["messages"][-1]["content"])
    return [word.strip(".") for word in text.split() if word.startswith("word")]


def duration(text: str) -> str:
    """Return how long a passage says that something takes."""
    return re.findall(r"takes (\d+ hours)", text)[0]


def answer(request: dict[str, Any]) -> str:
    """Answer as a model does: good pairs, bad pairs, the same again, and now and then rubbish."""
    own, how = subject(request), "how-to" if "somebody with a goal" in str(request) else "factoid"
    if crc32(own[0].encode()) % 7 == 0:
        return "I am sorry, I cannot do that."
    hours = duration(request["messages"][-1]["content"])
    pairs = [
        (f"{' '.join(own[:4])} {how}?", hours),
        (f"What does the passage say of {own[0]}?", hours),
        (f"alpha beta gamma delta epsilon zeta {own[0]}?", hours),
        (f"{' '.join(own[4:])} now?", ""),
    ]
    return f"Sure:\n{json.dumps({'pairs': [{'question': q, 'answer': a} for q, a in pairs]})}"


@pytest.fixture
def openai(chat_server: Any, says: Any) -> dict[str, Any]:
    """The configuration of a teacher behind the chat server."""
    chat_server.reply = lambda request: says(answer(request))
    server = {"type": "openai", "model": "m", "base_url": chat_server.url, "concurrency": 4}
    return {**server, "structured": False}


@pytest.fixture
def values(passages: Path) -> dict[str, Any]:
    asked = {"styles": STYLES, "unanswerable": 0, "filters": {"round_trip": None}}
    return {"input": str(passages), "splits": SPLITS, **asked}


def final(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in FINAL}


def asked(server: Any) -> Counter[str]:
    return Counter(json.dumps(request["messages"]) for request in server.requests)


def test_the_files_hold_corpus_splits_rejections_and_their_account(
    stage: Callable[..., Path],
    values: dict[str, Any],
    openai: Any,
    chat_server: Any,
    tmp_path: Path,
) -> None:
    path = stage("qa-gen", **values, teacher=openai, output=str(tmp_path / "run"))
    corpus = read_corpus(path / "corpus.jsonl")
    assert len(corpus) == 2 * DOCUMENTS
    assert {p.title for p in corpus.values()} >= {"Guide 0 > Use", "Guide 0 > Care"}
    splits = {n: read_examples(path / f"{n}.jsonl", corpus) for n in ("train", "dev", "test")}
    documents = {n: {corpus[e.positive_ids[0]].source for e in s} for n, s in splits.items()}
    expected = split_documents({p.source for p in corpus.values()}, 0.25, 0.25)
    for name, found in documents.items():
        assert found and {expected[d] for d in found} == {name}
    examples = [e for s in splits.values() for e in s]
    assert len({e.id for e in examples}) == len(examples)
    for example in examples:
        text = corpus[example.positive_ids[0]].text
        assert set(words(example.question)) & set(words(text))
        assert example.answers == (duration(text),)
        assert example.meta["style"] in STYLES
    pointing = {name for name, s in splits.items() for e in s if "passage" in e.question}
    assert pointing == {"test"}  # which is held to form alone
    funnel, rejected = read_json(path / "funnel.json"), read_jsonl(path / "rejected.jsonl")
    reasons = Counter(r["reason"] for r in rejected if "question" in r)
    assert funnel["kept"] == len(examples)
    assert funnel["generated"] == funnel["kept"] + sum(reasons.values())
    assert {name: funnel[name] for name in reasons} == reasons
    assert {"duplicate", "leak", "does not stand alone"} < set(reasons)
    assert funnel["unreadable answers"] == len(rejected) - sum(reasons.values()) > 0
    assert funnel["generated"] == 4 * (2 * 2 * DOCUMENTS - funnel["unreadable answers"])
    card = (path / "DATA_CARD.md").read_text()
    for name, kept in splits.items():
        assert f"| {name} | {len(kept)} |" in card
    assert len(read_jsonl(path / "journal.jsonl")) == len(chat_server.requests) == 4 * DOCUMENTS


def test_no_training_question_is_near_a_dev_or_test_question(
    stage: Callable[..., Path], values: dict[str, Any], openai: dict[str, Any], tmp_path: Path
) -> None:
    path = stage("qa-gen", **values, teacher=openai, output=str(tmp_path / "run"))
    train, dev, test = (read_examples(path / f"{n}.jsonl") for n in ("train", "dev", "test"))
    for example in train:
        for held in (*dev, *test):
            assert overlap_f1(words(example.question), words(held.question)) < 0.7
    for example in dev:
        for held in test:
            assert overlap_f1(words(example.question), words(held.question)) < 0.7
    leaked = [r for r in read_jsonl(path / "rejected.jsonl") if r["reason"] == "leak"]
    assert {r["split"] for r in leaked} == {"train", "dev"}


def test_a_question_of_a_held_out_file_does_not_get_into_training(
    stage: Callable[..., Path], values: dict[str, Any], openai: dict[str, Any], tmp_path: Path
) -> None:
    path = stage("qa-gen", **values, teacher=openai, output=str(tmp_path / "before"))
    before = read_examples(path / "train.jsonl")
    held = {"id": "h", "question": f"Please: {before[0].question}"}
    write_jsonl(tmp_path / "held.jsonl", [held])
    path = stage(
        "qa-gen",
        **values,
        teacher=openai,
        held_out=[str(tmp_path / "held.jsonl")],
        output=str(tmp_path / "after"),
    )
    after = {e.id for e in read_examples(path / "train.jsonl")}
    near = {e.id for e in before if overlap_f1(words(e.question), words(held["question"])) >= 0.7}
    assert before[0].id in near
    assert after == {e.id for e in before} - near
    assert (
        "Training questions too close to one of held.jsonl" in (path / "DATA_CARD.md").read_text()
    )


def test_how_fast_the_answers_come_does_not_matter(
    stage: Callable[..., Path], values: dict[str, Any], openai: dict[str, Any], tmp_path: Path
) -> None:
    one, many = (
        stage(
            "qa-gen", **values, teacher={**openai, "concurrency": n}, output=str(tmp_path / f"{n}")
        )
        for n in (1, 16)
    )
    assert final(one) == final(many)


def test_a_recording_gives_what_the_server_gave_and_asks_nobody(
    stage: Callable[..., Path],
    values: dict[str, Any],
    openai: Any,
    chat_server: Any,
    tmp_path: Path,
) -> None:
    first = stage("qa-gen", **values, teacher=openai, output=str(tmp_path / "bought"))
    chat_server.requests.clear()
    recorded = {"type": "recorded", "journal": str(first / "journal.jsonl")}
    again = stage("qa-gen", **values, teacher=recorded, output=str(tmp_path / "recorded"))
    bought, replayed = final(first), final(again)
    bought.pop("DATA_CARD.md")
    card = replayed.pop("DATA_CARD.md").decode()
    assert replayed == bought
    assert "the recorded teacher" in card
    assert chat_server.requests == []


_KILLED = """
import os, signal, sys
from ragkit.config.load import Source, build
from ragkit.data.journal import Journal
from ragkit.stages import STAGES
from ragkit.stages.pipeline import run_stage
import json

append, left = Journal.append, [int(sys.argv[1])]
def append_and_die(self, records):
    append(self, records)
    left[0] -= len(records)
    if left[0] <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.append = append_and_die
module = STAGES["qa-gen"].load()
run_stage("qa-gen", module, build(module.Config, Source(json.loads(sys.argv[2]))), [])
"""


def child(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_killed_run_goes_on_without_asking_again_and_ends_like_one_that_was_not(
    stage: Callable[..., Path],
    values: dict[str, Any],
    openai: Any,
    chat_server: Any,
    tmp_path: Path,
) -> None:
    whole = stage("qa-gen", **values, teacher=openai, output=str(tmp_path / "whole"))
    everything = asked(chat_server)
    chat_server.requests.clear()
    values |= {"teacher": openai, "output": str(tmp_path / "killed")}
    done = child(_KILLED, "9", json.dumps(values))
    assert done.returncode == -signal.SIGKILL, done.stderr
    journal = tmp_path / "killed" / "journal.jsonl"
    bought = len(journal.read_text().splitlines())
    assert 9 <= bought < everything.total()
    assert not (tmp_path / "killed" / "train.jsonl").exists()
    with journal.open("ab") as f:
        f.write(b'{"key": "cut sho')  # as if killed while writing
    chat_server.requests.clear()
    path = stage("qa-gen", **values)
    again = asked(chat_server)
    assert max(again.values()) == 1
    assert again.total() == everything.total() - bought
    assert set(again) < set(everything)
    assert final(path) == final(whole)
    assert read_json(path / "run.json")["status"] == "done"


def test_a_done_run_asks_nothing(
    stage: Callable[..., Path],
    values: dict[str, Any],
    openai: Any,
    chat_server: Any,
    tmp_path: Path,
) -> None:
    values |= {"teacher": openai, "output": str(tmp_path / "run")}
    first = final(stage("qa-gen", **values))
    chat_server.requests.clear()
    assert final(stage("qa-gen", **values)) == first
    assert chat_server.requests == []


def test_a_refused_key_keeps_the_answers_and_the_next_run_asks_for_the_rest(
    stage: Callable[..., Path],
    values: dict[str, Any],
    openai: dict[str, Any],
    chat_server: Any,
    says: Any,
    response: Any,
    tmp_path: Path,
) -> None:
    values |= {"teacher": {**openai, "concurrency": 1}, "output": str(tmp_path / "run")}
    chat_server.reply = lambda r: (
        says(answer(r)) if len(chat_server.requests) <= 5 else response(401)
    )
    with pytest.raises(EndpointError, match="OPENAI_API_KEY is refused"):
        stage("qa-gen", **values)
    assert len(read_jsonl(tmp_path / "run" / "journal.jsonl")) == 5
    chat_server.requests.clear()
    chat_server.reply = lambda r: says(answer(r))
    stage("qa-gen", **values)
    assert len(chat_server.requests) == 4 * DOCUMENTS - 5


def test_passages_that_got_no_answer_are_counted_on_the_card(
    stage: Callable[..., Path],
    values: dict[str, Any],
    openai: dict[str, Any],
    chat_server: Any,
    says: Any,
    response: Any,
    tmp_path: Path,
) -> None:
    chat_server.reply = lambda r: response(500) if "Guide 3 > Use" in str(r) else says(answer(r))
    teacher = {**openai, "max_retries": 0}
    path = stage("qa-gen", **values, teacher=teacher, output=str(tmp_path / "run"), max_silent=0.1)
    assert "2 of 48 requests have no answer of the teacher." in (path / "DATA_CARD.md").read_text()


def test_too_many_requests_without_an_answer_stop_the_run_and_only_they_are_asked_again(
    stage: Callable[..., Path],
    values: dict[str, Any],
    openai: dict[str, Any],
    chat_server: Any,
    says: Any,
    response: Any,
) -> None:
    chat_server.reply = lambda r: response(500) if "Guide 3 > Use" in str(r) else says(answer(r))
    options = {**values, "teacher": {**openai, "max_retries": 0}}
    with pytest.raises(EndpointError, match="2 of 48 requests got no answer, more than max_silent"):
        stage("qa-gen", **options)
    asked = len(chat_server.requests)
    chat_server.reply = lambda r: says(answer(r))
    stage("qa-gen", **options)
    assert len(chat_server.requests) == asked + 2


def test_the_rules_make_the_same_files_whatever_the_hash_seed(tmp_path: Path) -> None:
    found = []
    for seed in ("1", "2"):
        rules = {"input": str(DEMO), "limit": 60, "filters": {"round_trip": None}}
        rules |= {"splits": SPLITS, "output": str(tmp_path / seed)}
        done = child(_KILLED, "1", json.dumps(rules), PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        found.append(final(tmp_path / seed))
    assert found[0] == found[1]


def test_the_rules_work_on_a_file_alone(stage: Callable[..., Path], tmp_path: Path) -> None:
    rules = {"input": str(DEMO), "filters": {"round_trip": {"model": None}}}
    path = stage("qa-gen", **rules, output=str(tmp_path / "run"))
    corpus = read_corpus(path / "corpus.jsonl")
    train = read_examples(path / "train.jsonl", corpus)
    assert len(train) > 100
    assert all(e.answers[0] in corpus[e.positive_ids[0]].text for e in train)
    assert not (path / "journal.jsonl").exists()


def test_a_question_of_two_passages_is_one_example_that_both_answer(
    stage: Callable[..., Path], chat_server: Any, says: Any, openai: dict[str, Any], tmp_path: Path
) -> None:
    pair = {"question": "How long is the longest cable?", "answer": "3 m"}
    chat_server.reply = lambda _: says(json.dumps([pair]))
    (tmp_path / "rows.csv").write_text("id,title,text\na,Guide,One of 3 m.\nb,Guide,Two of 3 m.\n")
    path = stage(
        "qa-gen",
        input=str(tmp_path / "rows.csv"),
        teacher=openai,
        splits={"dev": 0, "test": 0},
        unanswerable=0,
        filters={"round_trip": None},
        output=str(tmp_path / "run"),
    )
    (example,) = read_examples(path / "train.jsonl")
    assert example.positive_ids == ("a", "b")
    assert read_json(path / "funnel.json")["duplicate"] == 5


def test_a_limit_asks_about_the_first_passages_of_the_whole_corpus(
    stage: Callable[..., Path],
    values: dict[str, Any],
    openai: Any,
    chat_server: Any,
    tmp_path: Path,
) -> None:
    path = stage("qa-gen", **values, teacher=openai, limit=16, output=str(tmp_path / "run"))
    assert len(chat_server.requests) == 16 * 2
    assert len(read_corpus(path / "corpus.jsonl")) == 2 * DOCUMENTS


def test_a_recording_of_other_passages_is_an_error(
    stage: Callable[..., Path], values: dict[str, Any], tmp_path: Path
) -> None:
    record = {"passage_sha256": "0" * 64, "style": "factoid", "response": "[]"}
    write_jsonl(tmp_path / "journal.jsonl", [record])
    recorded = {"type": "recorded", "journal": str(tmp_path / "journal.jsonl")}
    with pytest.raises(DataError, match="the teacher answered none of 48 requests"):
        stage("qa-gen", **values, teacher=recorded, output=str(tmp_path / "run"))


def test_answers_without_a_usable_pair_are_an_error_that_names_the_files_to_read(
    stage: Callable[..., Path],
    values: dict[str, Any],
    openai: dict[str, Any],
    chat_server: Any,
    says: Any,
    tmp_path: Path,
) -> None:
    chat_server.reply = lambda _: says("No.")
    most = re.escape("(most often: unreadable answers, 48); see rejected.jsonl and funnel.json")
    with pytest.raises(DataError, match=most):
        stage("qa-gen", **values, teacher=openai, output=str(tmp_path / "run"))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert re.search(r"no test\.jsonl: no question about its \d documents was kept", log)
    rejected = read_jsonl(tmp_path / "run" / "rejected.jsonl")
    assert len(rejected) == 4 * DOCUMENTS
    assert rejected[0]["answer"] == "No."


def test_a_split_without_examples_leaves_no_file(
    stage: Callable[..., Path], values: dict[str, Any]
) -> None:
    rules = {"input": values["input"], "filters": {"round_trip": None}}
    path = stage("qa-gen", **rules, splits={"dev": 0, "test": 0})
    assert (path / "train.jsonl").exists()
    assert not (path / "dev.jsonl").exists() and not (path / "test.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"styles": ["fact"]}, "styles: 'fact' is none of factoid"),
        ({"critic": "dear", "max_cost": 1}, "max_cost: no price of 'dear' is known"),
        ({"answers": "dear", "max_cost": 1}, "max_cost: no price of 'dear' is known"),
    ],
)
def test_a_mistake_in_the_configuration_costs_nothing_and_its_correction_goes_on_in_the_folder(
    stage: Callable[..., Path],
    values: dict[str, Any],
    openai: dict[str, Any],
    chat_server: Any,
    tmp_path: Path,
    changes: dict[str, Any],
    said: str,
) -> None:
    (tmp_path / "prices.yaml").write_text("m: {input: 1, output: 1}\n")
    common = {"prices": str(tmp_path / "prices.yaml"), "output": str(tmp_path / "run")}
    roles = {key: {**openai, "model": v} for key, v in changes.items() if v == "dear"}
    with pytest.raises(ConfigError, match=said):
        stage("qa-gen", **{**values, **changes, **roles}, teacher=openai, **common)
    assert chat_server.requests == []
    assert (stage("qa-gen", **values, teacher=openai, **common) / "train.jsonl").exists()


def test_a_single_document_is_for_training(stage: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("The cache keeps entries for 30 minutes.\n")
    rules = {"input": str(tmp_path / "notes.txt"), "filters": {"round_trip": None}}
    splits, output = {"dev": 0.5, "test": 0.4}, str(tmp_path / "run")
    path = stage("qa-gen", **rules, splits=splits, output=output)
    assert (path / "train.jsonl").exists() and not (path / "test.jsonl").exists()


def test_a_limit_that_leaves_nothing_to_train_on_is_told_before_anything_is_asked(
    stage: Callable[..., Path],
    values: dict[str, Any],
    openai: dict[str, Any],
    chat_server: Any,
    tmp_path: Path,
) -> None:
    held = split_documents([f"Guide-{i}" for i in range(DOCUMENTS)], 0.25, 0.25)
    seeds = (s for s in range(99) if split_documents(held, 0.25, 0.25, s)["Guide-0"] != "train")
    output, seed = str(tmp_path / "run"), next(seeds)
    with pytest.raises(DataError, match="no passage that would be asked about is for training"):
        stage("qa-gen", **values, teacher=openai, limit=2, seed=seed, output=output)
    assert chat_server.requests == []
