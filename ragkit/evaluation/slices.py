"""Which questions of a test set belong together: by what is asked, and by metadata."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from ragkit.data.schema import Example
from ragkit.errors import DataError
from ragkit.evaluation.leakage import Leakage

_FEWEST = 20  # questions of a type that make a slice of their own
_ASKED = re.compile(
    r"\b(how (?:many|much|long|often|far|old)|how|what|which|whose|who|whom|when|where|why)\b",
    re.IGNORECASE,
)
_POLAR = re.compile(
    r"(?:is|are|was|were|am|do|does|did|can|could|will|would|shall|should|may|might|must|has|have|"
    r"had)\b",
    re.IGNORECASE,
)

Slices = dict[str, list[str]]


def slices_of(
    examples: Sequence[Example], keys: Sequence[str] = (), leakage: Leakage | None = None
) -> Slices:
    """Return the question ids of each slice; what does not tell questions apart makes none.

    Slices are by metadata, by documents seen in training, by whether the documents answer, by the
    turns before the question, and by the word that asks (English).
    keys: keys of the metadata
    leakage: what training has in common with the examples; None where there was none
    """
    found = by_metadata(examples, keys)
    if leakage is not None:
        answered = [e for e in examples if e.positive_ids]
        found |= _grouped(answered, [
            "seen documents" if e.id in leakage.seen else "unseen documents" for e in answered
        ])  # fmt: skip
    for names in (
        ["answerable" if e.answerable else "unanswerable" for e in examples],
        [_turns(e) for e in examples],
        _types(examples),
    ):
        if len(set(names)) > 1:
            found |= _grouped(examples, names)
    return found


def by_metadata(examples: Sequence[Example], keys: Sequence[str]) -> Slices:
    """Return the question ids of each value of each metadata key, as "key=value".

    Raises:
        DataError: no example has the key.
    """
    found: Slices = {}
    for key in keys:
        if not any(key in e.meta for e in examples):
            there = ", ".join(sorted({k for e in examples for k in e.meta})) or "none"
            raise DataError(f"slices: no example has {key!r} in its meta; the keys are: {there}")
        found |= _grouped(examples, [f"{key}={e.meta.get(key, '(none)')}" for e in examples])
    return dict(sorted(found.items()))


def names_of(parts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the names of the slices that each question is in."""
    names: dict[str, list[str]] = {}
    for name, ids in parts.items():
        for question in ids:
            names.setdefault(question, []).append(name)
    return names


def question_type(question: str) -> str:
    """Return the word by which an English question asks: how many, what, ..., yes or no, other."""
    if _POLAR.match(question.strip()):
        return "yes or no"
    found = _ASKED.search(question)
    return found[1].lower() if found else "other"


def _types(examples: Sequence[Example]) -> list[str]:
    types = [question_type(e.question) for e in examples]
    count = Counter(types)
    return [f"asks {t if count[t] >= _FEWEST else 'other'}" for t in types]


def _turns(example: Example) -> str:
    turns = len(example.history)
    return "first question" if not turns else f"{'1-2' if turns < 3 else '3+'} turns before"


def _grouped(examples: Sequence[Example], names: Sequence[str]) -> Slices:
    groups: Slices = {}
    for name, example in sorted(zip(names, examples, strict=True), key=lambda pair: pair[0]):
        groups.setdefault(name, []).append(example.id)
    return groups
