"""Teachers: who is asked for questions and answers, behind one method.

`heuristic` is rules, `recorded` replays a journal, `openai` asks a server and journals each answer
before it is used. All give raw answers that `ragkit.qa.prompts.parse` reads.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ragkit.config.blocks import HeuristicTeacher, OpenAITeacher, RecordedTeacher, Style, Teacher
from ragkit.data.files import sha256_text
from ragkit.data.journal import Journal, passage_sha256, read_journal, recording_key
from ragkit.data.schema import Passage
from ragkit.log import progress
from ragkit.models.endpoint import Client
from ragkit.qa.heuristic import generate
from ragkit.qa.prompts import QuestionAnswer, Request, chat, dump


class Asked(Protocol):
    """Somebody who can be asked for questions about passages."""

    def ask(self, requests: Sequence[Request]) -> Iterator[tuple[Request, str]]:
        """Yield (request, raw answer) as answers come; a request without an answer is left out."""


class Heuristic:
    """Rules; answers are spans of the passage."""

    def __init__(self, config: HeuristicTeacher, seed: int) -> None:
        self.config, self.seed = config, seed

    def ask(self, requests: Sequence[Request]) -> Iterator[tuple[Request, str]]:
        """Yield an answer for every request."""
        for request in progress(requests, "making questions", unit="passages"):
            passage = request.passage
            pairs = generate(passage.title, passage.text, self.config.n, self.seed)
            yield request, dump([QuestionAnswer(p.question, p.answer) for p in pairs])


class Recorded:
    """A journal, looked up by passage text and style."""

    def __init__(self, config: RecordedTeacher) -> None:
        records = read_journal(config.journal)
        self.answers = {
            recording_key(r["passage_sha256"], r["style"]): r["response"] for r in records
        }

    def ask(self, requests: Sequence[Request]) -> Iterator[tuple[Request, str]]:
        """Yield the recorded answers; passages that were not recorded are left out."""
        for request in requests:
            key = recording_key(passage_sha256(request.passage.text), request.style)
            if key in self.answers:
                yield request, self.answers[key]


class OpenAI:
    """A server; every answer is journalled before it is used, and none is asked for twice."""

    def __init__(self, config: OpenAITeacher, journal: Path) -> None:
        self.config, self.journal = config, Journal(config.journal or journal)

    def ask(self, requests: Sequence[Request]) -> Iterator[tuple[Request, str]]:
        """Yield journalled answers, then those of the server as they come."""
        missing: dict[str, list[Request]] = {}  # passages of one text are asked about once
        for request in requests:
            key = self._key(request)
            if key in self.journal.by_key:
                yield request, self.journal.by_key[key]["response"]
            else:
                missing.setdefault(key, []).append(request)
        if not missing:
            return
        groups = list(missing.values())
        chats = [chat(group[0], self.config.n) for group in groups]
        replies = Client(self.config).ask_all(chats)
        for i, reply in progress(replies, f"asking {self.config.model}", len(chats), "requests"):
            request = groups[i][0]
            self.journal.append(
                {
                    "key": self._key(request),
                    "passage_sha256": passage_sha256(request.passage.text),
                    "style": request.style,
                    "model": self.config.model,
                    "response": reply.text,
                    "usage": dict(reply.usage),
                    "seconds": round(reply.seconds, 3),
                    "time": round(time.time(), 3),
                }
            )
            yield from ((same, reply.text) for same in groups[i])

    def _key(self, request: Request) -> str:
        """Hash all that the answer depends on: prompt, passage, model, server and parameters."""
        config = self.config
        return sha256_text(
            json.dumps(chat(request, config.n)),
            json.dumps(
                [config.model, config.base_url, config.temperature, config.max_tokens, config.n]
            ),
        )[:32]


def build_teacher(config: Teacher, journal: Path, seed: int) -> Asked:
    """Build the teacher that a configuration describes; `journal` is where it records."""
    if isinstance(config, HeuristicTeacher):
        return Heuristic(config, seed)
    if isinstance(config, RecordedTeacher):
        return Recorded(config)
    return OpenAI(config, journal)


def requests_for(
    config: Teacher, passages: Sequence[Passage], styles: Sequence[Style]
) -> list[Request]:
    """Return what to ask: every style for every passage; rules have a single style of their own."""
    names: Sequence[str] = ["heuristic"] if isinstance(config, HeuristicTeacher) else styles
    return [Request(passage, style) for passage in passages for style in names]
