"""`ragkit convert`: a checkpoint into another layout, with proof that it is the same model.

Its output is no run directory but the checkpoint itself, with an account in `conversion.json`.
"""

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from rich.table import Table

from ragkit.checkpoints import proof
from ragkit.checkpoints.layouts import LAYOUTS, Layout, layout_of, writable
from ragkit.checkpoints.parts import Checkpoint, Reading, Writing, check_layers
from ragkit.checkpoints.references import located
from ragkit.checkpoints.weights import PRECISIONS
from ragkit.config.blocks import Block, Vectors
from ragkit.data.files import write_json
from ragkit.errors import ConfigError, ModelError, RunError
from ragkit.log import logger, progress
from ragkit.stages.convert_text import ACCOUNT, account_of, inspected, precisions, told


class Config(Block):
    """Configuration of `convert`."""

    source: str = Field(description="the checkpoint: a folder, a file, a run or a hub name")
    to: str | None = Field(None, description="the layout to write; see the table of layouts")
    output: Path | None = Field(None, description="the folder to write")
    dtype: Literal["fp32", "bf16", "fp16"] | None = Field(
        None, description="precision of the weights; unset: as they are"
    )
    max_shard_size: str = Field("2GB", description="of a file of weights, at most")
    base: str | None = Field(
        None,
        description="the model that it was made from: its configuration and tokenizer where the "
        "checkpoint has none, and what adapters are added to or taken from",
    )
    passages: str | None = Field(
        None, description="the passages' tower, where `source` is that of the questions alone"
    )
    rank: int = Field(16, gt=0, description="of the adapters that are extracted (to: lora)")
    encoder: Vectors = Field(
        Vectors(), description="an encoder's settings, where its files do not say them"
    )
    check: bool = Field(True, description="compare each tensor after writing")
    outputs: bool | None = Field(
        None,
        description="compare outputs too, where transformers loads both sides; unset: of models "
        "that take up to 2 GiB in fp32",
    )
    force: bool = Field(False, description="replace what is at `output`")
    trust_checkpoint: bool = Field(
        False, description="load what could run code (DeepSpeed's own files are such)"
    )

    @field_validator("max_shard_size")
    @classmethod
    def _size(cls, size: str) -> str:
        if re.fullmatch(r"\d+(\.\d+)?[KMGT]B", size) and float(size[:-2]) > 0:
            return size
        raise ValueError(f"{size!r}: expected a size in KB, MB, GB or TB, such as 500MB")


def convert(config: Config) -> str:
    """Convert a checkpoint; return what is printed.

    Raises:
        ConfigError: no layout, or one that is not written.
        RunError: the output exists, or cannot be written.
        ModelError: no checkpoint, a damaged one, one that the layout cannot hold, or a check that
            fails: then nothing is left at the output.
    """
    target, output = _target(config)
    reading = _reading(config)
    layout, checkpoint = opened(config, reading)
    _check_place(output, [checkpoint.path, reading.base, reading.passages])
    if config.check and layout.load is not None:
        layout.load(checkpoint.path, reading, "meta")  # before hours of writing
    writing = Writing(config.encoder, config.max_shard_size, reading.base, config.rank)
    assert target.adapt is not None and target.write is not None
    adapted = target.adapt(checkpoint, writing)
    if config.dtype:
        adapted = adapted.cast(PRECISIONS[config.dtype])
    proof.check_used(adapted)
    _check_place(output, _read_of(adapted))
    with _beside(output, config.force) as folder:
        target.write(adapted, folder, writing)
        account = account_of(config.source, layout, target, adapted)
        if config.check:
            account |= _prove(config, reading, adapted, layout, target, folder)
        write_json(folder / ACCOUNT, account)
    return told(account, output)


def inspect(config: Config) -> Table:
    """Return what a checkpoint is, and what it can become."""
    reading = _reading(config)
    layout, checkpoint = opened(config, reading)
    writing = Writing(config.encoder, base=reading.base, rank=config.rank)
    return inspected(config.source, layout, checkpoint, writing)


def opened(config: Config, reading: Reading) -> tuple[Layout, Checkpoint]:
    """Find a checkpoint's layout and open it.

    Raises:
        ModelError: no checkpoint, a damaged one, or layers that its configuration does not have.
    """
    path = located(config.source)
    layout = layout_of(path)
    checkpoint = layout.read(path, reading)
    if reading.passages:
        towers = {config.source: layout, config.passages: layout_of(reading.passages)}
        for tower, its in towers.items():
            if its.name != "hf":
                raise ConfigError(
                    f"passages: {config.passages}: two towers are read from two plain folders "
                    f"(hf), and {tower} is {its.name}"
                )
    for tower, part in checkpoint.parts.items():
        check_layers(part, f"{path} ({tower})" if tower else str(path))
    logger.info("%s: %s, %s", path, layout.name, precisions(checkpoint))
    return layout, checkpoint


