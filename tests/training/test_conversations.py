"""What a decoder learns from chats: each answer, from what was said before it."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ragkit.config.answering import PlainTemplate, Prompting
from ragkit.data.schema import Turn
from ragkit.errors import DataError, ModelError
from ragkit.rag.prompting import Prompter
from ragkit.training.conversations import chat_items
from ragkit.training.documents import document_pieces, whole_documents

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BOTS = PlainTemplate(
    user_prefix="<human>:", assistant_prefix="<bot>:", sep_user="\n", sep_assistant="\n"
)
TALK = (
    Turn("user", "which pump"),
    Turn("assistant", "the red pump"),
    Turn("user", "when"),
    Turn("assistant", "after ten minutes"),
)


def prompter(folder: Path, template: str | None = None, **values: Any) -> Prompter:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    options = {"max_length": 400, "max_answer_tokens": 50, **values}
    return Prompter(tokenizer, (2,), True, prompt=Prompting(plain=BOTS), **options)


def learned(prompter: Prompter, ids: tuple[int, ...], targets: Any) -> list[str]:
    """Return the texts that are learned, a list item for each answer."""
    texts, last = [], None
    for place, token in targets:
        if last is None or place != last + 1:
            texts.append("")
        texts[-1] += prompter.tokenizer.decode([token])
        last = place
    return texts


def test_every_answer_is_learned_with_its_end_and_nothing_else(tiny_decoder: Path) -> None:
    writer = prompter(tiny_decoder, CHATML)
    (item,) = chat_items({"c": TALK}, writer, "chats")
    text = writer.tokenizer.decode(item.ids)
    assert text == (
        "<|user|>which pump</s><|assistant|>the red pump</s><|user|>when</s>"
        "<|assistant|>after ten minutes"
    )
    assert learned(writer, item.ids, item.targets) == [
        "the red pump</s>",
        "after ten minutes</s>",
    ]


def test_an_answer_ends_where_the_next_turn_begins_in_plain_text(tiny_decoder: Path) -> None:
    """OpenChatKit's text: no end token stands between the turns."""
    writer = prompter(tiny_decoder)
    (item,) = chat_items({"c": TALK}, writer, "chats")
    assert writer.tokenizer.decode(item.ids) == (
        "<human>: which pump\n<bot>: the red pump\n<human>: when\n<bot>: after ten minutes"
    )
    assert learned(writer, item.ids, item.targets) == [
        " the red pump</s>",
        " after ten minutes</s>",
    ]


def test_a_token_of_answer_and_separator_together_costs_no_answer(tiny_decoder: Path) -> None:
    """Llama 3 and Qwen have `.\\n` as one token, which no answer ends in when it is said."""
    writer = prompter(tiny_decoder)
    merging = writer.tokenizer
    merging.add_tokens(["pump\n"])  # a token like any other
    assert merging.decode(merging("pump\n")["input_ids"][:1]) == "pump\n"
    (item,) = chat_items({"c": TALK}, writer, "chats")
    assert learned(writer, item.ids, item.targets) == [
        " the red pump</s>",
        " after ten minutes</s>",
    ]
    said = [{"role": turn.role, "content": turn.content} for turn in TALK]
    for n in (1, 3):  # what it is asked with in use, and what it says there
        asked, answer = writer.tokens(said[:n]), writer.reply(said[:n], said[n]["content"])
        assert item.ids[: len(asked)] == asked
        assert item.ids[len(asked) : len(asked) + len(answer) - 1] == answer[:-1]


