"""What a teacher is asked, and how its answer is read.

One request asks for questions of one style about a passage, or about two passages of one document.
What is said stands in template files: `instructions.txt` is the frame of every style, `<style>.txt`
what is asked for in it; a folder of the user's own replaces any of them and adds styles. Answers
are JSON; what models wrap around it (fences, remarks) and what they cut off is taken off.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from ragkit.data.files import parse_jsonl, read_text
from ragkit.data.journal import passage_sha256
from ragkit.data.schema import Passage, Turn
from ragkit.errors import ConfigError, DataError
from ragkit.models.chats import TEXT, object_schema
from ragkit.models.replies import json_values

CONVERSATION, MULTI_PASSAGE, UNANSWERABLE, READING = (
    "conversation", "multi-passage", "unanswerable", "reading",
)  # fmt: skip
STYLES = ("factoid", "how-to", "keyword", "comparison", MULTI_PASSAGE, CONVERSATION)
_WHOLE = ("answer", "critic", READING)  # templates that the frame does not surround
_SAME_LANGUAGE = "the language of the passage"
_SAID = {"true": True, "yes": True, "false": False, "no": False}

Chat = list[dict[str, str]]

_YES_NO = {"type": "boolean"}
PAIRS_SCHEMA = object_schema(
    pairs={"type": "array", "items": object_schema(question=TEXT, answer=TEXT)}
)
ANSWER_SCHEMA = object_schema(answer=TEXT)
VERDICT_SCHEMA = object_schema(clear=_YES_NO, answered=_YES_NO, correct=_YES_NO, reason=TEXT)


@dataclass(frozen=True, slots=True)
class Request:
    """Questions of one style about one passage, or about several of one document.

    n: how many; 0: as many as the teacher is set to
    """

    passages: tuple[Passage, ...]
    style: str
    n: int = 0

    @property
    def source(self) -> str:
        """The document that it is about."""
        return self.passages[-1].source

    @property
    def passage_ids(self) -> tuple[str, ...]:
        """The passages that it is about."""
        return tuple(p.id for p in self.passages)

    @property
    def passages_sha256(self) -> str:
        """The hash by which recordings know the passages."""
        return passage_sha256(*(p.text for p in self.passages))


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A question with its answer, as a teacher gave them."""

    question: str
    answer: str


@dataclass(frozen=True)
class Prompts:
    """The templates in use and what fills them.

    folder: templates of the user's own
    language: in which to write; "": that of the passage
    shown: examples for the teacher, as chat turns, by style ("" for those of every style)
    """

    folder: Path | None = None
    language: str = ""
    turns: int = 3
    shown: Mapping[str, Chat] | None = None

    def check(self, styles: Iterable[str]) -> None:
        """Read every template that the styles need.

        Raises:
            ConfigError: a style without template, or a placeholder that nothing fills.
        """
        for style in styles:
            self._system(style, n=1)

    def questions(self, request: Request, n: int) -> Chat:
        """Return the chat that asks for `n` pairs."""
        shown = self.shown or {}
        general = [] if request.style in (UNANSWERABLE, READING) else shown.get("", [])
        examples = general + shown.get(request.style, [])
        return [
            {"role": "system", "content": self._system(request.style, n)},
            *examples,
            {"role": "user", "content": _passages(request.passages)},
        ]

    def answer(
        self, passages: Sequence[Passage], question: str, history: Sequence[Turn] = ()
    ) -> Chat:
        """Return the chat that asks for the answer to a question."""
        asked = f"{_passages(passages)}\n\n{_conversation(question, history)}"
        return [
            {"role": "system", "content": self._system("answer")},
            {"role": "user", "content": asked},
        ]

    def critic(
        self, passages: Sequence[Passage], question: str, answer: str, history: Sequence[Turn] = ()
    ) -> Chat:
        """Return the chat that asks for a judgement of a question with its answer."""
        asked = f"{_passages(passages)}\n\n{_conversation(question, history)}\n\nAnswer: {answer}"
        return [
            {"role": "system", "content": self._system("critic")},
            {"role": "user", "content": asked},
        ]

    def _system(self, style: str, n: int = 0) -> str:
        language = self.language or _SAME_LANGUAGE
        values = {"n": str(n), "turns": str(self.turns), "language": language}
        task = self._fill(style, values)
        return task if style in _WHOLE else self._fill("instructions", {**values, "task": task})

    def _fill(self, name: str, values: Mapping[str, str]) -> str:
        where, template = self._templates.get(name) or self._read(name)
        try:
            return template.substitute(values)
        except (KeyError, ValueError) as error:
            wrong = f"${error.args[0]}" if isinstance(error, KeyError) else "a lone $"
            known = ", ".join(f"${key}" for key in values)
            raise ConfigError(
                f"{where}: {wrong}: nothing fills it (there are {known}; $$ is a dollar sign)"
            ) from error

    @cached_property
    def _templates(self) -> dict[str, tuple[str, Template]]:
        return {}

    def _read(self, name: str) -> tuple[str, Template]:
        file = f"{name}.txt"
        own = self.folder / file if self.folder else None
        packaged = resources.files("ragkit.qa") / "templates" / file
        if own and own.exists():
            text, where = read_text(own), str(own)
        elif packaged.is_file():
            text, where = packaged.read_text(encoding="utf-8"), f"ragkit/qa/templates/{file}"
        else:
            raise ConfigError(
                f"styles: {name!r} is none of {', '.join(STYLES)}"
                + (f", and there is no {own}" if own else "; a style of your own is a template: "
                   "prompts: FOLDER")
            )  # fmt: skip
        self._templates[name] = where, Template(text.strip())
        return self._templates[name]


