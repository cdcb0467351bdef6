"""qa-gen with servers, disks and machines that fail: nothing is lost, nothing bought twice."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from ragkit.config.teaching import OpenAITeacher
from ragkit.data.files import read_examples, read_json, read_jsonl
from ragkit.data.journal import Journal
from ragkit.errors import ConfigError, EndpointError
from ragkit.log import Meter
from ragkit.qa.asking import Desk, Item
from ragkit.qa.cost import Budget

PASSAGES = 8
FINAL = ["corpus.jsonl", "near-duplicates.jsonl", "train.jsonl", "dev.jsonl", "test.jsonl"]
FINAL += ["rejected.jsonl", "funnel.json", "DATA_CARD.md"]
KILLS = 50
COLOURS = ["red", "green", "blue", "white", "black", "yellow", "orange", "purple"]


def pairs(request: dict[str, Any]) -> str:
    """Answer as a good teacher does: a question of three words of its passage, and a bad one."""
    colour, hours = re.findall(r"The (\w+) pump runs (\d+) hours", str(request["messages"][-1]))[0]
    if "Answer the user's last question" in request["messages"][0]["content"]:
        return json.dumps({"answer": f"It runs {hours} hours."})
    how = "run" if "factoid" in request["model"] or "one fact" in str(request) else "last"
    good = {"question": f"How long does the {colour} pump {how}?", "answer": f"{hours} hours"}
    return json.dumps({"pairs": [good, {"question": "Why?", "answer": "So."}]})


def is_about(colour: str, request: dict[str, Any]) -> bool:
    return f"The {colour} pump" in str(request["messages"][-1])


@pytest.fixture
def values(chat_server: Any, says: Any, tmp_path: Path) -> dict[str, Any]:
    """A configuration of eight documents of a passage each, and one question about each."""
    rows = [f"{c} guide,The {c} pump runs {i + 2} hours." for i, c in enumerate(COLOURS)]
    (tmp_path / "passages.csv").write_text("\n".join(["title,text", *rows]) + "\n")
    chat_server.reply = lambda request: says(pairs(request))
    teacher = {"type": "openai", "model": "m", "base_url": chat_server.url, "max_retries": 0}
    return {
        "input": str(tmp_path / "passages.csv"),
        "teacher": {**teacher, "structured": False, "concurrency": 2},
        "styles": ["factoid"],
        "splits": {"dev": 0.2, "test": 0.2},
        "unanswerable": 0,
        "max_silent": 0,
        "filters": {"round_trip": None, "leak_rouge_l": 1.0},
    }


def final(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in FINAL if (path / name).exists()}


@pytest.fixture
def whole(stage: Callable[..., Path], values: dict[str, Any], chat_server: Any) -> dict[str, bytes]:
    """The files of a run to which nothing happened."""
    path = stage("qa-gen", **values, output=str(Path(values["input"]).with_name("whole")))
    chat_server.requests.clear()
    return final(path)


def _faults(response: Any, says: Any, server: Any) -> dict[str, Callable[[], Any]]:
    body = says("fine").body

    def hang() -> Any:
        server.closing.wait()
        return says("too late")

    return {
        "500": lambda: response(500, "{}"),
        "429": lambda: response(429, "{}"),
        "half a body": lambda: response(body=body[: len(body) // 2]),
        "less than promised": lambda: response(body="{", headers={"Content-Length": "900"}),
        "a web page": lambda: response(body="<html>Sign in</html>", kind="text/html"),
        "no choices": lambda: response(body='{"choices": []}'),
        "a hang": hang,
        "a closed connection": lambda: response(0),
    }


@pytest.mark.parametrize("fault", list(_faults(None, lambda _: type("R", (), {"body": ""}), None)))
def test_a_request_that_fails_stops_the_run_and_is_the_only_one_asked_again(
    stage: Callable[..., Path],
    values: dict[str, Any],
    whole: dict[str, bytes],
    chat_server: Any,
    says: Any,
    response: Any,
    tmp_path: Path,
    fault: str,
) -> None:
    failing = _faults(response, says, chat_server)[fault]
    chat_server.reply = lambda r: failing() if is_about("blue", r) else says(pairs(r))
    values |= {"output": str(tmp_path / "run")}
    values["teacher"] |= {"timeout_s": 0.2 if fault == "a hang" else 60}
    with pytest.raises(EndpointError, match="1 of 8 requests got no answer, more than max_silent"):
        stage("qa-gen", **values)
    assert len(chat_server.requests) == PASSAGES
    assert len(read_jsonl(tmp_path / "run" / "journal.jsonl")) == PASSAGES - 1
    chat_server.requests.clear()
    chat_server.reply = lambda r: says(pairs(r))
    values["teacher"] |= {"timeout_s": 60}
    assert final(stage("qa-gen", **values)) == whole
    assert [is_about("blue", r) for r in chat_server.requests] == [True]


def test_few_failures_are_left_out_and_counted(
    stage: Callable[..., Path],
    values: dict[str, Any],
    chat_server: Any,
    says: Any,
    response: Any,
    tmp_path: Path,
) -> None:
    chat_server.reply = lambda r: response(500, "{}") if is_about("blue", r) else says(pairs(r))
    path = stage("qa-gen", **{**values, "max_silent": 0.125}, output=str(tmp_path / "run"))
    assert "1 of 8 requests have no answer of the teacher." in (path / "DATA_CARD.md").read_text()
    examples = [e for n in ("train", "dev", "test") for e in read_examples(path / f"{n}.jsonl")]
    assert sum("blue" in e.question for e in examples) == 0
    assert len({e.question for e in examples if "long" in e.question}) == PASSAGES - 1


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_what_passes_is_asked_again_at_once_and_leaves_no_trace(
    stage: Callable[..., Path],
    values: dict[str, Any],
    whole: dict[str, bytes],
    chat_server: Any,
    says: Any,
    response: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    # pauses where the server names none
    monkeypatch.setattr("ragkit.models.retries.FIRST_PAUSE_S", 0.001)
    seen: set[str] = set()

    def reply(request: dict[str, Any]) -> Any:
        first = str(request["messages"]) not in seen
        seen.add(str(request["messages"]))
        wait = {"Retry-After": "0", "retry-after-ms": "1"}
        return response(status, "{}", wait) if first else says(pairs(request))

    chat_server.reply = reply
    values["teacher"] |= {"max_retries": 1}
    path = stage("qa-gen", **values, output=str(tmp_path / "run"))
    assert final(path) == whole
    assert len(chat_server.requests) == 2 * PASSAGES


def test_an_answer_that_comes_in_pieces_is_an_answer(
    stage: Callable[..., Path],
    values: dict[str, Any],
    whole: dict[str, bytes],
    chat_server: Any,
    says: Any,
    response: Any,
    tmp_path: Path,
) -> None:
    chat_server.reply = lambda r: response(body=says(pairs(r)).body, piece=7)
    assert final(stage("qa-gen", **values, output=str(tmp_path / "run"))) == whole


@pytest.mark.parametrize(
    "content",
    ["I am sorry, I cannot do that.", '{"pairs": [{"question": "How lo', "[[[[" * 1_000,
     "\ud83d half a character", '{"pairs": [["How long?", "8 hours"]]}', ""],
    ids=["prose", "cut", "brackets", "surrogate", "lists", "empty"],
)  # fmt: skip
def test_an_answer_that_cannot_be_read_is_set_aside_and_not_bought_again(
    stage: Callable[..., Path],
    values: dict[str, Any],
    chat_server: Any,
    says: Any,
    tmp_path: Path,
    content: str,
) -> None:
    chat_server.reply = lambda r: says(content if is_about("blue", r) else pairs(r))
    path = stage("qa-gen", **values, output=str(tmp_path / "run"))
    assert read_json(path / "funnel.json")["unreadable answers"] == 1
    (aside,) = (r for r in read_jsonl(path / "rejected.jsonl") if "question" not in r)
    assert aside["answer"] == content.replace("\ud83d", "?")[:2_000]
    assert len(read_jsonl(path / "journal.jsonl")) == PASSAGES
    again = {**values, "journal": str(path / "journal.jsonl")}
    stage("qa-gen", **again, output=str(tmp_path / "again"))
    assert len(chat_server.requests) == PASSAGES


def test_an_answer_that_was_cut_short_gives_its_whole_pairs(
    stage: Callable[..., Path],
    values: dict[str, Any],
    whole: dict[str, bytes],
    chat_server: Any,
    says: Any,
    tmp_path: Path,
) -> None:
    chat_server.reply = lambda r: says(pairs(r)[:-8] if is_about("blue", r) else pairs(r))
    path = stage("qa-gen", **values, output=str(tmp_path / "run"))
    assert {n: (path / n).read_bytes() for n in FINAL if n[0] in "td"} == {
        n: b for n, b in whole.items() if n[0] in "td"
    }
    funnel, before = read_json(path / "funnel.json"), json.loads(whole["funnel.json"])
    assert funnel["generated"] == before["generated"] - 1


def test_a_pair_with_half_a_character_is_written_and_read(
    stage: Callable[..., Path], values: dict[str, Any], chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda r: says(pairs(r).replace("hours", "hours \\ud83d"))
    path = stage("qa-gen", **values, output=str(tmp_path / "run"))
    assert all("hours ?" in e.answers[0] for e in read_examples(path / "train.jsonl"))


@pytest.fixture
def start(
    ragkit: Callable[..., Any], values: dict[str, Any], tmp_path: Path
) -> Callable[[], tuple[int, str]]:
    """Run `ragkit qa-gen` with the configuration; return the exit code and stderr."""

    def run() -> tuple[int, str]:
        (tmp_path / "c.yaml").write_text(json.dumps(values))
        done = ragkit("qa-gen", "-c", str(tmp_path / "c.yaml"), "-o", str(tmp_path / "run"))
        return done.code, done.err

    return run


def test_a_wrong_key_is_one_message_after_one_request(
    start: Callable[[], tuple[int, str]],
    values: dict[str, Any],
    chat_server: Any,
    response: Any,
) -> None:
    chat_server.reply = lambda _: response(401, '{"error": {"message": "no"}}')
    values["teacher"] |= {"concurrency": 1, "max_retries": 5}
    code, err = start()
    assert code == 1
    assert [line for line in err.splitlines() if line.startswith("ragkit: ")] == [
        f"ragkit: m at {chat_server.url}: the key in OPENAI_API_KEY is refused"
    ]
    assert "Traceback" not in err
    assert len(chat_server.requests) == 1


@pytest.mark.parametrize("end", ["a limit", "a refusal", "Ctrl-C"])
def test_a_run_that_is_ended_says_what_it_has_cost(
    stage: Callable[..., Path],
    values: dict[str, Any],
    chat_server: Any,
    says: Any,
    response: Any,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[str],
    tmp_path: Path,
    end: str,
) -> None:
    (tmp_path / "prices.yaml").write_text("m: {input: 2000, output: 10000}\n")
    values["teacher"] |= {"concurrency": 1}
    values |= {"prices": str(tmp_path / "prices.yaml"), "output": str(tmp_path / "run")}
    values |= {"max_requests": 3} if end == "a limit" else {}

    def reply(request: dict[str, Any]) -> Any:
        late = len(chat_server.requests) > 3
        return response(401, "{}") if late and end == "a refusal" else says(pairs(request))

    chat_server.reply = reply
    if end == "Ctrl-C":
        advance, left = Meter.advance, [3]

        def press(meter: Meter, n: int = 1) -> None:
            advance(meter, n)
            left[0] -= n if meter.what.startswith("asking") else 0
            if left[0] <= 0:
                raise KeyboardInterrupt

        monkeypatch.setattr(Meter, "advance", press)
    with pytest.raises(KeyboardInterrupt if end == "Ctrl-C" else EndpointError):
        stage("qa-gen", **values)
    bought = len(read_jsonl(tmp_path / "run" / "journal.jsonl"))
    assert bought == 3 or (end == "Ctrl-C" and bought > 3)
    costs = read_json(tmp_path / "run" / "costs.json")["questions"]
    assert costs["asked_by_this_start"] == bought
    # 7 at 2,000 $ and 3 at 10,000 $ a million
    assert costs["cost_of_this_start_usd"] == pytest.approx(bought * 0.044)
    said = f"questions: {bought} answers of m bought by this start, "
    assert any(line.startswith(said) for line in log_lines)


@pytest.mark.parametrize(
    ("styles", "said"),
    [
        (["factoid", "factoid"], "styles: factoid is named twice"),
        *(([name], f"styles: {name} is a template of another use, and no style")
          for name in ("answer", "critic", "instructions", "reading", "unanswerable")),
    ],
)  # fmt: skip
def test_what_is_no_list_of_styles_is_refused(
    stage: Callable[..., Path], values: dict[str, Any], styles: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        stage("qa-gen", **{**values, "styles": styles})


@pytest.mark.parametrize("disk", ["full", "full of half a line"])
def test_a_full_disk_is_one_message_and_the_next_start_goes_on(
    start: Callable[[], tuple[int, str]],
    whole: dict[str, bytes],
    chat_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    values: dict[str, Any],
    disk: str,
) -> None:
    fsync, journal, left = os.fsync, tmp_path / "run" / "journal.jsonl", [3]

    def fill(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(journal):
            left[0] -= 1
            if left[0] < 0:
                if disk != "full":
                    os.truncate(journal, journal.stat().st_size - 20)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    values["teacher"] |= {"concurrency": 1}
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fill)
        code, err = start()
    assert code == 1
    assert err.splitlines()[-1] == (
        f"ragkit: {journal}: cannot be written: No space left on device"
    )
    assert "Traceback" not in err
    kept = journal.read_bytes()
    bought = [json.loads(line)["passage_sha256"] for line in kept.splitlines()]
    assert 3 <= len(bought) < PASSAGES
    chat_server.requests.clear()
    assert start()[0] == 0
    assert final(tmp_path / "run") == whole
    assert journal.read_bytes().startswith(kept)
    assert len(chat_server.requests) == PASSAGES - len(bought)


def test_a_disk_that_is_full_for_the_results_is_one_message_too(
    start: Callable[[], tuple[int, str]],
    whole: dict[str, bytes],
    chat_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    replace = os.replace

    def fill(source: str, target: Path) -> None:
        if Path(target).name == "train.jsonl":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fill)
        code, err = start()
    assert code == 1
    assert err.splitlines()[-1].endswith("train.jsonl: cannot be written: No space left on device")
    assert "Traceback" not in err
    chat_server.requests.clear()
    assert start()[0] == 0
    assert final(tmp_path / "run") == whole
    assert chat_server.requests == []


# forks for each start, because importing takes longer than running; a start dies by itself at the
# n-th sync or rename of a file (before it, after it, or in the middle of a line of the journal)
_STARTER = """
import json, os, random, signal, sys, traceback
from ragkit.config.load import Source, build
from ragkit.stages import STAGES
from ragkit.stages.pipeline import run_stage

