"""`ragkit run`: the steps of a pipeline YAML, in order, in one run directory.

`@qa/train.jsonl` names a file of the earlier step `qa`. All steps are checked before the first one
runs; steps that are done are skipped.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from ragkit.config.blocks import Block, StageConfig
from ragkit.config.load import Key, Source, build
from ragkit.errors import ConfigError
from ragkit.log import logger
from ragkit.runs import default_path, open_run
from ragkit.stages import STAGES, Stage, StageModule


class Step(Block):
    """One step: a command and its configuration."""

    id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]*$", description="its folder, and its @name"
    )
    run: str = Field(description="the command")
    with_: dict[str, Any] = Field({}, alias="with", description="the command's configuration")


class Config(StageConfig):
    """Configuration of `run`: a pipeline; each step guards its own run directory."""

    UNCOMPARED = StageConfig.UNCOMPARED | {"steps"}

    steps: list[Step] = Field(min_length=1, description="what to run, in order")


@dataclass(frozen=True)
class Planned:
    """A step that is ready to run: its values with `@` references resolved."""

    step: Step
    stage: Stage
    source: Source

    def config(self, pending: tuple[Path, ...] = ()) -> StageConfig:
        """Check the step's configuration; files below `pending` folders need not exist yet."""
        return build(self.stage.load().Config, self.source, {"pending": pending})


def plan(config: Config, source: Source, folder: Path) -> list[Planned]:
    """Resolve and check every step.

    Raises:
        ConfigError: all problems of all steps.
    """
    planned: list[Planned] = []
    problems: list[str] = []
    for i in range(len(config.steps)):
        try:
            planned.append(_plan_step(config, i, _part(source, ("steps", i, "with")), folder))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return planned


def execute(config: Config, source: Source, argv: list[str], restart: bool) -> Path:
    """Run the steps that are not done; return the last step's run directory."""
    folder = config.output or default_path("run", config)
    planned = plan(config, source, folder)
    with open_run("run", config.model_copy(update={"output": folder}), argv, restart):
        for number, item in enumerate(planned, start=1):
            logger.info("step %d of %d: %s", number, len(planned), item.step.id)
            module = item.stage.load()
            judge(module, run_stage(item.stage.name, module, item.config(), argv))
    return folder / planned[-1].step.id


def run_stage(
    name: str, module: StageModule, config: StageConfig, argv: list[str], restart: bool = False
) -> Path:
    """Run one command in its run directory, unless all is done; return the directory."""
    reopen = getattr(module, "reopen", None)
    again = (lambda path: bool(reopen(config, path))) if reopen else None
    distributed = getattr(module, "DISTRIBUTED", False)
    with open_run(name, config, argv, restart, again, distributed) as run:
        if not run.done:
            module.run(config, run)
        return run.path


def judge(module: StageModule, path: Path) -> None:
    """Have a stage say whether the results in its run directory are good enough.

    Raises:
        GateError: they are not.
    """
    if check := getattr(module, "check", None):
        check(path)


def _plan_step(config: Config, i: int, source: Source, folder: Path) -> Planned:
    step, names = config.steps[i], [s.id for s in config.steps[:i]]
    where = f"{source.place(())}  step {step.id}"
    if step.run not in STAGES:
        close = difflib.get_close_matches(step.run, STAGES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(STAGES)}"
        raise ConfigError(f"{where}: no command {step.run!r} ({hint})")
    if step.id in names:
        raise ConfigError(f"{where}: an earlier step has this id")
    if "output" in step.with_:
        raise ConfigError(f"{where}: output: a step's run directory is its id, in the pipeline's")
    unknown: list[str] = []
    values = _resolve(source.values, folder, names, unknown)
    values = {"seed": config.seed, **values, "output": str(folder / step.id)}
    planned = Planned(step, STAGES[step.run], Source(values, source.places))
    problems = [f"{where}: {problem}" for problem in unknown]
    try:
        planned.config(pending=(folder,) if unknown else tuple(folder / name for name in names))
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return planned


def _resolve(value: Any, folder: Path, names: list[str], unknown: list[str]) -> Any:
    """Replace `@step/file` by the path of that file, in all strings; note unknown steps."""
    if isinstance(value, Mapping):
        return {key: _resolve(item, folder, names, unknown) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, folder, names, unknown) for item in value]
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    name, _, rest = value[1:].partition("/")
    if name not in names:
        unknown.append(
            f"{value}: no earlier step {name!r} (there are {', '.join(names) or 'none'})"
        )
    return str(folder / name / rest) if rest else str(folder / name)


def _part(source: Source, key: Key) -> Source:
    """Return the subtree of a source below `key`, places included."""
    values: Any = source.values
    for part in key:
        values = values.get(part, {}) if isinstance(values, dict) else values[part]
    places = {k[len(key) :]: p for k, p in source.places.items() if k[: len(key)] == key}
    return Source(values or {}, {(): source.place(key), **places})
