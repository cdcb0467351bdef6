"""LocalRQA's files: questions, answers, and the passages inside them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.formats import localrqa
from ragkit.data.formats.dataset import Options
from ragkit.data.schema import Turn
from ragkit.errors import DataError

URL = "https://example.org/pump"


def doc(text: str, source: str = URL, title: str = "Pump", **metadata: Any) -> dict[str, Any]:
    shown = f"Source: {source}\nTitle: {title}\nContent:\n{text}"
    return {
        "page_content": text,
        "fmt_content": shown,
        "metadata": {"source": source, "title": title, **metadata},
    }


def line(**fields: Any) -> dict[str, Any]:
    gold, other = doc("It starts at 5 volts.", seq_num=4), doc("It is green.", seq_num=5)
    return {"gold_docs": [gold], "hard_neg_docs": [other], "chat_history": [], **fields}


def test_questions_become_an_example_each_and_answers_join_them(
    jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    jsonl("train_w_q.jsonl", line(questions=["When?", "Why?", ""]))
    jsonl("train_w_qa.jsonl", line(question="Why?", gold_answer="So."),
          line(question="Why?", gold_answer="Because."))  # fmt: skip
    jsonl("docs.jsonl", {"text": "a whole page"})
    found = localrqa.read(tmp_path, Options())
    when, why = found.splits["train"]
    assert (when.question, when.answers) == ("When?", ())
    assert (why.question, why.answers) == ("Why?", ("So.", "Because."))
    assert when.positive_ids == why.positive_ids and when.negative_ids == why.negative_ids
    gold = found.corpus[when.positive_ids[0]]
    assert (gold.text, gold.title, gold.doc_id) == ("It starts at 5 volts.", "Pump", URL)
    assert gold.meta == {"seq_num": 4}
    assert found.corpus[when.negative_ids[0]].text == "It is green."
    assert found.notes == [
        "docs.jsonl is not of LocalRQA's questions and was left out.",
        "train_w_q.jsonl: 1 empty question left out.",
        "train_w_qa.jsonl: 2 questions with passages that came before became one example with the "
        "earlier one, with all answers.",
    ]


def test_an_import_and_an_export_give_the_same_lines(
    jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    shown = {"speaker": "Assistant", "message": "Yes.", "source_documents": [doc("Told.")]}
    asked = {"speaker": "User", "message": "Is it?", "source_documents": []}
    odd = {**doc("Odd.", source="a page"), "fmt_content": "of its own"}
    lines = {
        "dev_w_q.jsonl": [line(questions=["When?", "Why?"], chat_history=[asked, shown])],
        "dev_w_qa.jsonl": [
            line(question="When?", gold_answer="At 5 volts.", chat_history=[asked, shown]),
            line(question="Odd?", gold_answer="Odd.", gold_docs=[odd]),
        ],
    }
    for name, records in lines.items():
        jsonl(f"in/{name}", *records)
    found = localrqa.read(tmp_path / "in", Options())
    assert found.splits["dev"][0].history == (Turn("user", "Is it?"), Turn("assistant", "Yes."))
    localrqa.write(tmp_path / "out", found, Options())
    lines["dev_w_q.jsonl"].append(line(questions=["Odd?"], gold_docs=[odd]))
    for name, records in lines.items():
        written = (tmp_path / "out" / name).read_text().splitlines()
        assert [json.loads(text) for text in written] == records


def test_passages_of_a_corpus_given_apart_lend_their_ids(jsonl: Callable[..., Path]) -> None:
    path = jsonl("train_w_q.jsonl", line(questions=["When?"]))
    first = localrqa.read(path, Options())
    passage = first.corpus[first.splits["train"][0].positive_ids[0]]
    known = {"p7": type(passage)("p7", passage.text, passage.title)}
    found = localrqa.read(path, Options(corpus=known))
    assert found.splits["train"][0].positive_ids == ("p7",)
    assert found.corpus["p7"] == known["p7"] and len(found.corpus) == 2


def test_all_malformed_lines_are_told_at_once(jsonl: Callable[..., Path], tmp_path: Path) -> None:
    path = jsonl(
        "train_w_q.jsonl",
        line(questions=[]),
        line(questions=[3]),
        line(questions=["ok"]),
        line(questions=["x"], gold_docs=["text"]),
        line(questions=["x"], chat_history=[{"speaker": "Judge", "message": "?"}]),
        line(questions=["x"], gold_docs=[{"page_content": " "}]),
        {"question": "x"},
    )
    with pytest.raises(DataError) as caught:
        localrqa.read(path, Options())
    assert str(caught.value).splitlines() == [
        f"{path}:1: questions: a list was expected, not []",
        f"{path}:2: question: a text was expected, not 3",
        f"{path}:4: gold_docs: a list of objects was expected",
        f"{path}:5: no role that is known: 'Judge' (known are user, human, assistant, agent, bot, "
        "ai)",
        f"{path}:6: the text of a passage is empty",
        f"{path}:7: an object with gold_docs was expected",
    ]
    bad = tmp_path / "bad-lines.jsonl"
    found = localrqa.read(path, Options(skip_bad=bad))
    assert [e.question for e in found.examples] == ["ok"]
    assert len(bad.read_text().splitlines()) == 6
