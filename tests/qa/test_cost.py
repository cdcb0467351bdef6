"""Prices, limits and estimates, worked out by hand."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragkit.config.blocks import Endpoint
from ragkit.errors import ConfigError
from ragkit.models.endpoint import Client, Reply
from ragkit.qa.cost import Budget, Estimate, Price, Till, Totals, prompt_bytes, read_price


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def reply(prompt: int, completion: int) -> Reply:
    return Reply("text", 0.1, {"prompt_tokens": prompt, "completion_tokens": completion})


def test_a_price_is_per_million_tokens() -> None:
    # 2,000 at 3 $ and 500 at 15 $ a million
    assert Price(3.0, 15.0).of(2_000, 500) == pytest.approx(0.0135)


def test_the_price_of_a_model_is_read_and_that_of_another_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("gpt-x: {input: 0.5, output: 2}\nfree/model: {input: 0, output: 0}\n")
    assert read_price(path, "gpt-x") == Price(0.5, 2.0)
    assert read_price(path, "free/model") == Price(0.0, 0.0)
    assert read_price(path, "gpt") is None
    assert read_price(None, "gpt-x") is None


@pytest.mark.parametrize(
    "price",
    ["3", "{input: 1}", "{input: 1, output: dear}", "{input: -1, output: 1}",
     "{input: 1, output: 1, cached: 1}"],
)  # fmt: skip
def test_what_is_no_price_is_told_with_file_and_model(tmp_path: Path, price: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(f"m: {price}\n")
    with pytest.raises(ConfigError, match=r"prices\.yaml: m: a price is \{input: DOLLARS, outp"):
        read_price(path, "m")


def test_the_bytes_of_a_prompt_are_those_of_utf_8_of_all_messages() -> None:
    # three letters of one, two and three bytes
    assert prompt_bytes([*chat("aé"), *chat("世")]) == 6


def test_without_limits_everything_is_admitted() -> None:
    till = Till(Budget(), None, 100)
    assert all(till.admit(chat("x")) for _ in range(1000))


def test_no_more_requests_than_allowed_are_admitted() -> None:
    till = Till(Budget(max_requests=2), None, 100)
    assert [till.admit(chat("x")) for _ in range(3)] == [True, True, False]
    assert till.budget.exhausted == "max_requests (2)"


def test_no_requests_allowed_are_none() -> None:
    assert Till(Budget(max_requests=0), None, 100).admit(chat("x")) is False


def test_what_is_in_flight_counts_by_the_most_that_it_may_cost() -> None:
    # each may cost 10 bytes and 90 tokens, at 1 $ a token: 100 $
    till = Till(Budget(max_cost=250.0), Price(1e6, 1e6), 90)
    ten = chat("0123456789")
    assert [till.admit(ten) for _ in range(3)] == [True, True, None]
    till.settle(ten, reply(5, 15))  # 20 $ in place of 100 $
    assert (till.budget.spent, till.budget.held) == (20.0, 100.0)
    assert till.admit(ten) is True
    assert till.admit(ten) is None
    till.settle(ten, None)  # a refusal costs nothing
    assert till.admit(ten) is True
    till.settle(ten, None, lost=True)  # of what may have been billed the most is spent
    assert (till.budget.spent, till.budget.held, till.budget.lost) == (120.0, 100.0, 1)
    assert till.admit(ten) is None
    till.settle(ten, Reply("text", 0.1, {}))  # and of what nobody counted
    assert (till.budget.spent, till.budget.held, till.budget.lost) == (220.0, 0.0, 1)


def test_with_nothing_in_flight_what_may_cost_too_much_ends_it() -> None:
    till = Till(Budget(max_cost=99.0), Price(1e6, 1e6), 90)
    assert till.admit(chat("0123456789")) is False
    assert till.budget.exhausted == "max_cost (99 $)"
    assert till.admit(chat("012345678")) is True


def test_a_model_without_price_costs_nothing() -> None:
    till = Till(Budget(max_cost=0.0), None, 90)
    assert till.admit(chat("x")) is True
    till.settle(chat("x"), reply(5, 5))
    assert till.budget.spent == 0.0


def test_two_tills_of_one_budget_spend_from_it() -> None:
    budget = Budget(max_cost=150.0)
    dear, cheap = Till(budget, Price(1e6, 1e6), 90), Till(budget, Price(1e6, 1e6), 10)
    assert dear.admit(chat("0123456789")) is True
    assert dear.admit(chat("0123456789")) is None
    assert cheap.admit(chat("0123456789")) is True


@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_a_limit_is_never_exceeded_however_many_requests_are_in_flight(
    chat_server: Any, says: Any, concurrency: int
) -> None:
    lock, spent = threading.Lock(), 0.0

    def answer(_: object) -> Any:
        nonlocal spent
        with lock:
            spent += 10.0  # the server counts 7 and 3 tokens, at 1 $ each
        return says("fine")

    chat_server.reply = answer
    budget = Budget(max_cost=205.0)
    till = Till(budget, Price(1e6, 1e6), 20)  # 4 bytes and 20 tokens: 24 $ at the most
    config = Endpoint(model="m", base_url=chat_server.url, concurrency=concurrency, max_retries=0)
    chats = (chat(f"{i:04}") for i in range(100))
    replies = list(Client(config).ask_all(chats, None, till))
    # the nineteenth begins at 180 $, and after it 190 $ and 24 $ are over
    assert spent == budget.spent == 10.0 * len(replies) == 190.0
    assert (budget.held, budget.in_flight) == (0.0, 0)
    assert budget.exhausted == "max_cost (205 $)"


def test_a_limit_counts_what_is_sent_again(
    chat_server: Any, says: Any, response: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragkit.models.retries.FIRST_PAUSE_S", 0.0001)

    def busy(_: object) -> Any:
        return says("fine") if len(chat_server.requests) % 3 == 0 else response(429, "{}")

    chat_server.reply = busy
    budget = Budget(max_requests=10)
    config = Endpoint(model="m", base_url=chat_server.url, concurrency=1, max_retries=5)
    chats = (chat(f"{i:04}") for i in range(100))
    replies = list(Client(config).ask_all(chats, None, Till(budget, None, 20)))
    assert (len(replies), len(chat_server.requests), budget.requests) == (3, 10, 10)
    assert budget.exhausted == "max_requests (10)"


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_limit_on_the_cost_holds_with_tries_that_were_billed_and_never_answered(
    chat_server: Any, says: Any, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    monkeypatch.setattr("ragkit.models.retries.FIRST_PAUSE_S", 0.0001)
    lock, billed, tries = threading.Lock(), 0.0, 0

    def answer(_: object) -> Any:
        nonlocal billed, tries
        with lock:
            # half of them are billed in full, and cut on the way; the others are 10 $
            tries += 1
            cut = tries % 2
            billed += 24.0 if cut else 10.0
        return replace(says("fine"), body='{"choices": [') if cut else says("fine")

    chat_server.reply = answer
    budget = Budget(max_cost=205.0)
    config = Endpoint(model="m", base_url=chat_server.url, concurrency=concurrency)
    chats = (chat(f"{i:04}") for i in range(100))
    list(Client(config).ask_all(chats, None, Till(budget, Price(1e6, 1e6), 20)))
    assert 205.0 - 24.0 < billed <= budget.spent <= 205.0
    assert budget.lost > 0


@pytest.mark.parametrize("text", ["", None])
def test_empty_answers_are_spent_as_they_are_billed(
    chat_server: Any, says: Any, text: str | None
) -> None:
    chat_server.reply = lambda _: says(text if len(chat_server.requests) % 2 else "fine")
    budget = Budget(max_cost=55.0)
    config = Endpoint(model="m", base_url=chat_server.url, concurrency=1)
    chats = (chat(f"{i:04}") for i in range(100))
    replies = list(Client(config).ask_all(chats, None, Till(budget, Price(1e6, 1e6), 20)))
    assert len(replies) == len(chat_server.requests) == 4
    assert budget.spent == 40.0


def estimate(**values: Any) -> Estimate:
    return Estimate("m", **values)


def test_an_estimate_without_answers_goes_by_what_is_expected() -> None:
    # 40,000 bytes are 10,000 tokens; 100 answers of 160 tokens; 3.7 s each (0.5 and 160/50), ten
    # at a time: 37 s
    found = estimate(requests=120, missing=100, prompt_bytes=40_000, expected_tokens=160)
    assert found.line("0.27 $", 10, None) == (
        "m: 120 requests, 20 of them in the journal; to ask: 100, about 10,000 tokens in and "
        "16,000 out, 0.27 $, under a minute"
    )
    # 10,000 at 3 $ and 16,000 at 15 $ a million
    assert Price(3.0, 15.0).of(found.prompt_tokens, found.completion_tokens) == 0.27


def test_an_estimate_goes_by_the_answers_that_are_there() -> None:
    # two answers of 50 tokens and 12 s on average: 3,000 missing are 150,000 tokens and, four at a
    # time, 9,000 s
    known = Totals()
    known.add({"completion_tokens": 40}, 10.0)
    known.add({"completion_tokens": 60}, 14.0)
    found = estimate(
        requests=3_002, missing=3_000, prompt_bytes=4_000, expected_tokens=1, known=known
    )
    assert found.line("9.00 $", 4, None).endswith(
        "to ask: 3,000, about 1,000 tokens in and 150,000 out, 9.00 $, 2.5 h"
    )


def test_an_estimate_is_no_faster_than_the_server_allows() -> None:
    found = estimate(requests=600, missing=600, expected_tokens=50)
    assert found.line("no price known", 1000, 20).endswith("no price known, 30 min")
    assert found.line("no price known", 1000, None).endswith("no price known, under a minute")


def test_an_estimate_of_what_is_not_there_yet_says_that_it_is_the_most() -> None:
    found = estimate(requests=600, missing=600, prompt_bytes=400, expected_tokens=1, ahead=True)
    assert found.line("1.00 $", 1000, None) == (
        "m: 600 requests at the most, one for each question; about 100 tokens in and 600 out, "
        "1.00 $, under a minute"
    )


def test_totals_add_what_servers_counted_and_nothing_where_they_do_not_say() -> None:
    totals = Totals()
    totals.add({"prompt_tokens": 7, "completion_tokens": 3}, 1.5)
    totals.add({}, 0.5)
    assert (totals.requests, totals.prompt_tokens, totals.completion_tokens, totals.seconds) == (
        2, 7, 3, 2.0,
    )  # fmt: skip
