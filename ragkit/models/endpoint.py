"""The client for OpenAI-compatible servers: vLLM, TGI, SGLang, Ollama, llama.cpp, OpenAI.

Retries after 429, 5xx and broken connections, with the server's Retry-After, are the openai
package's; a refusal for good ends everything with one message.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import openai

from ragkit.config.blocks import Endpoint
from ragkit.errors import EndpointError
from ragkit.log import logger

Chat = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered: the text, how long it took, and the tokens it counted."""

    text: str
    seconds: float
    usage: Mapping[str, int]


class Client:
    """Asks one model on one server."""

    def __init__(self, config: Endpoint) -> None:
        self.config = config
        key = os.environ.get(config.api_key_env)
        if not key and config.base_url is None:
            raise EndpointError(
                f"the environment variable {config.api_key_env} is not set; it must hold the key "
                "(or name a server of your own: base_url)"
            )
        self.api = openai.OpenAI(
            api_key=key or "none",
            base_url=config.base_url,
            timeout=config.timeout_s,
            max_retries=config.max_retries,
        )

    def ask(self, chat: Chat) -> Reply:
        """Ask once.

        Raises:
            EndpointError: refused for good, still failing after the retries, or not understood.
        """
        start = time.perf_counter()
        try:
            reply = self.api.chat.completions.create(
                model=self.config.model,
                messages=[dict(m) for m in chat],  # type: ignore[misc]
                **self._parameters(),
            )
            text = reply.choices[0].message.content
        except openai.OpenAIError as error:
            raise EndpointError(self._explain(error)) from error
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise EndpointError(f"{self._server}: an answer that is no chat completion") from error
        if not text:
            raise EndpointError(f"{self._server}: an empty answer")
        counted = reply.usage.model_dump() if reply.usage else {}
        usage = {k: v for k, v in counted.items() if isinstance(v, int)}
        return Reply(text, time.perf_counter() - start, usage)

    def ask_all(self, chats: Sequence[Chat]) -> Iterator[tuple[int, Reply]]:
        """Ask all, `concurrency` at a time; yield (position, reply) as they come.

        Single failures are logged and left out of the replies; a refusal for good (a wrong key, an
        unknown model) and ten failures in a row raise.
        """
        failures = 0
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            futures: dict[Future[Reply], int] = {
                pool.submit(self.ask, chat): i for i, chat in enumerate(chats)
            }
            try:
                fatal: EndpointError | None = None
                for future in as_completed(futures):
                    if future.cancelled():
                        continue
                    try:
                        reply = future.result()
                    except EndpointError as error:
                        failures += 1
                        if fatal is None and (
                            _is_final(error) or failures >= 10 or len(chats) == failures
                        ):
                            fatal = error
                            for waiting in futures:
                                waiting.cancel()  # those in flight are paid for: they are awaited
                        else:
                            logger.warning("%s", error)
                    else:
                        failures = 0
                        yield futures[future], reply
                if fatal is not None:
                    raise fatal
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _parameters(self) -> dict[str, Any]:
        """Return a request's parameters; OpenAI's own server has a newer name for the limit."""
        limit = "max_completion_tokens" if self.config.base_url is None else "max_tokens"
        parameters: dict[str, Any] = {limit: self.config.max_tokens}
        if self.config.temperature is not None:
            parameters["temperature"] = self.config.temperature
        return parameters

    @property
    def _server(self) -> str:
        return f"{self.config.model} at {self.config.base_url or 'OpenAI'}"

    def _explain(self, error: openai.OpenAIError) -> str:
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"{self._server}: the key in {self.config.api_key_env} is refused"
        if isinstance(error, openai.APITimeoutError):
            return f"{self._server}: no answer within {self.config.timeout_s:g} s"
        if isinstance(error, openai.APIConnectionError):
            return f"{self._server}: cannot be reached"
        status: Any = getattr(error, "status_code", "")
        said = (str(error).splitlines() or [""])[0].replace(self.api.api_key, "***")
        return f"{self._server}: {status} {said[:200]}"


def _is_final(error: EndpointError) -> bool:
    cause = error.__cause__
    status = getattr(cause, "status_code", None)
    return status in (401, 403, 404)
