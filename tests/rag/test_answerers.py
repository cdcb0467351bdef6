"""The answerers: sentences out of passages, a local model, a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragkit.config.answering import ExtractiveAnswerer, HfAnswerer, OpenAIAnswerer
from ragkit.data.schema import Example, Passage
from ragkit.errors import EndpointError
from ragkit.models.generator import Generated
from ragkit.rag import answerers
from ragkit.rag.answerers import build_answerer
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

    monkeypatch.setattr(answerers, "encode", encode)
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


def test_a_local_model_without_a_chat_template_reads_the_plain_prompt(
    tiny_generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"type": "hf", "model": str(tiny_generator), "max_new_tokens": 1}
    answerer: Any = build_answerer(HfAnswerer.model_validate(values))
    prompts: list[str] = []
    monkeypatch.setattr(
        answerer.generator, "generate", lambda p: prompts.extend(p) or [Generated("", 0)] * len(p)
    )
    all_answers(answerer, questions(2), [[A], [B]])
    assert prompts == [
        plain_text(messages(example, [passage]))
        for example, passage in zip(questions(2), (A, B), strict=True)
    ]
