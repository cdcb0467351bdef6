"""The client for OpenAI-compatible servers: vLLM, TGI, SGLang, Ollama, llama.cpp, OpenAI.

Many requests are kept in flight by one event loop in a thread of its own. Each try of each is
paced, counted and timed by itself; when one is sent again, and what ends everything with one
message, is `ragkit.models.retries`'s business. What is asked, what it may cost and where answers
are kept is the caller's.
"""

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import openai

from ragkit.config.blocks import Endpoint
from ragkit.errors import EndpointError
from ragkit.log import logger
from ragkit.models.chats import (
    Allowance,
    Chat,
    Keep,
    Replies,
    Reply,
    Schema,
    read_completion,
)
from ragkit.models.refusals import NO_COMPLETION, UNREADABLE, explain
from ragkit.models.retries import Pace, is_final, may_be_billed, pause_after

_FAILURES_IN_A_ROW = 10
_CONNECT_S = 10.0
_PATIENCE_S = 1.0  # of one that waits for its turn, until it looks whether all is to end
_BYTES_PER_TOKEN = 3  # of a prompt whose tokens are not counted yet; English has 4 to 5


class Client:
    """Asks one model on one server."""

    def __init__(self, config: Endpoint) -> None:
        self.config = config
        self.key = os.environ.get(config.api_key_env, "").strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise EndpointError(
                f"the environment variable {config.api_key_env} holds no key: there are characters "
                "in it that are not ASCII, or line breaks"
            )
        if not self.key and config.base_url is None:
            raise EndpointError(
                f"the environment variable {config.api_key_env} is not set; it must hold the key "
                "(or name a server of your own: base_url)"
            )
        # how an answer of a schema is asked for; what the server refuses is taken out
        self.formats: tuple[str | None, ...] = ("json_schema", "json_object", None)
        self.settled = False  # an answer has come in the first of them

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
        Single failures are logged and left out; a refusal for good (a wrong key, an unknown model,
        nobody there), ten failures or empty answers in a row and an interrupt end it, after the
        replies to what is in flight, which are paid for (unless nothing was answered at all); what
        fails then is not sent again.
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

    def explain(self, error: Exception) -> str:
        """Return a message about an error."""
        return f"{self.server}: {explain(error, self.config, self.key)}"


