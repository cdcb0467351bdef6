"""What the tests of qa-gen share: passages about pumps and fans, and a teacher who knows them."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.files import read_corpus, read_examples, read_json, read_jsonl
from ragkit.data.schema import Example

SPLITS = ("train", "dev", "test")
COLOURS = (
    "red", "green", "blue", "white", "black", "yellow", "orange", "purple", "brown", "grey", "pink",
    "silver",
)  # fmt: skip
# by what stands in its template
TASKS = {
    "questions that ask for one fact": "factoid",
    "questions of somebody with a goal": "how-to",
    "a conversation of": "conversation",
    "questions that need both passages": "multi-passage",
    "and that the passage does not answer": "unanswerable",
    "reading exercises": "reading",
    "Answer the user's last question": "answer",
    "You check training data": "critic",
}
_FACT = re.compile(r"The (\w+) (\w+) runs (\d+) hours")


@dataclass(frozen=True)
class Request:
    """What a request asks for: the task, the facts (colour, thing, hours) in it, all its words."""

    task: str
    facts: tuple[tuple[str, str, str], ...]
    model: str
    system: str
    text: str
    messages: Sequence[dict[str, str]]


def _pairs(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"pairs": [{"question": q, "answer": a} for q, a in pairs]}


def _factoid(request: Request) -> Any:
    ((colour, thing, hours),) = request.facts
    return _pairs((f"How long does the {colour} {thing} run?", f"{hours} hours"))


def _how_to(request: Request) -> Any:
    ((colour, thing, hours),) = request.facts
    return _pairs((f"Why do I have to charge the {colour} {thing}?", f"It runs {hours} hours."))


def _conversation(request: Request) -> Any:
    ((colour, thing, hours),) = request.facts
    return _pairs(
        (f"What do you know of the {colour} {thing}?", f"It runs {hours} hours."),
        ("And after a full charge?", f"It runs {hours} hours after a full charge."),
        ("Is that always so?", f"The {colour} {thing} runs {hours} hours."),
    )


def _multi_passage(request: Request) -> Any:
    (one, first, hours), (_, second, more) = request.facts
    question = f"Which of the {one} {first} and {second} runs longer?"
    return _pairs((question, f"The {second}: it runs {more} hours, not {hours}."))


@dataclass
class Teacher:
    """A teacher behind the chat server: a function for each task, which returns its JSON."""

    server: Any
    says: Callable[[str], Any]
    replies: dict[str, Callable[[Request], Any]] = field(
        default_factory=lambda: {
            "factoid": _factoid,
            "how-to": _how_to,
            "conversation": _conversation,
            "multi-passage": _multi_passage,
            "unanswerable": lambda r: _pairs((f"Who built the {' '.join(r.facts[0][:2])}?", "")),
            "reading": lambda r: _pairs(
                *((f"Exercise {i} on the {r.facts[0][0]} one.", "It runs.") for i in range(9))
            ),
            "answer": lambda r: {"answer": f"It runs {r.facts[0][2]} hours after a full charge."},
            "critic": lambda r: {"clear": True, "answered": True, "correct": True, "reason": ""},
        }
    )

    def __post_init__(self) -> None:
        self.server.reply = lambda request: self.says(self._reply(self._read(request)))

    def _reply(self, request: Request) -> str:
        said = self.replies[request.task](request)
        return said if isinstance(said, str) else json.dumps(said)

    def _read(self, request: dict[str, Any]) -> Request:
        messages = request["messages"]
        system, text = messages[0]["content"], messages[-1]["content"]
        (task,) = {name for phrase, name in TASKS.items() if phrase in system} or {"own"}
        return Request(task, tuple(_FACT.findall(text)), request["model"], system, text, messages)

    def asked(self, task: str = "") -> list[Request]:
        """Return the requests of a task, or all."""
        found = map(self._read, self.server.requests)
        return [request for request in found if task in ("", request.task)]

    def forget(self) -> None:
        """Forget what was asked so far."""
        self.server.requests.clear()


@pytest.fixture
def pairs() -> Callable[..., Any]:
    """Make the JSON of (question, answer) pairs."""
    return _pairs


@pytest.fixture
def teacher(chat_server: Any, says: Any) -> Iterator[Teacher]:
    yield Teacher(chat_server, says)


class Made:
    """What qa-gen has written into a run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.corpus = read_corpus(path / "corpus.jsonl")
        files = {name: path / f"{name}.jsonl" for name in SPLITS}
        self.splits: dict[str, list[Example]] = {
            n: list(read_examples(f, self.corpus)) if f.exists() else [] for n, f in files.items()
        }
        self.funnel: dict[str, int] = read_json(path / "funnel.json")
        self.card = (path / "DATA_CARD.md").read_text()
        self.journal = str(path / "journal.jsonl")

    @property
    def examples(self) -> list[Example]:
        """Those of all splits."""
        return [e for name in SPLITS for e in self.splits[name]]

    def documents(self, *names: str) -> set[str]:
        """Return the documents that the splits ask about."""
        return {str(e.meta["doc_id"]) for name in names for e in self.splits[name]}

    def rejected(self, reason: str) -> list[dict[str, Any]]:
        """Return what was rejected for a reason, which the funnel has to know, too."""
        found = [r for r in read_jsonl(self.path / "rejected.jsonl") if r["reason"] == reason]
        assert self.funnel[reason] == len(found)
        return found


@pytest.fixture
def qa_gen(stage: Callable[..., Path]) -> Callable[..., Made]:
    """Run qa-gen with a configuration; return what it wrote."""
    return lambda **values: Made(stage("qa-gen", **values))


@pytest.fixture
def write_passages_csv(tmp_path: Path) -> Callable[[Sequence[tuple[str, str]]], str]:
    """Write a CSV of (title, text) rows; return its path."""

    def write(rows: Sequence[tuple[str, str]]) -> str:
        lines = [f'{title},"{text}"' for title, text in rows]
        (tmp_path / "passages.csv").write_text("\n".join(["title,text", *lines]) + "\n")
        return str(tmp_path / "passages.csv")

    return write


@pytest.fixture
def pumps(
    teacher: Teacher, write_passages_csv: Callable[[Sequence[tuple[str, str]]], str], tmp_path: Path
) -> dict[str, Any]:
    """A configuration of twelve documents of two passages each, and one question about each."""
    rows = [
        (f"{colour}-guide", f"The {colour} {thing} runs {2 * i + n + 2} hours after a full charge.")
        for i, colour in enumerate(COLOURS)
        for n, thing in enumerate(("pump", "fan"))
    ]
    server = {"type": "openai", "model": "asks", "base_url": teacher.server.url, "max_retries": 0}
    return {
        "input": write_passages_csv(rows),
        "output": str(tmp_path / "run"),
        "teacher": {**server, "structured": False, "concurrency": 2},
        "styles": ["factoid"],
        "unanswerable": 0,
        "splits": {"dev": 0.2, "test": 0.2},
        "max_silent": 0,
        "filters": {"round_trip": None, "leak_rouge_l": 1.0},
    }


@pytest.fixture
def passes(pumps: dict[str, Any]) -> dict[str, Any]:
    """The configuration with a model that answers and one that judges."""
    return {
        **pumps,
        "answers": {**pumps["teacher"], "model": "answers"},
        "critic": {**pumps["teacher"], "model": "judges"},
    }