def _reading(config: Config) -> Reading:
    return Reading(_given(config.base), _given(config.passages), config.trust_checkpoint)


def _given(reference: str | None) -> Path | None:
    return None if reference is None else located(reference)


def _target(config: Config) -> tuple[Layout, Path]:
    """Return the layout to write, and where."""
    if config.to not in writable():
        said = f"{config.to!r}: no layout that is written" if config.to else "not set"
        raise ConfigError(f"to: {said}; there are {', '.join(writable())} (--to)")
    if config.output is None:
        raise ConfigError("output: not set; the folder to write (-o)")
    if not config.output.name:
        raise ConfigError(f"output: {config.output}: the name of a folder to make (-o)")
    if os.path.lexists(config.output) and not config.force:
        raise RunError(f"{config.output}: exists already; --force replaces it")
    return LAYOUTS[config.to], config.output


def _check_place(output: Path, given: Iterable[Path | None]) -> None:
    """Make sure that nothing that is read lies in what --force replaces."""
    place = output.resolve()
    for path in given:
        if path is not None and path.resolve().is_relative_to(place):
            raise RunError(f"{output}: {path} is read, and --force would remove it: another -o")


def _read_of(checkpoint: Checkpoint) -> dict[Path, None]:
    """Return the files that a checkpoint is read from."""
    weights = (s.file for weight in checkpoint.named().values() for s in weight.sources)
    others = (file for part in checkpoint.parts.values() for file in part.files.values())
    return dict.fromkeys((*weights, *others))


@contextmanager
def _beside(output: Path, force: bool) -> Iterator[Path]:
    """Give a new folder beside the output, which takes its name if all goes well."""
    for left in sorted(output.parent.glob(f".{glob.escape(output.name)}.*")):
        logger.warning(
            "%s: of another conversion, that runs or was killed: it may be removed", left
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    except OSError as error:
        raise RunError(f"{output}: cannot be written: {error.strerror}") from error
    try:
        yield folder
        folder.chmod(0o755)
        if os.path.lexists(output):
            if not force:
                raise RunError(f"{output}: exists by now; --force replaces it")
            old = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.old."))
            replaced = output.rename(old / output.name)
            try:
                folder.rename(output)
            except OSError:
                replaced.rename(output)
                old.rmdir()
                raise
            shutil.rmtree(old)
        else:
            folder.rename(output)
    except OSError as error:
        raise RunError(f"{output}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prove(
    config: Config,
    reading: Reading,
    adapted: Checkpoint,
    layout: Layout,
    target: Layout,
    folder: Path,
) -> dict[str, Any]:
    """Read the target again and compare it with its source; return what is to be told of it."""
    alone = replace(reading, passages=None)
    written = (target.written or target.read)(folder, alone)
    total = len(written.named())
    traced = [
        t.to_json() for t in progress(proof.trace(adapted, written), "checking", total, "tensors")
    ]
    account: dict[str, Any] = {"tensors": traced, "outputs": None}
    if target.load is None:
        return account | {"not_run": f"transformers does not load {target.name}"}
    target.load(folder, alone, "meta")
    if layout.load is None:
        return account | {"not_run": f"transformers does not load {layout.name}"}
    if config.outputs is False:
        return account | {"not_run": "not asked for (--no-outputs)"}
    if not (config.outputs or proof.is_small(adapted)):
        return account | {"not_run": "it is large (--outputs: do it all the same)"}
    # one side's models in memory at a time
    try:
        before = proof.outputs_of(layout.load(adapted.path, reading, "cpu"))
    except proof.NotRunError as error:
        return account | {"not_run": str(error)}
    try:
        after = proof.outputs_of(target.load(folder, alone, "cpu"))
    except proof.NotRunError as error:
        raise ModelError(f"it ran before and does not now: {error}") from error
    exact = not any(weight.how for weight in adapted.named().values())
    difference = proof.largest_difference(before, after, exact)
    if difference is None:
        return account | {"not_run": "none of them is a finite number, on both sides"}
    return account | {"outputs": {"largest_difference": difference}}
