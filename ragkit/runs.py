"""Run directories: where a command's results, provenance and log are, and how it is resumed.

A run directory belongs to one command with one configuration and one set of inputs. The same
command on it again goes on where it was, or finds all done; anything else is refused with the
differences.
Where torchrun starts a command in several processes, rank 0 alone opens, locks and writes the
directory; the others wait for it and read.
What a command does is not this module's business.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import filelock
import yaml

import ragkit
from ragkit import log
from ragkit.config.blocks import StageConfig, consumed
from ragkit.data.files import atomic_write, read_json, sha256_file, sha256_text, write_json
from ragkit.errors import RunError
from ragkit.log import is_main_process, logger
from ragkit.models import ranks
from ragkit.models.resolve import local_model

_PACKAGES = (
    "torch", "transformers", "datasets", "sentence-transformers", "accelerate", "peft", "deepspeed",
    "faiss-cpu", "bm25s", "openai", "rouge-score", "sacrebleu", "pydantic", "numpy",
)  # fmt: skip
_JOURNAL = "journal.jsonl"
_ACCOUNT = ("config.yaml", "run.json", "log.txt", "bad-lines.jsonl")
_UNHASHED = ("log.txt", "run.json", ".lock", "checkpoints")  # of a run directory that is an input


@dataclass
class Run:
    """An open run directory.

    done: everything was finished by an earlier process
    timings: seconds of each named part, kept in run.json
    main: this process writes to it; of several, rank 0
    """

    path: Path
    done: bool
    timings: dict[str, float] = field(default_factory=dict)
    main: bool = True

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time that the block takes to `timings[part]`, in seconds."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.timings[part] = round(self.timings.get(part, 0.0) + time.monotonic() - start, 3)


def config_hash(command: str, config: StageConfig) -> str:
    """Return eight hex digits that name a command with its configuration.

    What may change between two starts is left out: they shall find the same run directory.
    """
    return sha256_text(command, json.dumps(_lasting(_plain(config)), sort_keys=True))[:8]


def _lasting(value: Any) -> Any:
    """Return a configuration without the keys that no result depends on, at every depth."""
    if isinstance(value, dict):
        return {k: _lasting(v) for k, v in value.items() if k not in StageConfig.UNCOMPARED}
    return [_lasting(v) for v in value] if isinstance(value, list) else value


def default_path(command: str, config: StageConfig) -> Path:
    """Return the run directory of a configuration that names none."""
    return Path("runs") / f"{command}-{config_hash(command, config)}"


@contextlib.contextmanager
def open_run(
    command: str,
    config: StageConfig,
    argv: list[str],
    restart: bool = False,
    reopen: Callable[[Path], bool] | None = None,
    distributed: bool = False,
) -> Iterator[Run]:
    """Open, create or resume the run directory of a command.

    restart: move what is there aside and begin anew
    reopen: says whether a finished run is to be gone through again
    distributed: the command can work in several processes
    Raises:
        RunError: locked by another process, unwritable, or of another command, config or input;
            several processes for a command that works in one.
    """
    arguments = (command, config, argv, restart, reopen)
    if ranks.count() == 1:
        with _opened(*arguments) as run:
            yield run
        return
    if not distributed:
        raise RunError(
            f"ragkit {command} works in one process, and WORLD_SIZE is {ranks.count()}; "
            "torchrun is for `ragkit train-retriever` and `ragkit index`"
        )
    with ranks.joined(), _led(*arguments) if is_main_process() else _followed() as run:
        yield run


@contextlib.contextmanager
def _led(*arguments: Any) -> Iterator[Run]:
    """Open the run directory and tell the other processes, who wait in `_followed`."""
    with contextlib.ExitStack() as stack:
        run: Run | None = None
        try:
            run = stack.enter_context(_opened(*arguments))
        finally:
            ranks.decided(lambda: run and Run(run.path, run.done, main=False))
        yield run


@contextlib.contextmanager
def _followed() -> Iterator[Run]:
    """Wait until rank 0 has opened the run directory; end where it could not and has said why."""
    run: Run | None = ranks.decided(lambda: None)
    if run is None:
        raise SystemExit(1)
    yield run


@contextlib.contextmanager
def _opened(
    command: str,
    config: StageConfig,
    argv: list[str],
    restart: bool,
    reopen: Callable[[Path], bool] | None,
) -> Iterator[Run]:
    path = config.output or default_path(command, config)
    _make_folder(path)
    lock = filelock.FileLock(path / ".lock")
    try:
        held = lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise RunError(f"{path}: another process is working in this run directory") from error
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error
    with held:
        if restart:
            _move_aside(path)
        record: dict[str, Any] = {"command": command, "config": _plain(config)}
        record["inputs"] = _inputs(config)
        record["code"] = code_version()
        before = _resume(path, record, config.UNCOMPARED)
        done = before.get("status") == "done" and before["config"] == record["config"]
        done = done and not (reopen and reopen(path))
        run = Run(path, done, before.get("timings", {}))
        starts: list[dict[str, Any]] = [*before.get("starts", [])]
        record["starts"] = [*starts, {"argv": argv, "time": _now()}]
        if done:
            logger.info("%s: all done already", path)
            yield run
            return
        yield from _supervised(run, record)


def _supervised(run: Run, record: dict[str, Any]) -> Iterator[Run]:
    """Yield the run with provenance written before and status written after."""
    record |= {"processes": ranks.count(), "provenance": provenance()}
    # run.json comes first: by it a run that is killed now is known as one
    write_json(run / "run.json", {**record, "timings": run.timings, "status": "running"})
    with atomic_write(run / "config.yaml") as f:
        yaml.safe_dump(record["config"], f, sort_keys=False, allow_unicode=True)
    close_log = log.to_file(run / "log.txt")
    started = time.monotonic()

    def write(status: str, **more: object) -> None:
        write_json(run / "run.json", {**record, "timings": run.timings, "status": status, **more})

    try:
        logger.info("%s -> %s", record["command"], run.path)
        yield run
        spent = time.monotonic() - started
        run.timings["total"] = round(run.timings.get("total", 0.0) + spent, 3)
        write("done", finished=_now(), device=_device())
    except BaseException as error:
        with contextlib.suppress(RunError):
            write("failed", finished=_now(), error=f"{type(error).__name__}: {error}")
        raise
    finally:
        close_log()


@cache
def code_version() -> str:
    """Return ragkit's version and a hash of its source, so that changed code is seen."""
    digest = hashlib.sha256()
    root = Path(ragkit.__file__).parent
    for file in sorted([*root.rglob("*.py"), *root.glob("*/templates/*")]):
        digest.update(file.read_bytes())
    return f"{ragkit.__version__}+{digest.hexdigest()[:10]}"


