"""Teachers: who writes the questions, behind two methods.

`heuristic` is rules, `recorded` replays a journal, the others are models. `ask` gets what has to be
bought, `answer` returns one raw answer, which `ragkit.qa.prompts.parse` reads.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from ragkit.config.teaching import HeuristicTeacher, RecordedTeacher, Teacher
from ragkit.qa.asking import Desk, Item, Office, Replay
from ragkit.qa.cost import Estimate
from ragkit.qa.heuristic import generate
from ragkit.qa.prompts import PAIRS_SCHEMA, Prompts, QuestionAnswer, Request, dump

Requests = Callable[[], Iterable[Request]]  # gives the same requests each time


class Asked(Protocol):
    """Somebody who can be asked for questions about passages."""

    def ask(self, requests: Requests) -> None:
        """Get what has to be bought, all of it."""

    def answer(self, request: Request) -> str | None:
        """Return the raw answer to a request; None where there is none."""


class Heuristic:
    """Rules; answers are spans of the passage."""

    def __init__(self, config: HeuristicTeacher, seed: int) -> None:
        self.config, self.seed = config, seed

    def ask(self, requests: Requests) -> None:
        """Buy nothing."""

    def answer(self, request: Request) -> str:
        """Make the questions."""
        (passage,) = request.passages
        pairs = generate(passage.title, passage.text, self.config.n, self.seed)
        return dump([QuestionAnswer(p.question, p.answer) for p in pairs])


class Recorded:
    """A journal, looked up by passage text and style."""

    def __init__(self, config: RecordedTeacher) -> None:
        self.replay = Replay(config)

    def ask(self, requests: Requests) -> None:
        """Buy nothing."""

    def answer(self, request: Request) -> str | None:
        """Return the recorded answer."""
        return self.replay.answer(Item([], request.passages_sha256, request.style))


class Model:
    """A model, asked once for each request, for `n` questions where the request does not say."""

    def __init__(self, desk: Desk, prompts: Prompts, n: int) -> None:
        self.desk, self.prompts, self.n = desk, prompts, n

    def ask(self, requests: Requests) -> None:
        """Ask for all that the journal does not hold."""
        self.desk.ask(lambda: self._items(requests()), PAIRS_SCHEMA)

    def answer(self, request: Request) -> str | None:
        """Return the journalled answer."""
        return self.desk.answer(self._item(request))

    def estimate(self, requests: Iterable[Request]) -> Estimate:
        """Count what is missing."""
        return self.desk.estimate(self._items(requests))

    def _items(self, requests: Iterable[Request]) -> Iterator[Item]:
        return (self._item(request) for request in requests)

    def _item(self, request: Request) -> Item:
        chat = self.prompts.questions(request, request.n or self.n)
        return Item(chat, request.passages_sha256, request.style)


def build_teacher(config: Teacher, prompts: Prompts, office: Office, seed: int) -> Asked:
    """Build the teacher that a configuration describes."""
    if isinstance(config, HeuristicTeacher):
        return Heuristic(config, seed)
    if isinstance(config, RecordedTeacher):
        return Recorded(config)
    return Model(office.open("questions", config), prompts, config.n)