def read_examples_to_show(path: Path) -> dict[str, Chat]:
    """Read the user's examples as chat turns, by style; "" holds those that name none.

    A line is {"passage", "question", "answer", "style"?}; lines of one passage and style are one
    answer.
    Raises:
        DataError: malformed lines.
    """

    def parse(record: object) -> tuple[str, str, QuestionAnswer]:
        if not isinstance(record, dict):
            raise ValueError("a JSON object was expected")
        if unknown := set(record) - {"passage", "question", "answer", "style"}:
            raise ValueError(f"{min(unknown)}: unknown field")
        for name in ("passage", "question", "answer"):
            if not isinstance(record.get(name), str):
                raise ValueError(f"{name}: a string was expected")
        pair = QuestionAnswer(record["question"], record["answer"])
        return str(record.get("style", "")), record["passage"], pair

    groups: dict[tuple[str, str], list[QuestionAnswer]] = {}
    for _, (style, passage, pair) in parse_jsonl(path, parse):
        groups.setdefault((style, passage), []).append(pair)
    if not groups:
        raise DataError(f"{path}: no examples in it")
    shown: dict[str, Chat] = {}
    for (style, passage), pairs in groups.items():
        shown.setdefault(style, []).extend(
            [
                {"role": "user", "content": f"Passage:\n\n{passage}"},
                {"role": "assistant", "content": dump(pairs)},
            ]
        )
    return shown


def parse(response: str) -> list[QuestionAnswer]:
    """Read the pairs out of a teacher's answer; of one that is cut short, the whole ones.

    Raises:
        ValueError: no JSON in it, or not of the form that was asked for.
    """
    problem = "no JSON in the teacher's answer"
    for value in json_values(response):
        if isinstance(value, str):
            problem = value
            continue
        pairs = value.get("pairs") if isinstance(value, dict) else value
        if isinstance(pairs, list) and (isinstance(value, dict) or _has_objects(pairs)):
            found = [_pair(pair) for pair in pairs if _is_pair(pair)]
            if pairs and not found:
                raise ValueError("pairs without a question in the teacher's answer")
            return found
        problem = "no list of pairs in the teacher's answer"
    if whole := [v for v in json_values(response) if _is_pair(v)]:
        return [_pair(pair) for pair in whole]
    raise ValueError(problem)


def parse_answer(response: str) -> str:
    """Read the answer out of the second teacher's answer; "" where it says that there is none.

    Raises:
        ValueError: not of the form that was asked for.
    """
    for value in json_values(response):
        if isinstance(value, dict) and isinstance(value.get("answer"), str | int | float):
            return _written(value["answer"])
    raise ValueError("no answer in the teacher's JSON")


def parse_verdict(response: str) -> dict[str, Any]:
    """Read the critic's judgement: clear, answered, correct (booleans) and reason.

    Raises:
        ValueError: not of the form that was asked for.
    """
    for value in json_values(response):
        if not isinstance(value, dict):
            continue
        said = [_SAID.get(str(value.get(k)).lower()) for k in ("clear", "answered", "correct")]
        if None not in said:
            clear, answered, correct = said
            reason = _written(str(value.get("reason", "")))
            return {"clear": clear, "answered": answered, "correct": correct, "reason": reason}
    raise ValueError("no judgement in the critic's JSON")


def dump(pairs: Sequence[QuestionAnswer]) -> str:
    """Return pairs as the JSON that `parse` reads."""
    return json.dumps(
        {"pairs": [{"question": p.question, "answer": p.answer} for p in pairs]}, ensure_ascii=False
    )


def _has_objects(values: Sequence[Any]) -> bool:
    """Tell pairs from a remark in brackets: [1], [], [as you asked]."""
    return any(isinstance(value, dict) for value in values)


def _written(value: object) -> str:
    """Return a text, or a number as one, without spaces around it and halves of characters."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value).encode("utf-8", "replace").decode().strip()


def _is_pair(pair: object) -> bool:
    return isinstance(pair, dict) and isinstance(pair.get("question"), str)


def _pair(pair: Mapping[str, Any]) -> QuestionAnswer:
    return QuestionAnswer(_written(pair["question"]), _written(pair.get("answer", "")))


def _passages(passages: Sequence[Passage]) -> str:
    if len(passages) == 1:
        return f"Passage:\n\n{passages[0].rendered}"
    return "\n\n".join(f"Passage {n}:\n\n{p.rendered}" for n, p in enumerate(passages, start=1))


def _conversation(question: str, history: Sequence[Turn]) -> str:
    names = {"user": "User", "assistant": "Assistant"}
    turns = [f"{names[turn.role]}: {turn.content}" for turn in history]
    return "\n".join([*turns, f"User: {question}" if turns else f"Question: {question}"])
