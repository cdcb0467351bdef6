"""The JSON in a model's reply; thoughts, fences and remarks around it are left out."""

import json
import re
from collections.abc import Iterator
from typing import Any

_OPENING = re.compile(r"[{\[]")
# templates that open the thought themselves leave the model only its end
_THOUGHT = re.compile(
    r"\A(?!\s*[{\[`])(?:(?!<think>).)*?</think>|<think>.*?(?:</think>|\Z)", re.DOTALL
)
_DECODER = json.JSONDecoder(strict=False)  # models write line breaks as they are


def without_thought(reply: str) -> str:
    """Return a reply without what the model thought before it."""
    return _THOUGHT.sub("", reply)


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
