"""`ragkit import`: data of other tools into ragkit's files."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from rich.console import RenderableType

from ragkit.config.blocks import Columns, InputPath, QuestionColumns, ReadingConfig
from ragkit.data.files import (
    read_json,
    write_examples,
    write_json,
    write_jsonl,
    write_passages,
    write_trec_qrels,
    write_trec_run,
)
from ragkit.data.formats import FORMATS, detect, table
from ragkit.data.formats.dataset import Dataset, Options
from ragkit.errors import DataError
from ragkit.log import logger
from ragkit.runs import Run
from ragkit.stages.sources import bad_lines


class Config(ReadingConfig):
    """Configuration of `import`."""

    input: InputPath = Field(description="the file or folder")
    format: Literal[
        "auto", "localrqa", "dalm", "beir", "squad", "chatrag", "openchatkit", "trec", "table"
    ] = Field("auto", description="whose it is; auto: found by its content, and said")
    corpus: InputPath | None = Field(
        None, description="a table of passages, where they are not in the input"
    )
    columns: Columns = Columns()
    question_columns: QuestionColumns = QuestionColumns()
    encoding: str = Field("utf-8", description="of the input files")
    max_cell_chars: int = Field(
        1_000_000, gt=0, description="a longer cell is taken for a missing closing quote"
    )


def run(config: Config, run: Run) -> None:
    """Read the format; write corpus.jsonl, examples, chat.jsonl, TREC files and import.json."""
    name = detect(config.input) if config.format == "auto" else config.format
    logger.info("%s: format %s", config.input, name)
    _check_columns(config, name)
    options = Options(
        config.columns,
        config.question_columns,
        encoding=config.encoding,
        max_cell_chars=config.max_cell_chars,
        skip_bad=bad_lines(config, run),
    )
    with run.timed("reading"):
        if config.corpus is not None:
            options = options.with_corpus(_passages(config.corpus, options).corpus)
        dataset = FORMATS[name].read(config.input, options)
    files = _counts(dataset)
    if set(files) <= {"corpus.jsonl"} and len(dataset.corpus) == len(options.corpus):
        raise DataError(f"{config.input}: nothing of the format {name} in it")
    for note in dataset.notes:
        logger.warning("%s", note)
    _write(dataset, run)
    write_json(run / "import.json", {"format": name, "files": files, "notes": dataset.notes})


def show(path: Path) -> RenderableType:
    """Say what was imported, and what could not be held or was guessed."""
    told = read_json(path / "import.json")
    lines = [f"format {told['format']}, in {path}:"]
    lines += [f"  {name}: {number:,}" for name, number in told["files"].items()]
    return "\n".join([*lines, *(f"- {note}" for note in told["notes"])])


def _check_columns(config: Config, name: str) -> None:
    """Refuse names of columns for a format whose fields have fixed names."""
    given = [
        key for key in ("columns", "question_columns") if getattr(config, key).model_fields_set
    ]
    if config.corpus is not None:
        given = [key for key in given if key != "columns"]  # they are those of the corpus
    if given and name not in ("dalm", "table"):
        raise DataError(
            f"{given[0]}: the fields of {name} have fixed names; dalm and table have not"
        )


def _passages(path: Path, options: Options) -> Dataset:
    corpus = table.read(path, options)
    if not corpus.corpus or corpus.splits:
        raise DataError(f"corpus: {path}: a table of passages was expected, without questions")
    return corpus


def _write(dataset: Dataset, run: Run) -> None:
    if dataset.corpus:
        write_passages(run / "corpus.jsonl", dataset.corpus.values())
    for split, examples in dataset.splits.items():
        if examples:
            write_examples(run / f"{split}.jsonl", examples)
    if dataset.chats:
        write_jsonl(run / "chat.jsonl", (chat.to_json() for chat in dataset.chats))
    for name, qrels in dataset.qrels.items():
        write_trec_qrels(run / f"{name}.trec", qrels)
    for name, scores in dataset.runs.items():
        write_trec_run(run / f"{name}.trec", scores)


def _counts(dataset: Dataset) -> dict[str, int]:
    """Return how many records each file has."""
    files = {"corpus.jsonl": len(dataset.corpus)}
    files |= {f"{split}.jsonl": len(examples) for split, examples in dataset.splits.items()}
    files["chat.jsonl"] = len(dataset.chats)
    files |= {f"{name}.trec": sum(map(len, of.values())) for name, of in dataset.qrels.items()}
    files |= {f"{name}.trec": sum(map(len, of.values())) for name, of in dataset.runs.items()}
    return {name: number for name, number in files.items() if number}
