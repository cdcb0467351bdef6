"""From documents to what a decoder learns before it is asked: to continue them."""

from collections.abc import Iterable, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from ragkit.data.schema import Passage
from ragkit.errors import DataError
from ragkit.training.items import Continued


def whole_documents(corpus: Mapping[str, Passage]) -> dict[str, str]:
    """Return the texts of a corpus's documents, their passages in order."""
    parts: dict[str, list[Passage]] = {}
    for passage in corpus.values():
        parts.setdefault(passage.source, []).append(passage)
    return {key: _joined(passages) for key, passages in parts.items()}


def document_items(
    documents: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, end: int, max_length: int
) -> list[Continued]:
    """Return documents as sequences of at most `max_length` tokens, an end after each document.

    A sequence holds text of one document only, so that nothing is learned across their bounds.

    Raises:
        DataError: there is no text.
    """
    items = []
    for key, text in documents.items():
        # which would warn of a length that no sequence gets
        ids = [*tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], end]
        for n, piece in enumerate(_pieces(ids, max_length)):
            items.append(Continued(f"{key}#{n}", piece, _all_but_first(piece)))
    if not items:
        raise DataError("pretrain: no text to continue")
    return items


def _joined(passages: Sequence[Passage]) -> str:
    """Join passages, a title once where it stays the same."""
    title, lines = "", []
    for passage in passages:
        if passage.title and passage.title != title:
            lines.append(passage.title)
        title = passage.title
        lines.append(passage.text)
    return "\n\n".join(lines)


def _pieces(ids: Sequence[int], length: int) -> Iterable[tuple[int, ...]]:
    """Yield sequences that follow one another; a last one of a single token is left out."""
    for start in range(0, max(len(ids) - 1, 0), length - 1):
        yield tuple(ids[start : start + length])


def _all_but_first(ids: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(enumerate(ids[1:]))
