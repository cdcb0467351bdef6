"""The answerers: sentences out of passages, a local model, a server."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragkit.config.answering import ExtractiveAnswerer, HfAnswerer, OpenAIAnswerer
from ragkit.data.schema import Example, Passage
from ragkit.errors import EndpointError, ModelError
from ragkit.models.cards import Card, write_card
from ragkit.models.generator import Generated
from ragkit.rag import extractive as extracting
from ragkit.rag.answerers import Streams, build_answerer
from ragkit.rag.prompts import REFUSAL, messages, plain_text

A = Passage("a", "The relay closes. The pump stops. The valve opens.", title="Relay")
B = Passage("b", "A fuse holds 12 volts. The green light is on.")


@pytest.fixture
def similarities(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Sentences' similarities to every question, instead of an encoder's."""
    scores: dict[str, float] = {}

    def encode(_: object, texts: Sequence[str], kind: str, __: object) -> np.ndarray:
        values = [1.0 if kind == "query" else scores[text] for text in texts]
        return np.asarray(values, np.float32).reshape(-1, 1)

    monkeypatch.setattr(extracting, "encode", encode)
    return scores


def extractive(folder: Path, **changes: Any) -> Any:
    config = {"type": "extractive", "model": str(folder), **changes}
    return build_answerer(ExtractiveAnswerer.model_validate(config))


def all_answers(answerer: Any, asked: Any, passages: Any) -> list[Any]:
    """The answer of each question, None where there is none."""
    found = dict(answerer.answer(asked, passages))
    return [found.get(i) for i in range(len(asked))]


def questions(count: int) -> list[Example]:
    return [Example(f"q{i}", f"question {i}") for i in range(count)]


def test_the_nearest_sentences_are_the_answer_in_the_order_of_the_passages(
    tiny_encoder: Path, similarities: dict[str, float]
) -> None:
    similarities |= {
        "Relay\nThe relay closes.": 0.2,
        "Relay\nThe pump stops.": 0.7,
        "Relay\nThe valve opens.": 0.1,
        "A fuse holds 12 volts.": 0.9,
        "The green light is on.": 0.3,
    }
    (one,) = all_answers(extractive(tiny_encoder), questions(1), [[A, B]])
    assert (one.text, one.passage_ids, one.abstained) == ("A fuse holds 12 volts.", ("b",), False)
    (two,) = all_answers(extractive(tiny_encoder, n_sentences=2), questions(1), [[A, B]])
    assert two.text == "The pump stops. A fuse holds 12 volts."
    assert two.passage_ids == ("a", "b")
    assert two.latency_ms > 0


def test_each_question_is_answered_from_its_own_passages(
    tiny_encoder: Path, similarities: dict[str, float]
) -> None:
    similarities |= {"Relay\nThe relay closes.": 0.9, "Relay\nThe pump stops.": 0.1}
    similarities |= {"Relay\nThe valve opens.": 0.1}
    similarities |= {"A fuse holds 12 volts.": 0.2, "The green light is on.": 0.3}
    found = all_answers(extractive(tiny_encoder), questions(4), [[B], [], [A], [B, A]])
    assert [a.text for a in found] == [
        "The green light is on.",
        "",
        "The relay closes.",
        "The relay closes.",
    ]
    assert [a.abstained for a in found] == [False, True, False, False]


def test_below_the_lowest_similarity_it_abstains(
    tiny_encoder: Path, similarities: dict[str, float]
) -> None:
    similarities |= {"A fuse holds 12 volts.": 0.25, "The green light is on.": 0.5}
    (kept,) = all_answers(extractive(tiny_encoder, min_score=0.5), questions(1), [[B]])
    (declined,) = all_answers(extractive(tiny_encoder, min_score=0.6), questions(1), [[B]])
    assert (kept.text, kept.abstained) == ("The green light is on.", False)
    assert (declined.text, declined.abstained, declined.passage_ids) == ("", True, ())


