"""How a question and its answer stand to the words of their passages: copied, or supported by them.

Words are compared, not meanings: cheap, and of use only where both are in one language.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from bm25s.stopwords import STOPWORDS_EN_PLUS

from ragkit.data.nearduplicates import words

# words that make another question of the same others
_TELLING = words(
    "above after before below down few how in more most no not off on once out over under until up "
    "when where which who whom why with"
)
_STOP = frozenset(STOPWORDS_EN_PLUS)
_STEM = 5  # letters by which forms of one word are known
_COPIED_WORDS = 6  # a shorter run is a term, not a copy
_NUMBERS = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
_NUMBER = {word: str(n) for n, word in enumerate(_NUMBERS)}
_SAYS_NOT = (
    r"(?:\bnot|n['\u2019]t|\bno)\s+(?:\w+\s+)?"
    r"(?:mention|state|specif|provide|say|contain|include|answer|inform|indicat)\w*"
)
_SOURCE = r"\b(?:passage|text|document|context)\b"
_NO_ANSWER = re.compile(
    rf"{_SAYS_NOT}\b.*{_SOURCE}|{_SOURCE}.*{_SAYS_NOT}|"
    r"^(?:there is )?no (?:\w+ )?information\b",
    re.IGNORECASE | re.DOTALL,
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PART = re.compile(r"\d+|[^\W\d_]+")
_FIGURE = re.compile(r"\d+(?:[.,]\d+)*")


def content_words(text: str) -> list[str]:
    """Return the words that make a question what it is; all, where there are no others."""
    found = words(text)
    return [w for w in found if w not in _STOP or w in _TELLING] or found


def is_copied(question: str, texts: Iterable[str], share: float) -> bool:
    """Return whether one run of words of a text makes up so large a share of the question."""
    asked = words(question)
    wanted = max(_COPIED_WORDS, share * len(asked))
    if len(asked) < wanted:
        return False
    return any(_longest_run(asked, words(text)) >= wanted for text in texts)


def support(answer: str, texts: Iterable[str]) -> float:
    """Return the share of an answer's content words that stand in the texts, in any form, 0 to 1.

    It is 0 where a figure of the answer is in none of them. 1,000 is 1000, and 24 V is 24V.
    """
    texts = list(texts)
    theirs = {part for text in texts for w in _words(text) for part in (w, *_PART.findall(w))}
    theirs |= {_NUMBER[w] for w in theirs if w in _NUMBER}
    figures = {part for text in texts for f in _figures(text) for part in _parts_of(f)}
    own = [w for w in _words(answer) if w not in _STOP]
    units = {part for w in own if w[0].isdigit() for part in _PART.findall(w)}
    if not units <= theirs or not set(_figures(answer)) <= figures | theirs:
        return 0.0
    stems = {w[:_STEM] for w in theirs}
    has = (
        w[0].isdigit() or w in theirs or w[:_STEM] in stems or _NUMBER.get(w) in theirs for w in own
    )
    return sum(has) / len(own) if own else 1.0


def says_no_answer(answer: str) -> bool:
    """Return whether an answer only says that the passage gives none."""
    return len(answer) < 300 and bool(_NO_ANSWER.search(answer))


def _words(text: str) -> list[str]:
    return words(_THOUSANDS.sub("", text))


def _figures(text: str) -> list[str]:
    return _FIGURE.findall(_THOUSANDS.sub("", text))


def _parts_of(figure: str) -> Iterator[str]:
    """Yield what stands in a figure: in 1.2.3 also 1.2 and 3, but in 5.3 not 3.5."""
    ends = [0, *(m.end() for m in re.finditer(r"[.,]", figure))]
    stops = [*(m.start() for m in re.finditer(r"[.,]", figure)), len(figure)]
    for i, start in enumerate(ends):
        yield from (figure[start:stop] for stop in stops[i:])


def _longest_run(asked: Sequence[str], text: Sequence[str]) -> int:
    """Return the length of the longest run of words that both have."""
    best, row = 0, [0] * (len(text) + 1)
    for word in asked:
        before = row
        row = [0] * (len(text) + 1)
        for j, other in enumerate(text, start=1):
            if word == other:
                row[j] = before[j - 1] + 1
                best = max(best, row[j])
    return best
