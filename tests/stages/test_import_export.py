"""`ragkit import` and `ragkit export` as commands: files, notes, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from ragkit.data.files import read_corpus, read_examples, read_json, write_examples, write_passages
from ragkit.data.formats import FORMATS
from ragkit.data.schema import Example, Passage
from ragkit.errors import ConfigError, DataError, RunError
from ragkit.stages import STAGES

Stage = Callable[..., Path]
CORPUS = [Passage("p1", "The pump starts.", "Pump", "d1"), Passage("p2", "The valve opens.")]
EXAMPLES = [Example("q1", "When?", ("Now",), ("p1",), ("p2",))]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with a corpus and examples of ragkit's."""
    write_passages(tmp_path / "made" / "corpus.jsonl", CORPUS)
    write_examples(tmp_path / "made" / "train.jsonl", EXAMPLES)
    return tmp_path / "made"


def test_an_export_is_imported_again_and_both_say_what_they_did(
    stage: Stage, made: Path, tmp_path: Path, log_lines: list[str]
) -> None:
    out = stage("export", input=str(made), format="dalm", output=str(tmp_path / "out"))
    told = read_json(out / "export.json")
    assert told["files"] == ["dalm/corpus.csv", "dalm/train.csv"]
    assert told["read"] == {"passages": 2, "questions": 1, "conversations": 0}
    assert told["notes"] == [
        "DALM does not hold negative_ids: lost of 1 question.",
        "DALM does not hold doc_id: lost of 1 passage.",
    ]
    assert set(told["notes"]) <= set(log_lines)
    shown = str(STAGES["export"].load().show(out))
    assert "2 passages, 1 questions" in shown and told["notes"][0] in shown
    back = stage("import", input=str(out / "dalm"), output=str(tmp_path / "back"))
    assert f"{out / 'dalm'}: format dalm" in log_lines
    assert read_json(back / "import.json") == {
        "format": "dalm",
        "files": {"corpus.jsonl": 2, "train.jsonl": 1},
        "notes": [],
    }
    assert read_examples(back / "train.jsonl", read_corpus(back / "corpus.jsonl")) == [
        Example("q1", "When?", ("Now",), ("p1",))
    ]
    assert "train.jsonl: 1" in str(STAGES["import"].load().show(back))


@pytest.mark.parametrize("name", ["beir", "table"])
def test_nothing_is_lost_through_beir_and_tables(
    name: str, stage: Stage, made: Path, tmp_path: Path
) -> None:
    out = stage("export", input=str(made / "train.jsonl"), format=name, output=str(tmp_path / "o"))
    assert read_json(out / "export.json")["notes"] == []
    back = stage("import", input=str(out / name), output=str(tmp_path / "back"))
    assert list(read_corpus(back / "corpus.jsonl").values()) == CORPUS
    assert read_examples(back / "train.jsonl") == EXAMPLES


def test_passages_can_be_in_a_table_of_their_own(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "passages.csv").write_text("id,text\np1,The pump starts.\n")
    (tmp_path / "qa.csv").write_text("question,passage_id\nWhen?,p1\n")
    values = {"input": str(tmp_path / "qa.csv"), "output": str(tmp_path / "out")}
    out = stage("import", corpus=str(tmp_path / "passages.csv"), **values)
    assert read_examples(out / "examples.jsonl")[0].positive_ids == ("p1",)
    assert read_json(out / "run.json")["inputs"].keys() == {"input", "corpus"}
    (tmp_path / "asked.csv").write_text("question\nWhen?\n")
    with pytest.raises(DataError, match=r"corpus: .*asked\.csv: a table of passages was expected"):
        stage("import", input=values["input"], corpus=str(tmp_path / "asked.csv"),
              output=str(tmp_path / "other"))  # fmt: skip


def test_conversations_and_trec_files_go_through_the_run_directory(
    stage: Stage, tmp_path: Path
) -> None:
    chat = {"id": "c1", "text": "<human>: Hi\n<bot>: Hello"}
    (tmp_path / "chat.jsonl").write_text(json.dumps(chat) + "\n")
    (tmp_path / "bm25.run").write_text("q1 Q0 p2 1 3 ragkit\nq1 Q0 p1 2 3 ragkit\n")
    for name, format_name, file in (
        ("chat.jsonl", "openchatkit", "chat.jsonl"),
        ("bm25.run", "trec", "run.trec"),
    ):
        folder = tmp_path / format_name
        done = stage("import", input=str(tmp_path / name), output=str(folder))
        assert read_json(done / "import.json")["format"] == format_name
        out = stage("export", input=str(done), format=format_name, output=str(folder) + "-out")
        assert read_json(out / "export.json")["files"] == [f"{format_name}/{file}"]
        assert (out / format_name / file).read_text() == (tmp_path / name).read_text()


