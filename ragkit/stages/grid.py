"""A grid of retrievers and answerers: every cell a run of eval-e2e in its own directory.

A cell is done once and resumed where it was stopped; a corpus is encoded once a retriever.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from ragkit.config.answering import ExtractiveAnswerer
from ragkit.config.blocks import Dense, Fused, Retriever
from ragkit.config.load import Source, build
from ragkit.evaluation.grid import Cell, cells
from ragkit.log import logger
from ragkit.runs import Run
from ragkit.stages import STAGES, eval_e2e, index
from ragkit.stages.answering import AnsweringSource, CardAnswerer
from ragkit.stages.pipeline import run_stage

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")  # in a folder's name, and in --set answerers.NAME


class GridSource(AnsweringSource):
    """Test examples, and the systems whose every pair is evaluated on them."""

    # each cell guards its own systems; so may a grid be extended
    UNCOMPARED = AnsweringSource.UNCOMPARED | {"retrievers", "answerers"}

    retriever: Retriever = Field(
        Dense(type="dense"),
        description="the tuned system that finds passages; it makes the grid of `retrievers` base, "
        "the embedded encoder, and tuned",
    )
    retrievers: dict[str, Retriever] = Field(
        {},
        description="systems that find passages, the baseline first, each with the keys of "
        "`retriever`; unset: by `retriever`",
    )
    answerers: dict[str, CardAnswerer] = Field(
        {},
        description="systems that answer, the baseline first, each with the keys of `answerer` in "
        "eval-e2e; unset: extractive",
    )

    @field_validator("retrievers", "answerers")
    @classmethod
    def _check_names(cls, systems: dict[str, Any]) -> dict[str, Any]:
        for name in systems:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name: letters, digits, - and _, a letter first")
        folded = Counter(name.casefold() for name in systems)
        if twice := [name for name in systems if folded[name.casefold()] > 1]:
            raise ValueError(f"{' and '.join(twice)} would have one folder on some systems")
        return systems

    @model_validator(mode="after")
    def _fill_grid(self) -> "GridSource":
        base = Dense(type="dense")
        if self.retrievers and self.retriever != base:
            raise ValueError(
                "retriever (-m, --retriever) makes a grid of its own; name it among the retrievers "
                f"(there are {', '.join(self.retrievers)})"
            )
        tuned = {} if self.retriever == base else {"tuned": self.retriever}
        # moved, not copied: the configuration that a run records is one that can be given again
        object.__setattr__(self, "retrievers", self.retrievers or {"base": base, **tuned})
        object.__setattr__(self, "retriever", base)
        answerers = self.answerers or {"extractive": ExtractiveAnswerer(type="extractive")}
        object.__setattr__(self, "answerers", answerers)
        return self

    @property
    def grid(self) -> list[Cell]:
        """All cells."""
        return cells(list(self.retrievers), list(self.answerers))


def run_cells(config: GridSource, run: Run) -> Iterator[tuple[Cell, Path]]:
    """Run every cell that is not done; yield its directory.

    All configurations are checked before the first cell runs. Gold passages come first: they need
    no retriever, and show soon whether the answerers work.
    """
    indexes = {name: _index_config(config, name, run) for name in config.retrievers}
    planned = [
        (cell, _cell_config(config, cell, indexes, run))
        for cell in sorted(config.grid, key=lambda cell: cell.retriever is not None)
    ]
    for number, (cell, settings) in enumerate(planned, start=1):
        logger.info("cell %d of %d: %s", number, len(planned), cell.name)
        if cell.retriever and (encoding := indexes[cell.retriever]):
            run_stage("index", STAGES["index"].load(), encoding, sys.argv)
        yield cell, run_stage("eval-e2e", STAGES["eval-e2e"].load(), settings, sys.argv)


def folder_of(cell: Cell) -> str:
    """Return a cell's directory below the grid's; no name of a system has a plus sign."""
    return f"cells/{cell.name.replace(' | ', '+')}"


def _index_config(config: GridSource, name: str, run: Run) -> index.Config | None:
    """Return how a retriever's corpus is encoded, once for all answerers; None: it need not be."""
    dense = _dense(config.retrievers[name])
    if dense is None or dense.index:
        return None
    return index.Config(
        corpus=config.corpus_path,
        model=dense.model,
        encoder=dense.encoder,
        skip_bad=config.skip_bad,
        output=run / "indexes" / name,
    )


def _dense(retriever: Retriever) -> Dense | None:
    if isinstance(retriever, Fused):
        return retriever.dense
    return retriever if isinstance(retriever, Dense) else None


def _cell_config(
    config: GridSource, cell: Cell, indexes: Mapping[str, index.Config | None], run: Run
) -> eval_e2e.Config:
    """Return the evaluation that a cell is, with the settings of the grid that it has too."""
    shared = GridSource.model_fields.keys() & eval_e2e.Config.model_fields.keys()
    values = {key: getattr(config, key) for key in shared}
    values["output"] = run / folder_of(cell)
    values["answerer"] = config.answerers[cell.answerer]
    values["passages"] = "retrieved" if cell.retriever else "gold"
    if cell.retriever:
        made = indexes[cell.retriever]
        retriever = config.retrievers[cell.retriever]
        values["retriever"] = _with_index(retriever, made.output) if made else retriever
    return build(eval_e2e.Config, Source(values))


def _with_index(retriever: Retriever, folder: Path | None) -> Retriever:
    if isinstance(retriever, Fused):
        dense = retriever.dense.model_copy(update={"index": folder})
        return retriever.model_copy(update={"dense": dense})
    return retriever.model_copy(update={"index": folder})
