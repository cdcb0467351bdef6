"""Candidates: generated questions on their way through the filters, and how they become examples.

They lie in a file between two filters, so that memory does not grow with the corpus.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragkit.data.files import read_records, sha256_text, write_jsonl
from ragkit.data.schema import Example, Turn

Other = tuple[tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A generated question with its answer, the passages it came from and the split it is for.

    others: (passage ids, answer) of the same question, made from other passages
    """

    question: str
    answer: str
    passage_ids: tuple[str, ...]
    doc_id: str
    style: str
    split: str
    history: tuple[Turn, ...] = ()
    answerable: bool = True
    others: tuple[Other, ...] = ()

    @property
    def turns(self) -> tuple[str, ...]:
        """What the user has said, the question last."""
        return (*(turn.content for turn in self.history if turn.role == "user"), self.question)

    @property
    def key(self) -> int:
        """What is equal for equal questions, in this process alone: C++ is not C#."""
        return hash(tuple(map(_normal, self.turns)))

    @property
    def example(self) -> Example:
        """The example that it becomes."""
        said = [turn.content for turn in self.history]
        about = {} if self.answerable else {"about": self.passage_ids[0]}
        ids = dict.fromkeys([*self.passage_ids, *(i for ids, _ in self.others for i in ids)])
        answers = dict.fromkeys([self.answer, *(answer for _, answer in self.others)])
        return Example(
            id=sha256_text(self.passage_ids[0], *said, self.question)[:16],
            question=self.question,
            answers=tuple(answer for answer in answers if answer),
            positive_ids=tuple(ids) if self.answerable else (),
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
            **({"others": self.others} if self.others else {}),
        }


def write_candidates(path: Path, candidates: Iterable[Candidate]) -> Path:
    """Write candidates to a file, as they come; return the file."""
    write_jsonl(path, (c.to_json() for c in candidates))
    return path


def read_candidates(path: Path) -> Iterator[Candidate]:
    """Yield the candidates of a file."""
    for record in read_records(path):
        record["history"] = tuple(Turn(role, content) for role, content in record["history"])
        record["passage_ids"] = tuple(record["passage_ids"])
        record["others"] = tuple((tuple(ids), a) for ids, a in record.get("others", ()))
        yield Candidate(**record)


def _normal(question: str) -> str:
    """Return a question without what makes no difference: case, white space, its last mark."""
    return " ".join(unicodedata.normalize("NFC", question).casefold().split()).rstrip(" ?.!？。！")
