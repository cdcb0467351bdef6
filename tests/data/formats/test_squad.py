"""SQuAD 1.1 and 2.0: spans, repeated answers, unanswerable questions."""

import json
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.formats import squad
from ragkit.data.formats.dataset import Dataset, Options
from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError

CONTEXT = "The Normans (Norman: Nourmands) gave their name to Normandy, a region in France."


def answer(text: str, start: int | None = None) -> dict[str, Any]:
    return {"text": text, "answer_start": CONTEXT.index(text) if start is None else start}


def write(path: Path, *qas: Any, version: str = "v2.0") -> Path:
    paragraphs = [{"context": CONTEXT, "qas": list(qas)}]
    data = [{"title": "The_Normans", "paragraphs": paragraphs}]
    path.write_text(json.dumps({"version": version, "data": data}))
    return path


def test_version_1_has_answers_with_offsets_and_repeated_ones_once(tmp_path: Path) -> None:
    answers = [answer("France"), answer("France"), answer("a region in France")]
    qa = {"id": "56ddde6b", "question": "Where is Normandy?", "answers": answers}
    found = squad.read(write(tmp_path / "dev-v1.1.json", qa, version="1.1"), Options())
    (passage,) = found.corpus.values()
    assert (passage.text, passage.title, passage.doc_id) == (CONTEXT, "The Normans", "The_Normans")
    example = Example(
        "56ddde6b", "Where is Normandy?", ("France", "a region in France"), (passage.id,),
        meta={"answer_starts": [73, 61]},
    )  # fmt: skip
    assert found.splits == {"dev": [example]}
    assert found.notes == ["1 repeated or empty answer left out."]
    assert CONTEXT[73:79] == "France" and CONTEXT[61:].startswith("a region")


def test_an_import_and_an_export_give_the_same_json(tmp_path: Path) -> None:
    qas = [
        {"id": "a1", "question": "Where?", "answers": [answer("France")], "is_impossible": False},
        {
            "id": "a 2",
            "question": "Who left?",
            "answers": [],
            "is_impossible": True,
            "plausible_answers": [answer("The Normans")],
        },
    ]
    path = write(tmp_path / "train-v2.0.json", *qas)
    found = squad.read(path, Options())
    impossible = found.splits["train"][1]
    assert (impossible.answerable, impossible.positive_ids) == (False, ())
    assert impossible.meta["context_ids"] == list(found.corpus)
    assert squad.write(tmp_path / "out", found, Options()) == []
    assert json.loads((tmp_path / "out" / "train.json").read_text()) == json.loads(path.read_text())


def test_offsets_that_are_wrong_are_told_and_found_anew_in_an_export(tmp_path: Path) -> None:
    qa = {"id": "a1", "question": "Where?", "answers": [answer("France", 3)]}
    found = squad.read(write(tmp_path / "x.json", qa), Options())
    assert found.examples[0].meta["answer_starts"] == [3]
    assert found.notes == [
        "1 answer not at the offset that the file gives; the offsets are in meta.answer_starts as "
        "they were."
    ]
    squad.write(tmp_path / "out", found, Options())
    (article,) = json.loads((tmp_path / "out" / "examples.json").read_text())["data"]
    assert article["paragraphs"][0]["qas"][0]["answers"] == [answer("France")]


def test_what_has_no_place_in_a_paragraph_is_left_out_and_counted(tmp_path: Path) -> None:
    examples = [
        Example("q1", "Where?", ("France", "Gaul"), ("p1",)),
        Example("q2", "Where?", ("Gaul",), ("p1",)),
        Example("q3", "Where?", answerable=False),
    ]
    dataset = Dataset({"p1": Passage("p1", CONTEXT, "N", "N")}, {"test": examples})
    assert squad.write(tmp_path, dataset, Options()) == [
        "1 question left out: SQuAD's answers are spans of a passage, and none of theirs is.",
        "1 question left out: SQuAD writes an unanswerable question under a passage, and none is "
        "known.",
        "1 answer left out, no span of the passage.",
    ]
    content = json.loads((tmp_path / "test.json").read_text())
    assert [qa["id"] for qa in content["data"][0]["paragraphs"][0]["qas"]] == ["q1"]


def test_all_malformed_questions_are_told_with_their_place(tmp_path: Path) -> None:
    good = {"id": "a1", "question": "Where?", "answers": []}
    path = write(
        tmp_path / "x.json",
        good,
        good,
        {**good, "id": "a2", "question": ""},
        {**good, "id": "a3", "answers": ["France"]},
        {**good, "id": "a4", "answers": [answer("France")], "is_impossible": True},
        {**good, "id": None},
        "text",
    )
    with pytest.raises(DataError) as caught:
        squad.read(path, Options())
    place = f"{path}:data[0].paragraphs[0].qas"
    assert str(caught.value).splitlines() == [
        f"{place}[1]: id: 'a1' came before",
        f"{place}[2]: question: a text was expected, not ''",
        f"{place}[3]: answers: a list of {{text, answer_start}} was expected",
        f"{place}[4]: is_impossible: true, but it has answers",
        f"{place}[5]: id: text or a whole number was expected, not None",
        f"{place}[6]: an object was expected",
    ]
    found = squad.read(path, Options(skip_bad=tmp_path / "bad-lines.jsonl"))
    assert [e.id for e in found.examples] == ["a1"]


def test_truncated_json_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"data": [\n  {"title": "x", "paragr')
    with pytest.raises(DataError, match=r"x\.json:2: not JSON: Unterminated string"):
        squad.read(path, Options())
    path.write_text('{"data": []}')
    with pytest.raises(DataError, match=r"x\.json: not of SQuAD's shape"):
        squad.read(path, Options())