def test_without_a_lowest_similarity_it_never_abstains_on_passages(
    tiny_encoder: Path, similarities: dict[str, float]
) -> None:
    similarities |= {"A fuse holds 12 volts.": -0.5, "The green light is on.": -0.2}
    (answer,) = all_answers(extractive(tiny_encoder), questions(1), [[B]])
    assert (answer.text, answer.abstained) == ("The green light is on.", False)


def test_a_sentence_that_is_asked_for_word_by_word_is_the_answer(tiny_encoder: Path) -> None:
    asked = [Example("q", "a fuse holds 12 volts."), Example("r", "the green light is on.")]
    found = all_answers(extractive(tiny_encoder), asked, [[B], [B]])
    assert [a.text for a in found] == ["A fuse holds 12 volts.", "The green light is on."]


def test_no_passages_at_all_are_abstentions(tiny_encoder: Path) -> None:
    found = all_answers(extractive(tiny_encoder), questions(2), [[], []])
    assert [a.abstained for a in found] == [True, True]


def openai_answerer(server: Any, **changes: Any) -> Any:
    config = {"type": "openai", "model": "m", "base_url": server.url, "max_retries": 0, **changes}
    return build_answerer(OpenAIAnswerer.model_validate(config))


def test_a_server_gets_the_prompt_and_its_answers_come_in_the_order_asked(
    chat_server: Any, says: Any
) -> None:
    chat_server.reply = lambda r: says(r["messages"][-1]["content"][-10:])
    asked, passages = questions(5), [[A], [B], [], [A, B], [B]]
    found = all_answers(openai_answerer(chat_server, concurrency=5), asked, passages)
    assert [a.text for a in found] == [f"question {i}" for i in range(5)]
    assert all(a.usage["completion_tokens"] == 3 and a.latency_ms > 0 for a in found)
    sent = sorted((r["messages"] for r in chat_server.requests), key=str)
    assert sent == sorted(map(messages, asked, passages), key=str)


def test_a_refusal_of_the_server_is_an_abstention(chat_server: Any, says: Any) -> None:
    chat_server.reply = lambda _: says(REFUSAL)
    (answer,) = all_answers(openai_answerer(chat_server), questions(1), [[A]])
    assert (answer.text, answer.abstained) == (REFUSAL, True)


def test_a_question_that_the_server_fails_on_has_no_answer_yet(
    chat_server: Any, says: Any, response: Any
) -> None:
    chat_server.reply = lambda r: response(500) if "question 1" in str(r) else says("fine")
    found = all_answers(openai_answerer(chat_server), questions(3), [[A]] * 3)
    assert [a and a.text for a in found] == ["fine", None, "fine"]


def test_an_empty_answer_of_the_server_is_no_abstention_but_a_failure(
    chat_server: Any, says: Any
) -> None:
    chat_server.reply = lambda r: says("" if "question 1" in str(r) else "fine")
    found = all_answers(openai_answerer(chat_server), questions(3), [[A]] * 3)
    assert [(a.text, a.failed, a.abstained) for a in found if a] == [
        ("fine", False, False), ("", True, False), ("fine", False, False),
    ]  # fmt: skip
    assert found[1] and found[1].usage and found[1].usage["completion_tokens"] == 3  # paid for


def test_a_refused_key_is_an_error(chat_server: Any, response: Any) -> None:
    chat_server.reply = lambda _: response(401)
    with pytest.raises(EndpointError, match="OPENAI_API_KEY is refused"):
        all_answers(openai_answerer(chat_server), questions(3), [[A]] * 3)


