"""Candidates: generated questions on their way through the filters, and how they become examples.

They lie in a file between two filters, so that memory does not grow with the corpus.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ragkit.data.files import read_records, sha256_text, write_jsonl
from ragkit.data.schema import Example, Turn


@dataclass(frozen=True, slots=True)
class Candidate:
    """A generated question with its answer, the passages it came from and the split it is for."""

    question: str
    answer: str
    passage_ids: tuple[str, ...]
    doc_id: str
    style: str
    split: str
    history: tuple[Turn, ...] = ()
    answerable: bool = True

    @property
    def example(self) -> Example:
        """The example that it becomes."""
        turns = [turn.content for turn in self.history]
        about = {} if self.answerable else {"about": self.passage_ids[0]}
        return Example(
            id=sha256_text(self.passage_ids[0], *turns, self.question)[:16],
            question=self.question,
            answers=(self.answer,) if self.answer else (),
            positive_ids=self.passage_ids if self.answerable else (),
            history=self.history,
            answerable=self.answerable,
            meta={"style": self.style, "doc_id": self.doc_id, **about},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `read_candidates` reads."""
        return {
            "question": self.question,
            "answer": self.answer,
            "passage_ids": list(self.passage_ids),
            "doc_id": self.doc_id,
            "style": self.style,
            "split": self.split,
            "history": [[turn.role, turn.content] for turn in self.history],
            "answerable": self.answerable,
        }


def write_candidates(path: Path, candidates: Iterable[Candidate]) -> Path:
    """Write candidates to a file, as they come; return the file."""
    write_jsonl(path, (c.to_json() for c in candidates))
    return path


def read_candidates(path: Path) -> Iterator[Candidate]:
    """Yield the candidates of a file."""
    for record in read_records(path):
        turns = tuple(Turn(role, content) for role, content in record["history"])
        ids = tuple(record["passage_ids"])
        yield Candidate(**{**record, "history": turns, "passage_ids": ids})


def merged(example: Example, others: Sequence[tuple[Sequence[str], str]]) -> Example:
    """Return an example that the passages of others answer too: they made the same question.

    others: (passage ids, answer) of each
    """
    ids = dict.fromkeys([*example.positive_ids, *(i for found, _ in others for i in found)])
    answers = dict.fromkeys([*example.answers, *(answer for _, answer in others if answer)])
    return replace(example, positive_ids=tuple(ids), answers=tuple(answers))
