"""Bring a folder with corpus.jsonl, qa_train.jsonl and qa_dev.jsonl into ragkit's form.

    python scripts/results/prepare.py SOURCE TARGET

Its questions name their passages as `passage_ids`, `passage_id`. The questions of qa_dev become
test.jsonl; a tenth of the documents of qa_train becomes dev.jsonl, the rest train.jsonl. Training
questions that stand in the test set, or nearly, are left out.
"""

import sys
from pathlib import Path
from typing import Any

from ragkit.config.blocks import Columns
from ragkit.data.chunking import as_passages
from ragkit.data.documents import read_documents
from ragkit.data.files import read_jsonl, write_examples, write_passages
from ragkit.data.schema import Example, unique_passages
from ragkit.evaluation.leakage import near_questions
from ragkit.qa.splits import split_documents


def example(record: dict[str, Any]) -> Example:
    """Return a question of theirs as an example of ours."""
    return Example(
        id=str(record["id"]),
        question=record["question"],
        answers=tuple(record["answers"]),
        positive_ids=tuple(record.get("passage_ids") or [record["passage_id"]]),
    )


def questions(path: Path) -> list[Example]:
    """Return the questions of a file; empty ones are left out, and said."""
    records = read_jsonl(path)
    kept = [r for r in records if r["question"].strip()]
    if len(kept) < len(records):
        print(f"{path.name}: {len(records) - len(kept)} empty questions left out")
    return [example(r) for r in kept]


def without_leaks(train: list[Example], test: list[Example]) -> list[Example]:
    """Return the training questions that the test set does not have, or nearly; say how many go."""
    kept = train
    while near := {other.id for _, other in near_questions(test, kept, limit=0.8)}:
        # `near_questions` names one training question for each test question
        kept = [e for e in kept if e.id not in near]
    if gone := len(train) - len(kept):
        print(f"{gone} training questions that the test set has too, or nearly, left out")
    return kept


def prepare(source: Path, target: Path) -> None:
    """Write corpus.jsonl, train.jsonl, dev.jsonl and test.jsonl."""
    corpus = unique_passages(as_passages(read_documents(source / "corpus.jsonl", Columns())))
    train = questions(source / "qa_train.jsonl")
    test = questions(source / "qa_dev.jsonl")
    train = without_leaks(train, test)
    split = split_documents((p.source for p in corpus.values()), dev=0.1, test=0.0)
    of = {e.id: split[corpus[e.positive_ids[0]].source] for e in train}
    write_passages(target / "corpus.jsonl", corpus.values())
    write_examples(target / "train.jsonl", [e for e in train if of[e.id] == "train"])
    write_examples(target / "dev.jsonl", [e for e in train if of[e.id] == "dev"])
    write_examples(target / "test.jsonl", test)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]))
