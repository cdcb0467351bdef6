"""Pipelines: everything is checked before the first step runs, and what is done is skipped."""

from pathlib import Path

import pytest

from ragkit.config import load
from ragkit.data.files import read_json, read_jsonl
from ragkit.errors import ConfigError, RunError
from ragkit.stages import pipeline

HEAD = "output: out\nsteps:\n"
CHUNK = "  - id: cut\n    run: chunk\n    with:\n      input: passages.csv\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a file of passages in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "passages.csv").write_text("id,text\n1,The pump starts.\n2,The valve opens.\n")
    return tmp_path


def read(text: str) -> tuple[pipeline.Config, load.Source]:
    source = load.parse_yaml(text, "p.yaml")
    return load.build(pipeline.Config, source), source


def planned(text: str) -> list[pipeline.Planned]:
    return pipeline.plan(*read(text), Path("out"))


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        planned(text)
    return caught.value.problems


def chunk_and_search(tokenizer: Path, question: str = "Which valve opens?") -> str:
    return (
        f"{HEAD}{CHUNK}      chunk: {{tokenizer: {tokenizer}}}\n"
        "  - id: find\n    run: search\n    with:\n"
        f"      query: {question}\n      corpus: '@cut/passages.jsonl'\n"
        "      retriever: {type: bm25}\n"
    )


def test_references_become_files_of_the_earlier_step_wherever_they_stand() -> None:
    teacher = "{type: recorded, journal: '@cut/b.jsonl'}"
    values = [
        item.source.values
        for item in planned(
            f"{HEAD}{CHUNK}"
            "  - id: next\n    run: qa-gen\n    with:\n      input: '@cut/passages.jsonl'\n"
            f"      held_out: ['@cut/a.jsonl']\n      teacher: {teacher}\n"
            "  - {id: last, run: index, with: {corpus: '@next/corpus.jsonl', model: '@next'}}\n"
        )
    ]
    assert values[1]["input"] == "out/cut/passages.jsonl"
    assert values[1]["held_out"] == ["out/cut/a.jsonl"]
    assert values[1]["teacher"]["journal"] == "out/cut/b.jsonl"
    assert values[2]["model"] == "out/next"
    assert [v["output"] for v in values] == ["out/cut", "out/next", "out/last"]


def test_a_step_has_the_seed_of_the_pipeline_unless_it_has_its_own() -> None:
    text = f"seed: 7\n{HEAD}{CHUNK}{CHUNK.replace('cut', 'again')}      seed: 8\n"
    assert [item.source.values["seed"] for item in planned(text)] == [7, 8]


def test_files_that_an_earlier_step_has_still_to_make_need_not_exist() -> None:
    text = f"{HEAD}{CHUNK}  - {{id: i, run: index, with: {{corpus: '@cut/passages.jsonl'}}}}\n"
    assert len(planned(text)) == 2


def test_files_that_no_step_makes_must_exist() -> None:
    [problem] = problems(f"{HEAD}  - {{id: i, run: index, with: {{corpus: none.jsonl}}}}\n")
    assert problem == "p.yaml:3  corpus: 'none.jsonl': no such file or folder"


def test_a_reference_to_no_step_is_told_with_those_there_are() -> None:
    text = f"{HEAD}{CHUNK}  - {{id: i, run: index, with: {{corpus: '@cutt/passages.jsonl'}}}}\n"
    [problem] = problems(text)
    assert "@cutt/passages.jsonl: no earlier step 'cutt' (there are cut)" in problem


def test_a_reference_to_a_later_step_is_told() -> None:
    text = f"{HEAD}  - {{id: i, run: index, with: {{corpus: '@cut/passages.jsonl'}}}}\n{CHUNK}"
    assert "no earlier step 'cut' (there are none)" in problems(text)[0]


def test_an_unknown_command_is_told_with_the_one_that_was_meant() -> None:
    [problem] = problems(f"{HEAD}  - {{id: i, run: chnk}}\n")
    assert "step i: no command 'chnk' (did you mean chunk?)" in problem


def test_a_command_like_no_other_is_told_with_those_there_are() -> None:
    [problem] = problems(f"{HEAD}  - {{id: i, run: zzz}}\n")
    assert "no command 'zzz' (known are chunk, qa-gen," in problem


def test_two_steps_of_one_id_are_told() -> None:
    [problem] = problems(HEAD + CHUNK + CHUNK)
    assert "step cut: an earlier step has this id" in problem


def test_an_output_of_a_step_is_told() -> None:
    [problem] = problems(f"{HEAD}{CHUNK}      output: elsewhere\n")
    assert "output: a step's run directory is its id, in the pipeline's" in problem


