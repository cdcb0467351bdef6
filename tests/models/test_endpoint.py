"""The client against a real server on loopback that answers well, badly, late or not at all."""

import json
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ragkit.config.blocks import Endpoint
from ragkit.errors import EndpointError
from ragkit.models.endpoint import Client

KEY = "sk-very-secret-0123456789"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


@pytest.fixture
def client(chat_server: Any) -> Callable[..., Client]:
    """Make a client of the server; keywords override its configuration."""

    def make(**changes: Any) -> Client:
        values = {"model": "m", "base_url": chat_server.url, "api_key_env": "TEST_KEY"}
        return Client(Endpoint.model_validate({**values, "max_retries": 0, **changes}))

    return make


def in_turn(*responses: Any) -> Callable[[Any], Any]:
    """Reply with one response after the other."""
    left: Iterator[Any] = iter(responses)
    return lambda _: next(left)


def numbered(count: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": str(i)}] for i in range(count)]


def asked(request: dict[str, Any]) -> int:
    """Return the number of a numbered chat."""
    return int(request["messages"][-1]["content"])


def test_a_chat_completion_comes_back_with_its_text_and_token_counts(
    chat_server: Any, client: Callable[..., Client], says: Any
) -> None:
    chat_server.reply = lambda _: says("Grüße, 世界")
    reply = client(temperature=0.3, max_tokens=11).ask(HELLO)
    assert reply.text == "Grüße, 世界"
    assert reply.usage == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert reply.seconds > 0
    assert chat_server.requests == [
        {"model": "m", "messages": HELLO, "temperature": 0.3, "max_tokens": 11}
    ]
    assert chat_server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_request_is_sent_again_after_a_passing_failure(
    chat_server: Any, client: Callable[..., Client], says: Any, response: Any, status: int
) -> None:
    again = response(status, "{}", {"Retry-After": "0", "retry-after-ms": "1"})
    chat_server.reply = in_turn(again, says("at last"))
    assert client(max_retries=1).ask(HELLO).text == "at last"
    assert len(chat_server.requests) == 2


def test_a_failure_that_does_not_pass_names_the_status_after_the_last_retry(
    chat_server: Any, client: Callable[..., Client], response: Any
) -> None:
    chat_server.reply = lambda _: response(503, "{}", {"retry-after-ms": "1"})
    with pytest.raises(EndpointError, match=rf"^m at {chat_server.url}: 503 "):
        client(max_retries=2).ask(HELLO)
    assert len(chat_server.requests) == 3


def test_a_wrong_key_is_one_message_that_names_the_variable_after_one_request(
    chat_server: Any, client: Callable[..., Client], response: Any
) -> None:
    chat_server.reply = lambda _: response(401, json.dumps({"error": {"message": f"bad {KEY}"}}))
    with pytest.raises(EndpointError) as caught:
        client(max_retries=5).ask(HELLO)
    assert str(caught.value) == f"m at {chat_server.url}: the key in TEST_KEY is refused"
    assert len(chat_server.requests) == 1


def test_a_wrong_key_ends_a_run_of_many_chats(
    chat_server: Any, client: Callable[..., Client], response: Any
) -> None:
    chat_server.reply = lambda _: response(401, "{}")
    with pytest.raises(EndpointError, match="TEST_KEY is refused"):
        list(client(concurrency=1).ask_all(numbered(50)))
    assert len(chat_server.requests) < 50


def test_without_a_key_openai_itself_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(EndpointError, match="environment variable TEST_KEY is not set"):
        Client(Endpoint(model="m", api_key_env="TEST_KEY"))


def test_a_server_of_ones_own_needs_no_key(
    chat_server: Any, client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY")
    assert client().ask(HELLO).text == "fine"


def test_a_truncated_answer_is_no_chat_completion(
    chat_server: Any, client: Callable[..., Client], says: Any, response: Any
) -> None:
    whole = says("fine").body
    chat_server.reply = lambda _: response(body=whole[: len(whole) // 2])
    with pytest.raises(EndpointError, match="an answer that is no chat completion"):
        client().ask(HELLO)


def test_a_web_page_is_no_chat_completion(
    chat_server: Any, client: Callable[..., Client], response: Any
) -> None:
    chat_server.reply = lambda _: response(body="<html>Sign in</html>", kind="text/html")
    with pytest.raises(EndpointError, match="an answer that is no chat completion"):
        client().ask(HELLO)


@pytest.mark.parametrize("body", ["{}", '{"choices": []}', '{"choices": [{}]}', "[]", "null"])
def test_json_without_an_answer_in_it_is_no_chat_completion(
    chat_server: Any, client: Callable[..., Client], response: Any, body: str
) -> None:
    chat_server.reply = lambda _: response(body=body)
    with pytest.raises(EndpointError, match="an answer that is no chat completion"):
        client().ask(HELLO)


@pytest.mark.parametrize("text", ["", None])
def test_an_empty_answer_is_an_error(
    chat_server: Any, client: Callable[..., Client], says: Any, text: str | None
) -> None:
    chat_server.reply = lambda _: says(text)
    with pytest.raises(EndpointError, match="an empty answer"):
        client().ask(HELLO)


def test_a_server_that_hangs_is_told_by_the_time_allowed(
    chat_server: Any, client: Callable[..., Client], says: Any
) -> None:
    def hang(_: object) -> Any:
        chat_server.closing.wait()
        return says("too late")

    chat_server.reply = hang
    with pytest.raises(EndpointError, match=r"no answer within 0\.1 s"):
        client(timeout_s=0.1).ask(HELLO)


def test_a_server_that_is_not_there_cannot_be_reached(
    chat_server: Any, client: Callable[..., Client]
) -> None:
    made = client()
    chat_server.socket.close()
    with pytest.raises(EndpointError, match="cannot be reached"):
        made.ask(HELLO)


def test_as_many_requests_as_allowed_are_in_flight_and_no_more(
    chat_server: Any, client: Callable[..., Client], says: Any
) -> None:
    together = threading.Barrier(4, timeout=30)  # broken unless four requests wait at once
    lock, now, most = threading.Lock(), 0, 0

    def reply(request: dict[str, Any]) -> Any:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait()
        with lock:
            now -= 1
        return says(f"answer {asked(request)}")

    chat_server.reply = reply
    replies = dict(client(concurrency=4).ask_all(numbered(12)))
    assert {i: r.text for i, r in replies.items()} == {i: f"answer {i}" for i in range(12)}
    assert most == 4


def test_a_single_failure_is_logged_and_left_out(
    chat_server: Any, client: Callable[..., Client], says: Any, response: Any, log_lines: list[str]
) -> None:
    chat_server.reply = lambda r: response(500, "{}") if asked(r) == 1 else says("fine")
    assert sorted(i for i, _ in client().ask_all(numbered(4))) == [0, 2, 3]
    assert [line for line in log_lines if ": 500 " in line] == log_lines[:1]


def test_ten_failures_in_a_row_end_the_run(
    chat_server: Any, client: Callable[..., Client], response: Any
) -> None:
    chat_server.reply = lambda _: response(500, "{}")
    with pytest.raises(EndpointError, match=": 500 "):
        list(client(concurrency=1).ask_all(numbered(100)))
    assert 10 <= len(chat_server.requests) < 100


def test_failures_with_answers_between_them_do_not_end_the_run(
    chat_server: Any, client: Callable[..., Client], says: Any, response: Any
) -> None:
    chat_server.reply = lambda r: says("fine") if asked(r) % 2 else response(500, "{}")
    replies = client(concurrency=1).ask_all(numbered(30))
    assert sorted(i for i, _ in replies) == list(range(1, 30, 2))


def test_answers_that_were_paid_for_before_a_refusal_are_not_lost(
    chat_server: Any, client: Callable[..., Client], says: Any, response: Any
) -> None:
    refused = threading.Event()

    def reply(request: dict[str, Any]) -> Any:
        if asked(request) == 0:
            refused.set()
            return response(403, "{}")
        refused.wait(30)
        return says("fine")

    chat_server.reply = reply
    got = []
    with pytest.raises(EndpointError, match="is refused"):
        for i, _ in client(concurrency=4).ask_all(numbered(40)):
            got.append(i)
    assert sorted(got) == sorted(asked(r) for r in chat_server.requests if asked(r))


def test_no_chats_are_no_requests(chat_server: Any, client: Callable[..., Client]) -> None:
    assert list(client().ask_all([])) == []
    assert chat_server.requests == []


@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_a_key_that_the_server_repeats_is_in_no_message_and_no_log(
    chat_server: Any,
    client: Callable[..., Client],
    response: Any,
    log_lines: list[str],
    status: int,
) -> None:
    body = json.dumps({"error": {"message": f"cannot use Authorization: Bearer {KEY}"}})
    chat_server.reply = lambda _: response(status, body)
    with pytest.raises(EndpointError) as caught:
        list(client().ask_all(numbered(1)))
    assert KEY not in str(caught.value)
    assert KEY not in "".join(log_lines)


def test_the_key_is_in_no_traceback_of_a_refusal(
    chat_server: Any, client: Callable[..., Client], response: Any, log_lines: list[str]
) -> None:
    chat_server.reply = lambda _: response(401, "{}")
    with pytest.raises(EndpointError) as caught:
        client().ask(HELLO)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY not in "".join(log_lines)
