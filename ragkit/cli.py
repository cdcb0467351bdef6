"""The command line: one command a row of `stages.STAGES`, and a few that need no run directory.

Nothing heavy is imported until a command runs. A RagkitError becomes one message and its exit code.
"""

import inspect
import keyword
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragkit import __version__, log
from ragkit.errors import ConfigError, RagkitError
from ragkit.stages import STAGES, Stage

if TYPE_CHECKING:
    from ragkit.config.blocks import Block, StageConfig
    from ragkit.config.load import Source

app = typer.Typer(
    help="Adapt a RAG system to your documents, and prove that it got better.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Write, check and show configurations.", no_args_is_help=True)
app.add_typer(config_app, name="config")

_WIDTH = 110

ConfigFiles = Annotated[
    list[Path], typer.Option("--config", "-c", help="YAML; later files win", metavar="FILE")
]
Settings = Annotated[
    list[str], typer.Option("--set", help="one value of the configuration", metavar="KEY=VALUE")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="run directory", metavar="FOLDER")
]
Restart = Annotated[bool, typer.Option("--restart", help="begin anew; the old is kept beside")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check and show; do nothing")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="set malformed lines aside")]
Command = Annotated[str, typer.Argument(metavar="COMMAND", help="of ragkit, or run")]


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # of weights loaded and written; not of downloads
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    log.setup()
    try:
        app()
    except RagkitError as error:
        rank = "" if log.is_main_process() else f" (rank {os.environ['RANK']})"
        for line in str(error).splitlines():
            typer.echo(f"ragkit{rank}: {line}", err=True)
        sys.exit(error.exit_code)


def _stage_command(stage: Stage) -> Callable[..., None]:
    """Make the function of a command; typer reads its signature."""

    def command(**given: Any) -> None:
        source = _source(stage, given)
        if given["dry_run"]:
            _dry_run(stage.name, _build(stage, source))
            return
        from ragkit.stages.pipeline import judge, run_stage

        module = stage.load()
        path = run_stage(stage.name, module, _build(stage, source), sys.argv, given["restart"])
        if log.is_main_process():
            _print(module.show(path))
        judge(module, path)

    kind = list[str] if stage.several else str
    argument = Annotated[kind | None, typer.Argument(metavar=stage.metavar)]  # type: ignore[valid-type]
    extra = {
        _parameter(name): Annotated[
            str | None, typer.Option(name, *_short(name), help=key, metavar="VALUE")
        ]
        for name, key in stage.options.items()
    }
    extra |= {
        _parameter(name): Annotated[
            list[str], typer.Option(name, help=f"{key}; may be given again", metavar="VALUE")
        ]
        for name, key in stage.repeated.items()
    }
    extra |= {
        _parameter(flag): Annotated[bool, typer.Option(flag, help=key)]
        for flag, key in stage.flags.items()
    }
    common: dict[str, tuple[Any, Any]] = {
        "config": (ConfigFiles, []),
        "settings": (Settings, []),
        "output": (Output, None),
        "restart": (Restart, False),
        "dry_run": (DryRun, False),
    }
    if stage.reads:
        common["skip_bad"] = (SkipBad, False)
    defaults: dict[str, Any] = dict.fromkeys(map(_parameter, stage.flags), False)
    defaults |= {_parameter(name): [] for name in stage.repeated}
    named = {n: (a, defaults.get(n)) for n, a in extra.items()}
    parameters = {"input_": (argument, None), **named, **common}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=a)
            for n, (a, default) in parameters.items()
        ]
    )
    command.__annotations__ = {n: a for n, (a, _) in parameters.items()}
    return command


def _parameter(option: str) -> str:
    """Return the name of the parameter that an option is: `--from` would be a keyword."""
    name = option.removeprefix("--").replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def _short(name: str) -> list[str]:
    return ["-m"] if name == "--model" else []


for _stage in STAGES.values():
    app.command(_stage.name, help=_stage.help)(_stage_command(_stage))


@app.command("run")
def run_pipeline(
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE.yaml")],
    settings: Settings = [],  # noqa: B006  (typer copies it)
    output: Output = None,
    restart: Restart = False,
    dry_run: DryRun = False,
) -> None:
    """Run the steps of a pipeline, skipping what is done."""
    from ragkit.config import load
    from ragkit.stages import pipeline as stage

    source = load.merge(
        [load.read_yaml(pipeline), *map(load.parse_set, settings), *_output(output)]
    )
    config = load.build(stage.Config, source)
    if dry_run:
        folder = config.output or Path("runs") / "..."
        for item in stage.plan(config, source, folder):
            typer.echo(f"# {item.step.id}: {item.stage.name}")
            pending = tuple(folder / other.id for other in config.steps)
            _dry_run(item.stage.name, item.config(pending))
        return
    path = stage.execute(config, source, sys.argv, restart)
    last = config.steps[-1]
    _print(STAGES[last.run].load().show(path))
    typer.echo(f"run directory: {path.parent}")