module = STAGES["qa-gen"].load()
import ragkit.models.endpoint, openai
assert "torch" not in sys.modules
fsync, replace = os.fsync, os.replace

def start(values, moment, how):
    left = [moment]

    def die(descriptor=None):
        name = os.readlink(f"/proc/self/fd/{descriptor}") if descriptor else ""
        if how == "torn" and name.endswith("journal.jsonl"):
            os.truncate(name, os.stat(name).st_size - random.Random(moment).randint(1, 60))
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_fsync(descriptor):
        left[0] -= 1
        if left[0] == 0 and how != "after":
            die(descriptor)
        fsync(descriptor)
        if left[0] == 0:
            die()

    def dying_replace(*names):
        left[0] -= 1
        if left[0] == 0 and how != "after":
            die()
        replace(*names)
        if left[0] == 0:
            die()

    os.fsync, os.replace = dying_fsync, dying_replace
    run_stage("qa-gen", module, build(module.Config, Source(values)), [])

for line in sys.stdin:
    values, moment, how = json.loads(line)
    if pid := os.fork():
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    code = 1
    os.environ["OPENAI_API_KEY"] = str(os.getpid())  # so that the server tells processes apart
    try:
        os.read(go, 1) if (go := os.open(sys.argv[1], os.O_RDONLY)) else None
        start(values, moment, how)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
