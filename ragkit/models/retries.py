"""When requests may be sent, and what to do about one that failed: wait, give up, or end it all.

Sending them is `ragkit.models.endpoint`'s business.
"""

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime

import httpx2
import openai

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0  # where the server does not say how long to wait
LONGEST_WAIT_S = 300.0  # a server that says more is not waited for
_RETRIES_TO_REACH = 2  # of a server that was never there
_PASSING = (408, 409, 429)  # and all from 500 on
_REFUSED = (500, 501, 503, 529)  # by the server itself; others from 500 on are a gateway's
_FINAL = (401, 403, 404)
_JITTER = random.Random()  # not the seeded one


class Pace:
    """Spaces what is taken, so that no minute holds more than `per_minute`."""

    def __init__(self, per_minute: int | None) -> None:
        self.seconds = 60 / per_minute if per_minute else 0.0
        self.free_at = 0.0

    def take(self, amount: int) -> float:
        """Return when `amount` may be used, by the loop's clock."""
        start = max(asyncio.get_running_loop().time(), self.free_at)
        self.free_at = start + amount * self.seconds
        return start

    def take_more(self, amount: int) -> None:
        """Count what was used beyond what was taken; what comes next waits for it."""
        self.free_at += amount * self.seconds


def pause_after(error: Exception, failures: int, most: int, reached: bool) -> float | None:
    """Return after how many seconds to send a request again; None: not at all.

    failures: of this request so far, this one included; most: retries that are allowed
    reached: the server has answered before, to this request or another
    """
    if not reached and is_unreachable(error):
        most = min(most, _RETRIES_TO_REACH)
    if failures > most:
        return None
    headers: Mapping[str, str] = {}
    if isinstance(error, openai.APIStatusError):
        headers = error.response.headers
        passing = error.status_code in _PASSING or error.status_code >= 500
        # OpenAI's own word, which knows an empty account (429 too) from a busy server
        if not {"true": True, "false": False}.get(headers.get("x-should-retry", ""), passing):
            return None
    elif not isinstance(error, openai.APIConnectionError | TimeoutError):
        return None
    wait = _retry_after(headers)
    if wait > LONGEST_WAIT_S:
        return None
    pause = min(FIRST_PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S)
    return wait * _JITTER.uniform(1.0, 1.1) or pause * _JITTER.uniform(0.75, 1.0)


def may_be_billed(error: BaseException) -> bool:
    """Return whether a server may have done the work of a request that failed.

    Not where it refused, or never got it; a gateway that gave up does not know.
    """
    if isinstance(error, openai.APIStatusError):
        return error.status_code >= 500 and error.status_code not in _REFUSED
    return not is_unreachable(error)


def is_final(error: BaseException | None, reached: bool) -> bool:
    """Return whether an error is one that every further request would meet too."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _FINAL
    return not reached and is_unreachable(error)


def is_unreachable(error: BaseException | None) -> bool:
    """Return whether no connection came about."""
    unreachable = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol)
    return isinstance(error, openai.APIConnectionError) and any(
        isinstance(cause, unreachable) for cause in causes(error)
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait, given as such or as a date; 0: it does not."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        said = headers.get(name, "")
        try:
            seconds = float(said) * unit_s
        except ValueError:
            try:
                seconds = parsedate_to_datetime(said).timestamp() - time.time()
            except (ValueError, OverflowError):
                continue
        if seconds > 0:  # neither in the past nor NaN
            return seconds
    return 0.0
