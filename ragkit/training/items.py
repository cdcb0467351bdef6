"""What a generator learns from one question, in tokens."""

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