def test_malformed_lines_are_set_aside_where_that_is_asked_for(
    stage: Stage, tmp_path: Path
) -> None:
    (tmp_path / "chats.jsonl").write_text('{"text": "<human>: Hi"}\n{"text": "no turn"}\n{"te')
    values = {"input": str(tmp_path / "chats.jsonl"), "format": "openchatkit"}
    with pytest.raises(DataError, match=r"chats\.jsonl:2: text: no line begins.*\n.*:3: not JSON"):
        stage("import", output=str(tmp_path / "a"), **values)
    out = stage("import", output=str(tmp_path / "b"), skip_bad=True, **values)
    assert read_json(out / "import.json")["files"] == {"chat.jsonl": 1}
    lines = (out / "bad-lines.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == [2, 3]


def test_columns_are_refused_where_names_are_fixed(
    stage: Stage, made: Path, tmp_path: Path
) -> None:
    (tmp_path / "qrels.txt").write_text("q1 0 d1 1\n")
    with pytest.raises(DataError, match="columns: the fields of trec have fixed names"):
        stage("import", input=str(tmp_path / "qrels.txt"), columns={"text": "x"},
              output=str(tmp_path / "a"))  # fmt: skip
    with pytest.raises(ConfigError, match="dalm_columns: beir does not have them"):
        stage("export", input=str(made), format="beir", dalm_columns={"passage": "Abstract"},
              output=str(tmp_path / "b"))  # fmt: skip


def test_what_cannot_be_exported_is_said(stage: Stage, made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    output = str(tmp_path / "out")
    with pytest.raises(DataError, match="nothing to export in it"):
        stage("export", input=str(tmp_path / "empty"), format="beir", output=output)
    (made / "corpus.jsonl").rename(made / "passages.jsonl")
    for source in (made, made / "train.jsonl"):
        with pytest.raises(DataError, match=r"train\.jsonl: no corpus\.jsonl beside it"):
            stage("export", input=str(source), format="beir", output=output)
    done = stage("export", input=str(made), corpus=str(made / "passages.jsonl"), format="trec",
                 output=output)  # fmt: skip
    assert (done / "trec" / "qrels.trec").read_text() == "q1 0 p1 1\n"
    (made / "train.jsonl").unlink()
    (made / "passages.jsonl").rename(made / "corpus.jsonl")
    with pytest.raises(DataError, match="SQuAD is made from questions; there are no questions"):
        stage("export", input=str(made), format="squad", output=str(tmp_path / "other"))


def test_an_export_notices_that_the_corpus_beside_the_examples_has_changed(
    stage: Stage, made: Path, tmp_path: Path
) -> None:
    values = {"input": str(made / "train.jsonl"), "format": "beir", "output": str(tmp_path / "o")}
    stage("export", **values)
    write_passages(made / "corpus.jsonl", [*CORPUS, Passage("p3", "The fuse.")])
    with pytest.raises(RunError, match=r"corpus: the content of .*corpus\.jsonl has changed"):
        stage("export", **values)


def test_a_format_of_which_there_is_nothing_is_an_error(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("localrqa", "table", "openchatkit", "trec", "dalm"):
        with pytest.raises(DataError, match=r"empty\.jsonl: "):
            stage("import", input=str(tmp_path / "empty.jsonl"), format=name,
                  output=str(tmp_path / name))  # fmt: skip
    for name in ("beir", "squad", "chatrag"):
        with pytest.raises(DataError, match=str(tmp_path)):
            stage("import", input=str(tmp_path), format=name, output=str(tmp_path / "out" / name))


def test_the_formats_of_the_commands_are_those_that_there_are() -> None:
    for command, more in (("import", ("auto",)), ("export", ())):
        field = STAGES[command].load().Config.model_fields["format"]
        assert get_args(field.annotation) == (*more, *FORMATS)
