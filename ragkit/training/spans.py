"""Where in its passages the answer to a question stands: what a span reader is to learn.

Works on strings. A reference answer is looked for letter by letter, then whatever the case, then
by its normalised words; where it stands in no positive, the words that come nearest to it are
taken. Tokens and losses are `ragkit.training.reading`'s business.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ragkit.data.nearduplicates import UNSPACED, words
from ragkit.data.schema import Example, Passage
from ragkit.evaluation.answers import normalize_answer
from ragkit.rag.sentences import sentences

Place = tuple[int, int]  # in a text, in characters
How = Literal["verbatim", "nearest", "none", "nowhere"]

NEAREST = 0.5  # token F1 with a reference, below which the nearest words are no answer
LONG = 12  # words of a reference from which on the nearest words are whole sentences
_MOST = 1000  # words of a passage that are looked through for the nearest
_LETTER = rf"[^\W{UNSPACED}]"  # of a script that puts spaces between words
_EDGES = string.whitespace + ",;:.!?\"'()[]{}\u201c\u201d\u2018\u2019"


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the answer stands.

    how: verbatim; nearest, by words that come near to it; none: the passages do not answer;
        nowhere: they ought to, but nothing in them comes near to a reference
    places: in the text of each passage
    """

    how: How
    places: tuple[tuple[Place, ...], ...]


def find_targets(example: Example, passages: Sequence[Passage]) -> Targets:
    """Return where in the passages that a question is given its answer stands.

    In a positive every occurrence of every reference is a target: the loss asks for one of them. In
    other passages it is if the reference is specific (two words, one of them not of the question);
    of `yes` and `2008` nobody knows what they answer there. Where the positives are not among the
    passages, and no other has the answer, the target is no answer.
    """
    positives = [p.id in example.positive_ids for p in passages]
    specific = [a for a in example.answers if _is_specific(a, example.question)]
    places = [
        _all_occurrences(example.answers if positive else specific, p.text)
        for p, positive in zip(passages, positives, strict=True)
    ]
    blank: tuple[tuple[Place, ...], ...] = ((),) * len(passages)
    if not example.answerable:
        return Targets("none", blank)
    if any(places):
        return Targets("verbatim", tuple(places))
    if not example.answers:
        return Targets("nowhere", blank)
    if not any(positives):
        return Targets("none" if example.positive_ids else "nowhere", blank)
    scored = [
        (*nearest(answer, passages[i].text), i)
        for i, positive in enumerate(positives)
        for answer in example.answers
        if positive
    ]
    score, place, which = max(scored, key=lambda found: found[0])
    if score < NEAREST:
        return Targets("nowhere", blank)
    return Targets("nearest", tuple((place,) * (i == which) for i in range(len(passages))))


def occurrences(answer: str, text: str) -> list[Place]:
    """Return all places of an answer in a text, never within a word.

    As it is written; if there are none, in any case; if there are none, by its normalised words.
    """
    answer = answer.strip()
    before = f"(?<!{_LETTER})" if re.match(_LETTER, answer) else ""
    after = f"(?!{_LETTER})" if re.match(_LETTER, answer[-1:]) else ""
    pattern = before + re.escape(answer) + after
    for flags in (0, re.IGNORECASE):
        if found := [match.span() for match in re.finditer(pattern, text, flags)]:
            return found
    wanted = normalize_answer(answer).split()
    told, of = _normalized(text)
    return [
        _trimmed(text, of[i][0], of[i + len(wanted) - 1][1])
        for i in range(len(told) - len(wanted) + 1)
        if wanted and told[i : i + len(wanted)] == wanted
    ]


def nearest(answer: str, text: str) -> tuple[float, Place]:
    """Return the run of words with the best token F1 with an answer, and that F1.

    For an answer of `LONG` words or more a run of whole sentences.
    """
    wanted, (told, of) = normalize_answer(answer).split(), _normalized(text)
    told, of = told[:_MOST], of[:_MOST]
    if not wanted or not told:
        return 0.0, (0, 0)
    scores = run_scores(told, wanted)
    borders = _sentence_places(text) if len(wanted) >= LONG else []
    sentence = np.searchsorted([start for start, _ in borders], [start for start, _ in of], "right")
    if borders:
        first, last = np.diff(sentence, prepend=-1) != 0, np.diff(sentence, append=-1) != 0
        scores[~(first[:, None] & last[None])] = 0.0
    i, j = np.unravel_index(int(scores.argmax()), scores.shape)
    if borders:  # of[i] may come after an article, which is no word here
        place = borders[sentence[i] - 1][0], borders[sentence[j] - 1][1]
    else:
        place = _trimmed(text, of[i][0], of[j][1])
    return float(scores[i, j]), place


def run_scores(told: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Return the token F1 of every run of words with a reference, (n, n): from i to j, inclusive.

    F1 is 2 |run ∩ reference| / (|run| + |reference|), of multisets; 0 where j < i.
    """
    words_told, n = np.asarray(told), len(told)
    shared = np.zeros((n, n), np.int32)
    for word, count in Counter(wanted).items():
        seen = np.concatenate([[0], np.cumsum(words_told == word)])
        shared += np.minimum(seen[None, 1:] - seen[:-1, None], count)
    lengths = np.arange(1, n + 1)[None] - np.arange(n)[:, None]
    scores = 2 * shared / np.maximum(lengths + len(wanted), 1)
    return np.where(lengths > 0, scores, 0.0)


def _all_occurrences(answers: Sequence[str], text: str) -> tuple[Place, ...]:
    return tuple(sorted({place for answer in answers for place in occurrences(answer, text)}))


def _is_specific(answer: str, question: str) -> bool:
    told = words(answer)
    return len(told) > 1 and not set(words(question)).issuperset(told)


def _normalized(text: str) -> tuple[list[str], list[Place]]:
    """Return the words of a text as SQuAD compares them, and where each stands."""
    found = [(normalize_answer(m.group()), m.span()) for m in re.finditer(r"\S+", text)]
    kept = [(word, place) for word, place in found if word]
    return [word for word, _ in kept], [place for _, place in kept]


def _trimmed(text: str, start: int, end: int) -> Place:
    """Leave out the punctuation around a span, unless it is nothing else."""
    inner = text[start:end].strip(_EDGES)
    if not inner:
        return start, end
    start += text[start:end].index(inner)
    return start, start + len(inner)


def _sentence_places(text: str) -> list[Place]:
    places: list[Place] = []
    for sentence in sentences(text):
        start = text.index(sentence, places[-1][1] if places else 0)
        places.append((start, start + len(sentence)))
    return places