def provenance() -> dict[str, Any]:
    """Return what one needs to know to make a result again: versions, machine, git state."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "git": _git_state(),
    }


def package_versions() -> dict[str, str | None]:
    """Return the versions of the packages that results depend on; None where not installed."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's file names and contents."""
    if path.is_file():
        return sha256_file(path)
    files = [p for p in sorted(path.rglob("*")) if p.is_file()]
    unhashed = _UNHASHED if (path / "run.json").exists() else ()
    kept = [p for p in files if p.relative_to(path).parts[0] not in unhashed]
    return sha256_text(*(part for p in kept for part in (str(p.relative_to(path)), sha256_file(p))))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: the run directory cannot be made: {error.strerror}") from error


def _move_aside(path: Path) -> None:
    """Move what a run directory holds into `<path>.old-<n>` beside it.

    The journal stays (a copy goes along): what was paid for is good for any later run.
    """
    contents = [p for p in path.iterdir() if p.name not in (".lock", _JOURNAL)]
    if not contents:
        return
    n = 1
    while (old := path.with_name(f"{path.name}.old-{n}")).exists():
        n += 1
    old.mkdir()
    for item in contents:
        item.rename(old / item.name)
    if (path / _JOURNAL).exists():
        shutil.copyfile(path / _JOURNAL, old / _JOURNAL)
    logger.info("%s: what was there is in %s now", path, old)


def _resume(path: Path, record: Mapping[str, Any], uncompared: frozenset[str]) -> Mapping[str, Any]:
    """Check a run directory against what is asked; return its account, empty for a new one."""
    if not (path / "run.json").exists():
        strangers = [p.name for p in path.iterdir() if p.name != _JOURNAL and p.name[0] != "."]
        if strangers:
            raise RunError(
                f"{path}: not a run directory, and not empty ({', '.join(sorted(strangers)[:5])}); "
                "name another with -o"
            )
        return {}
    before: dict[str, Any] = read_json(path / "run.json")
    if not isinstance(before, dict) or not {"command", "config", "inputs", "status"} <= set(before):
        raise RunError(f"{path}: its run.json is not ragkit's; name another directory with -o")
    if before["status"] == "failed" and not _products(path):
        return {}  # it failed on its input, which may have been mended since
    changes = _differences(before, record, uncompared)
    if changes:
        raise RunError(
            f"{path}: made by a different run:\n  "
            + "\n  ".join(changes)
            + "\nName another directory with -o, or begin anew with --restart "
            "(what is there is kept beside)."
        )
    return before


def _products(path: Path) -> list[Path]:
    """Return what a command has left in its run directory beside the account of itself."""
    return [p for p in path.iterdir() if p.name not in _ACCOUNT and not p.name.startswith(".")]


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], uncompared: frozenset[str]
) -> list[str]:
    if before["command"] != now["command"]:
        return [f"command: {before['command']} (now {now['command']})"]
    found = []
    old, new = _flat(before["config"]), _flat(now["config"])
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key) and not uncompared.intersection(key.split(".")):
            found.append(f"{key}: {old.get(key)!r} (now {new.get(key)!r})")
    for key in dict.fromkeys([*before["inputs"], *now["inputs"]]):
        a, b = before["inputs"].get(key), now["inputs"].get(key)
        if uncompared.intersection(key.split(".")):
            continue
        if a and b and a["path"] == b["path"] and a["sha256"] != b["sha256"]:
            found.append(f"{key}: the content of {a['path']} has changed")
    if before["code"] != now["code"]:
        found.append(f"ragkit: {before['code']} (now {now['code']})")
    return found


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            k: v for key, sub in value.items() for k, v in _flat(sub, f"{prefix}{key}.").items()
        }
    return {prefix.rstrip("."): value}


def _plain(config: StageConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"output"}, by_alias=True)


def _inputs(config: StageConfig) -> dict[str, dict[str, str]]:
    found = {}
    for key, value, kind in consumed(config):
        path = Path(value) if kind == "input" else local_model(str(value))
        if path is not None:
            try:
                found[key] = {"path": str(path), "sha256": hash_of(path)}
            except OSError as error:
                raise RunError(f"{key}: {error.filename}: {error.strerror}") from error
    return found


def _git_state() -> dict[str, Any] | None:
    """Return commit and cleanliness of the checkout that ragkit runs from, if it is one."""
    root = Path(ragkit.__file__).parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", ".")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None


def _device() -> str | None:
    """Return the device that torch would use, if this run loaded torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu ({torch.get_num_threads()} threads)"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
