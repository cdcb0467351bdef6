"""What is asked of models and what comes back: the types that servers and local models share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Chat = Sequence[Mapping[str, str]]
Schema = Mapping[str, Any]
TEXT: Schema = {"type": "string"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered: the text, how long it took, and the tokens that were counted.

    text: "" where the model said nothing, for which it is paid all the same
    """

    text: str
    seconds: float
    usage: Mapping[str, int]


Replies = list[tuple[int, Reply]]
Keep = Callable[[Replies], None]


class Allowance(Protocol):
    """Says whether another request may be sent, and is told what each came to.

    A request is one try: what is sent again, or in another form, is admitted again.
    """

    def admit(self, chat: Chat) -> bool | None:
        """Set aside what a request may cost; False: never, None: not before others are settled."""

    def settle(self, chat: Chat, reply: Reply | None, lost: bool = False) -> None:
        """Replace what was set aside by what was spent; no reply: nothing.

        lost: there is no reply, and it may have been billed
        """


def read_completion(completion: Any, seconds: float) -> tuple[Reply, str | None]:
    """Return the reply in a server's chat completion, and why the model stopped.

    Raises:
        ValueError: whatever else a server may have sent.
    """
    try:
        choice = completion["choices"][0]
        text, reason = choice["message"].get("content") or "", choice.get("finish_reason")
        usage = completion.get("usage") or {}
        counted = {k: v for k, v in usage.items() if isinstance(v, int)}
        # some servers cut an answer in the middle of a character, which no file can hold
        said = text.encode("utf-8", "replace").decode() if text.strip() else ""
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError("no chat completion") from error
    return Reply(said, seconds, counted), reason


def object_schema(**properties: Any) -> dict[str, Any]:
    """Return the JSON Schema of an object that has these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