def test_all_problems_of_all_steps_are_told_at_once_with_their_lines() -> None:
    text = (
        f"{HEAD}{CHUNK}      chunk:\n        max_tokns: 3\n      sed: 1\n"
        "  - id: find\n    run: search\n    with:\n      query: why\n"
        "      corpus: passages.csv\n      retriever:\n        type: bm25\n        k11: 2\n"
    )
    assert sorted(problems(text)) == [
        "p.yaml:17  retriever.k11: unknown key (did you mean k1?)",
        "p.yaml:8  chunk.max_tokns: unknown key (did you mean max_tokens?)",
        "p.yaml:9  sed: unknown key (did you mean seed?)",
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"{HEAD}{CHUNK}  - id: i\n    run: chnk\n", "p.yaml:7"),
        (f"{HEAD}{CHUNK}{CHUNK}", "p.yaml:9"),
        (f"{HEAD}{CHUNK}      output: x\n", "p.yaml:5"),
        (f"{HEAD}  - id: i\n    run: index\n    with:\n      corpus: '@no/x'\n", "p.yaml:5"),
    ],
    ids=["unknown command", "duplicate id", "output", "unknown step"],
)
def test_problems_of_the_pipeline_itself_have_a_line_of_their_step(text: str, place: str) -> None:
    assert problems(text)[0].startswith(f"{place}  step ")


def test_a_reference_to_a_step_that_has_a_problem_is_no_second_problem() -> None:
    text = (
        f"{HEAD}{CHUNK}      sed: 1\n"
        "  - {id: i, run: index, with: {corpus: '@cut/passages.jsonl', seeed: 2}}\n"
    )
    assert problems(text) == [
        "p.yaml:7  sed: unknown key (did you mean seed?)",
        "p.yaml:8  seeed: unknown key (did you mean seed?)",
    ]


def test_an_unknown_step_and_a_typo_of_one_step_are_told_at_once() -> None:
    found = problems(f"{HEAD}  - {{id: i, run: index, with: {{corpus: '@no/x', modle: y}}}}\n")
    assert any("no earlier step 'no'" in p for p in found)
    assert any("modle: unknown key" in p for p in found)


def test_a_typo_of_with_suggests_with() -> None:
    with pytest.raises(ConfigError, match=r"steps\.0\.wiht: unknown key \(did you mean with\?\)"):
        read(f"{HEAD}  - {{id: i, run: chunk, wiht: {{}}}}\n")


def test_the_name_of_the_field_in_python_is_no_key() -> None:
    with pytest.raises(ConfigError, match=r"steps\.0\.with_: unknown key"):
        read(f"{HEAD}  - {{id: i, run: chunk, with_: {{input: passages.csv}}}}\n")


def test_a_pipeline_without_steps_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^p\.yaml:1  steps: .*at least 1 item"):
        read("steps: []")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b"])
def test_a_step_cannot_be_called_as_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match=r"steps\.0\.id"):
        read(f"{HEAD}  - {{id: '{name}', run: chunk}}\n")


def test_every_step_leaves_its_files_and_a_second_time_nothing_is_done(
    folder: Path, word_model: Path, log_lines: list[str]
) -> None:
    config, source = read(chunk_and_search(word_model))
    path = pipeline.execute(config, source, ["ragkit"], restart=False)
    assert path == Path("out/find")
    [found] = read_jsonl(path / "results.jsonl")
    assert found["passages"][0]["text"] == "The valve opens."
    files = [p for p in (folder / "out").rglob("*") if p.is_file()]
    before = {p: p.stat().st_mtime_ns for p in files}
    pipeline.execute(config, source, ["ragkit"], restart=False)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert log_lines.count("out/cut: all done already") == 1


def test_a_step_whose_earlier_step_failed_is_not_run(folder: Path, word_model: Path) -> None:
    config, source = read(chunk_and_search(word_model))
    (folder / "passages.csv").write_text("id,text\n1\n")
    with pytest.raises(Exception, match="1 cells where the header has 2"):
        pipeline.execute(config, source, ["ragkit"], restart=False)
    assert read_json(folder / "out" / "cut" / "run.json")["status"] == "failed"
    assert read_json(folder / "out" / "run.json")["status"] == "failed"
    assert not (folder / "out" / "find").exists()


def test_a_changed_step_is_refused_in_its_old_directory(word_model: Path) -> None:
    pipeline.execute(*read(chunk_and_search(word_model)), ["ragkit"], restart=False)
    other = chunk_and_search(word_model, "Which pump starts?")
    with pytest.raises(RunError, match="find: made by a different run"):
        pipeline.execute(*read(other), ["ragkit"], restart=False)


def test_nothing_is_made_where_any_step_has_a_problem(folder: Path, word_model: Path) -> None:
    config, source = read(chunk_and_search(word_model).replace("query", "qery"))
    with pytest.raises(ConfigError, match=r"qery: unknown key \(did you mean query\?\)"):
        pipeline.execute(config, source, ["ragkit"], restart=False)
    assert [p.name for p in folder.iterdir()] == ["passages.csv"]


def test_a_pipeline_gets_more_steps_and_makes_only_those(word_model: Path) -> None:
    pipeline.execute(*read(f"{HEAD}{CHUNK}      chunk: {{tokenizer: {word_model}}}\n"), [], False)
    made = Path("out/cut/passages.jsonl").stat().st_mtime_ns
    pipeline.execute(*read(chunk_and_search(word_model)), [], restart=False)
    assert Path("out/find/run.trec").exists()
    assert Path("out/cut/passages.jsonl").stat().st_mtime_ns == made


def test_the_config_that_a_pipeline_leaves_can_be_run_again(word_model: Path) -> None:
    pipeline.execute(*read(chunk_and_search(word_model)), [], restart=False)
    again = Path("out/config.yaml").read_text()
    assert planned(again)[0].step.id == "cut"