@dataclass
class _Asking:
    """One call of `Client.batches`: an event loop in a thread, and the queue of what it got.

    stopping: no further request is sent
    fatal: why it ended early
    reached: the server has answered, if only with an error
    empty: what to say of answers that are
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
    reached: bool = False
    empty: str = ""
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
        except Exception as error:  # of the openai package, made of what it cannot take
            self.fatal = error
        finally:
            self.arrived.put(None)

    async def _all(self) -> None:
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        config = self.client.config
        # the time of a whole try is kept here: the package's is that between two bytes
        connecting = openai.Timeout(None, connect=min(config.timeout_s, _CONNECT_S))
        self.api = openai.AsyncOpenAI(
            api_key=self.client.key or "none",
            base_url=config.base_url,
            timeout=connecting,
            max_retries=0,
        )
        self.requests = Pace(config.requests_per_minute)
        self.tokens = Pace(config.tokens_per_minute)
        self.settled = asyncio.Condition()
        async with self.api, asyncio.TaskGroup() as keeping:
            keeping.create_task(self._pass_on())
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(config.concurrency):
                        group.create_task(self._worker())
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

    async def _worker(self) -> None:
        while not self.stopping and (chat := next(self.chats, None)) is not None:
            number, self.sent = self.sent, self.sent + 1
            try:
                reply = await self._ask(chat)
            except EndpointError as error:
                self._failed(error)
                continue
            if reply is None:
                return
            self.answered += 1
            self.fresh.append((number, reply))
            self.came.set()
            self.failures = 0 if reply.text else self.failures + 1
            if self.failures >= _FAILURES_IN_A_ROW:
                self.fatal, self.stopping = self.fatal or EndpointError(self.empty), True

    async def _ask(self, chat: Chat) -> Reply | None:
        """Ask in the strictest form of answer that the server takes; None: all ends before."""
        client, refused = self.client, None
        for form in client.formats if self.schema else (None,):
            try:
                reply = await self._patiently(chat, form)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = refused or error
                if client.settled and form == client.formats[0]:  # it is not what is wrong
                    break
                continue
            except (openai.OpenAIError, TimeoutError, *UNREADABLE) as error:
                raise EndpointError(client.explain(error)) from error
            if refused and not reply:
                break
            if reply and self.schema and not client.settled:
                self._settle_form(form, bool(refused))
            return reply
        assert refused is not None
        raise EndpointError(client.explain(refused)) from refused

    def _settle_form(self, form: str | None, told: bool) -> None:
        """Note the form of answers that the server takes."""
        client = self.client
        client.formats, client.settled = client.formats[client.formats.index(form) :], True
        if told:
            logger.info("%s: answers are asked for as %s", client.server, form or "plain text")

    async def _patiently(self, chat: Chat, form: str | None) -> Reply | None:
        """Ask, again and again where that may help; None: all ends before the first time."""
        failures, failed = 0, None
        while True:
            try:
                reply = await self._try(chat, form)
            except (openai.OpenAIError, TimeoutError) as error:
                failures, failed = failures + 1, error
                most = self.client.config.max_retries
                pause = pause_after(error, failures, most, self.reached)
                if pause is None or self.stopping:
                    raise
            else:
                if failed and not reply:
                    raise failed
                return reply
            await self._wait_until(asyncio.get_running_loop().time() + pause)

    async def _try(self, chat: Chat, form: str | None) -> Reply | None:
        """Ask once, when there is a turn and an allowance; None: all ends before."""
        if not await self._admitted(chat):
            return None
        reply, lost = None, False
        try:
            await self._wait_until(self.requests.take(1))
            guess = sum(len(m["content"].encode()) for m in chat) // _BYTES_PER_TOKEN
            await self._wait_until(self.tokens.take(guess))
            if self.stopping:
                return None
            lost = True
            reply = await self._send(chat, form)
            self.tokens.take_more(reply.usage.get("total_tokens", guess) - guess)
            return reply
        except Exception as error:
            self.reached = self.reached or isinstance(error, openai.APIStatusError)
            lost = lost and may_be_billed(error)
            raise
        finally:
            if self.allowance:
                async with self.settled:
                    self.allowance.settle(chat, reply, lost and reply is None)
                    self.settled.notify_all()

    async def _send(self, chat: Chat, form: str | None) -> Reply:
        client, start = self.client, time.perf_counter()
        # the plain JSON: the typed method spends more time on types than the rest together
        body = {
            "model": client.config.model,
            "messages": list(chat),
            **client.parameters(self.schema, form),
        }
        async with asyncio.timeout(client.config.timeout_s):
            completion = await self.api.post("/chat/completions", body=body, cast_to=object)
        self.reached = True
        try:
            reply, reason = read_completion(completion, time.perf_counter() - start)
        except ValueError as error:
            raise EndpointError(f"{client.server}: {NO_COMPLETION}") from error
        if not reply.text and not self.empty:
            why = " (max_tokens was used up before it began)" if reason == "length" else ""
            self.empty = f"{client.server}: an empty answer{why}"
            logger.warning("%s; said once", self.empty)
        return reply

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

    async def _admitted(self, chat: Chat) -> bool:
        if self.allowance is None:
            return True
        async with self.settled:
            while (admitted := self.allowance.admit(chat)) is None and not self.stopping:
                await self.settled.wait()
        self.stopping = self.stopping or not admitted
        return bool(admitted)

    def _failed(self, error: EndpointError) -> None:
        """Note a failure, or end everything where it is for good."""
        self._say()
        self.failures += 1
        final = is_final(error.__cause__, self.reached)
        if final or self.failures >= _FAILURES_IN_A_ROW:
            self.fatal, self.stopping = self.fatal or error, True
            if not (self.answered or final):
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


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    """Return the first exception of a group, however deep it lies."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