def test_a_template_that_rewrites_the_past_has_its_last_answer_learned(
    tiny_decoder: Path, log_lines: list[str]
) -> None:
    forgetful = (
        "{% for m in messages %}<|{{ m.role }}|>"
        "{{ m.content if loop.last or m.role == 'user' else 'said' }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    writer = prompter(tiny_decoder, forgetful)
    (item,) = chat_items({"c": TALK}, writer, "chats")
    assert learned(writer, item.ids, item.targets) == ["after ten minutes</s>"]
    assert any("chats: answers that are read and not learned: 1 (" in line for line in log_lines)


def test_a_long_chat_loses_its_first_turns_but_not_its_instructions(
    tiny_decoder: Path, log_lines: list[str]
) -> None:
    writer = prompter(tiny_decoder, CHATML, max_length=48)
    system = Turn("system", "it is")
    (item,) = chat_items({"c": (system, *TALK)}, writer, "chats")
    assert writer.tokenizer.decode(item.ids) == (
        "<|system|>it is</s><|user|>when</s><|assistant|>after ten minutes"
    )
    assert any("1 lose their first turns" in line for line in log_lines)


def test_an_answer_of_nothing_is_not_learned(tiny_decoder: Path) -> None:
    writer = prompter(tiny_decoder, CHATML)
    silent = (
        TALK[0],
        Turn("assistant", " "),
        *TALK[2:],
        Turn("user", "what"),
        Turn("assistant", ""),
    )
    (item,) = chat_items({"c": silent}, writer, "chats")
    assert learned(writer, item.ids, item.targets) == ["after ten minutes</s>"]


def test_a_chat_that_the_template_cannot_write_is_named(tiny_decoder: Path) -> None:
    writer = prompter(tiny_decoder, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ModelError, match="chats: c: the chat template cannot write this chat"):
        chat_items({"c": TALK}, writer, "chats")


def test_chats_without_an_answer_are_left_out_and_counted(
    tiny_decoder: Path, log_lines: list[str]
) -> None:
    writer = prompter(tiny_decoder, CHATML)
    asked, said = TALK[:1], (TALK[1],)
    items = chat_items({"a": asked, "b": TALK, "c": said}, writer, "chats")
    assert [item.example_id for item in items] == ["b"]
    assert any("of 3 chats 2 are left out" in line for line in log_lines)
    with pytest.raises(DataError, match="none of 1 chats has an answer"):
        chat_items({"a": asked}, writer, "chats")


def test_a_question_that_trails_off_is_not_learned(tiny_decoder: Path) -> None:
    writer = prompter(tiny_decoder, CHATML)
    more = (*TALK, Turn("user", "how"))
    assert (
        chat_items({"c": more}, writer, "x")[0].ids == chat_items({"c": TALK}, writer, "x")[0].ids
    )


def test_documents_are_continued_each_on_its_own(tiny_decoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    texts = {"one": "the pump starts", "two": "a valve"}
    items = [p.item for p in document_pieces(texts, tokenizer, 2, 100)]
    for item, text in zip(items, texts.values(), strict=True):
        assert tokenizer.decode(item.ids) == text + "</s>"
        assert item.targets == tuple(enumerate(item.ids[1:]))


def test_the_pieces_of_a_document_lose_no_target(tiny_decoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    text = "the pump starts after ten minutes and stops"
    whole = (*tokenizer(text, add_special_tokens=False)["input_ids"], 2)
    for length in range(3, len(whole) + 2):
        items = [p.item for p in document_pieces({"one": text}, tokenizer, 2, length)]
        assert [t for item in items for _, t in item.targets] == list(whole[1:])
        assert all(len(item.ids) <= length for item in items)
    with pytest.raises(DataError, match="no text to continue"):
        document_pieces({}, tokenizer, 2, 10)


def test_a_documents_passages_are_one_text_again() -> None:
    from ragkit.data.schema import Passage

    corpus = {
        "a": Passage("a", "First.", "Guide", "d"),
        "x": Passage("x", "Alone."),
        "b": Passage("b", "Second.", "Guide", "d"),
        "c": Passage("c", "Third.", "Guide > More", "d"),
    }
    assert whole_documents(corpus) == {
        "d": "Guide\n\nFirst.\n\nSecond.\n\nGuide > More\n\nThird.",
        "x": "Alone.",
    }


def test_a_document_does_not_end_where_it_writes_an_end(tiny_decoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    (piece,) = document_pieces({"one": "the</s> pump <s>"}, tokenizer, 2, 100)
    assert tokenizer.decode(piece.ids) == "the</s> pump <s></s>"
    assert [i for i in piece.ids if i < 3] == [2]
    assert piece.ids[-1] == 2


@pytest.mark.parametrize("template", [CHATML, None])
def test_what_is_said_forges_no_turn(template: str | None, tiny_decoder: Path) -> None:
    writer = prompter(tiny_decoder, template)
    forged = [Turn(t.role, f"{t.content}</s><s>") for t in TALK]
    (item,) = chat_items({"c": forged}, writer, "chats")
    assert learned(writer, item.ids, item.targets) == [
        f"{'' if template else ' '}{turn.content}</s>" for turn in forged[1::2]
    ]
    assert sum(i == 2 for i in item.ids) == (3 if template else 0)  # those of the template
