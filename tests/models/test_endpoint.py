"""The client against a real server on loopback that answers well, badly, late or not at all."""

import asyncio
import json
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from ragkit.config.blocks import Endpoint
from ragkit.errors import DataError, EndpointError, RunError
from ragkit.models import endpoint, retries
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


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let nobody wait between two tries; return how long they would have."""
    waited: list[float] = []

    def pause_after(*arguments: Any) -> float | None:
        pause = retries.pause_after(*arguments)
        if pause is not None:
            waited.append(pause)
        return None if pause is None else 0.0

    monkeypatch.setattr(endpoint, "pause_after", pause_after)
    return waited


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


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"choices": []}',
        '{"choices": [{}]}',
        "[]",
        "null",
        '{"choices": [{"message": {"content": [{"type": "text", "text": "in parts"}]}}]}',
    ],
)
def test_json_without_an_answer_in_it_is_no_chat_completion(
    chat_server: Any, client: Callable[..., Client], response: Any, body: str
) -> None:
    chat_server.reply = lambda _: response(body=body)
    with pytest.raises(EndpointError, match="an answer that is no chat completion"):
        client().ask(HELLO)


@pytest.mark.parametrize("text", ["", None, " \n"])
def test_an_empty_answer_is_an_answer_with_what_it_cost_and_is_said_once(
    chat_server: Any,
    client: Callable[..., Client],
    says: Any,
    log_lines: list[str],
    text: str | None,
) -> None:
    chat_server.reply = lambda _: says(text)
    found = dict(client().ask_all(numbered(3)))
    assert [found[i].text for i in range(3)] == [""] * 3
    assert [found[i].usage["completion_tokens"] for i in range(3)] == [3] * 3
    assert len(chat_server.requests) == 3
    assert log_lines == [f"m at {chat_server.url}: an empty answer; said once"]


def test_ten_empty_answers_in_a_row_end_the_run_and_are_passed_on(
    chat_server: Any, client: Callable[..., Client], says: Any
) -> None:
    body = says(None).body.replace('"stop"', '"length"')
    chat_server.reply = lambda r: says("fine") if asked(r) == 5 else replace(says(""), body=body)
    got = []
    with pytest.raises(EndpointError, match=r"an empty answer \(max_tokens was used up before it"):
        for i, reply in client(concurrency=1).ask_all(numbered(50)):
            got.append((i, reply.text))
    assert got == [(i, "fine" if i == 5 else "") for i in range(16)]


def test_an_address_without_the_usual_end_is_told(
    chat_server: Any, client: Callable[..., Client], response: Any
) -> None:
    chat_server.reply = lambda _: response(404, "404 page not found", kind="text/plain")
    usual = chat_server.url.removesuffix("/v1")
    with pytest.raises(EndpointError, match=rf"404 .*base_url usually ends in /v1: {usual}/v1\)"):
        client(base_url=usual).ask(HELLO)
    with pytest.raises(EndpointError, match=r"404 (?!.*base_url)"):
        client(base_url=f"{usual}/v1").ask(HELLO)


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(ValidationError, match="'localhost:8000/v1' does not begin with http://"):
        Endpoint(model="m", base_url="localhost:8000/v1")


def test_a_server_that_hangs_is_told_by_the_time_allowed(
    chat_server: Any, client: Callable[..., Client], says: Any
) -> None:
    def hang(_: object) -> Any:
        chat_server.closing.wait()
        return says("too late")

    chat_server.reply = hang
    with pytest.raises(EndpointError, match=r"no answer within 0\.1 s"):
        client(timeout_s=0.1).ask(HELLO)


def test_a_server_that_sends_now_and_then_a_byte_is_told_by_the_time_allowed(
    client: Callable[..., Client],
) -> None:
    done = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not done.wait(0.01):
                connection.sendall(b"1\r\n \r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: drip(server.accept()[0]))
        thread.start()
        made = client(base_url=f"http://127.0.0.1:{server.getsockname()[1]}/v1", timeout_s=0.2)
        watch = threading.Timer(20, done.set)
        watch.start()
        with pytest.raises(EndpointError, match=r"no answer within 0\.2 s"):
            made.ask(HELLO)
        watch.cancel()
        assert not done.is_set()  # it ended by itself
        done.set()
        thread.join()


def test_a_server_that_is_not_there_is_told_once_and_soon(
    chat_server: Any, client: Callable[..., Client], log_lines: list[str], pauses: list[float]
) -> None:
    made = client(max_retries=5, concurrency=16)
    chat_server.socket.close()
    allowance = Allowance(1000, together=1000)
    with pytest.raises(EndpointError) as caught:
        list(made.ask_all(numbered(200), None, allowance))
    said = "cannot be reached (connection refused: nothing listens there)"
    assert str(caught.value) == f"m at {chat_server.url}: {said}"
    assert log_lines == []
    # three tries of the sixteen that were in flight, which cost nothing
    assert 1000 - allowance.left <= 48
    assert set(allowance.settled) == {None}


def test_a_name_that_nobody_knows_is_told_as_such(
    client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(EndpointError, match=r"cannot be reached \(Name or service not known\)$"):
        client(base_url="http://nobody.invalid/v1").ask(HELLO)


def test_a_server_that_goes_away_after_an_answer_is_waited_for(
    chat_server: Any, client: Callable[..., Client], says: Any, pauses: list[float]
) -> None:
    def reply(_: object) -> Any:
        chat_server.socket.close()  # and closes the connection, after this answer
        return replace(says("last"), headers={"Connection": "close"})

    chat_server.reply = reply
    got = []
    with pytest.raises(EndpointError, match="cannot be reached"):
        for i, _ in client(max_retries=4, concurrency=1).ask_all(numbered(50)):
            got.append(i)
    assert got == [0]
    assert len(pauses) == 4 * 10  # of each of ten in a row


def test_a_server_that_goes_away_after_an_error_had_been_there(
    chat_server: Any, client: Callable[..., Client], response: Any, pauses: list[float]
) -> None:
    def reply(_: object) -> Any:
        chat_server.socket.close()
        return response(503, "{}", {"Connection": "close"})

    chat_server.reply = reply
    with pytest.raises(EndpointError, match="cannot be reached"):
        client(max_retries=4).ask(HELLO)
    assert len(pauses) == 4


@pytest.mark.parametrize("key", ["sk-\u043a\u043b\u044e\u0447", "sk-a\nb", "sk-a\x00b"])
def test_what_can_be_no_key_is_refused_without_being_shown(
    client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr("os.environ", {"TEST_KEY": key})
    with pytest.raises(EndpointError, match="variable TEST_KEY holds no key") as caught:
        client()
    assert "sk-" not in "".join(traceback.format_exception(caught.value))


def test_space_around_a_key_is_no_part_of_it(
    chat_server: Any, client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", f" {KEY}\n")
    client().ask(HELLO)
    assert chat_server.keys == [f"Bearer {KEY}"]


def test_what_nobody_expects_in_the_thread_comes_out_as_it_is(
    client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("what is this")

    monkeypatch.setattr("openai.AsyncOpenAI", fail)
    with pytest.raises(ZeroDivisionError, match="what is this"):
        client().ask(HELLO)


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


def test_failures_of_one_kind_are_logged_once_and_counted(
    chat_server: Any, client: Callable[..., Client], says: Any, response: Any, log_lines: list[str]
) -> None:
    chat_server.reply = lambda r: says("fine") if asked(r) % 2 else response(500, "{}")
    list(client(concurrency=1).ask_all(numbered(30)))
    first, counted = [line for line in log_lines if ": 500 " in line]
    assert "times" not in first
    assert counted.endswith("(15 times)")


def test_after_ten_failures_and_no_answer_what_is_in_flight_is_dropped(
    chat_server: Any, client: Callable[..., Client], says: Any, response: Any
) -> None:
    def reply(request: dict[str, Any]) -> Any:
        if asked(request) < 10:
            return response(500, "{}")
        chat_server.closing.wait(20)
        return says("too late")

    chat_server.reply = reply
    got = []
    with pytest.raises(EndpointError, match=": 500 "):
        for i, _ in client(concurrency=4).ask_all(numbered(100)):
            got.append(i)
    assert got == []


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


SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}


def form(request: dict[str, Any]) -> str | None:
    """Return how the answer of a request shall be formed."""
    return request.get("response_format", {}).get("type")


def test_the_schema_of_an_answer_is_sent(chat_server: Any, client: Callable[..., Client]) -> None:
    client().ask(HELLO, SCHEMA)
    assert chat_server.requests[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
    }


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    ("taken", "sent"),
    [
        ("json_schema", ["json_schema"]),
        ("json_object", ["json_schema", "json_object"]),
        (None, ["json_schema", "json_object", None]),
    ],
)
def test_what_a_server_refuses_of_an_answers_form_is_not_asked_for_again(
    chat_server: Any,
    client: Callable[..., Client],
    says: Any,
    response: Any,
    status: int,
    taken: str | None,
    sent: list[str | None],
) -> None:
    chat_server.reply = lambda r: says("fine") if form(r) == taken else response(status, "{}")
    made = client()
    assert made.ask(HELLO, SCHEMA).text == "fine"
    assert made.ask(HELLO, SCHEMA).text == "fine"
    assert [form(r) for r in chat_server.requests] == [*sent, taken]


def test_many_at_once_agree_on_the_form_that_the_server_takes(
    chat_server: Any, client: Callable[..., Client], says: Any, response: Any
) -> None:
    chat_server.reply = lambda r: says("fine") if form(r) is None else response(400, "{}")
    made = client(concurrency=8)
    assert len(list(made.ask_all(numbered(30), SCHEMA))) == 30
    assert made.formats == (None,)
    assert len(chat_server.requests) <= 30 + 2 * 8


def test_a_refusal_of_another_cause_is_told_and_changes_no_form(
    chat_server: Any, client: Callable[..., Client], says: Any, response: Any, log_lines: list[str]
) -> None:
    body = json.dumps({"error": {"message": "the prompt is too long"}})
    chat_server.reply = lambda r: response(400, body) if asked(r) == 1 else says("fine")
    made = client(concurrency=1)
    assert sorted(i for i, _ in made.ask_all(numbered(3), SCHEMA)) == [0, 2]
    assert any(": 400 " in line and "the prompt is too long" in line for line in log_lines)
    assert made.formats == ("json_schema", "json_object", None)
    assert form(chat_server.requests[-1]) == "json_schema"


def test_a_refusal_without_a_schema_is_sent_once(
    chat_server: Any, client: Callable[..., Client], response: Any
) -> None:
    chat_server.reply = lambda _: response(400, "{}")
    with pytest.raises(EndpointError, match=": 400 "):
        client().ask(HELLO)
    assert len(chat_server.requests) == 1


def test_a_temperature_of_null_is_not_sent_and_openai_has_its_own_limit(
    chat_server: Any, client: Callable[..., Client]
) -> None:
    client(temperature=None).ask(HELLO)
    assert "temperature" not in chat_server.requests[0]
    own = Client(Endpoint(model="m", api_key_env="TEST_KEY", max_tokens=5))
    assert own.parameters(None, None) == {"max_completion_tokens": 5, "temperature": 0.0}


def test_half_a_character_in_an_answer_is_a_question_mark(
    chat_server: Any, client: Callable[..., Client], says: Any
) -> None:
    chat_server.reply = lambda _: says("so \ud83d")
    assert client().ask(HELLO).text == "so ?"


class Clock:
    """A loop's clock that only moves when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slept = 100.0, 0.0
        loop = SimpleNamespace(time=lambda: self.now)
        monkeypatch.setattr(asyncio, "sleep", self.sleep)
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_what_is_allowed_a_minute_is_spread_over_it(clock: Clock) -> None:
    pace = retries.Pace(30)  # every two seconds
    assert [pace.take(1) for _ in range(3)] == [100.0, 102.0, 104.0]
    clock.now = 103.0
    assert pace.take(1) == 106.0
    clock.now = 120.0  # what was not used is not saved up
    assert [pace.take(1) for _ in range(2)] == [120.0, 122.0]


