"""Answers by fusion-in-decoder: prompts as in training, refusals, citations, foreign models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ragkit.config.answering import FidAnswerer, Prompting
from ragkit.data.schema import Example, Passage
from ragkit.errors import ModelError
from ragkit.models.cards import Card, write_card
from ragkit.models.generator import Generated
from ragkit.rag import fused
from ragkit.rag.fused import FidAnswers
from ragkit.rag.prompts import pair_text

A = Passage("a", "The gateway needs 12 volts.", "Gateway")
B = Passage("b", "The green light is on.")


@pytest.fixture
def trained(
    tiny_encoder: Path, encoder_decoder: Callable[[str], Any], tmp_path: Path
) -> Callable[..., FidAnswers]:
    """Load a random T5 with the card of one that was trained."""

    def build(card: Card | None, **options: Any) -> FidAnswers:
        encoder_decoder("t5").save_pretrained(tmp_path / "m")
        AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path / "m")
        if card is not None:
            write_card(tmp_path / "m", card)
        values = {
            "type": "fid",
            "model": str(tmp_path / "m"),
            "max_new_tokens": 6,
            "precision": "fp32",
        }
        return FidAnswers(FidAnswerer.model_validate({**values, **options}))

    return build


def questions(count: int) -> list[Example]:
    return [Example(f"q{i}", f"how many volts {i}") for i in range(count)]


def say(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> list[Any]:
    """Make the generator say texts, and return what it was asked."""
    asked: list[Any] = []

    def generate(_: Any, prompts: Any) -> list[Generated]:
        asked.extend(prompts)
        return [Generated(text, (5, 3), 7) for text in texts]

    monkeypatch.setattr(fused, "generate_fused", generate)
    return asked


def test_each_passage_is_read_with_the_question_as_in_training(
    trained: Callable[..., FidAnswers], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = trained(Card("fid", max_length=60))
    asked = say(monkeypatch, ["12 volts", "green"])
    one, two = questions(2)
    found = dict(answers.answer([one, two], [[A, B], []]))
    tokenizer = answers.generator.tokenizer
    expected = [[pair_text(one, p.rendered, ()) for p in (A, B)], [pair_text(two, "", ())]]
    assert [list(map(list, texts)) for texts in asked] == [
        tokenizer(texts)["input_ids"] for texts in expected
    ]
    assert found[0].text == "12 volts" and not found[0].abstained
    assert found[0].usage == {"prompt_tokens": 7, "completion_tokens": 2}


def test_a_model_s_own_refusal_is_an_abstention(
    trained: Callable[..., FidAnswers], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = Prompting(refusal="No idea.").model_dump()
    answers = trained(Card("fid", prompt=prompt, max_length=60))
    say(monkeypatch, ["No idea", "I cannot answer this from the documents."])
    found = dict(answers.answer(questions(2), [[A], [B]]))
    assert (found[0].abstained, found[1].abstained) == (True, False)


@pytest.mark.parametrize(
    ("cite", "text", "ids"), [(True, "12 volts", ("b", "a")), (False, "12 volts [2] [1]", ())]
)
def test_citations_are_taken_out_where_the_model_learned_them(
    cite: bool, text: str, ids: tuple[str, ...],
    trained: Callable[..., FidAnswers], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    answers = trained(Card("fid", cite=cite, max_length=60))
    say(monkeypatch, ["12 volts [2] [1]"])
    ((_, found),) = answers.answer(questions(1), [[A, B]])
    assert (found.text, found.passage_ids) == (text, ids)


def test_answers_do_not_depend_on_what_is_asked_beside(
    trained: Callable[..., FidAnswers],
) -> None:
    answers = trained(Card("fid", max_length=60), batch_size=3)
    asked = questions(40)
    passages = [[A, B][: i % 3] for i in range(40)]
    together = dict(answers.answer(asked, passages))
    assert sorted(together) == list(range(40))
    for i in (0, 1, 2, 39):
        ((_, alone),) = answers.answer([asked[i]], [passages[i]])
        assert (alone.text, alone.usage) == (together[i].text, together[i].usage)
    assert len({answer.text for answer in together.values()}) > 2


def test_a_question_that_the_model_cannot_read_whole_has_failed(
    trained: Callable[..., FidAnswers], log_lines: list[str]
) -> None:
    answers = trained(Card("fid", max_length=20))
    short, long = Example("short", "volts"), Example("long", "how many volts " * 20)
    found = dict(answers.answer([long, short], [[A], [A]]))
    assert (found[0].failed, found[0].text, found[1].failed) == (True, "", False)
    assert log_lines == [
        "question long is longer than the 20 tokens that the model reads at a time"
    ]


def test_a_model_without_a_card_is_refused_with_the_way_to_train_one(
    trained: Callable[..., FidAnswers],
) -> None:
    with pytest.raises(ModelError, match=r"has no generator.json.*train-generator.*method=fid"):
        trained(None)


@pytest.mark.parametrize(("method", "answerer"), [("swr", "hf"), ("reader", "reader")])
def test_a_model_of_another_method_is_refused_with_what_asks_it(
    method: str, answerer: str, trained: Callable[..., FidAnswers]
) -> None:
    with pytest.raises(
        ModelError, match=f"by method {method}, not fid: answer with type: {answerer}"
    ):
        trained(Card(method))
