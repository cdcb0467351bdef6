"""Bring SQuAD's training extract and 1,000 of its dev questions into ragkit's form.

    python scripts/results/squad.py SOURCE TARGET

SOURCE holds corpus_train.jsonl, qa_train.jsonl, corpus_dev.jsonl and qa_dev.jsonl. The corpus is
that of both. Of the training questions 300 about a tenth of the articles become dev.jsonl, those
about the other articles train.jsonl; 1,000 of the dev questions become test.jsonl. Training
questions that stand in the test set, or nearly, are left out.
"""

import random
import sys
from pathlib import Path

from prepare import questions, without_leaks

from ragkit.config.blocks import Columns
from ragkit.data.chunking import as_passages
from ragkit.data.documents import read_documents
from ragkit.data.files import write_examples, write_passages
from ragkit.data.schema import unique_passages
from ragkit.qa.splits import split_documents

DEV, TEST = 300, 1000


def main(source: Path, target: Path) -> None:
    """Write corpus.jsonl, train.jsonl, dev.jsonl and test.jsonl."""
    files = (source / f"corpus_{name}.jsonl" for name in ("train", "dev"))
    found = (p for file in files for p in as_passages(read_documents(file, Columns())))
    corpus = unique_passages(found)
    draw = random.Random(0)
    test = draw.sample(questions(source / "qa_dev.jsonl"), TEST)
    train = without_leaks(questions(source / "qa_train.jsonl"), test)
    documents = dict.fromkeys(corpus[e.positive_ids[0]].source for e in train)
    split = split_documents(documents, dev=0.1, test=0.0)
    of = {e.id: split[corpus[e.positive_ids[0]].source] for e in train}
    dev = [e for e in train if of[e.id] == "dev"]
    write_passages(target / "corpus.jsonl", corpus.values())
    write_examples(target / "train.jsonl", [e for e in train if of[e.id] == "train"])
    write_examples(target / "dev.jsonl", draw.sample(dev, min(DEV, len(dev))))
    write_examples(target / "test.jsonl", test)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
