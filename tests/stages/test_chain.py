"""A whole pipeline on a tiny corpus: made once, not made again, and gone on with after a kill."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ragkit.config.load import Source, build, parse_yaml
from ragkit.data.files import read_corpus, read_examples, read_json
from ragkit.errors import ConfigError, RunError
from ragkit.runs import open_run
from ragkit.stages import STAGES, pipeline

STEPS = ["chunks", "qa", "mine", "train", "vectors", "before", "after", "answers", "compared"]
PIPELINE = """\
seed: 3
steps:
  - id: chunks
    run: chunk
    with: {{input: {docs}, chunk: {{max_tokens: 600, tokenizer: {model}}}}}
  - id: qa
    run: qa-gen
    with: {{input: "@chunks/passages.jsonl", teacher: {{type: heuristic, n: 1}},
           splits: {{dev: 0.2, test: 0.2}}}}
  - {{id: mine, run: mine-negatives, with: {{examples: "@qa/train.jsonl", model: {model}, n: 4}}}}
  - id: train
    run: train-retriever
    with: {{examples: "@mine/train.jsonl", model: {model},
           loop: {{epochs: 1, batch_size: 16, precision: fp32}}}}
  - {{id: vectors, run: index, with: {{corpus: "@qa/corpus.jsonl", model: "@train"}}}}
  - id: before
    run: eval-retriever
    with: {{examples: "@qa/test.jsonl", retriever: {{type: dense, model: {model}}}}}
  - id: after
    run: eval-retriever
    with: {{examples: "@qa/test.jsonl", train: ["@mine/train.jsonl"],
           retriever: {{type: dense, model: "@train", index: "@vectors"}}}}
  - id: answers
    run: eval-e2e
    with: {{examples: "@qa/test.jsonl", retriever: {{type: bm25}},
           answerer: {{type: extractive, model: {model}}}}}
  - {{id: compared, run: compare, with: {{runs: ["@before", "@after", "@answers"]}}}}
"""
DEMO = Path(__file__).parents[2] / "data" / "demo" / "passages.csv"
DOCUMENTS = 12


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV with the passages of the demo's first documents."""
    with DEMO.open(newline="", encoding="utf-8") as f:
        header, *rows = csv.reader(f)
    titles = list(dict.fromkeys(row[0] for row in rows))[:DOCUMENTS]
    path = tmp_path_factory.mktemp("docs") / "passages.csv"
    with path.open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([header, *(row for row in rows if row[0] in titles)])
    return path


