"""qa-gen's account of what asking costs: said before, limited on the way, added up after."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.files import read_json, read_jsonl

PASSAGES = 24
QaGen = Callable[..., Any]
Start = Callable[..., Any]
PRICES = "asks: {input: 1, output: 1}\nanswers: {input: 10, output: 100}\n"


@pytest.fixture
def prices(tmp_path: Path) -> str:
    """A price list that does not name the critic."""
    (tmp_path / "prices.yaml").write_text(PRICES)
    return str(tmp_path / "prices.yaml")


@pytest.fixture
def start(ragkit: Callable[..., Any], tmp_path: Path) -> Start:
    """Run `ragkit qa-gen` with a configuration and options; return its outcome."""

    def run(values: dict[str, Any], *options: str) -> Any:
        (tmp_path / "c.yaml").write_text(json.dumps(values))
        return ragkit("qa-gen", "-c", str(tmp_path / "c.yaml"), *options)

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def results(path: Path) -> dict[str, Any]:
    """Return what a run has made, without the account of how it came to it."""
    found = files_of(path)
    for name in ("run.json", "log.txt", "config.yaml", "journal.jsonl"):
        found.pop(name, None)
    costs = json.loads(found.pop("costs.json"))
    for cost in costs.values():
        del cost["asked_by_this_start"], cost["cost_of_this_start_usd"]
    return {**found, "costs": costs}


def estimates(out: str) -> list[str]:
    """Return the remarks of a dry run below the configuration."""
    return [line.removeprefix("# ") for line in out.splitlines() if line.startswith("# ")]


def test_the_costs_of_each_role_add_up_and_an_unknown_price_is_said(
    qa_gen: QaGen, passes: dict[str, Any], teacher: Any, prices: str
) -> None:
    made = qa_gen(**{**passes, "prices": prices, "reading": {"by": "teacher"}})
    shown, read = len(teacher.asked("critic")), len(teacher.asked("reading"))
    assert 0 < shown < PASSAGES and read
    # the server counts 7 tokens in and 3 out
    asked = {"questions": PASSAGES + read, "answers": PASSAGES, "critic": shown}
    costs = read_json(made.path / "costs.json")
    assert costs == {
        role: {
            "model": model,
            "answers": asked[role],
            "prompt_tokens": 7 * asked[role],
            "completion_tokens": 3 * asked[role],
            "cost_usd": dollars,
            "asked_by_this_start": asked[role],
            "cost_of_this_start_usd": dollars,
        }
        for role, model, dollars in (
            ("questions", "asks", round(10 * asked["questions"] / 1e6, 6)),
            ("answers", "answers", 0.00888),  # 168 at 10 $ and 72 at 100 $ a million
            ("critic", "judges", None),
        )
    }
    rows = [line for line in made.card.splitlines() if line.startswith(("| ans", "| critic"))]
    assert rows[-2:] == [
        "| answers | answers | 24 | 168 | 72 | 0.0089 |",
        f"| critic | judges | {shown} | {7 * shown} | {3 * shown} | unknown |",
    ]


def test_a_dry_run_says_what_asking_comes_to_and_asks_and_writes_nothing(
    start: Start, passes: dict[str, Any], teacher: Any, prices: str, tmp_path: Path
) -> None:
    values = {**passes, "prices": prices, "reading": {"by": "teacher"}}
    start(values, "--dry-run")  # writes c.yaml
    before = files_of(tmp_path)
    done = start(values, "--dry-run")
    assert done.code == 0
    where, count, questions, reading, *later = estimates(done.out)
    assert where == f"run directory: {tmp_path / 'run'}"
    assert count == "24 passages, 24 requests"
    pattern = (
        r"{}: asks: {} requests, 0 of them in the journal; to ask: {}, "
        r"about [\d,]+ tokens in and [\d,]+ out, 0\.0\d \$, under a minute"
    )
    assert re.fullmatch(pattern.format("questions", 24, 24), questions)
    assert re.fullmatch(pattern.format("reading texts", r"(\d+)", r"\1"), reading)
    answers, critic, total = later
    most = "requests at the most, one for each question; about"
    # 48 answers of 60 tokens, at 100 $ a million, and their prompts
    dollars = re.fullmatch(
        rf"answers: answers: 48 {most} [\d,]+ tokens in and 2,880 out, (0\.\d\d) \$, .*", answers
    )
    assert dollars and 0.29 < float(dollars[1]) < 0.6
    pattern = rf"critic: judges: (\d+) {most} [\d,]+ tokens in and [\d,]+ out, no price known, .*"
    asked = re.fullmatch(pattern, critic)
    assert asked and 0 < int(asked[1]) < 48  # not about test questions
    assert re.fullmatch(
        r"all together: \d+ requests, 0\.\d\d \$ and what judges costs: no price known", total
    )
    assert teacher.asked() == []
    assert files_of(tmp_path) == before
    assert not (tmp_path / "run").exists()


def test_a_dry_run_counts_the_answers_that_were_bought(
    start: Start, pumps: dict[str, Any], teacher: Any, tmp_path: Path
) -> None:
    assert start(pumps, "--max-requests", "10").code == 1
    teacher.forget()
    before = files_of(tmp_path)
    done = start(pumps, "--dry-run")
    _, _, questions = estimates(done.out)
    # three tokens out each, as those that were bought
    assert "24 requests, 10 of them in the journal; to ask: 14, about" in questions
    assert "and 42 out, no price known" in questions
    assert teacher.asked() == []
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("limit", ["--max-requests", "--max-cost"])
def test_a_limit_stops_with_one_message_and_the_next_start_goes_on(
    start: Start,
    qa_gen: QaGen,
    passes: dict[str, Any],
    teacher: Any,
    prices: str,
    tmp_path: Path,
    limit: str,
) -> None:
    values = {**passes, "prices": str(tmp_path / "all.yaml")}
    for role in ("teacher", "answers", "critic"):
        values[role] = {**passes[role], "concurrency": 1, "max_tokens": 16}
    names = [values[role]["model"] for role in ("teacher", "answers", "critic")]
    (tmp_path / "all.yaml").write_text("".join(f"{n}: {{input: 1, output: 1}}\n" for n in names))
    whole = qa_gen(**{**values, "output": str(tmp_path / "whole")})
    everything = teacher.asked()
    teacher.forget()
    # a request costs 10 millionths of a dollar, and may cost its bytes and 16 tokens
    most = 16 + max(sum(len(m["content"].encode()) for m in r.messages) for r in everything)
    amount = {"--max-requests": "10", "--max-cost": f"{(most + 95) / 1e6:.6f}"}[limit]
    said = {"--max-requests": r"max_requests \(10\)", "--max-cost": r"max_cost \(0\.\d+ \$\)"}
    codes: list[int] = []
    bought = 0
    while not codes or codes[-1]:
        done = start(values, limit, amount)
        codes.append(done.code)
        sent, bought = len(teacher.asked()) - bought, len(teacher.asked())
        assert sent > 0
        assert sent <= 10 if limit == "--max-requests" else 10 * sent <= most + 95
        if done.code:
            (message,) = (line for line in done.err.splitlines() if "is reached" in line)
            assert re.match(rf"ragkit: {said[limit]} is reached: \d+ of \d+ requests", message)
            assert "Traceback" not in done.err
            assert len(read_jsonl(tmp_path / "run" / "journal.jsonl")) == bought
            assert not (tmp_path / "run" / "train.jsonl").exists()
    assert len(codes) > 2
    assert bought == len(everything)
    assert max(Counter(str((r.model, r.messages)) for r in teacher.asked()).values()) == 1
    assert results(tmp_path / "run") == results(whole.path)


def test_a_limit_on_the_cost_with_a_price_unknown_is_told_before_the_first_request(
    start: Start, passes: dict[str, Any], teacher: Any, prices: str
) -> None:
    done = start({**passes, "prices": prices}, "--max-cost", "1")
    assert done.code == 1
    assert "max_cost: no price of 'judges' is known" in done.err
    assert teacher.asked() == []


def test_a_journal_beside_the_runs_is_shared_by_them(
    qa_gen: QaGen, pumps: dict[str, Any], teacher: Any, tmp_path: Path
) -> None:
    journal = tmp_path / "shared" / "journal.jsonl"
    values = {**pumps, "journal": str(journal)}
    first = qa_gen(**{**values, "output": str(tmp_path / "first")})
    assert len(teacher.asked()) == len(read_jsonl(journal)) == PASSAGES
    assert not (first.path / "journal.jsonl").exists()
    teacher.forget()
    second = qa_gen(**{**values, "output": str(tmp_path / "second"), "seed": 1})
    assert teacher.asked() == []
    assert first.documents("test") != second.documents("test")
    assert {e.id for e in first.examples} == {e.id for e in second.examples}
    starts = [read_json(m.path / "costs.json")["questions"] for m in (first, second)]
    assert [s.pop("asked_by_this_start") for s in starts] == [PASSAGES, 0]
    assert starts[0] == starts[1]
    qa_gen(**{**values, "output": str(tmp_path / "third"), "styles": ["factoid", "how-to"]})
    assert Counter(r.task for r in teacher.asked()) == {"how-to": PASSAGES}
    assert len(read_jsonl(journal)) == 2 * PASSAGES
