"""The command line: what it costs to start, what it says, what it leaves."""

import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragkit import __version__
from ragkit.data.files import read_json, read_jsonl
from ragkit.stages import STAGES

ROWS = "id,text\n1,The pump starts.\n2,The valve opens.\n"


Ragkit = Callable[..., Any]  # -> code, out, err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word_model: Path) -> Path:
    """The current directory, with passages and a configuration in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "passages.csv").write_text(ROWS)
    (tmp_path / "c.yaml").write_text(f"chunk:\n  tokenizer: {word_model}\n  max_tokens: 50\n")
    return tmp_path


def files_of(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_help_imports_nothing_heavy_and_names_every_command() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "ragkit", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {
        row.split("|")[-1].strip().split(".")[0] for row in done.stderr.splitlines() if "|" in row
    }
    assert "typer" in imported  # the listing is that of imports
    heavy = {"torch", "transformers", "pydantic", "numpy", "datasets", "tokenizers", "openai"}
    assert imported & heavy == set()
    for name in [*STAGES, "run", "config", "doctor", "version"]:
        assert re.search(rf"\b{name}\b", done.stdout)


def test_libraries_draw_no_bars_of_their_own_on_a_terminal(
    tmp_path: Path, tiny_decoder: Path
) -> None:
    terminal, there = pty.openpty()
    termios.tcsetwinsize(there, (24, 80))
    script = (
        "import sys; from ragkit import cli; cli.app = lambda: None; cli.main();"
        "from transformers import AutoModelForCausalLM as A;"
        "A.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2]);"
        "from huggingface_hub.utils import tqdm; tqdm(total=1, disable=None, desc='here')"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tiny_decoder), str(tmp_path)],
        check=True, stderr=there, timeout=60,
    )  # fmt: skip
    os.close(there)
    with open(terminal, "rb", buffering=0) as shown:
        said = shown.read(100_000).decode()
    assert "here" in said  # that of downloads, in the hub's own way
    assert "Loading weights" not in said and "Writing model shards" not in said


def test_a_mistake_gives_one_message_and_exit_code_1_without_traceback(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ragkit", "chunk", "none.csv"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ragkit: input: 'none.csv': no such file or folder\n"
    assert "runs" not in files_of(folder)


def test_a_defect_keeps_its_traceback(
    folder: Path, ragkit: Ragkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ragkit.stages import chunk

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(chunk, "run", broken)
    with pytest.raises(ZeroDivisionError):
        ragkit("chunk", "passages.csv", "-c", "c.yaml", "-o", "out")
    assert read_json(folder / "out" / "run.json")["status"] == "failed"


def test_every_problem_of_files_sets_and_options_is_told_at_once(
    folder: Path, ragkit: Ragkit
) -> None:
    (folder / "bad.yaml").write_text("sed: 1\nchunk:\n  max_tokns: 3\n")
    done = ragkit("chunk", "none.csv", "-c", "bad.yaml", "--set", "seed=x")
    assert done.code == 1
    assert sorted(done.err.splitlines()) == [
        "ragkit: --set seed=x  seed: 'x': should be a valid integer, "
        "unable to parse string as an integer",
        "ragkit: bad.yaml:1  sed: unknown key (did you mean seed?)",
        "ragkit: bad.yaml:3  chunk.max_tokns: unknown key (did you mean max_tokens?)",
        "ragkit: input: 'none.csv': no such file or folder",
    ]


def test_dry_run_shows_the_resolved_config_and_touches_nothing(
    folder: Path, ragkit: Ragkit
) -> None:
    before = files_of(folder)
    done = ragkit("chunk", "passages.csv", "-c", "c.yaml", "--dry-run", "--restart")
    assert done.code == 0
    shown = yaml.safe_load(done.out)
    assert (shown["input"], shown["chunk"]["max_tokens"], shown["seed"]) == ("passages.csv", 50, 0)
    assert re.search(r"^# run directory: runs/chunk-[0-9a-f]{8}$", done.out, re.MULTILINE)
    assert files_of(folder) == before


def test_dry_run_finds_mistakes(folder: Path, ragkit: Ragkit) -> None:
    before = files_of(folder)
    assert ragkit("chunk", "passages.csv", "--set", "chunk.max_tokens=1", "--dry-run").code == 1
    assert files_of(folder) == before


def test_a_set_wins_over_the_files_and_the_last_file_over_the_first(
    folder: Path, ragkit: Ragkit
) -> None:
    (folder / "d.yaml").write_text("seed: 5\nchunk: {max_tokens: 60}\n")
    files = ["-c", "c.yaml", "-c", "d.yaml"]
    shown = yaml.safe_load(ragkit("chunk", "passages.csv", *files, "--dry-run").out)
    assert (shown["seed"], shown["chunk"]["max_tokens"]) == (5, 60)
    more = ["--set", "chunk.max_tokens=70", "--dry-run"]
    shown = yaml.safe_load(ragkit("chunk", "passages.csv", *files, *more).out)
    assert (shown["seed"], shown["chunk"]["max_tokens"]) == (5, 70)


def test_a_command_leaves_its_results_and_says_where_on_stdout(
    folder: Path, ragkit: Ragkit
) -> None:
    done = ragkit("chunk", "passages.csv", "-c", "c.yaml", "-o", "out")
    assert done.code == 0
    assert done.out.strip() == "2 passages of 3 to 3 words (median 3) in out/passages.jsonl"
    assert [p["id"] for p in read_jsonl(folder / "out" / "passages.jsonl")] == ["1", "2"]
    assert read_json(folder / "out" / "run.json")["starts"][-1]["argv"][1:3] == [
        "chunk",
        "passages.csv",
    ]
    again = ragkit("chunk", "passages.csv", "-c", "c.yaml", "-o", "out")
    assert (again.code, again.out) == (0, done.out)


@pytest.mark.usefixtures("folder")
def test_another_config_in_the_same_directory_is_refused(ragkit: Ragkit) -> None:
    command = ["chunk", "passages.csv", "-c", "c.yaml", "-o", "out"]
    ragkit(*command)
    refused = ragkit(*command, "--set", "chunk.max_tokens=40")
    assert refused.code == 1
    assert "ragkit:   chunk.max_tokens: 50 (now 40)" in refused.err.splitlines()


def test_restart_begins_anew_with_another_config(folder: Path, ragkit: Ragkit) -> None:
    command = ["chunk", "passages.csv", "-c", "c.yaml", "-o", "out"]
    ragkit(*command)
    assert ragkit(*command, "--set", "chunk.max_tokens=40", "--restart").code == 0
    assert read_json(folder / "out" / "run.json")["config"]["chunk"]["max_tokens"] == 40
    assert (folder / "out.old-1" / "passages.jsonl").exists()


def test_skip_bad_sets_rows_aside_in_the_run_directory(folder: Path, ragkit: Ragkit) -> None:
    (folder / "passages.csv").write_text(ROWS + "3\n")
    command = ["chunk", "passages.csv", "-c", "c.yaml"]
    assert "passages.csv:4: 1 cells where the header has 2" in ragkit(*command, "-o", "a").err
    assert ragkit(*command, "-o", "b", "--skip-bad").code == 0
    assert [r["line"] for r in read_jsonl(folder / "b" / "bad-lines.jsonl")] == [4]


def test_another_encoding_is_read_when_it_is_named(folder: Path, ragkit: Ragkit) -> None:
    (folder / "passages.csv").write_bytes("id,text\n1,Grüße\n".encode("cp1252"))
    command = ["chunk", "passages.csv", "-c", "c.yaml"]
    assert "byte 0xfc is not UTF-8" in ragkit(*command, "-o", "a").err
    assert ragkit(*command, "-o", "b", "--set", "encoding=cp1252").code == 0
    assert read_jsonl(folder / "b" / "passages.jsonl")[0]["text"] == "Grüße"


def test_passages_of_one_id_and_two_texts_are_told(folder: Path, ragkit: Ragkit) -> None:
    (folder / "passages.csv").write_text(ROWS + "1,Another.\n")
    done = ragkit("chunk", "passages.csv", "-c", "c.yaml", "-o", "out")
    assert done.code == 1
    assert "passages.csv:4: id: '1' is already the id of another text" in done.err


@pytest.mark.usefixtures("folder")
def test_an_output_below_a_file_is_told(ragkit: Ragkit) -> None:
    done = ragkit("chunk", "passages.csv", "-c", "c.yaml", "-o", "passages.csv/out")
    assert done.err.splitlines()[-1] == (
        "ragkit: passages.csv/out: the run directory cannot be made: Not a directory"
    )
    assert done.code == 1


def test_a_model_alone_is_the_model_of_the_default_retriever(folder: Path, ragkit: Ragkit) -> None:
    (folder / "test.jsonl").write_text('{"id": "e", "question": "?"}\n')
    (folder / "corpus.jsonl").write_text('{"id": "1", "text": "x"}\n')
    done = ragkit("eval-retriever", "test.jsonl", "-m", "some/model", "--dry-run")
    assert done.code == 0
    assert yaml.safe_load(done.out)["retriever"]["model"] == "some/model"


def test_a_pipeline_is_checked_and_shown_by_a_dry_run(folder: Path, ragkit: Ragkit) -> None:
    (folder / "p.yaml").write_text(
        "steps:\n"
        "  - {id: cut, run: chunk, with: {input: passages.csv}}\n"
        "  - {id: vectors, run: index, with: {corpus: '@cut/passages.jsonl'}}\n"
    )
    before = files_of(folder)
    done = ragkit("run", "p.yaml", "-o", "out", "--dry-run")
    assert done.code == 0
    assert re.findall(r"^# (.*)$", done.out, re.MULTILINE) == [
        "cut: chunk",
        "run directory: out/cut",
        "vectors: index",
        "run directory: out/vectors",
    ]
    assert "corpus: out/cut/passages.jsonl" in done.out
    assert files_of(folder) == before


def test_config_init_prints_a_starter_that_config_check_takes(folder: Path, ragkit: Ragkit) -> None:
    text = ragkit("config", "init", "chunk").out
    assert text.startswith("# ragkit chunk: ")
    (folder / "new.yaml").write_text(text.replace('input: ""', "input: passages.csv"))
    done = ragkit("config", "check", "chunk", "new.yaml")
    assert (done.code, done.out) == (0, "new.yaml: fine\n")


def test_config_check_tells_all_problems(folder: Path, ragkit: Ragkit) -> None:
    (folder / "bad.yaml").write_text("input: passages.csv\nsed: 1\nchunk: {overlap: 150}\n")
    done = ragkit("config", "check", "chunk", "bad.yaml")
    assert done.code == 1
    assert sorted(done.err.splitlines()) == [
        "ragkit: bad.yaml:2  sed: unknown key (did you mean seed?)",
        "ragkit: bad.yaml:3  chunk: overlap: 150 is not below half of max_tokens",
    ]


def test_config_check_of_a_pipeline_checks_its_steps(folder: Path, ragkit: Ragkit) -> None:
    (folder / "p.yaml").write_text("steps:\n  - {id: a, run: chunk, with: {input: none.csv}}\n")
    done = ragkit("config", "check", "run", "p.yaml")
    assert done.code == 1
    assert done.err == "ragkit: p.yaml:2  input: 'none.csv': no such file or folder\n"


@pytest.mark.usefixtures("folder")
def test_config_show_prints_what_config_files_and_sets_come_to(ragkit: Ragkit) -> None:
    done = ragkit("config", "show", "chunk", "-c", "c.yaml", "--set", "input=passages.csv")
    shown = yaml.safe_load(done.out)
    assert (shown["chunk"]["max_tokens"], shown["chunk"]["overlap"]) == (50, 0)


def test_config_schema_prints_a_json_schema(ragkit: Ragkit) -> None:
    schema = json.loads(ragkit("config", "schema", "chunk").out)
    assert schema["required"] == ["input"]
    assert schema["additionalProperties"] is False


def test_config_of_no_command_names_those_there_are(ragkit: Ragkit) -> None:
    done = ragkit("config", "init", "chnk")
    assert done.code == 1
    assert done.err.startswith("ragkit: no command 'chnk'; there are chunk, qa-gen,")


def test_the_version_is_printed(ragkit: Ragkit) -> None:
    assert ragkit("version").out == f"{__version__}\n"


def test_doctor_tells_versions_devices_and_extras(ragkit: Ragkit) -> None:
    done = ragkit("doctor")
    assert done.code == 0
    for name in ("python", "torch", "cpu", "disk", "extra quickstart"):
        assert re.search(rf"^ *{name}\b", done.out, re.MULTILINE)


@pytest.mark.parametrize("command", STAGES)
def test_every_command_has_help_with_its_options(command: str, ragkit: Ragkit) -> None:
    done = ragkit(command, "--help")
    assert done.code == 0
    for name in [*STAGES[command].options, "--config", "--set", "--output", "--dry-run"]:
        assert name in done.out


def test_an_option_whose_name_is_a_word_of_python_reaches_its_key(
    folder: Path, ragkit: Ragkit
) -> None:
    done = ragkit("import", "passages.csv", "--from", "table", "-o", "out")
    assert done.code == 0 and "corpus.jsonl: 2" in done.out
    assert read_json(folder / "out" / "run.json")["config"]["format"] == "table"
    failed = ragkit("import", "passages.csv", "--from", "excel")
    assert failed.code == 1 and "--from excel" in failed.err and "localrqa" in failed.err
