"""What a trained generator says of itself, in its folder: how it was trained, and so is asked."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ragkit.data.files import read_json, write_json
from ragkit.models.layouts import model_file

CARD = "generator.json"


@dataclass(frozen=True)
class Card:
    """How a generator was trained.

    method: sft, swr, fid or reader
    prompt: the keys of `ragkit.config.answering.Prompting`
    max_length: tokens of prompt and answer together; of a question and one passage (fid, reader)
    n_passages: passages that it was given at most
    max_answer_tokens: of the longest answer
    no_answer_margin: of a reader, chosen on dev
    """

    method: str
    prompt: dict[str, Any] = field(default_factory=dict)
    cite: bool = False
    max_length: int | None = None
    max_answer_tokens: int | None = None
    n_passages: int | None = None
    no_answer_margin: float | None = None

    @property
    def answerer(self) -> str:
        """The type of answerer that asks such a model."""
        return self.method if self.method in ("fid", "reader") else "hf"

    def longest(self, given: int | None, usual: int) -> int:
        """Return the tokens that an answer may have: as given, else as trained, else as usual."""
        return given or self.max_answer_tokens or usual


def write_card(folder: Path, card: Card) -> None:
    """Put a card into a model's folder."""
    write_json(folder / CARD, asdict(card))


def read_card(source: str) -> Card | None:
    """Return the card of a folder or hub model; None: ragkit did not train it."""
    file = model_file(source, CARD)
    return None if file is None else Card(**read_json(file))
