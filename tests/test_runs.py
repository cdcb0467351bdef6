"""Run directories: whose they are, how they are resumed, and what they tell."""

import contextlib
import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest
import yaml
from pydantic import Field

from ragkit import runs
from ragkit.config.blocks import Block, InputPath, ModelRef, StageConfig
from ragkit.data.files import read_json
from ragkit.errors import RunError
from ragkit.stages import qa_gen
from ragkit.stages.pipeline import Config as Pipeline


class Size(Block):
    """A block."""

    tokens: int = 200


class Part(Block):
    """A block that names a file."""

    file: InputPath


class Config(StageConfig):
    """The configuration of a command that counts."""

    input: InputPath
    model: ModelRef = "embedded"
    size: Size = Size()
    names: list[str] = Field([])
    parts: dict[str, Part] = {}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration with an input file and a run directory that is not there yet."""
    (tmp_path / "input.csv").write_text("text\none\n")
    return Config(input=tmp_path / "input.csv", output=tmp_path / "run")


def finish(config: StageConfig, command: str = "count", restart: bool = False) -> runs.Run:
    with runs.open_run(command, config, ["ragkit", command], restart) as run:
        if not run.done:
            (run / "result.txt").write_text("42")
    return run


def refused(config: StageConfig, command: str = "count") -> str:
    with pytest.raises(RunError) as caught, runs.open_run(command, config, []):
        raise AssertionError("it was opened")
    return str(caught.value)


def changed(config: Config, **values: object) -> Config:
    return config.model_copy(update=values)


def record(config: StageConfig) -> dict[str, Any]:
    assert config.output is not None
    return dict(read_json(config.output / "run.json"))


@pytest.mark.usefixtures("log_lines")
def test_a_run_leaves_config_provenance_status_and_log(config: Config) -> None:
    run = finish(config)
    assert {p.name for p in run.path.iterdir()} - {".lock"} == {
        "config.yaml", "run.json", "log.txt", "result.txt",
    }  # fmt: skip
    found = record(config)
    assert (found["command"], found["status"]) == ("count", "done")
    assert [start["argv"] for start in found["starts"]] == [["ragkit", "count"]]
    assert found["code"] == runs.code_version()
    assert found["config"] == yaml.safe_load((run / "config.yaml").read_text())
    assert found["config"] == config.model_dump(mode="json", exclude={"output"})
    assert {"python", "platform", "packages", "git"} <= set(found["provenance"])  # type: ignore[call-overload]
    assert f"count -> {run.path}" in (run / "log.txt").read_text()


def test_inputs_are_recorded_with_their_hashes(config: Config) -> None:
    finish(config)
    digest = hashlib.sha256(b"text\none\n").hexdigest()
    assert record(config)["inputs"] == {"input": {"path": str(config.input), "sha256": digest}}


def test_no_environment_variable_and_no_secret_is_written(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-4711")
    monkeypatch.setenv("SOME_VARIABLE", "value-of-a-variable")
    run = finish(config)
    written = "".join(p.read_text() for p in run.path.iterdir())
    assert "sk-very-secret-4711" not in written
    assert "value-of-a-variable" not in written
    assert "SOME_VARIABLE" not in written


def test_inputs_in_a_mapping_of_blocks_are_recorded_and_watched(config: Config) -> None:
    file = config.input.with_name("part.csv")
    file.write_text("one")
    config = changed(config, parts={"left": Part(file=file)})
    finish(config)
    assert record(config)["inputs"]["parts.left.file"]["path"] == str(file)  # type: ignore[index]
    file.write_text("two")
    assert f"parts.left.file: the content of {file} has changed" in refused(config)


def test_a_run_that_is_done_does_nothing_and_changes_no_file(
    config: Config, log_lines: list[str]
) -> None:
    run = finish(config)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.path.iterdir()}
    again = finish(config)
    assert (run.done, again.done) == (False, True)
    assert again.timings == read_json(run / "run.json")["timings"]
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.path.iterdir()} == before
    assert log_lines[-1] == f"{run.path}: all done already"


def test_a_failed_run_says_so_keeps_its_files_and_is_resumed(config: Config) -> None:
    with (
        pytest.raises(ValueError, match="no more"),
        runs.open_run("count", config, []) as run,
    ):
        (run / "half.txt").write_text("half")
        raise ValueError("no more")
    assert record(config)["status"] == "failed"
    assert record(config)["error"] == "ValueError: no more"
    with runs.open_run("count", config, []) as run:
        assert not run.done
        assert (run / "half.txt").read_text() == "half"
    assert record(config)["status"] == "done"
    assert "error" not in record(config)


def test_an_interrupted_run_says_so(config: Config) -> None:
    with pytest.raises(KeyboardInterrupt), runs.open_run("count", config, []):
        raise KeyboardInterrupt
    assert record(config)["error"] == "KeyboardInterrupt: "


def test_a_killed_run_is_resumed(config: Config) -> None:
    run = finish(config)
    killed = {**record(config), "status": "running"}
    (run / "run.json").write_text(json.dumps(killed))
    assert not finish(config).done
    assert record(config)["status"] == "done"


def test_a_run_killed_in_its_first_instant_is_resumed(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "provenance", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(config)
    assert not finish(config).done


def test_the_run_of_another_config_is_refused_with_key_old_and_new_value(config: Config) -> None:
    finish(config)
    other = changed(config, seed=3, size=Size(tokens=100), names=["a"])
    message = refused(other)
    assert message.splitlines()[:4] == [
        f"{config.output}: made by a different run:",
        "  seed: 0 (now 3)",
        "  size.tokens: 200 (now 100)",
        "  names: [] (now ['a'])",
    ]
    assert "-o" in message
    assert "--restart" in message


def test_the_run_of_another_command_is_refused(config: Config) -> None:
    finish(config)
    assert "command: count (now sum)" in refused(config, "sum")


def test_changed_content_of_an_input_is_refused(config: Config) -> None:
    finish(config)
    config.input.write_text("text\ntwo\n")
    assert f"input: the content of {config.input} has changed" in refused(config)


def test_a_changed_model_folder_is_refused_and_its_log_does_not_count(
    config: Config, tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    (earlier / "model").mkdir(parents=True)
    (earlier / "model" / "config.json").write_text("{}")
    config = changed(config, model=str(earlier))
    finish(config)
    (earlier / "log.txt").write_text("other")
    assert finish(config).done
    (earlier / "model" / "config.json").write_text('{"a": 1}')
    assert f"model: the content of {earlier / 'model'} has changed" in refused(config)


def test_changed_code_is_refused(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(config)
    monkeypatch.setattr(runs, "code_version", lambda: "9.9+0")
    assert "(now 9.9+0)" in refused(config)


def test_a_refusal_leaves_the_old_run_as_it_was(config: Config) -> None:
    run = finish(config)
    before = {p.name: p.read_bytes() for p in run.path.iterdir()}
    refused(changed(config, seed=3))
    assert {p.name: p.read_bytes() for p in run.path.iterdir()} == before


def test_a_foreign_folder_that_is_not_empty_is_refused(config: Config) -> None:
    assert config.output is not None
    config.output.mkdir()
    (config.output / "thesis.txt").write_text("years of work")
    message = refused(config)
    assert message == (
        f"{config.output}: not a run directory, and not empty (thesis.txt); name another with -o"
    )
    assert (config.output / "thesis.txt").read_text() == "years of work"


def test_an_empty_folder_is_taken(config: Config) -> None:
    assert config.output is not None
    config.output.mkdir()
    assert not finish(config).done


def test_an_output_below_a_file_cannot_be_made(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "input.csv" / "run"
    message = refused(changed(config, output=path))
    assert message == f"{path}: the run directory cannot be made: Not a directory"


def test_an_output_that_is_a_file_cannot_be_made(config: Config) -> None:
    message = refused(changed(config, output=config.input))
    assert message == f"{config.input}: the run directory cannot be made: File exists"
    assert config.input.read_text() == "text\none\n"


@contextlib.contextmanager
def held_by_another_process(lock: Path) -> Iterator[None]:
    code = (
        "import filelock, sys\n"
        "with filelock.FileLock(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", f"import sys\nsys.path[:] = {sys.path!r}\n{code}", str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate()


def test_a_run_directory_in_which_another_process_works_is_refused(config: Config) -> None:
    run = finish(config)
    with held_by_another_process(run / ".lock"):
        message = refused(config)
    assert message == f"{run.path}: another process is working in this run directory"
    assert finish(config).done


def test_the_lock_is_held_while_working_and_free_afterwards(config: Config) -> None:
    with runs.open_run("count", config, []) as run:
        assert refused(config).endswith("another process is working in this run directory")
    with filelock.FileLock(run / ".lock").acquire(timeout=0):
        assert record(config)["status"] == "done"


def test_a_refused_run_does_not_keep_the_lock(config: Config) -> None:
    finish(config)
    with pytest.raises(RunError) as caught:
        finish(changed(config, seed=3))
    assert finish(config).done
    assert "seed" in str(caught.value)  # the error, and with it the frame of open_run, is alive


def test_a_run_that_failed_before_it_made_anything_takes_a_mended_input(config: Config) -> None:
    with pytest.raises(ValueError, match="no text"), runs.open_run("count", config, []):
        raise ValueError("no text")
    config.input.write_text("text\nmended\n")
    assert not finish(config).done
    assert record(config)["status"] == "done"


def test_restart_moves_what_was_there_aside_and_begins_anew(config: Config) -> None:
    first = finish(config)
    (first / "sub").mkdir()
    second = finish(changed(config, seed=1), restart=True)
    finish(changed(config, seed=2), restart=True)
    assert not second.done
    assert record(config)["config"]["seed"] == 2  # type: ignore[index]
    seeds = {
        n: read_json(first.path.with_name(f"run.old-{n}") / "run.json")["config"]["seed"]
        for n in (1, 2)
    }
    assert seeds == {1: 0, 2: 1}
    assert (first.path.with_name("run.old-1") / "sub").is_dir()
    assert (first.path.with_name("run.old-1") / "result.txt").read_text() == "42"


def test_restart_of_what_is_not_there_begins(config: Config, tmp_path: Path) -> None:
    assert not finish(config, restart=True).done
    assert [p.name for p in tmp_path.iterdir() if ".old-" in p.name] == []


def test_without_an_output_the_folder_is_named_by_command_and_config(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    nameless = changed(config, output=None)
    run = finish(nameless)
    assert run.path == runs.default_path("count", nameless) == runs.default_path("count", config)
    assert (tmp_path / run.path).is_dir()
    assert run.path.parts[0] == "runs"
    others = [
        runs.default_path("sum", config),
        runs.default_path("count", changed(config, seed=1)),
        run.path,
    ]
    assert len(set(others)) == 3


def test_timed_parts_are_added_up_even_where_they_fail(config: Config) -> None:
    with runs.open_run("count", config, []) as run:
        with run.timed("part"), run.timed("inner"):
            pass
        with contextlib.suppress(ValueError), run.timed("part"):
            raise ValueError
    assert set(record(config)["timings"]) == {"part", "inner", "total"}  # type: ignore[call-overload]


def test_the_hash_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    def made(name: str, **files: str) -> str:
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        return runs.hash_of(tmp_path / name)

    one = made("one", a="1", b="2")
    assert made("same", b="2", a="1") == one
    assert len({one, made("renamed", a="1", c="2"), made("altered", a="1", b="3")}) == 3


def test_the_log_of_the_run_is_in_its_folder(config: Config, log_lines: list[str]) -> None:
    with runs.open_run("count", config, []) as run:
        logging.getLogger("ragkit").warning("something to tell")
    assert "WARNING something to tell" in (run / "log.txt").read_text()
    logging.getLogger("ragkit").warning("after the run")
    assert "after the run" not in (run / "log.txt").read_text()
    assert "after the run" in log_lines


def test_a_journal_stays_where_it_is_when_a_run_begins_anew(config: Config) -> None:
    run = finish(config)
    (run / "journal.jsonl").write_text("paid for\n")
    again = finish(config, restart=True)
    assert (again / "journal.jsonl").read_text() == "paid for\n"
    assert (run.path.with_name("run.old-1") / "journal.jsonl").read_text() == "paid for\n"


class Server(Block):
    """A block with keys that do not touch the result."""

    concurrency: int = 16
    model: str = "m"


class Asking(StageConfig):
    """The configuration of a command that asks a server."""

    server: Server = Server()


def test_how_a_server_is_asked_may_change_between_two_starts(tmp_path: Path) -> None:
    asking = Asking(output=tmp_path / "run")
    finish(asking)
    assert finish(asking.model_copy(update={"server": Server(concurrency=2)})).path
    other = asking.model_copy(update={"server": Server(model="n")})
    assert "server.model: 'm' (now 'n')" in refused(other)


def test_a_folder_of_documents_is_hashed_with_all_that_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "handbook"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "log.txt").write_text("a")
    (folder / "checkpoints" / "page.md").write_text("b")
    first = runs.hash_of(folder)
    (folder / "log.txt").write_text("c")
    second = runs.hash_of(folder)
    (folder / "checkpoints" / "page.md").write_text("d")
    assert len({first, second, runs.hash_of(folder)}) == 3


def test_what_no_result_depends_on_does_not_change_the_folders_name() -> None:
    teacher = {"type": "openai", "model": "m", "concurrency": 4}
    given = {"input": __file__, "teacher": teacher, "max_cost": 1.0, "max_requests": 9}
    config = qa_gen.Config.model_validate(given)
    other = {**given, "teacher": {**teacher, "concurrency": 64}, "max_cost": 2.0}
    name = runs.default_path("qa-gen", config)
    assert name == runs.default_path("qa-gen", qa_gen.Config.model_validate(other))
    hotter = qa_gen.Config.model_validate({**given, "teacher": {**teacher, "temperature": 1.0}})
    assert name != runs.default_path("qa-gen", hotter)

    def pipeline(config: dict[str, object]) -> Path:
        steps = [{"id": "a", "run": "qa-gen", "with": config}]
        return runs.default_path("run", Pipeline.model_validate({"steps": steps}))

    assert pipeline(given) == pipeline(other) != pipeline({**given, "seed": 1})
