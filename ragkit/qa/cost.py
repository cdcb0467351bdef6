"""What asking a model costs: prices, an estimate before, limits on the way, totals after.

Prices are US dollars per million tokens, in a YAML of the user's own; local models cost nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ragkit.config.load import read_yaml
from ragkit.errors import ConfigError
from ragkit.models.chats import Chat, Reply

BYTES_PER_TOKEN = 4  # of English, for estimates; limits count every byte as a token
_TOKENS_PER_SECOND = 50  # of one answer, where no answer was timed yet


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the cost in US dollars."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


def read_price(path: Path | None, model: str) -> Price | None:
    """Return the price of a model; None where no file is given or it does not name the model.

    Raises:
        ConfigError: a price that is not {input, output}.
    """
    if path is None:
        return None
    entry = read_yaml(path).values.get(model)
    if entry is None:
        return None
    if not isinstance(entry, dict) or set(entry) != {"input", "output"} or not all(
        isinstance(v, int | float) and v >= 0 for v in entry.values()
    ):  # fmt: skip
        raise ConfigError(f"{path}: {model}: a price is {{input: DOLLARS, output: DOLLARS}} "
                          "per million tokens")  # fmt: skip
    return Price(float(entry["input"]), float(entry["output"]))


@dataclass
class Budget:
    """What one start may spend on all the models that it asks; None is no limit.

    spent: US dollars of this start; held: what the requests in flight may still cost
    requests: that were sent, whatever came of them
    lost: of these, without an answer and perhaps billed: they count by the most that they may cost
    exhausted: the limit that was reached
    """

    max_cost: float | None = None
    max_requests: int | None = None
    spent: float = 0.0
    held: float = 0.0
    requests: int = 0
    in_flight: int = 0
    lost: int = 0
    exhausted: str = ""


@dataclass(frozen=True, slots=True)
class Till:
    """The budget as one model uses it: its price, and the longest answer it may give."""

    budget: Budget
    price: Price | None
    max_tokens: int

    def admit(self, chat: Chat) -> bool | None:
        """Set aside the most that a request may cost; None while others in flight hold too much."""
        budget, most = self.budget, self._most(chat)
        if budget.max_requests is not None and budget.requests >= budget.max_requests:
            budget.exhausted = f"max_requests ({budget.max_requests:,})"
            return False
        if budget.max_cost is not None and budget.spent + budget.held + most > budget.max_cost:
            if budget.in_flight:
                return None
            budget.exhausted = f"max_cost ({budget.max_cost:g} $)"
            return False
        budget.requests += 1
        budget.in_flight += 1
        budget.held += most
        return True

    def settle(self, chat: Chat, reply: Reply | None, lost: bool = False) -> None:
        """Replace what was set aside by what the reply came to; where nobody says, by all of it."""
        budget, most = self.budget, self._most(chat)
        budget.in_flight -= 1
        budget.held -= most
        budget.lost += lost
        if lost:
            budget.spent += most
        elif reply and self.price:
            counted = tokens_of(reply.usage)
            budget.spent += self.price.of(*counted) if any(counted) else most

    def _most(self, chat: Chat) -> float:
        return self.price.of(prompt_bytes(chat), self.max_tokens) if self.price else 0.0


@dataclass
class Totals:
    """What answers of one model came to.

    seconds: of all answers together, one after the other
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def add(self, usage: Mapping[str, int], seconds: float) -> None:
        """Add an answer."""
        prompt, completion = tokens_of(usage)
        self.requests += 1
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.seconds += seconds


@dataclass
class Estimate:
    """What is still to be asked of a model, and what that may come to.

    requests: the most that there can be, where what they are about is not there yet (`ahead`)
    prompt_bytes: of the missing requests
    expected_tokens: of an answer, where the journal holds none to go by
    """

    model: str
    requests: int = 0
    missing: int = 0
    prompt_bytes: int = 0
    expected_tokens: float = 0.0
    ahead: bool = False
    known: Totals = field(default_factory=Totals)

    @property
    def prompt_tokens(self) -> float:
        """Of the missing requests."""
        return self.prompt_bytes / BYTES_PER_TOKEN

    @property
    def completion_tokens(self) -> float:
        """Of the missing answers."""
        one = self.expected_tokens
        if self.known.requests:
            one = self.known.completion_tokens / self.known.requests
        return self.missing * one

    def seconds(self, concurrency: int, per_minute: int | None) -> float:
        """Return how long the missing answers take."""
        one = 0.5 + self.expected_tokens / _TOKENS_PER_SECOND
        if self.known.requests:
            one = self.known.seconds / self.known.requests
        wait = self.missing * one / concurrency
        return max(wait, self.missing * 60 / per_minute) if per_minute else wait

    def line(self, cost: str, concurrency: int, per_minute: int | None) -> str:
        """Return the estimate in a sentence; `cost` is what it says of the cost."""
        asked = (
            f"{self.requests:,} requests, {self.requests - self.missing:,} of them in the journal; "
            f"to ask: {self.missing:,}, about"
        )
        if self.ahead:
            asked = f"{self.missing:,} requests at the most, one for each question; about"
        return (
            f"{self.model}: {asked} {self.prompt_tokens:,.0f} tokens in and "
            f"{self.completion_tokens:,.0f} out, {cost}, "
            f"{_clock(self.seconds(concurrency, per_minute))}"
        )


def tokens_of(usage: Mapping[str, int]) -> tuple[int, int]:
    """Return prompt and completion tokens as a server counted them; 0 where it does not say."""
    return usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)


def prompt_bytes(chat: Chat | Sequence[Mapping[str, str]]) -> int:
    """Return the size of a chat in UTF-8: no tokenizer in use makes more tokens of it."""
    return sum(len(m["content"].encode()) for m in chat)


def _clock(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return "under a minute"
    return f"{minutes:,.0f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"
