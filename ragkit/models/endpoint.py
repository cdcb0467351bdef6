"""The client for OpenAI-compatible servers: vLLM, TGI, SGLang, Ollama, llama.cpp, OpenAI.

Many requests are kept in flight by one event loop in a thread of its own. Retries after 429, 5xx
and broken connections, with the server's Retry-After, else with growing pauses and jitter, are the
openai package's; a refusal for good ends everything with one message. What is asked, what it may
cost and where answers are kept is the caller's business.
"""

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import openai

from ragkit.config.blocks import Endpoint
from ragkit.errors import EndpointError
from ragkit.log import logger

Chat = Sequence[Mapping[str, str]]
Schema = Mapping[str, Any]
_FAILURES_IN_A_ROW = 10
_NO_COMPLETION = "an answer that is no chat completion"
_PATIENCE_S = 1.0  # of one that waits for its turn, until it looks whether all is to end
_BYTES_PER_TOKEN = 3  # of a prompt whose tokens are not counted yet; English has 4 to 5


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered: the text, how long it took, and the tokens that were counted."""

    text: str
    seconds: float
    usage: Mapping[str, int]


Replies = list[tuple[int, Reply]]
Keep = Callable[[Replies], None]


class Allowance(Protocol):
    """Says whether another request may be sent, and is told what requests came to."""

    def admit(self, chat: Chat) -> bool | None:
        """Set aside what a request may cost; False: never, None: not before others are settled."""

    def settle(self, chat: Chat, reply: Reply | None) -> None:
        """Replace what was set aside by what was spent; no reply: nothing."""


class Client:
    """Asks one model on one server."""

    def __init__(self, config: Endpoint) -> None:
        self.config = config
        self.key = os.environ.get(config.api_key_env)
        if not self.key and config.base_url is None:
            raise EndpointError(
                f"the environment variable {config.api_key_env} is not set; it must hold the key "
                "(or name a server of your own: base_url)"
            )
        # how an answer of a schema is asked for; what the server refuses is taken out
        self.formats: tuple[str | None, ...] = ("json_schema", "json_object", None)

    def ask(self, chat: Chat, schema: Schema | None = None) -> Reply:
        """Ask once.

        schema: JSON Schema of the answer, for servers that can hold a model to one
        Raises:
            EndpointError: refused for good, still failing after the retries, or not understood.
        """
        ((_, reply),) = self.ask_all([chat], schema)
        return reply

    def ask_all(
        self,
        chats: Iterable[Chat],
        schema: Schema | None = None,
        allowance: Allowance | None = None,
    ) -> Iterator[tuple[int, Reply]]:
        """Ask all, `concurrency` at a time; yield (position, reply) as they come."""
        for replies in self.batches(chats, schema, allowance):
            yield from replies

    def batches(
        self,
        chats: Iterable[Chat],
        schema: Schema | None = None,
        allowance: Allowance | None = None,
        keep: Keep | None = None,
    ) -> Iterator[Replies]:
        """Ask all, `concurrency` at a time; yield the replies as they come, some together.

        `chats` is read, and `keep` called with replies before they are yielded, in another thread.
        Single failures are logged and left out; a refusal for good (a wrong key, an unknown model),
        ten failures in a row and an interrupt end it, after the replies to what is in flight, which
        are paid for (unless nothing was answered at all).
        """
        asking = _Asking(self, iter(chats), schema, allowance, keep)
        thread = threading.Thread(target=asking.run, name="ragkit-endpoint", daemon=True)
        thread.start()
        interrupt: KeyboardInterrupt | None = None
        try:
            while True:
                try:
                    replies = asking.arrived.get()
                except KeyboardInterrupt as error:
                    if interrupt:
                        raise
                    logger.warning("stopping: waiting for the answers in flight (again: drop them)")
                    interrupt, asking.stopping = error, True
                    continue
                if replies is None:
                    break
                yield replies
        finally:
            asking.stopping = True
            asking.cancel()
            thread.join()
        if interrupt:
            raise interrupt
        if asking.fatal:
            raise asking.fatal

    def parameters(self, schema: Schema | None, form: str | None) -> dict[str, Any]:
        """Return a request's parameters; OpenAI's own server has a newer name for the limit."""
        limit = "max_completion_tokens" if self.config.base_url is None else "max_tokens"
        parameters: dict[str, Any] = {limit: self.config.max_tokens}
        if self.config.temperature is not None:
            parameters["temperature"] = self.config.temperature
        if schema is not None and form == "json_schema":
            named = {"name": "answer", "strict": True, "schema": schema}
            parameters["response_format"] = {"type": form, "json_schema": named}
        elif schema is not None and form:
            parameters["response_format"] = {"type": form}
        return parameters

    @property
    def server(self) -> str:
        """Who is asked, for messages."""
        return f"{self.config.model} at {self.config.base_url or 'OpenAI'}"

    def explain(self, error: openai.OpenAIError) -> str:
        """Return what a user needs to know of an error, without the key."""
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"{self.server}: the key in {self.config.api_key_env} is refused"
        if isinstance(error, openai.APITimeoutError):
            return f"{self.server}: no answer within {self.config.timeout_s:g} s"
        if isinstance(error, openai.APIConnectionError):
            return f"{self.server}: cannot be reached"
        status: Any = getattr(error, "status_code", "")
        said = (str(error).splitlines() or [""])[0]
        if self.key:
            said = said.replace(self.key, "***")
        return f"{self.server}: {status} {said[:200]}{self._advice(error)}"

    def _advice(self, error: openai.OpenAIError) -> str:
        """Return what may be wrong with `base_url` where the server has nothing at the address."""
        url = (self.config.base_url or "").rstrip("/")
        lost = isinstance(error, openai.NotFoundError) and url and not url.endswith("/v1")
        return f" (base_url usually ends in /v1: {url}/v1)" if lost else ""


@dataclass
class _Asking:
    """One call of `Client.batches`: an event loop in a thread, and the queue of what it got.

    stopping: no further request is sent
    fatal: why it ended early
    """

    client: Client
    chats: Iterator[Chat]
    schema: Schema | None
    allowance: Allowance | None
    keep: Keep | None
    stopping: bool = False
    fatal: Exception | None = None
    sent: int = 0
    answered: int = 0
    failures: int = 0  # since the last answer
    unsaid: EndpointError | None = None  # a failure that is logged unless it ends everything
    said: Counter[str] = field(default_factory=Counter)  # failures by message
    working: bool = True
    fresh: Replies = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: "queue.SimpleQueue[Replies | None]" = field(default_factory=queue.SimpleQueue)
    loop: asyncio.AbstractEventLoop | None = None
    task: "asyncio.Task[None] | None" = None

    def cancel(self) -> None:
        """Drop what is in flight, from another thread; nothing where all is done."""
        if self.loop and self.task:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self.task.cancel)

    def run(self) -> None:
        """Ask everything; the body of the thread."""
        try:
            asyncio.run(self._all())
        except asyncio.CancelledError:
            pass
        except ExceptionGroup as failures:  # of `keep`; raised again where the replies are read
            self.fatal = _first(failures)
        finally:
            self.arrived.put(None)

    async def _all(self) -> None:
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        config = self.client.config
        requests, tokens = _Pace(config.requests_per_minute), _Pace(config.tokens_per_minute)
        settled = asyncio.Condition()
        api = openai.AsyncOpenAI(
            api_key=self.client.key or "none",
            base_url=config.base_url,
            timeout=config.timeout_s,
            max_retries=config.max_retries,
        )
        async with api, asyncio.TaskGroup() as keeping:
            keeping.create_task(self._pass_on())
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(config.concurrency):
                        group.create_task(self._worker(api, requests, tokens, settled))
            except* Exception as failures:  # of `chats`; what has come is passed on first
                self.fatal = _first(failures)
            self.working = False
            self.came.set()
        if self.unsaid and not self.answered and not self.fatal:
            self.fatal = self.unsaid
        self._say()
        for message, times in self.said.items():
            if times > 1:
                logger.warning("%s (%d times)", message, times)

    async def _worker(
        self,
        api: openai.AsyncOpenAI,
        requests: "_Pace",
        tokens: "_Pace",
        settled: asyncio.Condition,
    ) -> None:
        while not self.stopping and (chat := next(self.chats, None)) is not None:
            number, self.sent = self.sent, self.sent + 1
            if not await self._admitted(chat, settled):
                return
            reply = None
            try:
                await self._wait_until(requests.take(1))
                guess = sum(len(m["content"].encode()) for m in chat) // _BYTES_PER_TOKEN
                await self._wait_until(tokens.take(guess))
                if self.stopping:
                    return
                reply = await self._ask(api, chat)
                tokens.take_more(reply.usage.get("total_tokens", guess) - guess)
                self.answered, self.failures = self.answered + 1, 0
                self.fresh.append((number, reply))
                self.came.set()
            except EndpointError as error:
                self._failed(error)
            finally:
                if self.allowance:
                    async with settled:
                        self.allowance.settle(chat, reply)
                        settled.notify_all()

    async def _wait_until(self, start: float) -> None:
        """Wait for a moment of the loop's clock, or until everything ends."""
        clock = asyncio.get_running_loop().time
        while not self.stopping and (left := start - clock()) > 0:
            await asyncio.sleep(min(left, _PATIENCE_S))

    async def _pass_on(self) -> None:
        """Pass replies on; those that come while others are being kept wait and go together."""
        while self.working or self.fresh:
            if not self.fresh:
                await self.came.wait()
            self.came.clear()
            replies, self.fresh = self.fresh, []
            if self.keep and replies:
                await asyncio.to_thread(self.keep, replies)
            self.arrived.put(replies)

    async def _admitted(self, chat: Chat, settled: asyncio.Condition) -> bool:
        if self.allowance is None:
            return True
        async with settled:
            while (admitted := self.allowance.admit(chat)) is None and not self.stopping:
                await settled.wait()
        self.stopping = self.stopping or not admitted
        return bool(admitted)

    async def _ask(self, api: openai.AsyncOpenAI, chat: Chat) -> Reply:
        """Ask once, in the strictest form of answer that the server takes."""
        client, start = self.client, time.perf_counter()
        refused: openai.APIStatusError | None = None
        for form in client.formats if self.schema else (None,):
            try:
                # the plain JSON: the typed method spends more time on types than the rest together
                body = {
                    "model": client.config.model,
                    "messages": list(chat),
                    **client.parameters(self.schema, form),
                }
                completion = await api.post("/chat/completions", body=body, cast_to=object)
                reply = _read(completion, client.server, time.perf_counter() - start)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = refused or error
                continue
            except openai.OpenAIError as error:
                raise EndpointError(client.explain(error)) from error
            except ValueError as error:  # JSON that is cut short
                raise EndpointError(f"{client.server}: {_NO_COMPLETION}") from error
            if refused and form in client.formats:
                logger.info("%s: answers are asked for as %s", client.server, form or "plain text")
                client.formats = client.formats[client.formats.index(form) :]
            return reply
        assert refused is not None
        raise EndpointError(client.explain(refused)) from refused

    def _failed(self, error: EndpointError) -> None:
        """Note a failure, or end everything where it is for good."""
        self._say()
        self.failures += 1
        if _is_final(error) or self.failures >= _FAILURES_IN_A_ROW:
            self.fatal, self.stopping = self.fatal or error, True
            if not self.answered and not _is_final(error):
                self.cancel()  # nothing in flight will be answered either
        else:
            self.unsaid = error

    def _say(self) -> None:
        """Log a failure where it is the first of its kind; the others are counted at the end."""
        if self.unsaid and self.fatal is not self.unsaid:
            message = str(self.unsaid)
            self.said[message] += 1
            if self.said[message] == 1:
                logger.warning("%s", message)
        self.unsaid = None


class _Pace:
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


def _read(completion: Any, server: str, seconds: float) -> Reply:
    """Return the reply in a chat completion, whatever a server may have sent instead of one."""
    try:
        choice = completion["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
        usage = completion.get("usage") or {}
        counted = {k: v for k, v in usage.items() if isinstance(v, int)}
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise EndpointError(f"{server}: {_NO_COMPLETION}") from error
    if not isinstance(text, str) or not text.strip():
        why = " (max_tokens was used up before it began)" if reason == "length" else ""
        raise EndpointError(f"{server}: an empty answer{why}")
    # some servers cut an answer in the middle of a character, which no file can hold
    return Reply(text.encode("utf-8", "replace").decode(), seconds, counted)


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    """Return the first exception of a group, however deep it lies."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def _is_final(error: EndpointError) -> bool:
    return getattr(error.__cause__, "status_code", None) in (401, 403, 404)
