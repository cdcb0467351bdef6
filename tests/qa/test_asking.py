"""Desks: what is in the journal is not asked for; limits; silence; what it all came to."""

import json
from pathlib import Path
from typing import Any

import pytest

from ragkit.config.judging import HfJudge, OpenAIJudge
from ragkit.config.teaching import HfTeacher, OpenAITeacher, RecordedTeacher, VllmTeacher
from ragkit.data.files import read_json, read_jsonl
from ragkit.data.journal import Journal
from ragkit.errors import ConfigError, EndpointError, RunError
from ragkit.qa import asking
from ragkit.qa.asking import Desk, Item, Office, Replay
from ragkit.qa.cost import Budget, Price
from ragkit.qa.prompts import ANSWER_SCHEMA

SCHEMA = ANSWER_SCHEMA


def items(*questions: str) -> list[Item]:
    chats = [[{"role": "user", "content": question}] for question in questions]
    return [Item(c, f"subject of {q}", "style") for c, q in zip(chats, questions, strict=True)]


@pytest.fixture
def config(chat_server: Any) -> OpenAITeacher:
    return OpenAITeacher(
        type="openai", model="m", base_url=chat_server.url, max_retries=0, concurrency=1
    )


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def desk(config: Any, journal: Path, max_silent: float = 0.0, **budget: Any) -> Desk:
    price = Price(1.0, 1.0) if "max_cost" in budget else None
    return Desk(config, Journal(journal), Budget(**budget), max_silent, price)


