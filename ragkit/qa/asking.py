"""Asking models, and never the same twice: every answer is in the journal before it is used.

What is asked, and what an answer means, is others' business.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ragkit.config.blocks import Endpoint, LocalModel
from ragkit.config.judging import HfJudge, OpenAIJudge
from ragkit.config.teaching import AnswerTeacher, ModelTeacher, RecordedTeacher
from ragkit.data.files import sha256_text, write_json
from ragkit.data.hashes import HashTable
from ragkit.data.journal import Journal, Recording
from ragkit.errors import ConfigError, EndpointError, RagkitError
from ragkit.log import Meter, logger
from ragkit.models.chats import Allowance, Chat, Keep, Replies, Reply, Schema
from ragkit.models.endpoint import Client
from ragkit.qa.cost import Budget, Estimate, Price, Till, Totals, prompt_bytes, read_price
from ragkit.rag.prompts import plain_text

_TOKENS_OF_PAIR = 80  # of an answer, where none is there to go by
_TOKENS_OF = {"answers": 60, "critic": 60, "judge": 60}
AskedModel = ModelTeacher | OpenAIJudge | HfJudge


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to ask of a model.

    subject: hash of the passages that it is about; style: what is asked about them. Recordings are
    looked up by these two.
    replicate: asked once more, to see whether the answer is the same
    """

    chat: Chat
    subject: str
    style: str
    replicate: int = 0


class Answers(Protocol):
    """Where the answers to items come from."""

    def ask(self, items: Callable[[], Iterable[Item]], schema: Schema) -> None:
        """Get what has to be bought; `items` gives the same things each time."""

    def answer(self, item: Item) -> str | None:
        """Return the raw answer to an item; None where there is none."""


class Replay:
    """A finished journal; asks nobody."""

    def __init__(self, config: RecordedTeacher) -> None:
        self.recording = Recording(config.journal)

    def ask(self, items: Callable[[], Iterable[Item]], schema: Schema) -> None:
        """Buy nothing."""

    def answer(self, item: Item) -> str | None:
        """Return what was recorded about the passages in the style."""
        record = self.recording.get(item.subject, item.style)
        return None if record is None else str(record["response"])


class Model(Protocol):
    """A model that answers chats."""

    def batches(
        self,
        chats: Iterable[Chat],
        schema: Schema | None,
        allowance: Allowance | None,
        keep: Keep | None,
    ) -> Iterator[Replies]:
        """Yield (position, reply) as replies come; a chat without a reply is left out.

        keep: gets replies as soon as they are there
        """


