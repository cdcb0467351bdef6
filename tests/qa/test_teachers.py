"""The teachers: rules, recordings, and a server whose answers are never bought twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from ragkit.config.blocks import HeuristicTeacher, OpenAITeacher, RecordedTeacher
from ragkit.data.journal import passage_sha256
from ragkit.data.schema import Passage
from ragkit.errors import DataError, EndpointError
from ragkit.qa.prompts import Request, parse
from ragkit.qa.teachers import Asked, build_teacher, requests_for

TEXT = "The retry limit of the gateway is 20 requests. A relay is a switch that a coil closes."
PASSAGES = [Passage(f"p{i}", f"{TEXT} This is gateway {i}.", title=f"Guide {i}") for i in range(3)]


def openai_teacher(server: Any, **changes: Any) -> OpenAITeacher:
    values = {"type": "openai", "model": "m", "base_url": server.url, "max_retries": 0, **changes}
    return OpenAITeacher.model_validate({"concurrency": 1, **values})


def asked_about(request: dict[str, Any]) -> str:
    """Return the passage that a chat is about."""
    return str(request["messages"][-1]["content"])


def answers_of(teacher: Asked, requests: list[Request]) -> dict[tuple[str, str], str]:
    return {request.key: answer for request, answer in teacher.ask(requests)}


def test_rules_have_one_style_and_others_have_each_style_for_each_passage(tmp_path: Path) -> None:
    rules = requests_for(HeuristicTeacher(type="heuristic"), PASSAGES, ["factoid", "how-to"])
    assert [r.key for r in rules] == [(f"p{i}", "heuristic") for i in range(3)]
    (tmp_path / "journal.jsonl").touch()
    recorded = RecordedTeacher(type="recorded", journal=tmp_path / "journal.jsonl")
    assert [r.key for r in requests_for(recorded, PASSAGES[:2], ["factoid", "how-to"])] == [
        ("p0", "factoid"),
        ("p0", "how-to"),
        ("p1", "factoid"),
        ("p1", "how-to"),
    ]


def test_the_rules_answer_every_request_in_the_form_that_is_parsed(tmp_path: Path) -> None:
    config = HeuristicTeacher(type="heuristic", n=2)
    requests = requests_for(config, PASSAGES, [])
    journal = tmp_path / "journal.jsonl"
    answers = list(build_teacher(config, journal, seed=0).ask(requests))
    assert [request for request, _ in answers] == requests
    for request, answer in answers:
        pairs = parse(answer)
        assert 1 <= len(pairs) <= 2
        assert all(pair.answer in request.passage.text for pair in pairs)
    assert not journal.exists()


def test_a_recording_is_found_by_text_and_style_whatever_id_and_title(tmp_path: Path) -> None:
    journal = tmp_path / "recorded.jsonl"
    record = {"passage_sha256": passage_sha256("one"), "style": "factoid", "response": "[1]"}
    journal.write_text(json.dumps(record) + "\n")
    config = RecordedTeacher(type="recorded", journal=journal)
    teacher = build_teacher(config, tmp_path / "journal.jsonl", seed=0)
    found = Request(Passage("new-id", "one", title="New title"), "factoid")
    other_style = Request(Passage("new-id", "one"), "how-to")
    other_text = Request(Passage("new-id", "one "), "factoid")
    assert list(teacher.ask([other_style, found, other_text])) == [(found, "[1]")]


def test_a_recording_of_two_answers_gives_the_later(tmp_path: Path) -> None:
    journal = tmp_path / "recorded.jsonl"
    record = {"passage_sha256": passage_sha256("one"), "style": "factoid"}
    lines = [json.dumps({**record, "response": text}) for text in ("first", "second")]
    journal.write_text("\n".join(lines) + "\n")
    config = RecordedTeacher(type="recorded", journal=journal)
    request = Request(Passage("p", "one"), "factoid")
    answers = build_teacher(config, tmp_path / "none.jsonl", seed=0).ask([request])
    assert [answer for _, answer in answers] == ["second"]


def test_a_file_that_is_no_journal_is_named_with_its_line(tmp_path: Path) -> None:
    journal = tmp_path / "recorded.jsonl"
    journal.write_text('{"passage_sha256": "0", "style": "factoid", "response": ""}\n{"id": 1}\n')
    config = RecordedTeacher(type="recorded", journal=journal)
    with pytest.raises(DataError, match=r"recorded\.jsonl:2: .*passage_sha256, response, style"):
        build_teacher(config, tmp_path / "none.jsonl", seed=0)


def test_a_server_is_asked_in_words_of_the_style_with_the_settings_given(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda _: says("[]")
    config = openai_teacher(chat_server, n=5, temperature=0.9, max_tokens=77)
    request = Request(PASSAGES[0], "keyword")
    assert list(build_teacher(config, tmp_path / "j.jsonl", 0).ask([request])) == [(request, "[]")]
    (sent,) = chat_server.requests
    assert (sent["temperature"], sent["max_tokens"]) == (0.9, 77)
    assert "Write 5 search-box queries" in sent["messages"][0]["content"]
    assert PASSAGES[0].rendered in asked_about(sent)


def test_an_answer_is_in_the_journal_before_it_is_used(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda r: says(asked_about(r))
    journal = tmp_path / "journal.jsonl"
    config = openai_teacher(chat_server)
    answers = build_teacher(config, journal, 0).ask(requests_for(config, PASSAGES, ["factoid"]))
    for n, (request, answer) in enumerate(answers, start=1):
        records = [json.loads(line) for line in journal.read_text().splitlines()]
        assert len(records) == n
        assert records[-1]["response"] == answer
        assert records[-1]["passage_sha256"] == passage_sha256(request.passage.text)
        assert (records[-1]["style"], records[-1]["model"]) == ("factoid", "m")
        assert records[-1]["usage"]["total_tokens"] == 10
    assert n == 3


def test_what_the_journal_has_is_not_asked_again(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda r: says(asked_about(r))
    config, journal = openai_teacher(chat_server), tmp_path / "journal.jsonl"
    requests = requests_for(config, PASSAGES, ["factoid", "how-to"])
    first = answers_of(build_teacher(config, journal, 0), requests[:4])
    again = answers_of(build_teacher(config, journal, 0), requests)
    assert len(chat_server.requests) == len(requests)
    assert {key: again[key] for key in first} == first
    assert set(again) == {r.key for r in requests}


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"temperature": 0.1}, {"max_tokens": 5}, {"n": 9}]
)
def test_another_model_or_setting_is_another_question(
    chat_server: Any, says: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    chat_server.reply = lambda _: says("[]")
    journal, requests = tmp_path / "journal.jsonl", [Request(PASSAGES[0], "factoid")]
    list(build_teacher(openai_teacher(chat_server), journal, 0).ask(requests))
    list(build_teacher(openai_teacher(chat_server, **change), journal, 0).ask(requests))
    assert len(chat_server.requests) == 2


def test_how_fast_and_how_patiently_one_asks_is_not_part_of_the_question(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda _: says("[]")
    journal, requests = tmp_path / "journal.jsonl", [Request(PASSAGES[0], "factoid")]
    list(build_teacher(openai_teacher(chat_server), journal, 0).ask(requests))
    patient = openai_teacher(chat_server, concurrency=3, timeout_s=9, max_retries=2)
    list(build_teacher(patient, journal, 0).ask(requests))
    assert len(chat_server.requests) == 1


def test_a_journal_is_a_recording_for_the_recorded_teacher(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda r: says(asked_about(r))
    config, journal = openai_teacher(chat_server), tmp_path / "journal.jsonl"
    requests = requests_for(config, PASSAGES, ["factoid", "keyword"])
    bought = answers_of(build_teacher(config, journal, 0), requests)
    recorded = RecordedTeacher(type="recorded", journal=journal)
    assert answers_of(build_teacher(recorded, tmp_path / "none", 0), requests) == bought


def test_two_passages_of_one_text_are_asked_about_once(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda _: says("[]")
    config = openai_teacher(chat_server)
    requests = [Request(Passage(i, "the same text"), "factoid") for i in ("a", "b")]
    answers = list(build_teacher(config, tmp_path / "journal.jsonl", 0).ask(requests))
    assert sorted(r.passage.id for r, _ in answers) == ["a", "b"]
    assert len(chat_server.requests) == 1


def test_a_request_that_fails_is_left_out_and_asked_the_next_time(
    chat_server: Any, says: Any, response: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda r: response(500) if "Guide 1" in asked_about(r) else says("[]")
    config, journal = openai_teacher(chat_server), tmp_path / "journal.jsonl"
    requests = requests_for(config, PASSAGES, ["factoid"])
    answered = [r.passage.id for r, _ in build_teacher(config, journal, 0).ask(requests)]
    assert answered == ["p0", "p2"]
    chat_server.reply = lambda _: says("[]")
    assert len(list(build_teacher(config, journal, 0).ask(requests))) == 3
    assert "Guide 1" in asked_about(chat_server.requests[-1])
    assert len(chat_server.requests) == 4


def test_a_refused_key_ends_the_asking_and_keeps_what_was_answered(
    chat_server: Any, says: Any, response: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda r: response(401) if "Guide 1" in asked_about(r) else says("[]")
    config, journal = openai_teacher(chat_server), tmp_path / "journal.jsonl"
    requests = requests_for(config, PASSAGES, ["factoid"])
    with pytest.raises(EndpointError, match="OPENAI_API_KEY is refused"):
        list(build_teacher(config, journal, 0).ask(requests))
    kept = [json.loads(line)["passage_sha256"] for line in journal.read_text().splitlines()]
    assert passage_sha256(PASSAGES[0].text) in kept
