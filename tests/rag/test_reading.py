"""Answers by a span reader: one scale for all passages, exact words, and when it abstains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ragkit.config.answering import ReaderAnswerer
from ragkit.data.schema import Example, Passage, Turn
from ragkit.errors import ModelError
from ragkit.models.cards import Card, write_card
from ragkit.models.reader import Pair, Span, SpanReader
from ragkit.rag.answerers import Answer
from ragkit.rag.reading import ReaderAnswers, pairs

A = Passage("a", "The relay closes after 12 seconds. ", title="Relay")
B = Passage("b", "A fuse holds 12 volts.")
C = Passage("c", "The green light is on again.")
WHEN = Example("q", "when does the relay close?")


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A random reader, saved."""
    SpanReader.load(str(tiny_encoder), head_seed=0).save(tmp_path / "reader")
    return tmp_path / "reader"


def answers_of(folder: Path, **changes: Any) -> ReaderAnswers:
    return ReaderAnswers(
        ReaderAnswerer.model_validate({"type": "reader", "model": str(folder), **changes})
    )


def all_answers(
    answerer: ReaderAnswers, asked: Sequence[Example], passages: Sequence[Sequence[Passage]]
) -> list[Answer]:
    found = dict(answerer.answer(asked, passages))
    return [found[i] for i in range(len(asked))]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> dict[int, Span | None]:
    """The best span of each passage by the place of its text's end, instead of a model's."""
    scores: dict[int, Span | None] = {}

    def best_spans(_: object, pairs: Sequence[Pair], most: int) -> list[Span | None]:
        return [scores[pair.places[-1][1]] for pair in pairs]

    monkeypatch.setattr(SpanReader, "best_spans", best_spans)
    return scores


def length(passage: Passage) -> int:
    return len(passage.text.rstrip())


def test_the_answer_is_the_best_span_of_all_passages(
    folder: Path, spans: dict[int, Span | None]
) -> None:
    spans |= {
        length(A): Span(10, 33, 4.0, 1.0),
        length(B): Span(13, 21, 6.0, 2.5),
        length(C): None,
    }
    (answer,) = all_answers(answers_of(folder), [WHEN], [[C, A, B]])
    assert (answer.text, answer.passage_ids, answer.abstained) == ("12 volts", ("b",), False)
    assert answer.latency_ms > 0
    (answer,) = all_answers(answers_of(folder), [WHEN], [[A, C]])
    assert (answer.text, answer.passage_ids) == ("closes after 12 seconds", ("a",))


def test_it_abstains_where_no_answer_scores_higher_in_any_passage(
    folder: Path, spans: dict[int, Span | None]
) -> None:
    spans |= {length(A): Span(0, 3, 4.0, 1.0), length(B): Span(13, 21, 6.0, 7.0)}
    found = all_answers(answers_of(folder), [WHEN] * 2, [[A, B], [A]])
    assert [(a.text, a.abstained, a.passage_ids) for a in found] == [
        ("", True, ()),
        ("The", False, ("a",)),
    ]


def test_the_margin_is_that_of_the_configuration_then_of_the_card_then_zero(
    folder: Path, spans: dict[int, Span | None]
) -> None:
    spans |= {length(B): Span(13, 21, 6.0, 4.0)}
    assert not all_answers(answers_of(folder), [WHEN], [[B]])[0].abstained
    write_card(folder, Card("reader", no_answer_margin=2.5, max_length=64))
    assert all_answers(answers_of(folder), [WHEN], [[B]])[0].abstained
    assert not all_answers(answers_of(folder, no_answer_margin=2.0), [WHEN], [[B]])[0].abstained
    assert answers_of(folder).reader.max_length == 64


def test_a_passage_with_low_scores_changes_no_answer(
    folder: Path, spans: dict[int, Span | None]
) -> None:
    spans |= {length(A): Span(10, 33, 4.0, 1.0), length(B): Span(0, 1, -9.0, -8.0)}
    given = [[A], [A, B], [B, A]]
    for margin, abstained in ((3.0, False), (3.1, True)):
        found = all_answers(answers_of(folder, no_answer_margin=margin), [WHEN] * 3, given)
        assert len({(a.text, a.passage_ids) for a in found}) == 1
        assert [a.abstained for a in found] == [abstained] * 3


def test_without_passages_it_abstains(folder: Path) -> None:
    answerer = answers_of(folder, no_answer_margin=-1e9)
    found = all_answers(answerer, [WHEN] * 3, [[], [B], []])
    assert [a.abstained for a in found] == [True, False, True]
    assert list(answerer.answer([], [])) == []


def test_a_question_that_leaves_no_room_is_abstained_on_and_said(
    folder: Path, log_lines: list[str]
) -> None:
    answerer = answers_of(folder, no_answer_margin=-1e9)
    found = all_answers(answerer, [Example("long", "the pump " * 70), WHEN], [[A], [A]])
    assert [a.abstained for a in found] == [True, False]
    assert log_lines == [
        "long: its question has more than the reader's 128 tokens, and is not answered"
    ]


def test_passages_that_are_not_read_to_the_end_are_counted(
    folder: Path, log_lines: list[str]
) -> None:
    answerer = answers_of(folder)
    long = Passage("l", "the pump " * 80)
    all_answers(answerer, [WHEN] * 40, [[long, A]] * 40)
    assert [line for line in log_lines if line.startswith("40 passages were longer")]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_answers_are_exact_words_of_their_passages_and_do_not_depend_on_the_batch(
    folder: Path, precision: str
) -> None:
    asked = [WHEN, Example("r", "what is green?", history=(Turn("user", "is it on?"),))] * 20
    given = [[A, B], [C, A, B], [B], [B, C]] * 10
    by_id = {p.id: p.text for p in (A, B, C)}
    options = {"no_answer_margin": -1e9, "precision": precision, "max_answer_tokens": 3}
    found = all_answers(answers_of(folder, **options), asked, given)
    for answer in found:
        assert answer.text and answer.text in by_id[answer.passage_ids[0]]
    assert found[0].text == found[4].text
    if precision == "fp32":
        small = all_answers(answers_of(folder, **options, tokens_per_batch=20), asked, given)
        assert [a.text for a in small] == [a.text for a in found]


def test_the_history_of_a_question_is_read(folder: Path) -> None:
    reader = answers_of(folder).reader
    example = Example("q", "is it on?", history=(Turn("user", "what is green?"),))
    ((pair,),) = pairs(reader, [example], [[C]])
    assert list(pair.ids) == reader.tokenizer("what is green?\nis it on?", C.text)["input_ids"]


def test_an_encoder_that_was_not_trained_to_read_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="has not learned to read"):
        answers_of(tiny_encoder)
