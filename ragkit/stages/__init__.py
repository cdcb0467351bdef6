"""The commands, one row each; a stage is added by one file and one row here.

Importing this costs nothing: a stage's module is imported when its command runs. Each module has
`Config`, `run(config, run)` and `show(path)`; it puts parts together and computes nothing itself.
Some have `estimate(config)`, lines that `--dry-run` adds, and `reopen(config, path)`, which says
whether a finished run is to be gone through again, and `check(path)`, which raises an error where
the results in a run directory are not good enough. `DISTRIBUTED = True` lets torchrun start one in
several processes, of which the one whose `run.main` is true writes.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ragkit.config.blocks import StageConfig
    from ragkit.runs import Run


class StageModule(Protocol):
    """What a stage's file has."""

    Config: type["StageConfig"]

    def run(self, config: "StageConfig", run: "Run") -> None:
        """Do the work and leave the results in the run directory."""

    def show(self, path: Path) -> "RenderableType":
        """Return what is printed when the run directory is done."""


@dataclass(frozen=True)
class Stage:
    """A command.

    argument: the config key that INPUT sets; several: INPUT may be given more than once
    options: further options, by name, and the config key that each sets
    module: the file in this folder; unset: the name's own
    flags: options without a value, and the config key that each sets to true
    repeated: options that may be given several times, and the list in the config that they fill
    reads: it reads texts, passages or examples, whose malformed lines --skip-bad sets aside
    """

    name: str
    help: str
    argument: str
    metavar: str
    options: Mapping[str, str]
    several: bool = False
    module: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    repeated: Mapping[str, str] = field(default_factory=dict)
    reads: bool = True

    def load(self) -> StageModule:
        """Import the stage's module."""
        module: StageModule = importlib.import_module(  # type: ignore[assignment]
            f"ragkit.stages.{self.module or self.name.replace('-', '_')}"
        )
        return module


_ENCODER = {"--model": "model"}

STAGES = {
    stage.name: stage
    for stage in (
        Stage("chunk", "Cut documents into passages.", "input", "FILE|FOLDER", {}),
        Stage(
            "qa-gen", "Generate questions and answers from passages or documents.",
            "input", "FILE|FOLDER",
            {"--teacher": "teacher.type", "--model": "teacher.model", "--limit": "limit",
             "--max-cost": "max_cost", "--max-requests": "max_requests"},
            flags={"--review": "review"},
        ),
        Stage(
            "import", "Bring data of other tools into ragkit's files.", "input", "FILE|FOLDER",
            {"--from": "format", "--corpus": "corpus"}, module="importing",
        ),
        Stage(
            "export", "Write ragkit's data as files of other tools.", "input", "RUN|EXAMPLES",
            {"--to": "format", "--corpus": "corpus"}, module="exporting",
        ),
        Stage(
            "mine-negatives", "Give training examples hard negatives.",
            "examples", "EXAMPLES", {"--corpus": "corpus", **_ENCODER},
        ),
        Stage(
            "train-retriever", "Train an encoder by contrastive learning with hard negatives.",
            "examples", "EXAMPLES", {"--corpus": "corpus", "--dev": "dev", **_ENCODER},
        ),
        Stage(
            "init-model", "Make a small generator, still to be trained, with a tokenizer.",
            "input", "CORPUS",
            {"--architecture": "architecture.type", "--model": "architecture.encoder"},
        ),
        Stage(
            "train-generator",
            "Train a span reader or a generator, on right or on retrieved passages.",
            "examples", "EXAMPLES",
            {"--corpus": "corpus", "--dev": "dev", **_ENCODER, "--method": "method",
             "--retriever": "passages.retriever.model"},
        ),
        Stage("index", "Encode a corpus into an index directory.", "corpus", "CORPUS", _ENCODER),
        Stage(
            "search", "Search a corpus for a question, or for each of a file of examples.",
            "query", "QUESTION|EXAMPLES",
            {"--corpus": "corpus", "--retriever": "retriever.type", "--model": "retriever.model",
             "--top-k": "top_k"},
        ),
        Stage(
            "eval-retriever", "Measure how well a system finds the passages that answer.",
            "examples", "EXAMPLES",
            {"--corpus": "corpus", "--retriever": "retriever.type", "--model": "retriever.model"},
        ),
        Stage(
            "eval-e2e", "Measure the answers of a retriever with an answerer on top.",
            "examples", "EXAMPLES",
            {"--corpus": "corpus", "--retriever": "retriever.model", "--answerer": "answerer.type",
             "--model": "answerer.model"},
        ),
        Stage(
            "judge", "Let a model judge the answers of an eval-e2e run.",
            "runs", "RUN [BASELINE_RUN]",
            {"--judge": "judge.type", "--model": "judge.model", "--human": "human",
             "--max-cost": "max_cost", "--max-requests": "max_requests"}, several=True, reads=False,
        ),
        Stage(
            "attribute", "Tell why answers are wrong, over a grid of retrievers and answerers.",
            "examples", "EXAMPLES",
            {"--corpus": "corpus", "--retriever": "retriever.type", "--model": "retriever.model",
             "--system": "system", "--judged": "judged"},
        ),
        Stage(
            "compare", "Compare evaluated runs, question by question.",
            "runs", "RUN...", {"--baseline": "baseline"}, several=True,
            repeated={"--gate": "gates"}, reads=False,
        ),
        Stage(
            "report", "Put evaluated runs on one self-contained HTML page.",
            "runs", "RUN...", {"--baseline": "baseline", "--title": "title"}, several=True,
            reads=False,
        ),
    )
}  # fmt: skip
