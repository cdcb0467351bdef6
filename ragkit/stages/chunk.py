"""`ragkit chunk`: documents into passages.jsonl."""

from pathlib import Path

from rich.console import RenderableType

from ragkit.config.blocks import Chunking, DocumentSource
from ragkit.data.chunking import Chunker, as_passages
from ragkit.data.documents import read_documents
from ragkit.data.files import read_corpus, write_passages
from ragkit.data.schema import Document, Passage, unique_passages
from ragkit.log import logger, progress
from ragkit.models.resolve import load_tokenizer
from ragkit.runs import Run


class Config(DocumentSource):
    """Configuration of `chunk`."""

    chunk: Chunking = Chunking()


def run(config: Config, run: Run) -> None:
    """Cut the documents; write passages.jsonl."""
    documents = read_source(config, run)
    passages = cut(documents, config.chunk)
    count = write_passages(run / "passages.jsonl", passages.values())
    logger.info("%d documents, %d passages", len(documents), count)


def show(path: Path) -> RenderableType:
    """Say how many passages there are, and where."""
    corpus = read_corpus(path / "passages.jsonl")
    sizes = sorted(len(p.text.split()) for p in corpus.values())
    return (
        f"{len(corpus):,} passages of {sizes[0]} to {sizes[-1]} words "
        f"(median {sizes[len(sizes) // 2]}) in {path / 'passages.jsonl'}"
    )


def read_source(config: DocumentSource, run: Run) -> list[Document]:
    """Read the documents that a configuration names."""
    with run.timed("reading"):
        return read_documents(
            config.input,
            config.columns,
            encoding=config.encoding,
            max_cell_chars=config.max_cell_chars,
            markup=config.markup,
            skip_bad=run / "bad-lines.jsonl" if config.skip_bad else None,
        )


def cut(documents: list[Document], chunking: Chunking | None) -> dict[str, Passage]:
    """Cut documents into passages, by id; without chunking each document is one passage."""
    if chunking is None:
        return unique_passages(as_passages(documents))
    chunker = Chunker(load_tokenizer(chunking.tokenizer), chunking.max_tokens, chunking.overlap)
    return unique_passages(
        (document.where, passage)
        for document in progress(documents, "chunking", unit="documents")
        for passage in chunker.passages(document)
    )