class Desk:
    """Asks one model what its journal does not hold, within a budget."""

    def __init__(
        self,
        config: AskedModel,
        journal: Journal,
        budget: Budget,
        max_silent: float,
        price: Price | None = None,
        expected_tokens: int = _TOKENS_OF_PAIR,
    ) -> None:
        """Prepare to ask; the model itself is loaded when something is missing.

        max_silent: share of the requests that may stay without an answer
        expected_tokens: of an answer, for estimates
        Raises:
            ConfigError: a limit on the cost, and no price.
        """
        if budget.max_cost is not None and price is None and isinstance(config, Endpoint):
            raise ConfigError(
                f"max_cost: no price of {config.model!r} is known; name a file with it: "
                "prices: FILE (configs/prices.yaml is one to begin with; a server of your own "
                "may cost 0)"
            )
        self.config, self.journal, self.budget, self.price = config, journal, budget, price
        self.max_silent, self.expected_tokens = max_silent, expected_tokens
        self.used, self.bought = Totals(), Totals()  # answers in use; bought by this start
        self._counted = HashTable()
        self._parameters = json.dumps(_parameters(config), sort_keys=True, default=str)

    def key(self, item: Item) -> str:
        """Hash all that the answer depends on: prompt, passages, model, server and parameters."""
        again = [str(item.replicate)] if item.replicate else []
        return sha256_text(json.dumps(item.chat), self._parameters, *again)[:32]

    def estimate(self, items: Iterable[Item]) -> Estimate:
        """Count what is missing and how long it is."""
        found, seen = Estimate(self.config.model, expected_tokens=self.expected_tokens), set()
        for item in items:
            key = self.key(item)
            if key in seen:
                continue
            seen.add(key)
            found.requests += 1
            if record := self.journal.get(key):
                found.known.add(record.get("usage", {}), record.get("seconds", 0.0))
            else:
                found.missing += 1
                found.prompt_bytes += prompt_bytes(item.chat)
        return found

    def describe(self, found: Estimate) -> str:
        """Return an estimate in a sentence."""
        config, dollars = self.config, self.dollars(found.prompt_tokens, found.completion_tokens)
        concurrency, per_minute = 1, None
        if isinstance(config, Endpoint):
            concurrency, per_minute = config.concurrency, config.requests_per_minute
        cost = "no price known" if dollars is None else f"{dollars:,.2f} $"
        return found.line(cost, concurrency, per_minute)

    def dollars(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """Return what tokens cost; None where no price is known."""
        return self.price.of(prompt_tokens, completion_tokens) if self.price else None

    def ask(self, items: Callable[[], Iterable[Item]], schema: Schema) -> None:
        """Ask what is missing; `items` gives the same things each time that it is called.

        Raises:
            EndpointError: more than `max_silent` of the requests got no answer.
        """
        estimate = self.estimate(items())
        if estimate.missing:
            with self.journal.asking() as news:
                self._ask(items, schema, self.estimate(items()) if news else estimate)

    def _ask(self, items: Callable[[], Iterable[Item]], schema: Schema, estimate: Estimate) -> None:
        logger.info("%s", self.describe(estimate))
        sent: dict[int, tuple[str, Item]] = {}
        meter = Meter(f"asking {self.config.model}", estimate.missing, "requests")
        held = schema if getattr(self.config, "structured", True) else None
        chats = self._missing(items(), sent)

        def keep(replies: Replies) -> None:
            self.journal.append([self._record(*sent.pop(i), reply) for i, reply in replies])
            for _, reply in replies:
                self.bought.add(reply.usage, reply.seconds)

        for replies in load_model(self.config).batches(chats, held, self._till(), keep):
            meter.advance(len(replies))
        meter.close()
        self._check_silent(estimate, estimate.missing - meter.done)

    def _check_silent(self, estimate: Estimate, silent: int) -> None:
        limit = self.budget.exhausted
        if silent > self.max_silent * estimate.requests:
            raise EndpointError(
                f"{f'{limit} is reached: ' if limit else ''}{silent:,} of {estimate.requests:,} "
                f"requests got no answer, more than max_silent ({self.max_silent:.0%}); the others "
                "are in the journal: the same command asks only for the missing ones"
            )
        if limit:
            logger.warning("%s is reached: %d requests are not asked", limit, silent)

    def _record(self, key: str, item: Item, reply: Reply) -> dict[str, Any]:
        return {
            "key": key,
            "passage_sha256": item.subject,
            "style": item.style,
            "model": self.config.model,
            "response": reply.text,
            "usage": dict(reply.usage),
            "seconds": round(reply.seconds, 3),
            "time": round(time.time(), 3),
        }

    def answer(self, item: Item) -> str | None:
        """Return the model's answer from the journal; None where there is none."""
        key = self.key(item)
        record = self.journal.get(key)
        if record is None:
            return None
        if (number := int(key[:16], 16)) not in self._counted:
            self._counted.add(number)
            self.used.add(record.get("usage", {}), record.get("seconds", 0.0))
        return str(record["response"])

    def _missing(self, items: Iterable[Item], sent: dict[int, tuple[str, Item]]) -> Iterator[Chat]:
        """Yield the chats to send, noting each under its position; equal ones are sent once."""
        position, asked = 0, set()
        for item in items:
            key = self.key(item)
            if key in self.journal or key in asked:
                continue
            asked.add(key)
            sent[position] = key, item
            position += 1
            yield item.chat

    def _till(self) -> Till:
        config = self.config
        most = config.max_new_tokens if isinstance(config, LocalModel) else config.max_tokens
        return Till(self.budget, self.price, most)


@dataclass
class Office:
    """What the desks of one run share: the journal, the budget and the price list."""

    journal: Path
    budget: Budget
    max_silent: float
    prices: Path | None = None
    desks: dict[str, Desk] = field(default_factory=dict)

    @cached_property
    def _journal(self) -> Journal:
        return Journal(self.journal)

    def open(self, role: str, config: AskedModel) -> Desk:
        """Return the desk of a role, of a configured model."""
        if role not in self.desks:
            price = read_price(self.prices, config.model)
            if price is None and not isinstance(config, Endpoint):
                price = Price(0.0, 0.0)  # a model of this machine
            expected = _TOKENS_OF.get(role, _TOKENS_OF_PAIR * getattr(config, "n", 1))
            self.desks[role] = Desk(
                config, self._journal, self.budget, self.max_silent, price, expected
            )
        return self.desks[role]

    def answers(self, role: str, config: AnswerTeacher) -> Answers:
        """Return the desk of a model, or a recording."""
        if isinstance(config, RecordedTeacher):
            return Replay(config)
        return self.open(role, config)

    def totals(self) -> dict[str, dict[str, Any]]:
        """Return what the answers in use came to, and those bought by this start, by role."""
        return {role: _total(desk) for role, desk in self.desks.items()}

    @contextlib.contextmanager
    def accounted(self, path: Path) -> Iterator[None]:
        """Write and log what everything came to when the block ends, however it does."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(RagkitError):  # the first error is the one to tell
                self._account(path)
            raise
        self._account(path)

    def _account(self, path: Path) -> None:
        for role, desk in self.desks.items():
            logger.info("%s: %s", role, _bought(desk))
        if lost := self.budget.lost:
            logger.warning(
                "%d of %d requests got no answer and may have been billed: limits count them by "
                "the most that they may cost", lost, self.budget.requests,
            )  # fmt: skip
        if self.desks:
            write_json(path, self.totals())


def load_model(config: AskedModel) -> Model:
    """Load a local model, or open the connection to a server."""
    if isinstance(config, Endpoint):
        return Client(config)
    from ragkit.models.batched import HfModel, VllmModel

    if isinstance(config, LocalModel):
        return HfModel(config, plain_text)
    return VllmModel(config)


def _total(desk: Desk) -> dict[str, Any]:
    used, bought = desk.used, desk.bought
    return {
        "model": desk.config.model,
        "answers": used.requests,
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "cost_usd": _rounded(desk.dollars(used.prompt_tokens, used.completion_tokens)),
        "asked_by_this_start": bought.requests,
        "cost_of_this_start_usd": _rounded(
            desk.dollars(bought.prompt_tokens, bought.completion_tokens)
        ),
    }


def _rounded(dollars: float | None) -> float | None:
    return None if dollars is None else round(dollars, 6)


def _bought(desk: Desk) -> str:
    found = desk.bought
    dollars = desk.dollars(found.prompt_tokens, found.completion_tokens)
    cost = ", no price known" if dollars is None else f", {dollars:,.4f} $"
    return (
        f"{found.requests:,} answers of {desk.config.model} bought by this start, "
        f"{found.prompt_tokens:,} tokens in and {found.completion_tokens:,} out{cost}"
    )


def _parameters(config: AskedModel) -> list[Any]:
    """Return what an answer depends on beside the chat."""
    if isinstance(config, Endpoint):
        own: list[Any] = [config.base_url, config.max_tokens, config.structured]
    elif isinstance(config, LocalModel):
        own = ["hf", config.max_new_tokens, config.seed, config.precision]
    else:
        own = ["vllm", config.max_tokens, config.seed, config.structured, config.engine]
    return [config.model, config.temperature, *own]
