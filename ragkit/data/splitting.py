"""Splitting a text into pieces of at most so many tokens, tokenised once.

Where to split is decided by semantic-text-splitter, which asks for the size of every piece that it
considers. Tokenising each takes most of the time; here a text is tokenised once and a piece has the
tokens that lie in it. Near a limit, where a token cut in two would count, the piece itself is.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Encoding, Tokenizer

_WINDOW = 1 << 16  # characters that are tokenised and split at a time
_NEAR = 4  # tokens by which the tokens in a piece may differ from those of the piece
_BREAKS = ("\n\n", "\n", " ")


class Splitter:
    """Splits texts at the largest boundaries, of plain text or Markdown, that make pieces fit."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def count(self, text: str, special_tokens: bool = False) -> int:
        """Return how many tokens a text has."""
        return len(self._encoded(text, special_tokens).ids)

    def split(
        self, text: str, max_tokens: int, overlap: int = 0, markdown: bool = False
    ) -> Iterator[tuple[int, str]]:
        """Yield (offset, piece) of at most `max_tokens` tokens, the special ones not counted.

        A text of more than 65,536 characters is split in parts of about that size.
        """
        for start, part in _windows(text, max(_WINDOW, 16 * max_tokens)):
            for offset, piece in self._split(part, max_tokens, overlap, markdown):
                yield start + offset, piece

    def _split(
        self, text: str, max_tokens: int, overlap: int, markdown: bool
    ) -> list[tuple[int, str]]:
        encoding = self._encoded(text)
        if len(encoding.ids) <= max_tokens:
            piece = text.strip()
            return [(text.index(piece), piece)] if piece else []
        kind = MarkdownSplitter if markdown else TextSplitter
        sizer = _Sizer(self, text, encoding, (max_tokens, overlap))
        pieces = kind.from_callback(sizer.size, max_tokens, overlap).chunk_indices(text)
        limit = max_tokens
        while not self._fit(pieces, max_tokens) and limit > 1:
            # sizes do not always grow with the text, and so the exact ones may fail here too
            exact = kind.from_huggingface_tokenizer(self.tokenizer, limit, min(overlap, limit - 1))
            pieces = exact.chunk_indices(text)
            limit -= 1
        return list(pieces)

    def _fit(self, pieces: list[tuple[int, str]], max_tokens: int) -> bool:
        texts = [piece for _, piece in pieces]
        counted = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return all(len(encoding.ids) <= max_tokens for encoding in counted)

    def _encoded(self, text: str, special_tokens: bool = False) -> Encoding:
        return self.tokenizer.encode(text, add_special_tokens=special_tokens)


class _Sizer:
    """Counts the tokens of pieces of one text; the pieces come about in order."""

    def __init__(
        self, splitter: Splitter, text: str, encoding: Encoding, limits: tuple[int, ...]
    ) -> None:
        self.splitter, self.text, self.limits = splitter, text, limits
        self.starts = [start for start, _ in encoding.offsets]
        self.ends = [end for _, end in encoding.offsets]
        self.at = 0

    def size(self, piece: str) -> int:
        """Return how many tokens a piece of the text has, near a limit exactly."""
        at = self.text.find(piece, self.at)
        if at < 0:
            at = self.text.find(piece)
        self.at = at
        size = bisect_left(self.starts, at + len(piece)) - bisect_right(self.ends, at)
        if any(abs(size - limit) <= _NEAR for limit in self.limits):
            return self.splitter.count(piece)
        return size


def _windows(text: str, size: int) -> Iterator[tuple[int, str]]:
    """Yield (offset, part) of at most `size` characters, cut at the largest break in the end."""
    start = 0
    while len(text) - start > size:
        least, end = start + size // 2, start + size
        cuts = (text.rfind(mark, least, end) for mark in _BREAKS)
        cut = next((at for at in cuts if at > 0), end)
        yield start, text[start:cut]
        start = cut
    yield start, text[start:]