@pytest.fixture
def execute(docs: Path, tiny_encoder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Run the pipeline in the test's folder; return the folder."""

    def run(restart: bool = False) -> Path:
        source = parse_yaml(PIPELINE.format(docs=docs, model=tiny_encoder), "chain.yaml")
        source.values["output"] = str(tmp_path / "run")
        config = build(pipeline.Config, source)
        assert pipeline.execute(config, source, ["ragkit"], restart) == tmp_path / "run/compared"
        return tmp_path / "run"

    return run


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The commands whose work was done, in order; a command that is set aside is killed."""
    commands: list[str] = []
    for name, stage in STAGES.items():
        if name == "search":
            continue
        module = stage.load()

        def run(config: object, run: object, name: str = name, work: object = module.run) -> None:
            commands.append(name)
            work(config, run)  # type: ignore[operator]

        monkeypatch.setattr(module, "run", run)
    yield commands


ALL = ["chunk", "qa-gen", "mine-negatives", "train-retriever", "index", "eval-retriever"]
ALL += ["eval-retriever", "eval-e2e", "compare"]


def test_a_pipeline_makes_every_step_once_and_does_nothing_the_second_time(
    execute: Callable[..., Path], executed: list[str]
) -> None:
    folder = execute()
    assert executed == ALL
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    corpus = read_corpus(folder / "chunks" / "passages.jsonl")
    assert read_corpus(folder / "qa" / "corpus.jsonl").keys() == corpus.keys()
    train, test = (read_examples(folder / "qa" / f"{n}.jsonl", corpus) for n in ("train", "test"))
    sources = [{corpus[e.positive_ids[0]].source for e in part} for part in (train, test)]
    assert sources[0] and sources[1] and not sources[0] & sources[1]
    for step in STEPS:
        record = read_json(folder / step / "run.json")
        assert (record["status"], record["config"]["seed"]) == ("done", 3)
    result = read_json(folder / "compared" / "comparison.json")
    assert set(result["retrieval"]["systems"]) == {"before", "after"}
    assert set(result["answers"]["systems"]) == {"answers"}
    assert read_json(folder / "after" / "metrics.json")["metrics"]["ndcg@10"]["n"] == len(test)
    executed.clear()
    assert execute() == folder
    assert executed == []
    again = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    changed = {p.name for p in files if again[p] != files[p]}
    assert changed <= {".lock", "log.txt"} and set(again) == set(files)


def test_a_pipeline_that_was_killed_between_steps_goes_on_where_it_was(
    execute: Callable[..., Path],
    executed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    module = STAGES["train-retriever"].load()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            execute()
    assert executed == ALL[:3]
    assert read_json(tmp_path / "run" / "run.json")["status"] == "failed"
    execute()
    assert Counter(executed) == Counter(ALL)
    assert executed[3:] == ALL[3:]
    assert read_json(tmp_path / "run" / "run.json")["status"] == "done"


def test_a_document_that_changed_stops_a_pipeline_that_used_it(
    tmp_path: Path, word_model: Path
) -> None:
    file = tmp_path / "a.md"
    file.write_text("A relay is a switch that a coil closes.\n")
    values = {"input": str(file), "chunk": {"tokenizer": str(word_model)}}
    source = Source({"steps": [{"id": "c", "run": "chunk", "with": values}]})
    source.values["output"] = str(tmp_path / "run")
    config = build(pipeline.Config, source)
    pipeline.execute(config, source, [], False)
    file.write_text("A relay is a switch that opens.\n")
    with pytest.raises(RunError, match=r"the content of .*a\.md has changed"):
        pipeline.execute(config, source, [], False)


def planned(tmp_path: Path, *steps: dict[str, object]) -> list[pipeline.Planned]:
    source = Source({"steps": list(steps), "output": str(tmp_path / "run")})
    return pipeline.plan(build(pipeline.Config, source), source, tmp_path / "run")


def test_all_problems_of_all_steps_are_told_before_the_first_one_runs(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    chunk = {"id": "c", "run": "chunk", "with": {"input": str(tmp_path / "a.txt")}}
    with pytest.raises(ConfigError) as caught:
        planned(
            tmp_path,
            chunk,
            {"id": "c", "run": "chunk", "with": chunk["with"]},
            {"id": "d", "run": "chunks"},
            {"id": "e", "run": "chunk", "with": {"input": "@later/passages.jsonl"}},
            {"id": "f", "run": "chunk", "with": {**chunk["with"], "output": "x"}},  # type: ignore[dict-item]
            {"id": "g", "run": "chunk", "with": {"inputs": "a", "input": str(tmp_path / "no")}},
        )
    assert len(caught.value.problems) >= 5
    text = str(caught.value)
    for message in (
        "step c: an earlier step has this id",
        "step d: no command 'chunks' (did you mean chunk?)",
        "step e: @later/passages.jsonl: no earlier step 'later' (there are c, c, d)",
        "step f: output: a step's run directory is its id",
        "inputs: unknown key (did you mean input?)",
        "no such file or folder",
    ):
        assert message in text
    assert not (tmp_path / "run").exists()


def test_two_processes_do_not_run_one_pipeline(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    step = {"id": "c", "run": "chunk", "with": {"input": str(tmp_path / "a.txt")}}
    source = Source({"steps": [step], "output": str(tmp_path / "run")})
    config = build(pipeline.Config, source)
    with (
        open_run("run", config, []),
        pytest.raises(RunError, match="another process is working in this run directory"),
    ):
        pipeline.execute(config, source, [], False)
