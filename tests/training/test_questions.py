"""What is learned from examples: prompts with passages, references, refusals; what is left out."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ragkit.config.answering import Prompting
from ragkit.config.generating import Passages
from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError
from ragkit.rag.prompting import Prompter
from ragkit.training.given import Given
from ragkit.training.questions import Questions, reference, usable

CORPUS = {
    "a": Passage("a", "the pump stops", "pump"),
    "b": Passage("b", "the valve opens"),
    "c": Passage("c", "the fuse holds"),
}
GOOD = Example("good", "what stops", ("the pump", "pump"), ("a",))
TWO = Example("two", "what opens and holds", ("a valve",), ("b", "c"))
NONE = Example("none", "who", answerable=False)
SILENT = Example("silent", "what", (), ("a",))
LONG = Example("long", "what", ("the pump " * 40,), ("a",))
WIDE = Example("wide", "the pump " * 90, ("x",), ("a",))
LOOSE = Example("loose", "what", ("the pump",))
EXAMPLES = [GOOD, TWO, NONE, SILENT, LONG, WIDE]


def questions(folder: Path, examples: list[Example], **values: Any) -> Questions:
    options = {"max_length": 150, "max_answer_tokens": 30, **values}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = Prompting(system="{refusal}", refusal="no passage says")
    prompter = Prompter(tokenizer, (2,), True, prompt=prompt, **options)
    given = Given.of(examples, CORPUS, Passages(shuffle=False), None, 0)
    return Questions(examples, given, prompter)


def test_an_item_is_the_prompt_of_use_and_the_reference(tiny_decoder: Path) -> None:
    asked = questions(tiny_decoder, [GOOD])
    item = asked.item(0, 0)
    decode = asked.prompter.tokenizer.decode
    assert decode(item.texts[0]) == (
        "no passage says\n\nPassages:\n\n[1] pump\nthe pump stops\n\n"
        "Question: what stops\n\nAnswer:"
    )
    assert decode(item.answer) == " the pump</s>"
    assert item == asked.dev_item(0)


def test_an_unanswerable_question_is_answered_by_the_refusal(tiny_decoder: Path) -> None:
    asked = questions(tiny_decoder, [NONE, GOOD])
    assert asked.prompter.tokenizer.decode(asked.item(0, 0).answer) == " no passage says</s>"


def test_an_answer_names_the_places_of_its_passages(tiny_decoder: Path) -> None:
    prompter = questions(tiny_decoder, [TWO], cite=True).prompter
    order = [CORPUS[i] for i in ("c", "a", "b")]
    assert reference(TWO, order, prompter) == "a valve [1, 3]"
    assert reference(TWO, order[:2], prompter) == "a valve [1]"
    assert reference(TWO, order[1:2], prompter) == "a valve"
    assert reference(NONE, order, prompter) == "no passage says"


def test_what_cannot_be_learned_from_is_left_out_and_counted(
    tiny_decoder: Path, log_lines: list[str]
) -> None:
    asked = questions(tiny_decoder, EXAMPLES)
    kept = usable(EXAMPLES, asked.given, asked.prompter, 30, "x.jsonl")
    assert [e.id for e in kept] == ["good", "two", "none"]
    assert log_lines == [
        "x.jsonl: of 6 examples 1 have no answer; "
        "1 have an answer of more than max_answer_tokens (30); "
        "1 have no room for question and instructions (150 tokens of max_length - 30 of "
        "max_answer_tokens: raise the one or lower the other): left out"
    ]
    assert asked.dev_item(EXAMPLES.index(WIDE)) is None
    with pytest.raises(
        DataError, match="x.jsonl: nothing to learn from: of 1 examples 1 have no answer"
    ):
        usable([SILENT], asked.given, asked.prompter, 30, "x.jsonl")


def test_passages_that_are_cut_are_counted(tiny_decoder: Path, log_lines: list[str]) -> None:
    asked = questions(tiny_decoder, [GOOD, TWO], max_length=82)
    assert len(usable([GOOD, TWO], asked.given, asked.prompter, 30, "x.jsonl")) == 2
    assert log_lines == [
        "x.jsonl: of 2 prompts 1 lose ends of passages and 0 the oldest turns, to fit max_length 82"
    ]


def test_an_answer_whose_passage_nobody_knows_is_not_learned_from_others(
    tiny_decoder: Path, log_lines: list[str]
) -> None:
    asked = questions(tiny_decoder, [GOOD, LOOSE])
    assert usable([GOOD, LOOSE], asked.given, asked.prompter, 30, "x.jsonl") == [GOOD]
    assert log_lines == [
        "x.jsonl: of 2 examples 1 name no passage that answers (positive_ids): left out"
    ]


def test_only_passages_in_the_prompt_are_cited(tiny_decoder: Path) -> None:
    whole = questions(tiny_decoder, [TWO], cite=True)
    room = len(whole.item(0, 0).texts[0])
    decode = whole.prompter.tokenizer.decode
    assert decode(whole.item(0, 0).answer) == " a valve [1, 2]</s>"
    short = questions(tiny_decoder, [TWO], cite=True, max_length=room + 30 - 1)
    assert "[2]" not in decode(short.item(0, 0).texts[0]).split("Passages")[1]
    assert decode(short.item(0, 0).answer) == " a valve [1]</s>"
