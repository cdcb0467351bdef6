"""From documents to what a decoder learns before it is asked: to continue them."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ragkit.data.schema import Passage
from ragkit.errors import DataError
from ragkit.models.verbatim import Verbatim
from ragkit.training.items import Continued


def whole_documents(corpus: Mapping[str, Passage]) -> dict[str, str]:
    """Return the texts of a corpus's documents, their passages in order."""
    parts: dict[str, list[Passage]] = {}
    for passage in corpus.values():
        parts.setdefault(passage.source, []).append(passage)
    return {key: _joined(passages) for key, passages in parts.items()}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a document in tokens, four bytes each."""

    key: str
    ids: "array[int]"

    @property
    def item(self) -> Continued:
        """What is learned from it: every token but the first."""
        return Continued(self.key, tuple(self.ids), tuple(enumerate(self.ids[1:])))


def document_pieces(
    documents: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, end: int, max_length: int
) -> list[Piece]:
    """Return documents in pieces of at most `max_length` tokens, an end after each document.

    A piece holds text of one document only, so that nothing is learned across their bounds.

    Raises:
        DataError: there is no text.
    """
    pieces, verbatim = [], Verbatim(tokenizer, (end,))
    for key, text in documents.items():
        ids = [*verbatim.read(verbatim.hide(text), add_special_tokens=False), end]
        parts = enumerate(_parts(ids, max_length))
        pieces += [Piece(f"{key}#{n}", array("i", part)) for n, part in parts]
    if not pieces:
        raise DataError("pretrain: no text to continue")
    return pieces


def _joined(passages: Sequence[Passage]) -> str:
    """Join passages, a title once where it stays the same."""
    title, lines = "", []
    for passage in passages:
        if passage.title and passage.title != title:
            lines.append(passage.title)
        title = passage.title
        lines.append(passage.text)
    return "\n\n".join(lines)


def _parts(ids: Sequence[int], length: int) -> Iterator[Sequence[int]]:
    """Yield what follows one another, a token of overlap: a last one of a single token never."""
    for start in range(0, len(ids) - 1, length - 1):
        yield ids[start : start + length]
