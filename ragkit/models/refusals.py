"""What to tell a user of a request that failed, without the key."""

import json
from typing import Any

import openai

from ragkit.config.blocks import Endpoint
from ragkit.models.retries import causes, is_unreachable

NO_COMPLETION = "an answer that is no chat completion"
UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError)  # of an answer that is cut short


def explain(error: Exception, config: Endpoint, key: str) -> str:
    """Return in a line what a user needs to know of an error."""
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return f"the key in {config.api_key_env} is refused"
    if is_unreachable(error):
        return f"cannot be reached{_why_unreachable(error)}"
    if isinstance(error, TimeoutError):
        return f"no answer within {config.timeout_s:g} s"
    if isinstance(error, openai.APIConnectionError):
        return "the connection broke before the answer"
    if isinstance(error, UNREADABLE):
        return NO_COMPLETION
    status: Any = getattr(error, "status_code", "")
    said = (str(error).splitlines() or [""])[0]
    said = said.replace(key, "***") if key else said  # before it is cut, which may leave half of it
    return f"{status} {said[:200]}{_advice(error, config)}"


def _advice(error: Exception, config: Endpoint) -> str:
    """Return what may be wrong with `base_url` where the server has nothing at the address."""
    url = (config.base_url or "").rstrip("/")
    lost = isinstance(error, openai.NotFoundError) and url and not url.endswith("/v1")
    return f" (base_url usually ends in /v1: {url}/v1)" if lost else ""


def _why_unreachable(error: BaseException) -> str:
    """Return what the system says of a connection that did not come about, in brackets."""
    found = list(causes(error))
    if any(isinstance(cause, ConnectionRefusedError) for cause in found):
        return " (connection refused: nothing listens there)"
    said = [cause.strerror for cause in found if isinstance(cause, OSError) and cause.strerror]
    return f" ({said[-1]})" if said else ""
