"""What is promised of data/demo: sizes, ids that resolve, and a test that training cannot cheat."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from ragkit.config.blocks import Columns
from ragkit.data.documents import read_documents
from ragkit.data.files import read_examples
from ragkit.data.journal import passage_sha256, read_journal
from ragkit.data.schema import Example, Passage
from ragkit.evaluation.leakage import near_questions
from ragkit.qa.prompts import parse
from ragkit.stages.chunk import cut

DEMO = Path(__file__).parents[1] / "data" / "demo"
_STOP_WORDS = (
    "a about after all also an and any are as at be been before but by can could did do does don "
    "down else for from get has have he her his how i if in into is isn it its just long ll many "
    "me more most much my no not now of off on one only or other our out over re s same she should "
    "so some such t than that the their them then there these they this those to too up us ve very "
    "was way we were what when where which while who why will with without would yes you your"
)
STOP_WORDS = set(_STOP_WORDS.split())


@pytest.fixture(scope="module")
def corpus() -> dict[str, Passage]:
    """The corpus that qa-gen makes of the passages."""
    documents = read_documents(DEMO / "passages.csv", Columns())
    return {p.id: p for p in cut(documents, None)}


@pytest.fixture(scope="module")
def test_set(corpus: dict[str, Passage]) -> list[Example]:
    return read_examples(DEMO / "test.jsonl", corpus)


@pytest.fixture(scope="module")
def recorded() -> list[Example]:
    """The recorded training questions, with the hash of their passage for an id."""
    return [
        Example(f"{n}-{i}", pair.question, (pair.answer,), meta={"sha256": r["passage_sha256"]})
        for n, r in enumerate(read_journal(DEMO / "journal.jsonl"))
        for i, pair in enumerate(parse(r["response"]))
    ]


def content_words(texts: Iterable[str]) -> set[str]:
    return {w for text in texts for w in re.findall(r"\w+", text.lower())} - STOP_WORDS


def test_there_are_150_passages_of_25_documents_in_the_columns_promised(
    corpus: dict[str, Passage],
) -> None:
    with (DEMO / "passages.csv").open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == ["title", "section", "text"]
    assert all(row["title"] and row["text"] for row in rows)
    assert len(corpus) == len(rows) >= 150
    assert len({p.source for p in corpus.values()}) >= 25


def test_there_are_120_test_questions_12_of_them_unanswerable_and_40_dev_questions(
    test_set: list[Example], corpus: dict[str, Passage]
) -> None:
    dev = read_examples(DEMO / "dev.jsonl", corpus)
    assert len(dev) == 40
    assert len(test_set) >= 120
    assert sum(not e.answerable for e in test_set) == 12
    assert len({e.asked for e in (*dev, *test_set)}) == len(dev) + len(test_set)


def test_every_answerable_question_has_an_answer_and_passages_of_the_corpus(
    test_set: list[Example], corpus: dict[str, Passage]
) -> None:
    for example in (*test_set, *read_examples(DEMO / "dev.jsonl", corpus)):
        if example.answerable:
            assert example.answers and example.positive_ids, example.id
            assert set(example.positive_ids) <= set(corpus), example.id
        else:
            assert not example.positive_ids, example.id


def test_450_pairs_are_recorded_and_each_is_about_a_passage_of_the_corpus(
    recorded: list[Example], corpus: dict[str, Passage]
) -> None:
    assert len(recorded) >= 450
    assert all(e.answers[0] for e in recorded)
    hashes = {passage_sha256(p.text) for p in corpus.values()}
    assert {e.meta["sha256"] for e in recorded} <= hashes


def test_half_of_the_documents_behind_the_test_have_no_training_question(
    test_set: list[Example], recorded: list[Example], corpus: dict[str, Passage]
) -> None:
    document = {passage_sha256(p.text): p.source for p in corpus.values()}
    trained = {document[e.meta["sha256"]] for e in recorded}
    tested = {corpus[i].source for e in test_set for i in e.positive_ids}
    assert len(tested - trained) == pytest.approx(len(tested) / 2, abs=1)


def test_questions_in_other_words_share_under_half_of_theirs_with_their_passage(
    test_set: list[Example], corpus: dict[str, Passage]
) -> None:
    reworded = [e for e in test_set if e.meta.get("wording") == "different"]
    assert len(reworded) >= sum(e.answerable for e in test_set) / 2
    low = 0
    for example in reworded:
        asked = content_words([example.question])
        told = content_words(corpus[i].rendered for i in example.positive_ids)
        low += len(asked & told) < len(asked) / 2
    assert low >= sum(e.answerable for e in test_set) / 2


def test_no_test_or_dev_question_is_nearly_a_recorded_one(
    test_set: list[Example], recorded: list[Example]
) -> None:
    held_out = [*test_set, *read_examples(DEMO / "dev.jsonl")]
    assert [(a.question, b.question) for a, b in near_questions(held_out, recorded, 0.7)] == []
