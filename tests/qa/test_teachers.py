"""The teachers: rules, recordings, and a server whose answers are never bought twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ragkit.config.teaching import HeuristicTeacher, OpenAITeacher, RecordedTeacher
from ragkit.data.journal import passage_sha256
from ragkit.data.schema import Passage
from ragkit.errors import DataError, EndpointError
from ragkit.qa.asking import Office
from ragkit.qa.cost import Budget
from ragkit.qa.prompts import Prompts, Request, parse
from ragkit.qa.teachers import Asked, Model, build_teacher

TEXT = "The retry limit of the gateway is 20 requests. A relay is a switch that a coil closes."
PASSAGES = [Passage(f"p{i}", f"{TEXT} This is gateway {i}.", title=f"Guide {i}") for i in range(3)]
Key = tuple[tuple[str, ...], str]


def openai_teacher(server: Any, **changes: Any) -> OpenAITeacher:
    values = {"type": "openai", "model": "m", "base_url": server.url, "max_retries": 0, **changes}
    return OpenAITeacher.model_validate({"concurrency": 1, "structured": False, **values})


def build(config: Any, journal: Path, max_silent: float = 0.0) -> Asked:
    return build_teacher(config, Prompts(), Office(journal, Budget(), max_silent), seed=0)


def requests_for(passages: Sequence[Passage], styles: Sequence[str]) -> list[Request]:
    return [Request((passage,), style) for passage in passages for style in styles]


def asked_about(request: dict[str, Any]) -> str:
    """Return the passage that a chat is about."""
    return str(request["messages"][-1]["content"])


def answers_of(teacher: Asked, requests: Sequence[Request]) -> dict[Key, str | None]:
    teacher.ask(lambda: requests)
    return {(r.passage_ids, r.style): teacher.answer(r) for r in requests}


def test_the_rules_answer_every_request_in_the_form_that_is_parsed(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    teacher = build(HeuristicTeacher(type="heuristic", n=2), journal)
    for passage in PASSAGES:
        answer = teacher.answer(Request((passage,), "heuristic"))
        assert answer is not None
        pairs = parse(answer)
        assert 1 <= len(pairs) <= 2
        assert all(pair.answer in passage.text for pair in pairs)
    assert not journal.exists()


def test_a_recording_is_found_by_text_and_style_whatever_id_and_title(tmp_path: Path) -> None:
    journal = tmp_path / "recorded.jsonl"
    record = {"passage_sha256": passage_sha256("one"), "style": "factoid", "response": "[1]"}
    journal.write_text(json.dumps(record) + "\n")
    teacher = build(RecordedTeacher(type="recorded", journal=journal), tmp_path / "none.jsonl")
    found = Request((Passage("new-id", "one", title="New title"),), "factoid")
    other_style = Request((Passage("new-id", "one"),), "how-to")
    other_text = Request((Passage("new-id", "one "),), "factoid")
    asked = [teacher.answer(r) for r in (other_style, found, other_text)]
    assert asked == [None, "[1]", None]


def test_a_recording_of_two_answers_gives_the_later(tmp_path: Path) -> None:
    journal = tmp_path / "recorded.jsonl"
    record = {"passage_sha256": passage_sha256("one"), "style": "factoid"}
    lines = [json.dumps({**record, "response": text}) for text in ("first", "second")]
    journal.write_text("\n".join(lines) + "\n")
    teacher = build(RecordedTeacher(type="recorded", journal=journal), tmp_path / "none.jsonl")
    assert teacher.answer(Request((Passage("p", "one"),), "factoid")) == "second"


def test_a_recording_about_two_passages_is_found_by_both_in_their_order(tmp_path: Path) -> None:
    journal = tmp_path / "recorded.jsonl"
    record = {"passage_sha256": passage_sha256("one", "two"), "style": "multi-passage"}
    journal.write_text(json.dumps({**record, "response": "both"}) + "\n")
    teacher = build(RecordedTeacher(type="recorded", journal=journal), tmp_path / "none.jsonl")
    one, two = Passage("a", "one"), Passage("b", "two")
    asked = [Request(passages, "multi-passage") for passages in ((one, two), (two, one), (one,))]
    assert [teacher.answer(r) for r in asked] == ["both", None, None]


def test_a_file_that_is_no_journal_is_named_with_its_line(tmp_path: Path) -> None:
    journal = tmp_path / "recorded.jsonl"
    journal.write_text('{"passage_sha256": "0", "style": "factoid", "response": ""}\n{"id": 1}\n')
    config = RecordedTeacher(type="recorded", journal=journal)
    with pytest.raises(DataError, match=r"recorded\.jsonl:2: .*passage_sha256, response, style"):
        build(config, tmp_path / "none.jsonl")


def test_a_server_is_asked_in_words_of_the_style_with_the_settings_given(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda _: says("[]")
    config = openai_teacher(chat_server, n=5, temperature=0.9, max_tokens=77)
    request = Request((PASSAGES[0],), "keyword")
    assert answers_of(build(config, tmp_path / "j.jsonl"), [request]) == {
        (("p0",), "keyword"): "[]"
    }
    (sent,) = chat_server.requests
    assert (sent["temperature"], sent["max_tokens"]) == (0.9, 77)
    assert "Write 5 search-box queries" in sent["messages"][0]["content"]
    assert PASSAGES[0].rendered in asked_about(sent)


def test_questions_are_asked_for_by_the_schema_of_pairs_unless_told_not_to(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda _: says("[]")
    request = Request((PASSAGES[0],), "keyword")
    for n, structured in enumerate([True, False]):
        config = openai_teacher(chat_server, structured=structured)
        answers_of(build(config, tmp_path / f"{n}.jsonl"), [request])
    held, free = chat_server.requests
    schema = held["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == schema["required"] == ["pairs"]
    assert "response_format" not in free


def test_answers_are_journalled_with_what_they_were_about_and_what_they_cost(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda r: says(asked_about(r))
    journal = tmp_path / "journal.jsonl"
    requests = requests_for(PASSAGES, ["factoid"])
    answers = answers_of(build(openai_teacher(chat_server), journal), requests)
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(records) == 3
    for record, request in zip(records, requests, strict=True):
        assert record["response"] == answers[request.passage_ids, "factoid"]
        assert record["passage_sha256"] == passage_sha256(request.passages[0].text)
        assert (record["style"], record["model"]) == ("factoid", "m")
        assert record["usage"]["total_tokens"] == 10


def test_what_the_journal_has_is_not_asked_again(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda r: says(asked_about(r))
    config, journal = openai_teacher(chat_server), tmp_path / "journal.jsonl"
    requests = requests_for(PASSAGES, ["factoid", "how-to"])
    first = answers_of(build(config, journal), requests[:4])
    again = answers_of(build(config, journal), requests)
    assert len(chat_server.requests) == len(requests)
    assert {key: again[key] for key in first} == first
    assert None not in again.values()


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"temperature": 0.1}, {"max_tokens": 5}, {"n": 9}]
)
def test_another_model_or_setting_is_another_question(
    chat_server: Any, says: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    chat_server.reply = lambda _: says("[]")
    journal, requests = tmp_path / "journal.jsonl", [Request((PASSAGES[0],), "factoid")]
    answers_of(build(openai_teacher(chat_server), journal), requests)
    answers_of(build(openai_teacher(chat_server, **change), journal), requests)
    assert len(chat_server.requests) == 2


def test_how_fast_and_how_patiently_one_asks_is_not_part_of_the_question(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda _: says("[]")
    journal, requests = tmp_path / "journal.jsonl", [Request((PASSAGES[0],), "factoid")]
    answers_of(build(openai_teacher(chat_server), journal), requests)
    patient = openai_teacher(
        chat_server, concurrency=3, timeout_s=9, max_retries=2, requests_per_minute=1000
    )
    answers_of(build(patient, journal), requests)
    assert len(chat_server.requests) == 1


def test_a_journal_is_a_recording_for_the_recorded_teacher(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda r: says(asked_about(r))
    config, journal = openai_teacher(chat_server), tmp_path / "journal.jsonl"
    requests = requests_for(PASSAGES, ["factoid", "keyword"])
    bought = answers_of(build(config, journal), requests)
    recorded = RecordedTeacher(type="recorded", journal=journal)
    assert answers_of(build(recorded, tmp_path / "none"), requests) == bought


def test_two_passages_of_one_text_are_asked_about_once(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda _: says("[]")
    requests = [Request((Passage(i, "the same text"),), "factoid") for i in ("a", "b")]
    answers = answers_of(build(openai_teacher(chat_server), tmp_path / "journal.jsonl"), requests)
    assert answers == {(("a",), "factoid"): "[]", (("b",), "factoid"): "[]"}
    assert len(chat_server.requests) == 1


def test_a_request_that_fails_is_left_out_and_asked_the_next_time(
    chat_server: Any, says: Any, response: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda r: response(500) if "Guide 1" in asked_about(r) else says("[]")
    config, journal = openai_teacher(chat_server), tmp_path / "journal.jsonl"
    requests = requests_for(PASSAGES, ["factoid"])
    answers = answers_of(build(config, journal, max_silent=0.5), requests)
    assert list(answers.values()) == ["[]", None, "[]"]
    chat_server.reply = lambda _: says("[]")
    assert list(answers_of(build(config, journal), requests).values()) == ["[]"] * 3
    assert "Guide 1" in asked_about(chat_server.requests[-1])
    assert len(chat_server.requests) == 4


def test_a_refused_key_ends_the_asking_and_keeps_what_was_answered(
    chat_server: Any, says: Any, response: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda r: response(401) if "Guide 1" in asked_about(r) else says("[]")
    config, journal = openai_teacher(chat_server), tmp_path / "journal.jsonl"
    requests = requests_for(PASSAGES, ["factoid"])
    with pytest.raises(EndpointError, match="OPENAI_API_KEY is refused"):
        build(config, journal).ask(lambda: requests)
    kept = [json.loads(line)["passage_sha256"] for line in journal.read_text().splitlines()]
    assert kept == [passage_sha256(PASSAGES[0].text)]
    assert len(chat_server.requests) == 2


def test_an_estimate_asks_nobody_and_counts_what_is_missing(
    chat_server: Any, says: Any, tmp_path: Path
) -> None:
    chat_server.reply = lambda _: says("[]")
    config, journal = openai_teacher(chat_server), tmp_path / "journal.jsonl"
    requests = requests_for(PASSAGES, ["factoid", "how-to"])
    answers_of(build(config, journal), requests[:2])
    teacher = build(config, journal)
    assert isinstance(teacher, Model)
    said = teacher.desk.describe(teacher.estimate(requests))
    # three tokens out for each, as the two in the journal had
    assert "m: 6 requests, 2 of them in the journal; to ask: 4, about " in said
    assert "and 12 out, no price known, under a minute" in said
    assert len(chat_server.requests) == 2
