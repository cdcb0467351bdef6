"""Tables of questions and of passages, with columns of any name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ragkit.config.blocks import Columns, QuestionColumns
from ragkit.data.formats import detect, table
from ragkit.data.formats.dataset import Options
from ragkit.data.schema import Example, Passage, Turn
from ragkit.errors import DataError


def test_a_folder_of_questions_and_passages_is_read(jsonl: Callable[..., Path]) -> None:
    jsonl("corpus_dev.jsonl", {"id": "p1", "doc_id": "d", "title": "T", "text": "x", "start": 0})
    jsonl("docs.jsonl", {"id": "d", "text": "a whole document"})
    folder = jsonl(
        "qa_dev.jsonl",
        {"id": "q1", "question": "When?", "answers": ["a", "b", "a", ""],
         "answer_starts": [1, 2, 3, 4], "passage_id": "p1"},
        {"id": "q2", "question": "Why?", "answers": [], "passage_id": "p1", "is_impossible": True},
    ).parent  # fmt: skip
    assert detect(folder) == "table"
    found = table.read(folder, Options())
    assert found.corpus == {"p1": Passage("p1", "x", "T", "d", {"start": 0})}
    assert found.splits == {
        "dev": [
            Example("q1", "When?", ("a", "b"), ("p1",), meta={"answer_starts": [1, 2]}),
            Example("q2", "Why?", answerable=False, meta={"context_ids": ["p1"]}),
        ]
    }
    assert found.notes == [
        "qa_dev.jsonl: 2 repeated or empty answers left out.",
        "qa_dev.jsonl: 1 unanswerable question with a passage: it is no positive, and is in "
        "meta.context_ids.",
        "Left out, neither questions nor the corpus: docs.jsonl.",
    ]


def test_claims_with_cited_documents_and_turns_with_a_response_are_read(
    jsonl: Callable[..., Path],
) -> None:
    corpus = {"31": Passage("31", "x"), "32": Passage("32", "y")}
    claim = {"id": 0, "claim": "C.", "cited_doc_ids": [31, "32"], "evidence": {}}
    claims = jsonl("claims_train.jsonl", claim)
    found = table.read(claims, Options(corpus=corpus))
    assert found.splits["train"] == [Example("0", "C.", (), ("31", "32"), meta={"evidence": {}})]
    assert found.notes == ["claims_train.jsonl has no column of answers."]
    turns = [{"role": "user", "text": "Hi"}, {"role": "agent", "text": "Hello"}]
    asked = {"id": "t1", "question": "How?", "history": turns, "answer_span": "s"}
    path = jsonl("conv.jsonl", {**asked, "response": "r", "passage_ids": ["31"]},
                 {**asked, "id": "t2", "response": None, "passage_ids": []})  # fmt: skip
    found = table.read(path, Options(corpus=corpus))
    history = (Turn("user", "Hi"), Turn("assistant", "Hello"))
    meta = {"answer_span": "s"}
    assert found.splits["examples"] == [
        Example("t1", "How?", ("r",), ("31",), (), history, meta=meta),
        Example("t2", "How?", (), (), (), history, meta=meta),
    ]
    assert found.notes == [
        "conv.jsonl: answers from response (set question_columns.answers for answer_span).",
        "conv.jsonl: 1 question with nothing in response.",
    ]


def test_columns_of_a_csv_can_be_named_and_lists_are_json(tmp_path: Path) -> None:
    (tmp_path / "passages.csv").write_text("Key,Body\np 1,The pump.\np2,The valve.\n")
    (tmp_path / "ask.csv").write_text(
        'Q,A,Gold,Bad\nWhen?,Now,p 1,p2\nWhy?,"[""So"", ""As""]","[""p2"", ""p 1""]",\n'
    )
    columns = QuestionColumns(question="Q", answers="A", positive_ids="Gold", negative_ids="Bad")
    found = table.read(tmp_path, Options(Columns(text="Body", id="Key"), columns))
    when, why = found.splits["examples"]
    assert (when.answers, when.positive_ids, when.negative_ids) == (("Now",), ("p-1",), ("p2",))
    assert (why.answers, why.positive_ids, why.negative_ids) == (("So", "As"), ("p2", "p-1"), ())
    assert found.corpus["p-1"].meta == {"original_id": "p 1"}
    again = table.read(tmp_path, Options(Columns(text="Body", id="Key"), columns))
    assert [e.id for e in again.examples] == [when.id, why.id] and when.id != why.id


def test_questions_that_name_passages_need_a_corpus(jsonl: Callable[..., Path]) -> None:
    path = jsonl("qa.jsonl", {"id": "q1", "question": "When?", "passage_id": "p1"})
    with pytest.raises(DataError, match=r"passage_id names passages.*--corpus FILE"):
        table.read(path, Options())


def test_all_malformed_rows_are_told_at_once(jsonl: Callable[..., Path], tmp_path: Path) -> None:
    row = {"question": "When?", "passage_id": "p1"}
    path = jsonl(
        "qa.jsonl",
        {**row, "id": "1"},
        {**row, "id": "1"},
        {**row, "id": "2", "passage_id": "p9"},
        {**row, "id": "3", "question": " "},
        {**row, "id": "4", "answers": {"text": ["x"]}},
        {**row, "id": "5", "history": "before"},
        {**row, "id": "6", "answerable": "maybe"},
    )
    with path.open("a") as f:
        f.write('{"id": "7"')
    options = Options(corpus={"p1": Passage("p1", "x")})
    with pytest.raises(DataError) as caught:
        table.read(path, options)
    assert str(caught.value).splitlines() == [
        f"{path}:2: id: '1' came before",
        f"{path}:3: unknown passage 'p9' (there are 1)",
        f"{path}:4: question: empty",
        f"{path}:5: a text or a list of texts was expected, not \"{{'text': ['x']}}\"",
        f"{path}:6: history: a list of {{role, content}} was expected, not 'before'",
        f"{path}:7: answerable: true or false, not 'maybe'",
        f"{path}:8: not JSON: Expecting ',' delimiter (column 11)",
    ]
    bad = tmp_path / "bad-lines.jsonl"
    found = table.read(path, Options(corpus=options.corpus, skip_bad=bad))
    assert [e.id for e in found.examples] == ["1"]
    assert [json.loads(line)["line"] for line in bad.read_text().splitlines()] == [*range(2, 9)]


def test_a_table_without_known_columns_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        DataError, match=r"no column of questions and none of texts; there are a, b"
    ):
        table.read(tmp_path, Options())
    (tmp_path / "x.csv").write_text("question,b\n1,2\n")
    with pytest.raises(DataError, match=r"question_columns\.answers: no column 'c'; there are"):
        table.read(tmp_path, Options(question_columns=QuestionColumns(answers="c")))
