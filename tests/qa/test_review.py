"""Review: what a person gets, and what a person's corrections do."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.schema import Example, Passage, Turn, parse_example
from ragkit.errors import DataError
from ragkit.qa.review import COLUMNS, Corrections, read_review, write_review

CORPUS = {
    "a": Passage("a", 'It takes 24 V; "nominal",\nsays Müller.', title="B200", doc_id="d"),
    "b": Passage("b", "It takes 48 V.", doc_id="d"),
}
PLAIN = Example("e1", "What does it take?", ("24 V", "24 volts"), ("a",), meta={"style": "factoid"})
FOLLOW_UP = Example(
    "e2", "And the other?", ("48 V",), ("b",),
    history=(Turn("user", "What?"), Turn("assistant", "24 V")),
)  # fmt: skip
OPEN = Example(
    "e3", "Who makes it?", answerable=False, meta={"about": "b", "style": "unanswerable"}
)
EXAMPLES = [("test", PLAIN), ("test", FOLLOW_UP), ("dev", OPEN)]
Edit = Callable[[list[dict[str, str]]], Any]


@pytest.fixture
def review(tmp_path: Path) -> Path:
    path = tmp_path / "review.csv"
    assert write_review(path, iter(EXAMPLES), CORPUS) == 3
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as f:
        return list(csv.DictReader(f))


def save(
    path: Path, found: list[dict[str, str]], delimiter: str = ",", encoding: str = "utf-8-sig"
) -> None:
    """Write as a spreadsheet does."""
    with path.open("w", newline="", encoding=encoding) as f:
        writer = csv.DictWriter(f, COLUMNS, delimiter=delimiter, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(found)


def read(path: Path) -> Corrections:
    return read_review(path, (e for _, e in EXAMPLES), CORPUS, {"d": "test"})


def corrected(corrections: Corrections, split: str) -> list[Example]:
    return list(corrections.apply(split, [e for s, e in EXAMPLES if s == split]))


def test_a_review_shows_questions_with_their_answers_and_passages(review: Path) -> None:
    assert review.read_bytes().startswith(b"\xef\xbb\xbfid,split,keep,question,")
    plain, follow_up, open_ = rows(review)
    assert plain == {
        "id": "e1", "split": "test", "keep": "yes", "question": "What does it take?",
        "answer": "24 V", "passage_id": "a", "title": "B200", "passage": CORPUS["a"].text,
    }  # fmt: skip
    assert follow_up["passage"] == "[user: What?] [assistant: 24 V] It takes 48 V."
    assert (open_["answer"], open_["passage_id"], open_["split"]) == ("", "b", "dev")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_was_not_touched_is_not_corrected(review: Path, delimiter: str, encoding: str) -> None:
    assert read(review) == Corrections()
    save(review, rows(review), delimiter, encoding)
    found = read(review)
    assert found == Corrections()
    assert found.line == "0 dropped, 0 rewritten, 0 added"
    assert corrected(found, "test") == [PLAIN, FOLLOW_UP]
    assert corrected(found, "dev") == [OPEN]


@pytest.mark.parametrize("no", ["no", "NO ", "n", "0", "false", "nein"])
def test_a_question_that_is_not_to_be_kept_is_dropped(review: Path, no: str) -> None:
    found = rows(review)
    found[0]["keep"] = no
    found[0]["question"] = ""
    save(review, found, ";")
    corrections = read(review)
    assert corrected(corrections, "test") == [FOLLOW_UP]
    assert corrections.line == "1 dropped, 0 rewritten, 0 added"


def test_a_rewritten_question_keeps_its_id_passages_and_other_answers(review: Path) -> None:
    found = rows(review)
    found[0] |= {"question": " What does a B200 take? ", "answer": "24 V DC"}
    save(review, found)
    first, second = corrected(read(review), "test")
    assert (first.id, first.question) == ("e1", "What does a B200 take?")
    assert first.answers == ("24 V DC", "24 volts")
    assert first.meta == {"style": "factoid", "reviewed": True}
    assert second == FOLLOW_UP


def test_an_answer_that_was_taken_out_leaves_none(review: Path) -> None:
    found = rows(review)
    found[0]["answer"] = ""
    save(review, found)
    assert corrected(read(review), "test")[0].answers == ()


def test_an_unanswerable_question_that_was_given_an_answer_has_one(review: Path) -> None:
    found = rows(review)
    found[2]["answer"] = "Acme"
    save(review, found)
    (example,) = corrected(read(review), "dev")
    assert (example.answerable, example.answers, example.positive_ids) == (True, ("Acme",), ("b",))
    assert parse_example(example.to_json()) == example


def test_a_row_without_id_is_a_new_question_of_its_split(review: Path) -> None:
    new = {"split": "test", "keep": "x", "question": "New one?", "answer": "Yes", "passage_id": "b"}
    save(review, [*rows(review), new])
    corrections = read(review)
    *_, added = corrected(corrections, "test")
    assert (added.question, added.answers, added.positive_ids) == ("New one?", ("Yes",), ("b",))
    assert added.meta == {"style": "written", "doc_id": "d", "reviewed": True}
    assert corrected(corrections, "dev") == [OPEN]
    assert corrections.line == "0 dropped, 0 rewritten, 1 added"
    save(review, [*rows(review)[:3], {**new, "keep": "no"}])
    assert read(review) == Corrections()


def test_a_row_that_was_taken_out_stays_as_it_was(review: Path) -> None:
    save(review, rows(review)[1:])
    assert corrected(read(review), "test") == [PLAIN, FOLLOW_UP]


@pytest.mark.parametrize("sign", "=+-@")
def test_no_cell_is_a_formula_and_none_is_changed_by_that(tmp_path: Path, sign: str) -> None:
    example = replace(PLAIN, question=f"{sign}HYPERLINK(1)?", answers=(f"{sign}5 °C",))
    path, corpus = tmp_path / "review.csv", {"a": Passage("a", f"{sign}5 °C", doc_id="d")}
    write_review(path, [("test", example)], corpus)
    (row,) = rows(path)
    assert not any(cell.startswith(sign) for cell in row.values())
    assert not read_review(path, [example], corpus, {"d": "test"}).changed


def test_a_long_passage_comes_back(tmp_path: Path) -> None:
    path, corpus = tmp_path / "review.csv", {"a": Passage("a", "x" * 300_000, doc_id="d")}
    write_review(path, [("test", PLAIN)], corpus)
    assert not read_review(path, [PLAIN], corpus, {"d": "test"}).changed


NEW = {"id": "", "split": "test", "keep": "yes", "question": "New?", "passage_id": "b"}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({**NEW, "keep": "maybe"}, "keep: 'maybe' is neither yes nor no"),
        ({**NEW, "id": "e9"}, "id: 'e9' is no question of this run"),
        ({**NEW, "id": "e1", "question": " "}, "question: empty"),
        ({**NEW, "split": "tests"}, "split: 'tests' is none of train, dev, test"),
        ({**NEW, "passage_id": "z"}, "passage_id: 'z' is not in the corpus"),
        ({**NEW, "split": "dev"}, "split: 'dev', and the document of 'b' is for 'test'"),
    ],
)
def test_a_row_that_cannot_be_understood_is_told_with_its_line(
    review: Path, row: dict[str, str], problem: str
) -> None:
    save(review, [row, *rows(review)])
    with pytest.raises(DataError, match=rf"review\.csv:2: {problem}"):
        read(review)


def test_all_bad_rows_are_told_at_once_and_a_question_twice_is_one(review: Path) -> None:
    save(review, [NEW, {**NEW, "keep": ""}, NEW, *rows(review)])
    with pytest.raises(DataError) as caught:
        read(review)
    first, second = str(caught.value).splitlines()
    assert first.endswith("review.csv:3: keep: '' is neither yes nor no")
    assert second.endswith("review.csv:4: question: 'New?' is asked about this passage already")


def test_a_file_without_its_columns_or_with_an_open_quote_is_told(review: Path) -> None:
    review.write_text("id;split;question\n")
    with pytest.raises(DataError, match=r"review\.csv:1: no column keep, answer, passage_id"):
        read(review)
    review.write_text(",".join(COLUMNS) + '\ne1,test,yes,"open\n')
    with pytest.raises(DataError, match=r"review\.csv:\d: not CSV"):
        read(review)
