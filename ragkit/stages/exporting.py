"""`ragkit export`: ragkit's data as files of other tools."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationInfo, model_validator
from rich.console import RenderableType

from ragkit.config.blocks import Block, Columns, InputPath, QuestionColumns, ReadingConfig, beside
from ragkit.data.files import read_corpus, read_examples, read_json, write_json
from ragkit.data.formats import FORMATS, openchatkit, trec
from ragkit.data.formats.dataset import Dataset, Options
from ragkit.errors import DataError
from ragkit.log import logger
from ragkit.runs import Run
from ragkit.stages.sources import bad_lines

_SPLITS = ("train", "dev", "test", "examples")


class DalmColumns(Block):
    """Names of the columns of DALM's CSVs."""

    passage: str = Field("Passage", min_length=1, description="of the text; or Abstract")
    query: str = Field("Query", min_length=1, description="of the question; or Question")
    answer: str = Field("Answer", min_length=1, description="of the answer")
    title: str = Field("Title", min_length=1, description="of the title")


class Config(ReadingConfig):
    """Configuration of `export`."""

    input: InputPath = Field(description="a run directory, or a JSONL of examples")
    format: Literal[
        "localrqa", "dalm", "beir", "squad", "chatrag", "openchatkit", "trec", "table"
    ] = Field(description="whose files to write")
    corpus: InputPath | None = Field(
        None, description="JSONL of passages; unset: corpus.jsonl in the run or beside the examples"
    )
    dalm_columns: DalmColumns = DalmColumns()

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if self.corpus is None and self.input.suffix:
            # a file: its corpus is an input too, and is watched for changes
            found = beside(self.input, "corpus.jsonl", info.context)
            object.__setattr__(self, "corpus", found)
        if self.format != "dalm" and self.dalm_columns != DalmColumns():
            raise ValueError(f"dalm_columns: {self.format} does not have them")
        return self


def run(config: Config, run: Run) -> None:
    """Write the files of the format into a folder of its name, and export.json."""
    dataset = _read(config, bad_lines(config, run))
    names = config.dalm_columns
    options = Options(
        Columns(text=names.passage, title=names.title),
        QuestionColumns(question=names.query, answers=names.answer),
    )
    folder = run / config.format
    notes = FORMATS[config.format].write(folder, dataset, options)
    for note in notes:
        logger.warning("%s", note)
    files = sorted(str(p.relative_to(run.path)) for p in folder.rglob("*") if p.is_file())
    counts = {"passages": len(dataset.corpus), "questions": len(dataset.examples)}
    counts["conversations"] = len(dataset.chats)
    write_json(
        run / "export.json",
        {"format": config.format, "read": counts, "files": files, "notes": notes},
    )


def show(path: Path) -> RenderableType:
    """Say which files there are, and what they could not hold."""
    told = read_json(path / "export.json")
    read = ", ".join(f"{number:,} {what}" for what, number in told["read"].items() if number)
    lines = [f"format {told['format']}" + (f", from {read}:" if read else ":")]
    lines += [f"  {path / name}" for name in told["files"]]
    return "\n".join([*lines, *(f"- {note}" for note in told["notes"])])


def _read(config: Config, skip_bad: Path | None) -> Dataset:
    """Read what the input has: examples with their corpus, conversations, TREC files.

    Raises:
        DataError: nothing of these, no corpus, or malformed lines.
    """
    folder = config.input if config.input.is_dir() else config.input.parent
    files = [config.input]
    if config.input.is_dir():
        files = [folder / f"{name}.jsonl" for name in (*_SPLITS, "chat")]
    dataset = Dataset()
    examples = [f for f in files if f.exists() and f.name != "chat.jsonl"]
    corpus = config.corpus or folder / "corpus.jsonl"
    if examples and not corpus.exists():
        raise DataError(f"{examples[0]}: no corpus.jsonl beside it; name it: --corpus FILE")
    if corpus.exists():
        dataset.corpus = read_corpus(corpus, skip_bad)
    for file in examples:
        dataset.splits[file.stem] = read_examples(file, dataset.corpus, skip_bad)
    if any(f.exists() and f.name == "chat.jsonl" for f in files):
        dataset.chats = openchatkit.read_chats(folder / "chat.jsonl", skip_bad)
    if config.input.is_dir() and config.format == "trec" and trec.looks_like(folder):
        found = trec.read(folder, Options(skip_bad=skip_bad))
        dataset.qrels, dataset.runs = found.qrels, found.runs
    if not (dataset.corpus or dataset.chats or dataset.qrels or dataset.runs):
        raise DataError(
            f"{config.input}: nothing to export in it (train, dev, test or examples.jsonl with "
            "corpus.jsonl, chat.jsonl, or TREC files)"
        )
    return dataset