@pytest.fixture
def tiny_generator(tiny_encoder: Path, tmp_path: Path) -> Path:
    """The folder of a random one-layer GPT-2 that reads the tiny encoder's tokens."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.model_max_length = 1024
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=1024,
        n_embd=32,
        n_layer=1,
        n_head=2,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_local_model_answers_alike_alone_and_in_batches(tiny_generator: Path) -> None:
    values = {"type": "hf", "model": str(tiny_generator), "max_new_tokens": 4, "precision": "fp32"}
    asked, passages = questions(3), [[A, B], [B], []]
    found = {
        size: all_answers(
            build_answerer(HfAnswerer.model_validate({**values, "batch_size": size})),
            asked,
            passages,
        )
        for size in (1, 3)
    }
    assert [a.text for a in found[1]] == [a.text for a in found[3]]
    assert all(0 < a.usage["completion_tokens"] <= 4 for a in found[1])


def hf(folder: Path, **changes: Any) -> Any:
    values = {"max_new_tokens": 4, "precision": "fp32", "device": "cpu", **changes}
    return build_answerer(HfAnswerer.model_validate({"type": "hf", "model": str(folder), **values}))


def generating(answerer: Any, monkeypatch: pytest.MonkeyPatch, *texts: str) -> list[Any]:
    """Have a model say these texts, the last again and again; return the prompts it will get."""
    asked: list[Any] = []

    def generate_ids(prompts: Sequence[Sequence[int]]) -> Any:
        for i, prompt in enumerate(prompts):
            asked.append(list(prompt))
            yield i, Generated(texts[min(i, len(texts) - 1)], (1, 2, 3), len(prompt))

    monkeypatch.setattr(answerer.generator, "generate_ids", generate_ids)
    return asked


def test_a_local_model_without_a_chat_template_reads_the_plain_prompt(
    tiny_generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = hf(tiny_generator)
    asked = generating(answerer, monkeypatch, "fine")
    all_answers(answerer, questions(2), [[A], [B]])
    read = answerer.generator.tokenizer
    expected = [
        read(plain_text(messages(example, [passage])))["input_ids"][:-1]  # its [SEP] is an end
        for example, passage in zip(questions(2), (A, B), strict=True)
    ]
    assert asked == expected


def test_a_trained_model_is_asked_as_its_card_says(
    tiny_generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = {"system": "Say {refusal}", "refusal": "Not known."}
    write_card(tiny_generator, Card("sft", prompt, cite=True, max_length=300))
    answerer = hf(tiny_generator)
    asked = generating(answerer, monkeypatch, "Twelve volts. [1]", "not known")
    found = all_answers(answerer, questions(2), [[B], [B]])
    assert [(a.text, a.abstained, a.passage_ids) for a in found] == [
        ("Twelve volts.", False, ("b",)), ("not known", True, ()),
    ]  # fmt: skip
    assert answerer.prompter.max_length == 300
    begun = answerer.generator.tokenizer.decode(asked[0]).replace(" ##", "")
    assert begun.startswith("[CLS] say not known . after each statement give the number")


def test_what_the_configuration_says_comes_before_the_card(tiny_generator: Path) -> None:
    write_card(tiny_generator, Card("swr", {"system": "card"}, cite=True, max_length=300))
    prompter = hf(tiny_generator, cite=False, max_length=200, prompt={"system": "own"}).prompter
    assert (prompter.cite, prompter.max_length, prompter.prompt.system) == (False, 200, "own")
    write_card(tiny_generator, Card("swr"))
    assert hf(tiny_generator).prompter.max_length == 1024  # the model's own


def test_a_model_of_another_kind_is_refused(tiny_generator: Path) -> None:
    write_card(tiny_generator, Card("reader"))
    with pytest.raises(ModelError, match="its method is reader; answerer.type: reader asks"):
        hf(tiny_generator)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 2000}, "2000 is more than the 1024 tokens"),
        (
            {"max_length": 60, "max_new_tokens": 60},
            "60 tokens .* leaves no room for a prompt in max_length: 60",
        ),
    ],
)
def test_impossible_lengths_are_refused(
    changes: dict[str, int], message: str, tiny_generator: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        hf(tiny_generator, **changes)


def test_a_question_without_room_fails_and_what_was_shortened_is_said_once(
    tiny_generator: Path, log_lines: list[str]
) -> None:
    answerer = hf(tiny_generator, max_length=54, prompt={"system": ""})
    long = Example("long", "fuse " * 60)
    asked = [Example("q", "volts?"), long, Example("r", "light?")]
    found = all_answers(answerer, asked, [[A, B], [B], []])
    assert [a.failed for a in found] == [False, True, False]
    assert found[0].usage["prompt_tokens"] <= 50
    all_answers(answerer, asked[:1], [[A, B]])
    (line,) = [line for line in log_lines if "prompts" in line]
    assert line.startswith("of 3 prompts, 1 lose the ends of passages, 0 the oldest turns")
    assert "1 have no room for the question" in line
    assert line.endswith("max_length: 54 tokens - 4 of the answer = 50 for a prompt")
    with pytest.raises(ModelError, match="the question has no room for itself; max_length: 54"):
        list(answerer.stream(long, [B]))


def test_thoughts_are_no_part_of_an_answer(
    tiny_generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = hf(tiny_generator)
    generating(answerer, monkeypatch, "<think>Hm.</think>\n\nTwelve.", "<think>Hm", "")
    found = all_answers(answerer, questions(3), [[B]] * 3)
    assert [(a.text, a.failed, a.abstained) for a in found] == [
        ("Twelve.", False, False), ("", True, False), ("", False, True),
    ]  # fmt: skip


def test_a_thought_that_the_template_begins_is_none_of_the_answer_either(
    tiny_generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = hf(tiny_generator)
    generating(answerer, monkeypatch, "Hm.</think> Twelve.", "Hm, 12 or")
    monkeypatch.setattr(answerer, "_thinks", lambda _: True)
    monkeypatch.setattr(answerer.generator, "stream", lambda _: iter(["Hm.</th", "ink> Twe", "l"]))
    found = all_answers(answerer, questions(2), [[B]] * 2)
    assert [(a.text, a.failed) for a in found] == [("Twelve.", False), ("", True)]
    assert list(answerer.stream(questions(1)[0], [B])) == ["Twe", "l"]


def test_a_local_answer_streams_as_it_is_answered(tiny_generator: Path) -> None:
    answerer = hf(tiny_generator, max_new_tokens=12)
    assert isinstance(answerer, Streams)
    (whole,) = all_answers(answerer, questions(1), [[B]])
    pieces = list(answerer.stream(questions(1)[0], [B]))
    assert len(pieces) > 1
    assert "".join(pieces) == whole.text


def test_a_server_is_told_its_own_prompt_and_refusal(chat_server: Any, says: Any) -> None:
    chat_server.reply = lambda _: says("<think>Hm.</think>No idea.")
    prompt = {"system": "Be brief, or say: {refusal}", "refusal": "No idea."}
    (answer,) = all_answers(openai_answerer(chat_server, prompt=prompt), questions(1), [[A]])
    assert (answer.text, answer.abstained) == ("No idea.", True)
    sent = chat_server.requests[0]["messages"][0]
    assert sent == {"role": "system", "content": "Be brief, or say: No idea."}


def events(*pieces: str) -> str:
    """What a server streams: an event a piece, and one that says nothing."""
    deltas = [{"role": "assistant"}, *({"content": piece} for piece in pieces)]
    chunks = [
        {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m",
         "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]  # fmt: skip
    chunks.append({**chunks[0], "choices": []})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)


def test_a_server_streams_its_answer(chat_server: Any, response: Any) -> None:
    body = events("<thi", "nk>Hm.</think>", " Twelve", " volts. [1]") + "data: [DONE]\n\n"
    chat_server.reply = lambda _: response(body=body, kind="text/event-stream", piece=7)
    answerer = openai_answerer(chat_server)
    assert list(answerer.stream(questions(1)[0], [B])) == ["Twelve", " volts. [1]"]
    (sent,) = chat_server.requests
    assert (sent["stream"], sent["messages"]) == (True, messages(questions(1)[0], [B]))


def test_a_stream_that_a_server_breaks_off_is_an_error(chat_server: Any, response: Any) -> None:
    headers = {"Content-Length": "10000"}
    chat_server.reply = lambda _: response(
        body=events("Twelve"), kind="text/event-stream", headers=headers
    )
    pieces = openai_answerer(chat_server).stream(questions(1)[0], [B])
    assert next(pieces) == "Twelve"
    with pytest.raises(EndpointError, match="the connection broke before the answer"):
        next(pieces)
    chat_server.reply = lambda _: response(401)
    with pytest.raises(EndpointError, match="OPENAI_API_KEY is refused"):
        next(openai_answerer(chat_server).stream(questions(1)[0], [B]))
