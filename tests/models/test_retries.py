"""When a request is sent again: what the server asks for, growing pauses, and what is no use."""

import time
from email.utils import formatdate
from typing import Any

import httpx2
import openai
import pytest

from ragkit.models import retries
from ragkit.models.retries import is_final, is_unreachable, may_be_billed, pause_after

REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions")


def status(code: int, **headers: str) -> openai.APIStatusError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(code, headers=named, request=REQUEST)
    kind: Any = {401: openai.AuthenticationError, 429: openai.RateLimitError}.get(
        code, openai.APIStatusError
    )
    return kind("said", response=response, body=None)  # type: ignore[no-any-return]


def connection(cause: Exception) -> openai.APIConnectionError:
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = cause
    return error


REFUSED = connection(httpx2.ConnectError("All connection attempts failed"))
BROKEN = connection(httpx2.RemoteProtocolError("Server disconnected"))


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries._JITTER, "uniform", lambda a, b: 1.0)


@pytest.mark.parametrize("error", [status(429), status(500), BROKEN, TimeoutError()])
def test_pauses_double_up_to_the_longest_until_no_retry_is_left(error: Exception) -> None:
    found = [pause_after(error, failures, 7, True) for failures in range(1, 9)]
    assert found == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, None]


def test_pauses_differ_so_that_not_all_come_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = {pause_after(status(429), 2, 5, True) for _ in range(50)}
    assert len(found) > 40
    assert all(pause and 0.75 <= pause <= 1.0 for pause in found)
    asked = [pause_after(status(429, retry_after="20"), 1, 5, True) for _ in range(50)]
    assert all(pause and 20.0 <= pause <= 22.0 for pause in asked)


@pytest.mark.parametrize("code", [408, 409, 429, 500, 502, 503, 504, 524, 529])
def test_what_passes_is_sent_again(code: int) -> None:
    assert pause_after(status(code), 1, 5, True) == 0.5


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_not_sent_again(code: int) -> None:
    assert pause_after(status(code), 1, 5, True) is None


def test_the_server_has_the_last_word_on_whether_it_helps() -> None:
    assert pause_after(status(429, x_should_retry="false"), 1, 5, True) is None
    assert pause_after(status(404, x_should_retry="true"), 1, 5, True) == 0.5


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0.25"}, 0.25),
        ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5),
        ({"retry_after": "0"}, 0.5),
        ({"retry_after": "-3"}, 0.5),
        ({"retry_after": "nan"}, 0.5),
        ({"retry_after": "soon"}, 0.5),
        ({"retry_after": "300"}, 300.0),
        ({"retry_after": "301"}, None),
        ({"retry_after": "inf"}, None),
    ],
)
def test_a_server_that_says_how_long_to_wait_is_waited_for_unless_it_is_too_long(
    headers: dict[str, str], expected: float | None
) -> None:
    assert pause_after(status(429, **headers), 1, 5, True) == expected


def test_a_date_to_wait_for_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    later = status(503, retry_after=formatdate(now + 42, usegmt=True))
    assert pause_after(later, 1, 5, True) == 42.0
    past = status(503, retry_after=formatdate(now - 42, usegmt=True))
    assert pause_after(past, 1, 5, True) == 0.5


def test_a_server_that_was_never_there_is_tried_three_times() -> None:
    assert [pause_after(REFUSED, n, 5, False) for n in (1, 2, 3)] == [0.5, 1.0, None]
    assert [pause_after(REFUSED, n, 1, False) for n in (1, 2)] == [0.5, None]
    assert pause_after(REFUSED, 5, 5, True) == 8.0
    assert pause_after(BROKEN, 5, 5, False) == 8.0


def test_what_is_no_failure_of_the_server_is_not_sent_again() -> None:
    assert pause_after(KeyError("x"), 1, 5, True) is None


@pytest.mark.parametrize(
    ("error", "billed"),
    [
        (REFUSED, False), (connection(httpx2.ConnectTimeout("slow")), False), (BROKEN, True),
        (TimeoutError(), True), (status(400), False), (status(429), False), (status(500), False),
        (status(503), False), (status(529), False), (status(502), True), (status(504), True),
        (status(524), True), (ValueError("half a body"), True),
    ],
)  # fmt: skip
def test_only_what_a_server_refused_or_never_got_is_surely_not_billed(
    error: Exception, billed: bool
) -> None:
    assert may_be_billed(error) is billed


def test_what_every_request_would_meet_is_final() -> None:
    assert [is_final(status(code), True) for code in (401, 403, 404, 429, 500)] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert is_final(REFUSED, False) and not is_final(REFUSED, True)
    assert not is_final(BROKEN, False) and not is_final(None, False)


def test_a_connection_that_broke_had_been_there() -> None:
    assert is_unreachable(REFUSED) and not is_unreachable(BROKEN)
    assert not is_unreachable(httpx2.ConnectError("of nobody's request"))
