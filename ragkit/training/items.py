"""What a generator learns, in tokens."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt with the answer that is to be learned.

    texts: what is read: one prompt; in fusion-in-decoder a text of each passage with the question
    answer: what is to be said, with one token of end
    """

    example_id: str
    texts: tuple[tuple[int, ...], ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Continued:
    """A sequence of which a decoder learns some tokens from those before them.

    targets: (position, token): what is to follow the token at this position; that need not be what
        stands there, as an answer ends where a conversation goes on
    """

    example_id: str
    ids: tuple[int, ...]
    targets: tuple[tuple[int, int], ...]


def continued(item: Item) -> Continued:
    """Return what a decoder learns from a prompt and its answer: the answer's tokens alone."""
    (prompt,) = item.texts
    ids = (*prompt, *item.answer[:-1])  # nothing follows the end
    targets = tuple(enumerate(item.answer, start=len(prompt) - 1))
    return Continued(item.example_id, ids, targets)
