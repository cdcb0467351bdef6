"""ChatRAG-Bench: conversations about the chunks of documents."""

import json
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.formats import chatrag
from ragkit.data.formats.dataset import Options
from ragkit.data.schema import Turn
from ragkit.errors import DataError

DOCUMENTS = {"dmv 1": ["Renew it.", " ", "Pay here."], "va": ["Apply."]}
USER = {"role": "user", "content": "How do I pay?"}


def record(**fields: Any) -> dict[str, Any]:
    talk = [{"role": "user", "content": "Hi"}, {"role": "agent", "content": "Hello"}, USER]
    truth = {"index": 2, "ctx": "Pay here."}
    return {
        "messages": talk, "document": "dmv 1", "ground_truth_ctx": truth, "answers": ["Here."],
        **fields,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with documents.json."""
    (tmp_path / "documents.json").write_text(json.dumps(DOCUMENTS))
    return tmp_path


def write(folder: Path, *records: Any) -> Path:
    path = folder / "test.json"
    path.write_text(json.dumps(records))
    return path


def test_the_last_message_is_the_question_and_the_index_names_the_passage(folder: Path) -> None:
    path = write(folder, record(), record(), record(ground_truth_ctx={"index": [0, 2]}))
    assert chatrag.looks_like(path) and chatrag.looks_like(folder)
    found = chatrag.read(path, Options())
    first, second, several = found.splits["test"]
    assert (first.question, first.answers) == ("How do I pay?", ("Here.",))
    assert first.history == (Turn("user", "Hi"), Turn("assistant", "Hello"))
    assert first.positive_ids == ("dmv-1::2",)
    assert several.positive_ids == ("dmv-1::0", "dmv-1::2")
    assert first.meta == {"ground_truth_ctx": {"ctx": "Pay here."}}
    assert second.id == f"{first.id}-2"
    assert {key: p.text for key, p in found.corpus.items()} == {
        "dmv-1::0": "Renew it.", "dmv-1::2": "Pay here.", "va::0": "Apply.",
    }  # fmt: skip
    assert found.notes == [
        "1 empty chunk left out.",
        "1 document name had white space, which became '-'; what it was is in "
        "meta.original_doc_id of the passages.",
        "3 messages of an agent or of another name for it: the role is assistant now.",
    ]


def test_an_import_and_an_export_give_the_same_json(folder: Path, tmp_path: Path) -> None:
    documents = {"dmv 1": ["Renew it.", "Pay here."], "va": ["Apply."]}
    (folder / "documents.json").write_text(json.dumps(documents))
    truth = {"index": 1, "ctx": "Pay here."}
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, USER]
    records = [
        record(id="r1", messages=talk, ground_truth_ctx=truth, task="pay"),
        record(id="r 2", messages=[USER], ground_truth_ctx={}),
    ]
    write(folder, *records)
    notes = chatrag.write(tmp_path / "out", chatrag.read(folder, Options()), Options())
    assert notes == []
    assert json.loads((tmp_path / "out" / "documents.json").read_text()) == documents
    assert json.loads((tmp_path / "out" / "test.json").read_text()) == records


def test_all_malformed_conversations_are_told_at_once(folder: Path) -> None:
    agent = {"role": "agent", "content": "Bye"}
    path = write(
        folder,
        record(document="other"),
        record(ground_truth_ctx={"index": 7}),
        record(ground_truth_ctx={"index": 1}),
        record(messages=[USER, agent]),
        record(messages=[{"role": "judge", "content": "?"}, USER]),
        record(answers=[3]),
        record(ground_truth_ctx=[2]),
        "text",
        record(),
    )
    with pytest.raises(DataError) as caught:
        chatrag.read(path, Options())
    assert str(caught.value).splitlines() == [
        f"{path}:[0]: document: 'other' is not in documents.json",
        f"{path}:[1]: ground_truth_ctx: no chunk 7 of document 'dmv 1'",
        f"{path}:[2]: ground_truth_ctx: no chunk 1 of document 'dmv 1'",
        f"{path}:[3]: messages: the last must be the user's: it is the question",
        f"{path}:[4]: no role that is known: 'judge' (known are user, human, assistant, agent, "
        "bot, ai)",
        f"{path}:[5]: answers: a list of texts was expected",
        f"{path}:[6]: ground_truth_ctx: an object was expected, not [2]",
        f"{path}:[7]: an object was expected",
    ]
    found = chatrag.read(path, Options(skip_bad=folder / "bad-lines.jsonl"))
    assert len(found.examples) == 1


def test_documents_must_be_lists_of_texts(folder: Path) -> None:
    path = folder / "documents.json"
    write(folder, record())
    path.write_text('{"a": ["x"], "b": "y"}')
    with pytest.raises(DataError, match=r"documents\.json:b: a list of texts was expected"):
        chatrag.read(folder, Options())
    path.write_text("[]")
    with pytest.raises(DataError, match=r"documents\.json: an object with a list of chunks"):
        chatrag.read(folder, Options())


def test_a_question_whose_only_answer_is_that_there_is_none_is_unanswerable(folder: Path) -> None:
    refusal = "Sorry. I cannot find the answer based on the context."
    path = write(folder, record(answers=[refusal]), record(answers=[refusal, "Here."]))
    nobody, somebody = chatrag.read(path, Options()).splits["test"]
    assert (nobody.answerable, nobody.answers, nobody.positive_ids) == (False, (), ())
    assert nobody.meta[chatrag.ABOUT] == "dmv 1"
    assert somebody.answerable and somebody.positive_ids == ("dmv-1::2",)