"""


@dataclass
class Starter:
    """Starts qa-gen in a process of its own, as often as wanted, and lets the server kill it."""

    process: "subprocess.Popen[str]"
    fifo: Path
    pid: int = 0
    replies_left: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, values: dict[str, Any], moment: int, how: str, replies: int) -> int:
        """Run; return the exit code. It is killed at a moment, or before a reply of the server."""
        commands, results = self.process.stdin, self.process.stdout
        assert commands and results
        commands.write(json.dumps([values, moment, how]) + "\n")
        commands.flush()
        self.pid, self.replies_left = int(results.readline()), replies
        with self.fifo.open("w") as f:
            f.write("g")
        return int(results.readline())

    def count(self) -> None:
        """Note a reply of the server; kill the process that waits for it where its time is up."""
        with self.lock:
            self.replies_left -= 1
            if self.replies_left == 0:
                os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    os.mkfifo(tmp_path / "go")
    errors: IO[str]
    with (
        (tmp_path / "stderr.txt").open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", _STARTER, str(tmp_path / "go")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        ) as process,
    ):  # fmt: skip
        yield Starter(process, tmp_path / "go")
        assert process.stdin
        process.stdin.close()


def test_whenever_it_is_killed_nothing_is_bought_twice_and_the_files_are_the_same(
    stage: Callable[..., Path],
    values: dict[str, Any],
    chat_server: Any,
    says: Any,
    starter: Starter,
    tmp_path: Path,
) -> None:
    values["answers"] = {**values["teacher"], "model": "second"}
    values["styles"] = ["factoid", "how-to"]
    whole = final(stage("qa-gen", **values, output=str(tmp_path / "whole")))
    everything = len(chat_server.requests)
    teachers = [OpenAITeacher.model_validate(values[k]) for k in ("teacher", "answers")]
    other = Journal(tmp_path / "other.jsonl")
    desks = {t.model: Desk(t, other, Budget(), 0.0) for t in teachers}

    def reply(request: dict[str, Any]) -> Any:
        starter.count()
        return says(pairs(request))

    chat_server.reply = reply
    rng, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:
        runs += 1
        folder = tmp_path / f"run-{runs}"
        code, known, sent = -1, set[str](), set[str]()
        while code:
            with chat_server.recording:
                chat_server.requests.clear()
                chat_server.keys.clear()
            by_reply = rng.random() < 0.5
            code = starter.start(
                {**values, "output": str(folder)},
                moment=-1 if by_reply else rng.randint(1, 30),
                how=rng.choice(["before", "after", "torn"]),
                replies=rng.randint(1, 12) if by_reply else -1,
            )
            assert code in (0, -signal.SIGKILL), (tmp_path / "stderr.txt").read_text()
            kills += code != 0
            # what the process before had sent when it was killed may be read only now
            own = f"Bearer {starter.pid}"
            asked = [
                desks[r["model"]].key(Item(r["messages"], "", ""))
                for r, key in zip(chat_server.requests, chat_server.keys, strict=False)
                if key == own
            ]
            assert not known.intersection(asked)
            assert len(set(asked)) == len(asked)
            sent.update(asked)
            journal = folder / "journal.jsonl"
            lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
            found = [json.loads(line)["key"] for line in lines]
            assert len(set(found)) == len(found) and known <= set(found)
            known = set(found)
        assert len(known) == len(sent) == everything
        assert final(folder) == whole
    assert runs > 2
