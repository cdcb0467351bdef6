"""`ragkit chunk`: documents into passages.jsonl."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from rich.console import RenderableType

from ragkit.config.blocks import Chunking, DocumentSource
from ragkit.data.chunking import Chunker, as_passages
from ragkit.data.documents import read_documents
from ragkit.data.files import read_jsonl, read_passages, write_jsonl, write_passages
from ragkit.data.minhash import group_near_duplicates
from ragkit.data.schema import Document, Passage, distinct_passages
from ragkit.log import logger, progress
from ragkit.models.resolve import load_tokenizer
from ragkit.runs import Run
from ragkit.stages.sources import bad_lines


class Config(DocumentSource):
    """Configuration of `chunk`."""

    chunk: Chunking = Chunking()


def run(config: Config, run: Run) -> None:
    """Cut the documents; write passages.jsonl, and near-duplicates.jsonl from a second reading."""
    with run.timed("cutting"):
        count = write_passages(run / "passages.jsonl", cut(read_source(config, run), config.chunk))
    with run.timed("near-duplicates"):
        passages = progress(read_passages(run / "passages.jsonl"), "comparing", count, "passages")
        groups = group_near_duplicates(passages)
    write_jsonl(run / "near-duplicates.jsonl", ({"ids": ids} for ids in groups))
    logger.info("%d passages", count)


def show(path: Path) -> RenderableType:
    """Say how many passages there are, how many are nearly the same, and where."""
    lengths = (len(p.text.split()) for p in read_passages(path / "passages.jsonl"))
    sizes = np.sort(np.fromiter(lengths, np.uint32))
    told = (
        f"{len(sizes):,} passages of {sizes[0]} to {sizes[-1]} words "
        f"(median {sizes[len(sizes) // 2]}) in {path / 'passages.jsonl'}"
    )
    if groups := [len(group["ids"]) for group in read_jsonl(path / "near-duplicates.jsonl")]:
        told += (
            f"\nnear-duplicates: {sum(groups):,} passages, groups: {len(groups):,}, "
            f"in {path / 'near-duplicates.jsonl'}"
        )
    return told


def read_source(config: DocumentSource, run: Run) -> Iterator[Document]:
    """Return the documents that a configuration names, read one by one as they are taken."""
    return read_documents(
        config.input,
        config.columns,
        encoding=config.encoding,
        max_cell_chars=config.max_cell_chars,
        markup=config.markup,
        skip_bad=bad_lines(config, run),
    )


def cut(documents: Iterable[Document], chunking: Chunking | None) -> Iterator[Passage]:
    """Yield the passages of documents; without chunking each document is one passage."""
    documents = progress(documents, "chunking", unit="documents")
    if chunking is None:
        return distinct_passages(as_passages(documents))
    chunker = Chunker(load_tokenizer(chunking.tokenizer), chunking.max_tokens, chunking.overlap)
    return distinct_passages(
        (document.where, passage)
        for document in documents
        for passage in chunker.passages(document)
    )