def said(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"])


def test_equal_chats_are_asked_once_and_both_are_answered(
    config: OpenAITeacher, journal: Path, chat_server: Any
) -> None:
    asked = items("one", "two", "one")
    open_desk = desk(config, journal)
    open_desk.ask(lambda: asked, SCHEMA)
    assert [open_desk.answer(i) for i in asked] == ["fine"] * 3
    assert sorted(map(said, chat_server.requests)) == ["one", "two"]


def test_an_answer_that_was_not_bought_is_none(config: OpenAITeacher, journal: Path) -> None:
    (item,) = items("one")
    assert desk(config, journal).answer(item) is None


@pytest.mark.parametrize(
    "change",
    [{"model": "other"}, {"temperature": None}, {"max_tokens": 9}, {"base_url": "http://h/v1"},
     {"structured": False}],
)  # fmt: skip
def test_another_model_server_or_parameter_is_another_key(
    config: OpenAITeacher, journal: Path, change: dict[str, Any]
) -> None:
    (item,) = items("one")
    other = config.model_copy(update=change)
    assert desk(config, journal).key(item) != desk(other, journal).key(item)


@pytest.mark.parametrize("change", [{"model": "n"}, {"temperature": 0.0}, {"seed": 1}])
@pytest.mark.parametrize("kind", [HfTeacher, VllmTeacher])
def test_another_local_model_or_parameter_is_another_key(
    kind: Any, journal: Path, change: dict[str, Any]
) -> None:
    name = {HfTeacher: "hf", VllmTeacher: "vllm"}[kind]
    (item,) = items("one")
    first, other = (kind(**{"type": name, "model": "m", **c}) for c in ({}, change))
    assert desk(first, journal).key(item) != desk(other, journal).key(item)


def test_precision_and_what_an_engine_is_told_are_part_of_the_key(journal: Path) -> None:
    (item,) = items("one")
    hf, vllm = {"type": "hf", "model": "m"}, {"type": "vllm", "model": "m"}
    engines: list[dict[str, Any]] = [{}, {"quantization": "fp8"}, {"quantization": "awq"}]
    configs = [
        *(HfTeacher.model_validate({**hf, "precision": p}) for p in ("fp32", "bf16", "auto")),
        *(VllmTeacher.model_validate({**vllm, "engine": e}) for e in engines),
        VllmTeacher.model_validate({**vllm, "structured": False}),
    ]
    assert len({desk(c, journal).key(item) for c in configs}) == len(configs)
    one, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    same = [VllmTeacher.model_validate({**vllm, "engine": e}) for e in (one, other)]
    assert len({desk(c, journal).key(item) for c in same}) == 1


def test_the_engine_that_answers_is_part_of_the_key(journal: Path) -> None:
    (item,) = items("one")
    kinds = (HfTeacher(type="hf", model="m"), VllmTeacher(type="vllm", model="m", max_tokens=512))
    assert len({desk(config, journal).key(item) for config in kinds}) == 2


def test_other_words_are_another_key_and_what_they_are_about_is_not(
    config: OpenAITeacher, journal: Path
) -> None:
    one, two = items("one", "two")
    found = desk(config, journal)
    assert found.key(one) != found.key(two)
    assert found.key(one) == found.key(Item(one.chat, "other subject", "other style"))


def test_a_replicate_is_asked_once_more_and_kept_beside_the_first(
    config: OpenAITeacher, journal: Path, chat_server: Any
) -> None:
    (one,) = items("one")
    again = Item(one.chat, one.subject, one.style, replicate=1)
    open_desk = desk(config, journal)
    for _ in range(2):
        open_desk.ask(lambda: [one, again, again], SCHEMA)
    assert [open_desk.answer(i) for i in (one, again)] == ["fine"] * 2
    assert len(chat_server.requests) == 2


@pytest.mark.parametrize("change", [{"model": "n"}, {"temperature": 0.5}, {"max_tokens": 9}])
def test_a_judge_is_asked_like_a_teacher_and_has_keys_like_one(
    journal: Path, chat_server: Any, change: dict[str, Any]
) -> None:
    (item,) = items("one")
    judge = OpenAIJudge(type="openai", model="m", base_url=chat_server.url)
    open_desk = desk(judge, journal)
    open_desk.ask(lambda: [item], SCHEMA)
    assert open_desk.answer(item) == "fine"
    assert open_desk.key(item) != desk(judge.model_copy(update=change), journal).key(item)
    free = Office(journal, Budget(), 0.0).open("judge", HfJudge(type="hf", model="m"))
    assert free.price == Price(0.0, 0.0)


def test_half_of_the_answers_in_the_journal_are_not_asked_again(
    config: OpenAITeacher, journal: Path, chat_server: Any
) -> None:
    asked = items("one", "two", "three", "four")
    desk(config, journal).ask(lambda: asked[:2], SCHEMA)
    again = desk(config, journal)
    again.ask(lambda: asked, SCHEMA)
    assert [said(r) for r in chat_server.requests] == ["one", "two", "three", "four"]
    assert again.bought.requests == 2


def test_nothing_missing_loads_no_model(
    config: OpenAITeacher, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = items("one")
    desk(config, journal).ask(lambda: asked, SCHEMA)
    monkeypatch.setattr(asking, "load_model", lambda _: pytest.fail("a model is loaded"))
    desk(config, journal).ask(lambda: asked, SCHEMA)


@pytest.mark.parametrize(("max_silent", "stops"), [(0.24, True), (0.25, False)])
def test_more_silence_than_allowed_stops_and_keeps_the_answers(
    config: OpenAITeacher,
    journal: Path,
    chat_server: Any,
    says: Any,
    response: Any,
    max_silent: float,
    stops: bool,
) -> None:
    chat_server.reply = lambda r: response(500) if said(r) == "two" else says("fine")
    asked = items("one", "two", "three", "four")
    found = desk(config, journal, max_silent)
    if stops:
        with pytest.raises(EndpointError, match="1 of 4 requests got no answer, .*24%"):
            found.ask(lambda: asked, SCHEMA)
    else:
        found.ask(lambda: asked, SCHEMA)
    assert len(read_jsonl(journal)) == 3
    assert [found.answer(i) for i in asked] == ["fine", None, "fine", "fine"]


def test_a_limit_of_requests_stops_and_the_next_start_goes_on(
    config: OpenAITeacher, journal: Path, chat_server: Any, log_lines: list[str]
) -> None:
    asked = items("one", "two", "three")
    message = r"max_requests \(2\) is reached: 1 of 3 requests got no answer"
    with pytest.raises(EndpointError, match=message):
        desk(config, journal, max_requests=2).ask(lambda: asked, SCHEMA)
    assert not [line for line in log_lines if "is reached" in line]  # the error says it
    desk(config, journal, max_requests=2).ask(lambda: asked, SCHEMA)
    assert sorted(map(said, chat_server.requests)) == ["one", "three", "two"]


def test_a_limit_that_leaves_out_few_is_a_warning(
    config: OpenAITeacher, journal: Path, log_lines: list[str]
) -> None:
    asked = items("one", "two", "three")
    desk(config, journal, max_silent=0.5, max_requests=2).ask(lambda: asked, SCHEMA)
    assert "max_requests (2) is reached: 1 requests are not asked" in log_lines


def test_a_limit_on_the_cost_stops_before_the_request_that_could_exceed_it(
    config: OpenAITeacher, journal: Path, chat_server: Any
) -> None:
    # a request may cost 3 bytes and 1,024 tokens, and costs 10 tokens: at 1 $ a million the third
    # may bring 20 to 1,047 millionths of a dollar
    asked = items("one", "two", "six")
    with pytest.raises(EndpointError, match=r"max_cost \(0\.00104 \$\) is reached: 1 of 3 "):
        desk(config, journal, max_cost=0.001040).ask(lambda: asked, SCHEMA)
    assert len(chat_server.requests) == 2
    desk(config, journal, max_cost=0.001040).ask(lambda: asked, SCHEMA)
    assert len(chat_server.requests) == 3


def test_a_limit_on_the_cost_without_a_price_is_refused_before_anything_is_asked(
    config: OpenAITeacher, journal: Path
) -> None:
    with pytest.raises(ConfigError, match="max_cost: no price of 'm' is known; .*prices: FILE"):
        Desk(config, Journal(journal), Budget(max_cost=1.0), 0.0, None)
    Desk(HfTeacher(type="hf", model="m"), Journal(journal), Budget(max_cost=1.0), 0.0, None)


def test_an_empty_answer_is_kept_and_not_bought_again(
    config: OpenAITeacher, journal: Path, chat_server: Any, says: Any
) -> None:
    chat_server.reply = lambda r: says("" if said(r) == "two" else "fine")
    asked = items("one", "two", "three")
    for _ in range(2):
        found = desk(config, journal)
        found.ask(lambda: asked, SCHEMA)
        assert [found.answer(i) for i in asked] == ["fine", "", "fine"]
    assert len(chat_server.requests) == 3
    assert [r["usage"]["total_tokens"] for r in read_jsonl(journal)] == [10] * 3


def test_totals_are_of_the_answers_in_use_each_once_and_of_what_this_start_bought(
    config: OpenAITeacher, journal: Path, tmp_path: Path
) -> None:
    (tmp_path / "prices.yaml").write_text("m: {input: 2, output: 10}\n")
    asked = items("one", "two", "three")
    for bought, cost in ((3, 0.000132), (0, 0.0)):
        office = Office(journal, Budget(), 0.0, tmp_path / "prices.yaml")
        found = office.open("questions", config)
        found.ask(lambda: asked, SCHEMA)
        for item in (*asked[:2], *asked[:2], *items("one")):
            found.answer(item)
        assert office.totals() == {
            "questions": {
                "model": "m",
                "answers": 2,
                "prompt_tokens": 14,
                "completion_tokens": 6,
                "cost_usd": 0.000088,  # 14 at 2 $ and 6 at 10 $ a million
                "asked_by_this_start": bought,
                "cost_of_this_start_usd": cost,
            }
        }


@pytest.mark.parametrize("end", [RunError("refused"), KeyboardInterrupt()])
def test_however_it_ends_what_it_came_to_is_written_and_logged(
    config: OpenAITeacher,
    journal: Path,
    tmp_path: Path,
    log_lines: list[str],
    end: BaseException,
) -> None:
    (tmp_path / "prices.yaml").write_text("m: {input: 2000, output: 10000}\n")
    office = Office(journal, Budget(), 0.0, tmp_path / "prices.yaml")
    with pytest.raises(type(end)), office.accounted(tmp_path / "costs.json"):
        office.open("questions", config).ask(lambda: items("one", "two"), SCHEMA)
        raise end
    costs = read_json(tmp_path / "costs.json")["questions"]
    assert (costs["asked_by_this_start"], costs["cost_of_this_start_usd"]) == (2, 0.088)
    # 14 at 2,000 $ and 6 at 10,000 $ a million
    line = "questions: 2 answers of m bought by this start, 14 tokens in and 6 out, 0.0880 $"
    assert log_lines[-1] == line


def test_what_may_have_been_billed_without_an_answer_is_told(
    config: OpenAITeacher,
    journal: Path,
    tmp_path: Path,
    chat_server: Any,
    says: Any,
    response: Any,
    log_lines: list[str],
) -> None:
    chat_server.reply = lambda r: response(504) if said(r) == "two" else says("fine")
    office = Office(journal, Budget(), 0.5)
    with office.accounted(tmp_path / "costs.json"):
        office.open("questions", config).ask(lambda: items("one", "two", "three"), SCHEMA)
    assert log_lines[-1].startswith("1 of 3 requests got no answer and may have been billed")


def test_the_first_error_is_the_one_that_is_told(
    config: OpenAITeacher, journal: Path, tmp_path: Path
) -> None:
    office = Office(journal, Budget(), 0.0)
    office.open("questions", config)
    (tmp_path / "costs.json").mkdir()
    with pytest.raises(EndpointError, match="gone"), office.accounted(tmp_path / "costs.json"):
        raise EndpointError("gone")


def test_the_cost_of_a_model_without_price_is_not_known(
    config: OpenAITeacher, journal: Path
) -> None:
    office = Office(journal, Budget(), 0.0)
    office.open("critic", config)
    assert office.totals()["critic"]["cost_usd"] is None


def test_a_local_model_costs_nothing_unless_a_price_is_given(journal: Path, tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("gpu: {input: 1, output: 1}\n")
    office = Office(journal, Budget(), 0.0, tmp_path / "prices.yaml")
    free = office.open("questions", HfTeacher(type="hf", model="m"))
    assert office.totals()["questions"]["cost_usd"] == 0
    assert ", 0.00 $, " in free.describe(free.estimate(items("one")))
    assert office.open("answers", HfTeacher(type="hf", model="gpu")).price == Price(1.0, 1.0)


def test_an_office_without_desks_keeps_no_journal(journal: Path) -> None:
    assert Office(journal, Budget(), 0.0).totals() == {}
    assert list(journal.parent.iterdir()) == []


def test_two_desks_of_one_office_share_journal_and_limit(
    config: OpenAITeacher, journal: Path, chat_server: Any
) -> None:
    office = Office(journal, Budget(max_requests=3), 0.5)
    first, second = office.open("a", config), office.open("b", config)
    first.ask(lambda: items("one", "two"), SCHEMA)
    second.ask(lambda: items("two", "three", "four"), SCHEMA)
    assert sorted(map(said, chat_server.requests)) == ["one", "three", "two"]
    assert len(read_jsonl(journal)) == 3


def test_a_replay_answers_by_subject_and_style_and_asks_nobody(journal: Path) -> None:
    record = {"passage_sha256": "subject of one", "style": "style", "response": "recorded"}
    journal.write_text(json.dumps(record) + "\n")
    replay = Office(journal, Budget(), 0.0).answers(
        "answers", RecordedTeacher(type="recorded", journal=journal)
    )
    assert isinstance(replay, Replay)
    one, two = items("one", "two")
    replay.ask(lambda: [one, two], SCHEMA)
    assert (replay.answer(one), replay.answer(two)) == ("recorded", None)


def test_a_journal_that_cannot_be_written_ends_the_asking_with_one_message(
    config: OpenAITeacher, journal: Path, chat_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = desk(config, journal)
    asked = items(*(f"number {i}" for i in range(50)))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(RunError, match=r"journal\.jsonl: cannot be written: No space left"):
            found.ask(lambda: asked, SCHEMA)
    assert len(chat_server.requests) < 50
    desk(config, journal).ask(lambda: asked, SCHEMA)
    assert len(read_jsonl(journal)) == 50
