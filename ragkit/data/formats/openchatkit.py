"""OpenChatKit's training text: JSONL of `{"text": "<human>: …\n<bot>: …"}`, also compressed.

A turn begins where a line does, with its tag, and may have many lines; text above the first turn is
a system message.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ragkit.data.files import BadLines, parse_jsonl, write_jsonl
from ragkit.data.formats.dataset import (
    Chat,
    Dataset,
    Ids,
    Options,
    count,
    files_in,
    first_record,
    meta_not_held,
    not_held,
    original_id,
    with_original,
)
from ragkit.data.schema import Example, Turn
from ragkit.errors import DataError

_TURN = re.compile(r"^<(human|bot)>:[ ]?", re.MULTILINE)
_ROLE = {"human": "user", "bot": "assistant"}
_TAG = {role: tag for tag, role in _ROLE.items()}
_TAKEN = ("id", "text", "original_id")  # keys of meta that are written elsewhere
_SUFFIXES = (".jsonl", ".jsonl.zst")


def looks_like(path: Path) -> bool:
    """Return True for JSONL whose first line has a text with a turn in it."""
    records = (first_record(p) for p in files_in(path, *_SUFFIXES))
    return any(isinstance(r.get("text"), str) and bool(_TURN.search(r["text"])) for r in records)


def read(path: Path, options: Options) -> Dataset:
    """Read a file, or all of a folder; what is not in the `text` of a line becomes meta.

    Raises:
        DataError: no such file, malformed lines, or texts without turns.
    """
    ids, found, other = Ids(), Dataset(corpus=dict(options.corpus)), 0

    def parse(record: Any) -> Chat:
        nonlocal other
        chat = _chat(record, ids)
        other += render(chat.messages) != record["text"]
        return chat

    for file in files_in(path, *_SUFFIXES):
        bad = BadLines(file, options.skip_bad)
        found.chats += [chat for _, chat in parse_jsonl(file, parse, bad, options.encoding)]
        bad.finish()
    if not found.chats:
        raise DataError(f"{path}: no conversations in it ({', '.join(_SUFFIXES)})")
    if other:
        found.notes.append(
            f"{count(other, 'text')} had other white space around the tags than an export writes."
        )
    found.notes += ids.notes("conversation")
    return found


def write(folder: Path, dataset: Dataset, options: Options) -> list[str]:
    """Write `chat.jsonl` of the conversations, and `<split>.jsonl` of questions with an answer.

    Raises:
        DataError: neither is there.
    """
    if not dataset.chats and not any(e.answers for e in dataset.examples):
        raise DataError("OpenChatKit's text is made from answers or conversations; none are here")
    parts: dict[str, list[Chat]] = {"chat": dataset.chats} if dataset.chats else {}
    for split, examples in dataset.splits.items():
        parts[split] = [_as_chat(e) for e in examples if e.answers]
    ambiguous = 0
    for name, chats in parts.items():
        kept = [chat for chat in chats if turns_of(render(chat.messages)) == chat.messages]
        ambiguous += len(chats) - len(kept)
        if kept:
            write_jsonl(folder / f"{name}.jsonl", map(_record, kept))
    return _losses(dataset, ambiguous)


def read_chats(path: Path, skip_bad: Path | None) -> list[Chat]:
    """Read ragkit's own chat.jsonl.

    Raises:
        DataError: no such file, or malformed lines.
    """
    bad = BadLines(path, skip_bad)
    chats = [chat for _, chat in parse_jsonl(path, _own_chat, bad)]
    bad.finish()
    return chats


def render(messages: tuple[Turn, ...]) -> str:
    """Return the text of a conversation."""
    return "\n".join(
        f"<{_TAG[turn.role]}>: {turn.content}" if turn.role in _TAG else turn.content
        for turn in messages
    )


def turns_of(text: str) -> tuple[Turn, ...]:
    """Return the turns of a text; none where it has no tags."""
    tags = list(_TURN.finditer(text))
    if not tags:
        return ()
    ends = [tag.start() - 1 for tag in tags[1:]] + [len(text)]
    turns = [
        Turn(_ROLE[tag[1]], text[tag.end() : end]) for tag, end in zip(tags, ends, strict=True)
    ]
    above = text[: max(tags[0].start() - 1, 0)]
    return (Turn("system", above), *turns) if above.strip() else tuple(turns)


def _chat(record: object, ids: Ids) -> Chat:
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise ValueError("an object with a text was expected")
    turns = turns_of(record["text"])
    if not turns:
        raise ValueError("text: no line begins with <human>: or <bot>:")
    meta = {key: value for key, value in record.items() if key not in ("id", "text")}
    if "id" not in record:
        return Chat(ids.make(record["text"]), turns, meta)
    key = ids.take(record["id"])
    return Chat(key, turns, with_original(meta, record["id"], key))


def _own_chat(record: object) -> Chat:
    if not isinstance(record, dict) or not isinstance(record.get("messages"), list):
        raise ValueError("an object with id and messages was expected")
    turns = []
    for turn in record["messages"]:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            raise ValueError("messages: a list of {role, content} was expected")
        if turn.get("role") not in (*_TAG, "system"):
            raise ValueError(f"role: {', '.join(_TAG)} or system, not {turn.get('role')!r}")
        turns.append(Turn(turn["role"], turn["content"]))
    return Chat(str(record.get("id", "")), tuple(turns), record.get("meta") or {})


def _as_chat(example: Example) -> Chat:
    asked = Turn("user", example.question)
    answered = Turn("assistant", example.answers[0])
    meta = {k: v for k, v in example.meta.items() if k == "original_id"}
    return Chat(example.id, (*example.history, asked, answered), meta)


def _record(chat: Chat) -> dict[str, Any]:
    meta: Mapping[str, Any] = {k: v for k, v in chat.meta.items() if k not in _TAKEN}
    return {"id": original_id(chat.meta, chat.id), "text": render(chat.messages), **meta}


def _losses(dataset: Dataset, ambiguous: int) -> list[str]:
    notes = []
    if ambiguous:
        notes.append(
            f"{count(ambiguous, 'conversation')} left out: <human>: or <bot>: begins a line inside "
            "a message (or nothing is above the first turn), and would be read as a turn."
        )
    return [*notes, *_of_examples(dataset)]


def _of_examples(dataset: Dataset) -> Iterator[str]:
    without = sum(not e.answers for e in dataset.examples)
    if without:
        yield f"{count(without, 'question')} without an answer left out."
    if dataset.corpus:
        yield f"OpenChatKit's text has no passages: {count(dataset.corpus, 'passage')} left out."
    yield from not_held(
        "OpenChatKit", dataset, ("second_answers", "positives", "negatives", "unanswerable")
    )
    yield from meta_not_held("OpenChatKit", "question", (e.meta for e in dataset.examples), _TAKEN)