@app.command("convert")
def convert_checkpoint(
    checkpoint: Annotated[str | None, typer.Argument(metavar="CHECKPOINT")] = None,
    to: Annotated[str | None, typer.Option(help="to: the layout to write")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="the folder to write", metavar="FOLDER")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="dtype: fp32, bf16 or fp16")] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(help="max_shard_size", metavar="SIZE")
    ] = None,
    base: Annotated[str | None, typer.Option(help="base", metavar="MODEL")] = None,
    passages: Annotated[str | None, typer.Option(help="passages", metavar="MODEL")] = None,
    rank: Annotated[str | None, typer.Option(help="rank", metavar="N")] = None,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="show what it is and can become; write nothing")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="replace what is at the output")] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="do not compare afterwards")] = False,
    outputs: Annotated[
        bool | None, typer.Option("--outputs/--no-outputs", help="run both sides and compare")
    ] = None,
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="load what could run code")
    ] = False,
    config: ConfigFiles = [],  # noqa: B006
    settings: Settings = [],  # noqa: B006
) -> None:
    """Bring a checkpoint into another layout, and prove that nothing was lost."""
    from ragkit.config import load

    values = {
        "source": checkpoint, "to": to, "output": output, "dtype": dtype,
        "max_shard_size": max_shard_size, "base": base, "passages": passages, "rank": rank,
        "force": force or None, "check": False if no_check else None,
        "outputs": outputs,
        "trust_checkpoint": trust_checkpoint or None,
    }  # fmt: skip
    flags = {key: f"--{key.replace('_', '-')}" for key in values}
    named = [load.option(k, v, flags[k]) for k, v in values.items() if v is not None]
    sources = [*map(load.read_yaml, config), *named, *map(load.parse_set, settings)]
    from ragkit.stages import convert as stage

    wanted = load.build(stage.Config, load.merge(sources))
    _print(stage.inspect(wanted) if inspect else stage.convert(wanted))


@config_app.command("init")
def config_init(command: Command) -> None:
    """Print a commented starter YAML for a command."""
    from ragkit.config.describe import starter

    typer.echo(starter(_config_model(command), command), nl=False)


@config_app.command("check")
def config_check(command: Command, files: list[Path], settings: Settings = []) -> None:  # noqa: B006
    """Check configuration files of a command, all problems at once."""
    from ragkit.config import load

    source = load.merge([*map(load.read_yaml, files), *map(load.parse_set, settings)])
    config = load.build(_config_model(command), source)
    if command == "run":
        from ragkit.stages import pipeline

        assert isinstance(config, pipeline.Config)
        pipeline.plan(config, source, config.output or Path("runs") / "checked")
    typer.echo(f"{', '.join(map(str, files))}: fine")


@config_app.command("show")
def config_show(
    command: Command,
    config: ConfigFiles = [],  # noqa: B006
    settings: Settings = [],  # noqa: B006
) -> None:
    """Print the resolved configuration of a command."""
    from ragkit.config import load

    sources = [*map(load.read_yaml, config), *map(load.parse_set, settings)]
    _print_config(load.build(_config_model(command), load.merge(sources)))


@config_app.command("schema")
def config_schema(command: Command) -> None:
    """Print the JSON Schema of a command's configuration."""
    import json

    typer.echo(json.dumps(_config_model(command).model_json_schema(), indent=2))


@app.command()
def doctor() -> None:
    """Show versions, devices, precision, disk and extras."""
    from ragkit.stages.doctor import report

    _print(report())


@app.command()
def version() -> None:
    """Print ragkit's version."""
    typer.echo(__version__)


def _source(stage: Stage, given: dict[str, Any]) -> "Source":
    """Merge config files, --set and options into one source."""
    from ragkit.config import load

    sources = [load.read_yaml(path) for path in given["config"]]
    named = []
    if given["input_"]:
        named.append(load.option(stage.argument, given["input_"], ""))
    for name, key in stage.options.items():
        value = given[_parameter(name)]
        if value is not None:
            named.append(load.option(_meant(key, value, given), value, f"{name} {value}"))
    for name, key in stage.repeated.items():
        if values := given[_parameter(name)]:
            named.append(load.option(key, values, name))
    for name, key in stage.flags.items():
        if given[_parameter(name)]:
            named.append(load.option(key, True, name))
    if given.get("skip_bad"):
        named.append(load.option("skip_bad", True, "--skip-bad"))
    sets = [load.parse_set(s) for s in given["settings"]]
    return load.merge([*sources, *named, *sets, *_output(given["output"])])


def _meant(key: str, value: str, given: dict[str, Any]) -> str:
    """Return the key that an option sets: a system by name, or the encoder of a fused one."""
    if key == "retriever.model" and value in ("bm25", "dense", "fused"):
        return "retriever.type"
    if key == "retriever.model" and given.get("retriever") == "fused":
        return "retriever.dense.model"
    return key


def _output(output: Path | None) -> list["Source"]:
    from ragkit.config import load

    return [load.option("output", str(output), "--output")] if output else []


def _build(stage: Stage, source: "Source") -> "StageConfig":
    from ragkit.config import load

    return load.build(stage.load().Config, source)


def _config_model(command: str) -> type["Block"]:
    if command == "run":
        from ragkit.stages import pipeline

        return pipeline.Config
    if command == "convert":
        from ragkit.stages import convert

        return convert.Config
    if command not in STAGES:
        names = ", ".join([*STAGES, "convert", "run"])
        raise ConfigError(f"no command {command!r}; there are {names}")
    return STAGES[command].load().Config


def _dry_run(command: str, config: "StageConfig") -> None:
    from ragkit.config.blocks import consumed
    from ragkit.runs import default_path

    _print_config(config)
    typer.echo(f"# run directory: {config.output or default_path(command, config)}")
    inputs = [Path(value) for _, value, kind in consumed(config) if kind == "input"]
    estimate = getattr(STAGES[command].load(), "estimate", None)
    if estimate and all(path.exists() for path in inputs):
        for line in estimate(config):
            typer.echo(f"# {line}")


def _print_config(config: "Block") -> None:
    import yaml

    plain = config.model_dump(mode="json", by_alias=True)
    typer.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)


def _print(result: Any) -> None:
    from rich.console import Console

    # a file has no width: leave room for a table of five metrics
    width = None if sys.stdout.isatty() else _WIDTH
    Console(width=width, soft_wrap=isinstance(result, str)).print(result, markup=False)
