"""Local models that answer chats in batches: transformers for real, vLLM by a double."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ragkit.config.teaching import HfTeacher, VllmTeacher
from ragkit.errors import MissingExtraError
from ragkit.models import batched
from ragkit.models.batched import HfModel, VllmModel
from ragkit.models.endpoint import Reply
from ragkit.qa.asking import load_model
from ragkit.qa.cost import Budget, Price, Till
from ragkit.rag.prompts import plain_text

WORDS = [f"w{i}" for i in range(40)]


def chats(*contents: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": content}] for content in contents]


MANY = chats("w1 w2 w3", "w7", "w9 w8 w30 w31", "w1 w2 w3 w4", "w12 w3", "w5", "w6 w7 w8")


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., HfModel]:
    """Save a tiny random causal model, with or without chat template, and load it."""

    def make(template: str | None = None, **options: Any) -> HfModel:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=43, pad_token_id=0, eos_token_id=1, bos_token_id=1, hidden_size=32,
            num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=64, initializer_range=0.3,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(tmp_path)
        pieces = ["<pad>", "</s>", "<unk>", *WORDS]
        words = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, model_max_length=64, pad_token="<pad>", eos_token="</s>",
            unk_token="<unk>",
        )  # fmt: skip
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path)
        values = {"max_new_tokens": 6, "batch_size": 2, "temperature": 0, **options}
        device = {"precision": "fp32", "device": "cpu"}
        teacher = HfTeacher.model_validate(
            {"type": "hf", "model": str(tmp_path), **device, **values}
        )
        made = load_model(teacher)
        assert isinstance(made, HfModel)
        return made

    return make


def replies_of(made: Any, asked: Any, **options: Any) -> list[Reply]:
    """Return the replies of all batches, whose positions must be those of the chats."""
    found = [pair for batch in made.batches(asked, **options) for pair in batch]
    assert [i for i, _ in found] == list(range(len(found)))
    return [reply for _, reply in found]


@pytest.mark.parametrize(
    "template", [None, "{% for m in messages %}w39 {{ m.content }}{% endfor %}"]
)
def test_batches_answer_what_the_model_answers_to_each_prompt(
    model: Callable[..., HfModel], template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "_BATCHES", 2)  # blocks of four, four and three chats
    made = model(template)
    prompts = [f"w39 {c[0]['content']}" if template else plain_text(c) for c in MANY]
    expected = [made.generator.generate([prompt])[0] for prompt in prompts]
    assert len({e.text for e in expected}) > 2
    found = replies_of(made, iter(MANY))
    assert [r.text for r in found] == [e.text for e in expected]
    assert [r.usage for r in found] == [
        {"prompt_tokens": len(prompt.split()), "completion_tokens": e.tokens}
        for prompt, e in zip(prompts, expected, strict=True)
    ]
    assert all(r.seconds >= 0 for r in found)


def test_chats_are_read_block_by_block_and_kept_before_the_next(
    model: Callable[..., HfModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "_BATCHES", 1)
    events: list[str] = []

    def read() -> Any:
        for i, chat in enumerate(MANY[:4]):
            events.append(f"read {i}")
            yield chat

    def keep(replies: Any) -> None:
        events.extend(f"keep {i}" for i, _ in replies)

    replies_of(model(), read(), keep=keep)
    assert events == [
        "read 0",
        "read 1",
        "keep 0",
        "keep 1",
        "read 2",
        "read 3",
        "keep 2",
        "keep 3",
    ]


def test_no_chats_are_no_batches(model: Callable[..., HfModel]) -> None:
    assert replies_of(model(), []) == []


def test_a_limit_of_requests_holds_for_local_models(model: Callable[..., HfModel]) -> None:
    budget = Budget(max_requests=3)
    assert len(replies_of(model(), MANY, allowance=Till(budget, None, 6))) == 3
    assert budget.exhausted == "max_requests (3)"
    assert budget.in_flight == 0


def test_a_limit_on_the_cost_ends_a_block_early_and_goes_on_with_what_is_left(
    model: Callable[..., HfModel],
) -> None:
    # five bytes and six tokens may cost 11 $, and cost at most 6 $: two at a time until 22 $
    asked = chats(*(f"w{i} w3" for i in range(10, 20)))
    budget = Budget(max_cost=30.0)
    made = model(batch_size=8)
    sizes = [
        len(batch) for batch in made.batches(asked, allowance=Till(budget, Price(1e6, 1e6), 6))
    ]
    assert sizes[0] == 2 and sum(sizes) > 2
    assert budget.spent <= 30.0 < budget.spent + 11.0
    assert budget.exhausted == "max_cost (30 $)"
    assert budget.held == pytest.approx(0)


class Engine:
    """A double of vLLM's engine that keeps what it is asked."""

    made: dict[str, Any]
    calls: list[tuple[list[Any], Any]]

    def __init__(self, **options: Any) -> None:
        type(self).made = options
        type(self).calls = []

    def chat(self, conversations: list[Any], parameters: Any, use_tqdm: bool) -> list[Any]:
        assert use_tqdm is False
        self.calls.append((conversations, parameters))
        return [
            SimpleNamespace(
                prompt_token_ids=[0] * len(c[0]["content"]),
                outputs=[SimpleNamespace(text=f"said {c[0]['content']}", token_ids=[0, 0])],
            )
            for c in conversations
        ]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    package, sampling = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    package.LLM = Engine  # type: ignore[attr-defined]
    package.SamplingParams = lambda **values: values  # type: ignore[attr-defined]
    sampling.StructuredOutputsParams = lambda json: ("held to", json)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)
    return Engine


def teacher(folder: Path, **values: Any) -> VllmTeacher:
    return VllmTeacher.model_validate({"type": "vllm", "model": str(folder), **values})


def test_vllm_gets_the_chats_its_settings_and_the_schema(
    vllm: type[Engine], word_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "_VLLM_BLOCK", 3)
    config = teacher(
        word_model, temperature=0.2, max_tokens=9, seed=4, engine={"tensor_parallel_size": 2}
    )
    made = load_model(config)
    assert isinstance(made, VllmModel)
    found = replies_of(made, iter(MANY), schema={"type": "object"})
    assert vllm.made == {"model": str(word_model), "seed": 4, "tensor_parallel_size": 2}
    assert [len(asked) for asked, _ in vllm.calls] == [3, 3, 1]
    assert vllm.calls[0] == (
        MANY[:3],
        {"temperature": 0.2, "max_tokens": 9, "seed": 4,
         "structured_outputs": ("held to", {"type": "object"})},
    )  # fmt: skip
    assert [r.text for r in found] == [f"said {c[0]['content']}" for c in MANY]
    assert found[0].usage == {"prompt_tokens": 8, "completion_tokens": 2}


@pytest.mark.parametrize(("structured", "schema"), [(False, {"type": "object"}), (True, None)])
def test_vllm_holds_the_model_to_nothing_without_a_schema(
    vllm: type[Engine], word_model: Path, structured: bool, schema: Any
) -> None:
    replies_of(load_model(teacher(word_model, structured=structured)), MANY, schema=schema)
    assert vllm.calls[0][1]["structured_outputs"] is None


def test_vllm_that_is_not_installed_is_told(
    word_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match="a teacher of type vllm needs the package vllm"):
        load_model(teacher(word_model))
