"""What a model's reply says: without its thoughts; the JSON in it, without fences and remarks."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

_OPENING = re.compile(r"[{\[]")
# templates that open the thought themselves leave the model only its end
_THOUGHT = re.compile(
    r"\A(?!\s*[{\[`])(?:(?!<think>).)*?</think>|<think>.*?(?:</think>|\Z)", re.DOTALL
)
_THINK, _THOUGHT_OVER = "<think>", "</think>"
_DECODER = json.JSONDecoder(strict=False)  # models write line breaks as they are


def without_thought(reply: str) -> str:
    """Return a reply without what the model thought before it."""
    return _THOUGHT.sub("", reply)


def pieces_without_thought(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the pieces of a reply that come after what the model thought, if it did."""
    said, begun = "", False
    for piece in pieces:
        if begun:
            yield piece
            continue
        said += piece
        opening = said.lstrip()[: len(_THINK)]
        if _THINK.startswith(opening) and _THOUGHT_OVER not in said:
            continue  # a thought, or what may be the beginning of one
        answer = without_thought(said).lstrip()
        begun = bool(answer)
        if begun:
            yield answer
    if not begun and (answer := without_thought(said).strip()):
        yield answer


def json_values(reply: str) -> Iterator[Any]:
    """Yield the objects and lists in a reply, and those inside them.

    A string in place of a value says what is wrong with one that is broken.
    """
    said = without_thought(reply)
    for match in _OPENING.finditer(said):
        try:
            yield _DECODER.raw_decode(said, match.start())[0]
        except json.JSONDecodeError as error:
            yield f"broken JSON in the answer: {error.msg}"
        except RecursionError:
            yield "broken JSON in the answer: nested too deeply"
            return
