"""Users' texts as tokens: a special token that is written out in one is letters like all others.

A tokenizer makes its token of end of every `</s>`, whoever wrote it, so that a document could end
a prompt or forge a turn. So contents have such strings hidden before a template writes them, and
what the template itself writes stays special.
"""

import copy
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

_FIRST = 0x10F000  # of the characters that hide tokens: of a plane for private use, in no text
_PLACES = "offset_mapping"
BORDER = chr(0x10FFFD)  # no token reaches over it, and none is made of it


@dataclass(frozen=True)
class Verbatim:
    """Hides a tokenizer's special tokens in texts, and reads texts with hidden ones.

    Those are hidden that the tokenizer calls special, and `ends`, letter by letter; words that a
    template uses for its turns are not, where the tokenizer does not know them as such.
    """

    tokenizer: PreTrainedTokenizerBase
    ends: Collection[int] = ()

    def hide(self, text: str) -> str:
        """Return a text with a private character for each special token written out in it."""
        return self._pattern.sub(lambda found: self._hidden[found.group()], text)

    def read(self, text: str, **options: Any) -> list[int]:
        """Return the tokens of a text, those of letters for what is hidden in it."""
        if text.isascii() or self._letters.keys().isdisjoint(text):
            return _encoded(self.tokenizer, text, **options)["input_ids"]
        ids = _encoded(self._reader, text, **options)["input_ids"]
        return [i for token in ids for i in self._spelt.get(token, [token])]

    def places(self, text: str) -> list[tuple[int, int]]:
        """Return where in a text each token of it stands, in characters; nothing in it is special.

        The letters of a hidden token all have the place of the whole.
        """
        hidden, options = self.hide(text), {"return_offsets_mapping": True}
        if hidden == text:
            return _encoded(self.tokenizer, text, add_special_tokens=False, **options)[_PLACES]
        lengths = {character: len(token) for token, character in self._hidden.items()}
        at = list(accumulate((lengths.get(c, 1) for c in hidden), initial=0))
        found = _encoded(self._reader, hidden, add_special_tokens=False, **options)
        return [
            (at[start], at[end])
            for token, (start, end) in zip(found["input_ids"], found[_PLACES], strict=True)
            for _ in self._spelt.get(token, [token])
        ]

    @cached_property
    def _special(self) -> dict[int, str]:
        known = self.tokenizer.added_tokens_decoder
        return {i: t.content for i, t in known.items() if t.special or i in self.ends}

    @cached_property
    def _hidden(self) -> dict[str, str]:
        return {token: chr(_FIRST + n) for n, token in enumerate(self._special.values())}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._hidden, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @cached_property
    def _letters(self) -> dict[str, list[int]]:
        """The tokens that stand for each private character.

        The first letter is apart from the others: together some tokenizers know them (Unigram).
        """
        unknown = self.tokenizer.unk_token_id
        special = self._special.keys() - {unknown}
        letters: dict[str, list[int]] = {BORDER: []}
        for token, character in self._hidden.items():
            parts = (self._alone(token[:1]), self._alone(token[1:]))
            letters[character] = [i for part in parts for i in part if i not in special]
        return letters

    @cached_property
    def _reader(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with private characters as tokens, that split what is around them."""
        reader = copy.deepcopy(self.tokenizer)
        characters = [AddedToken(c, normalized=False) for c in self._letters]
        reader.add_tokens(characters, special_tokens=True)
        return reader

    @cached_property
    def _spelt(self) -> dict[int, list[int]]:
        """The same by the numbers that private characters have as tokens."""
        number: Any = self._reader.convert_tokens_to_ids
        return {number(character): letters for character, letters in self._letters.items()}

    def _alone(self, text: str) -> list[int]:
        return _encoded(self.tokenizer, text, add_special_tokens=False)["input_ids"]


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, **options: Any) -> dict[str, list[Any]]:
    return dict(tokenizer(text, verbose=False, **options))  # too long a text is the caller's to cut