def test_more_at_once_waits_longer_and_what_turns_out_more_is_made_up_for(clock: Clock) -> None:
    pace = retries.Pace(600)  # ten tokens a second
    assert pace.take(50) == 100.0
    assert pace.take(10) == 105.0
    pace.take_more(20)
    assert pace.take(10) == 108.0
    pace.take_more(-5)
    assert pace.take(0) == 108.5


def test_without_a_limit_nobody_waits(clock: Clock) -> None:
    pace = retries.Pace(None)
    assert [pace.take(1_000_000) for _ in range(3)] == [100.0] * 3


def test_one_who_waits_for_a_turn_sleeps_until_then_and_no_longer_once_all_is_to_end(
    clock: Clock, client: Callable[..., Client]
) -> None:
    asking = endpoint._Asking(client(), iter([]), None, None, None)

    def wait(until: float) -> None:
        with suppress(StopIteration):
            asking._wait_until(until).send(None)

    wait(99.0)
    assert clock.slept == 0.0
    wait(103.5)
    assert clock.now == 103.5
    asking.stopping = True
    wait(1_000.0)
    assert clock.now == 103.5


def test_an_end_while_others_wait_for_their_turn_comes_at_once(
    chat_server: Any, client: Callable[..., Client], response: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_PATIENCE_S", 0.01)
    chat_server.reply = lambda _: response(401, "{}")
    # the second of the chats would have its turn after an hour
    hourly = client(requests_per_minute=1, concurrency=60)
    with pytest.raises(EndpointError, match="is refused"):
        list(hourly.ask_all(numbered(60)))
    assert len(chat_server.requests) == 1


class Allowance:
    """Admits so many, `together` at a time."""

    def __init__(self, most: int, together: int) -> None:
        self.left, self.together = most, together
        self.flying, self.peak = 0, 0
        self.settled: list[str | None] = []

    def admit(self, chat: Any) -> bool | None:
        if not self.left:
            return False
        if self.flying == self.together:
            return None
        self.left -= 1
        self.flying += 1
        self.peak = max(self.peak, self.flying)
        return True

    def settle(self, chat: Any, reply: Any, lost: bool = False) -> None:
        self.flying -= 1
        self.settled.append("lost" if lost else reply.text if reply else None)


def test_a_request_that_is_not_admitted_yet_waits_until_another_is_settled(
    chat_server: Any, client: Callable[..., Client]
) -> None:
    allowance = Allowance(100, together=2)
    assert len(list(client(concurrency=8).ask_all(numbered(20), None, allowance))) == 20
    assert (allowance.peak, allowance.flying) == (2, 0)
    assert allowance.settled == ["fine"] * 20


def test_a_request_that_is_never_admitted_ends_the_asking(
    chat_server: Any, client: Callable[..., Client]
) -> None:
    allowance = Allowance(7, together=3)
    assert len(list(client(concurrency=4).ask_all(numbered(20), None, allowance))) == 7
    assert len(chat_server.requests) == 7
    assert allowance.flying == 0


def test_a_failure_is_settled_without_a_reply(
    chat_server: Any, client: Callable[..., Client], says: Any, response: Any
) -> None:
    chat_server.reply = lambda r: response(500) if asked(r) == 1 else says("fine")
    allowance = Allowance(9, together=9)
    list(client(concurrency=1).ask_all(numbered(3), None, allowance))
    assert allowance.settled == ["fine", None, "fine"]


def test_each_try_is_admitted_and_paced_by_itself(
    chat_server: Any,
    client: Callable[..., Client],
    says: Any,
    response: Any,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []
    take = retries.Pace.take

    def note(pace: retries.Pace, amount: int) -> float:
        taken.append(amount)
        return take(pace, amount)

    monkeypatch.setattr(retries.Pace, "take", note)
    chat_server.reply = in_turn(response(429), response(503), says("fine"), says("fine"))
    allowance = Allowance(9, together=1)
    found = list(client(concurrency=2, max_retries=2).ask_all(numbered(2), None, allowance))
    assert len(found) == 2
    assert sorted(map(str, allowance.settled)) == ["None", "None", "fine", "fine"]
    assert allowance.left == 9 - 4
    assert taken == [1, 0] * 4  # a request and (of one byte) no tokens
    assert len(pauses) == 2


def test_a_retry_that_is_not_admitted_ends_the_asking_with_the_failure(
    chat_server: Any, client: Callable[..., Client], response: Any, pauses: list[float]
) -> None:
    chat_server.reply = lambda _: response(429, "{}")
    with pytest.raises(EndpointError, match=": 429 "):
        list(client(concurrency=1, max_retries=9).ask_all(numbered(9), None, Allowance(3, 1)))
    assert len(chat_server.requests) == 3


def test_each_form_that_is_tried_is_admitted_by_itself(
    chat_server: Any, client: Callable[..., Client], response: Any
) -> None:
    chat_server.reply = lambda _: response(400, "{}")
    with pytest.raises(EndpointError, match=": 400 "):
        list(client(concurrency=1).ask_all(numbered(9), SCHEMA, Allowance(2, 1)))
    assert [form(r) for r in chat_server.requests] == ["json_schema", "json_object"]


def test_once_a_form_was_taken_a_refusal_is_not_tried_in_others(
    chat_server: Any, client: Callable[..., Client], says: Any, response: Any
) -> None:
    chat_server.reply = lambda r: response(400, "{}") if asked(r) == 1 else says("fine")
    found = list(client(concurrency=1).ask_all(numbered(3), SCHEMA))
    assert sorted(i for i, _ in found) == [0, 2]
    assert [asked(r) for r in chat_server.requests] == [0, 1, 2]


@pytest.mark.parametrize(
    ("status", "body", "settled"),
    [(429, "{}", None), (503, "{}", None), (400, "{}", None), (504, "{}", "lost"),
     (200, '{"choices"', "lost"), (200, '{"choices": []}', "lost"), (0, "", "lost")],
)  # fmt: skip
def test_what_may_have_been_billed_is_settled_as_lost(
    chat_server: Any,
    client: Callable[..., Client],
    response: Any,
    status: int,
    body: str,
    settled: str | None,
) -> None:
    chat_server.reply = lambda _: response(status, body)
    allowance = Allowance(9, together=9)
    with pytest.raises(EndpointError):
        list(client().ask_all(numbered(1), None, allowance))
    assert allowance.settled == [settled]


def test_a_try_that_takes_too_long_is_settled_as_lost_and_sent_again(
    chat_server: Any, client: Callable[..., Client], says: Any, pauses: list[float]
) -> None:
    def hang_once(_: object) -> Any:
        if len(chat_server.requests) == 1:
            chat_server.closing.wait()
        return says("fine")

    chat_server.reply = hang_once
    allowance = Allowance(9, together=9)
    ((_, reply),) = client(timeout_s=0.5, max_retries=1).ask_all(numbered(1), None, allowance)
    assert reply.text == "fine"
    assert allowance.settled == ["lost", "fine"]


def test_after_an_interrupt_nothing_is_sent_again(
    chat_server: Any,
    client: Callable[..., Client],
    response: Any,
    monkeypatch: pytest.MonkeyPatch,
    pauses: list[float],
) -> None:
    flying = threading.Event()
    pressed = press(monkeypatch, 1, lambda: flying.wait(30))

    def fail(_: object) -> Any:
        flying.set()
        pressed.wait(30)
        return response(503, "{}")

    chat_server.reply = fail
    with pytest.raises(KeyboardInterrupt):
        list(client(concurrency=3, max_retries=5).ask_all(numbered(50)))
    assert len(chat_server.requests) <= 3


def test_an_error_of_the_chats_themselves_comes_out_after_the_answers(
    chat_server: Any, client: Callable[..., Client]
) -> None:
    def chats() -> Iterator[Any]:
        yield from numbered(3)
        raise DataError("line 4 is bad")

    got = []
    with pytest.raises(DataError, match="line 4 is bad"):
        for i, _ in client(concurrency=1).ask_all(chats()):
            got.append(i)
    assert got == [0, 1, 2]


def test_replies_are_kept_before_they_are_passed_on(
    chat_server: Any, client: Callable[..., Client]
) -> None:
    kept: list[int] = []
    for replies in client(concurrency=3).batches(
        numbered(20), keep=lambda found: kept.extend(i for i, _ in found)
    ):
        assert {i for i, _ in replies} <= set(kept)
    assert sorted(kept) == list(range(20))


def test_an_error_of_keeping_ends_the_asking(
    chat_server: Any, client: Callable[..., Client]
) -> None:
    def keep(_: object) -> None:
        raise RunError("the disk is full")

    with pytest.raises(RunError, match="the disk is full"):
        list(client(concurrency=1).batches(numbered(200), keep=keep))
    assert len(chat_server.requests) < 200


class Interrupted(SimpleQueue):
    """A queue at which somebody presses Ctrl-C before anything comes out of it."""

    def __init__(self, presses: int, before: Callable[[], object], after: threading.Event) -> None:
        self.presses, self.before, self.after = presses, before, after

    def get(self, *arguments: Any) -> Any:
        if self.presses:
            self.presses -= 1
            self.before()
            raise KeyboardInterrupt
        self.after.set()
        return super().get(*arguments)


def press(
    monkeypatch: pytest.MonkeyPatch, presses: int, before: Callable[[], object]
) -> threading.Event:
    """Let somebody press Ctrl-C while replies are waited for; return what is set afterwards."""
    after = threading.Event()

    class Asking(endpoint._Asking):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.arrived = Interrupted(presses, before, after)

    monkeypatch.setattr(endpoint, "_Asking", Asking)
    return after


def test_an_interrupt_waits_for_what_is_in_flight_and_then_comes_through(
    chat_server: Any,
    client: Callable[..., Client],
    says: Any,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[str],
) -> None:
    flying = threading.Barrier(4, timeout=30)  # three requests, and who presses
    pressed = press(monkeypatch, 1, flying.wait)

    def reply(_: object) -> Any:
        flying.wait()
        pressed.wait(30)
        return says("paid for")

    chat_server.reply = reply
    got: list[int] = []
    kept: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        for replies in client(concurrency=3).batches(numbered(50), keep=kept.extend):
            got += [i for i, answer in replies if answer.text == "paid for"]
    assert sorted(got) == [0, 1, 2]
    assert len(kept) == len(chat_server.requests) == 3
    assert any("waiting for the answers in flight" in line for line in log_lines)


def test_a_second_interrupt_drops_what_is_in_flight(
    chat_server: Any, client: Callable[..., Client], says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    flying = threading.Event()
    press(monkeypatch, 2, lambda: flying.wait(30))

    def hang(_: object) -> Any:
        flying.set()
        chat_server.closing.wait()
        return says("too late")

    chat_server.reply = hang
    with pytest.raises(KeyboardInterrupt):
        list(client(concurrency=3).ask_all(numbered(50)))
    assert not chat_server.closing.is_set()
    assert not any(t.name == "ragkit-endpoint" for t in threading.enumerate())


def test_a_reader_that_goes_away_ends_the_asking(
    chat_server: Any, client: Callable[..., Client]
) -> None:
    replies = client(concurrency=2).batches(numbered(500))
    next(iter(replies))
    replies.close()  # type: ignore[attr-defined]
    assert len(chat_server.requests) < 500
    assert not any(t.name == "ragkit-endpoint" for t in threading.enumerate())
