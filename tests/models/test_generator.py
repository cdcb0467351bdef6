"""Generators: batches give what single prompts give; long prompts and impossible limits."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from ragkit.config.answering import HfAnswerer
from ragkit.errors import ModelError
from ragkit.log import logger
from ragkit.models.generator import Generated, Generator

PAD, END, START = 0, 1, 2
WORDS = [f"w{i}" for i in range(40)]
PROMPTS = ["w1 w2 w3", "w7", "w9 w8 w30 w31 w4 w5 w6 w7 w8 w9 w10", "w1 w2 w3 w4", "w12 w3"]
SMALL = {"vocab_size": 44, "pad_token_id": PAD, "eos_token_id": END}
DECODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
           "max_position_embeddings": 32, "initializer_range": 0.3}  # fmt: skip
KINDS = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, **DECODER, bos_token_id=START, intermediate_size=64)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(**SMALL, bos_token_id=START, n_embd=32, n_layer=2, n_head=4, n_positions=32,
                   initializer_range=0.3)
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(**SMALL, decoder_start_token_id=PAD, d_model=32, d_kv=8, d_ff=64, num_layers=2,
                 num_heads=4, initializer_factor=3.0)
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(**SMALL, bos_token_id=START, decoder_start_token_id=END, d_model=32,
                   forced_eos_token_id=None, encoder_layers=2, decoder_layers=2,
                   encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
                   decoder_ffn_dim=64, max_position_embeddings=32, init_std=0.3)
    ),
}  # fmt: skip
Build = Callable[..., Generator]


def tokenizer(kind: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer of words; decoders begin with <s>, encoders end with </s>."""
    pieces = ["<pad>", "</s>", "<s>", "<unk>", *WORDS]
    words = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single = "<s> $A" if kind in ("llama", "gpt2") else "$A </s>"
    words.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", START), ("</s>", END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=32,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
    )


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Return a function that saves a random model and loads it as a generator."""

    def make(kind: str, template: str | None = None, **options: object) -> Generator:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        torch.manual_seed(0)
        KINDS[kind]().save_pretrained(folder)
        words = tokenizer(kind)
        words.chat_template = template
        words.save_pretrained(folder)
        settings = {"max_new_tokens": 8, "precision": "fp32", "device": "cpu", **options}
        return Generator.load(HfAnswerer(type="hf", model=str(folder), **settings))

    return make


def alone(generator: Generator, prompt: str, n: int = 8) -> str:
    """Continue a prompt greedily by the model alone, a token at a time, without a cache."""
    model, words = generator.model, generator.tokenizer
    ids = words(prompt, return_tensors="pt")["input_ids"]
    produced: list[int] = []
    while len(produced) < n and END not in produced:
        new = torch.tensor([produced], dtype=torch.long)
        if model.config.is_encoder_decoder:
            start = torch.tensor([[model.config.decoder_start_token_id]])
            inputs = {"input_ids": ids, "decoder_input_ids": torch.cat([start, new], dim=1)}
        else:
            inputs = {"input_ids": torch.cat([ids, new], dim=1)}
        with torch.no_grad():
            produced.append(int(model(**inputs).logits[0, -1].argmax()))
    return str(words.decode(produced, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("batch_size", [3, 8])
@pytest.mark.parametrize(
    "kind",
    [
        "llama",
        "gpt2",
        "t5",
        "bart",
    ],
)
def test_batches_generate_what_the_model_alone_generates(
    kind: str, batch_size: int, build: Build
) -> None:
    generator = build(kind, batch_size=batch_size)
    expected = [alone(generator, prompt) for prompt in PROMPTS]
    assert len(set(expected)) > 2  # the prompts matter
    assert [output.text for output in generator.generate(PROMPTS)] == expected


def test_the_prompt_is_no_part_of_the_answer(build: Build) -> None:
    generator = build("llama", max_new_tokens=1)
    (output,) = generator.generate(["w1 w2 w3"])
    assert output == Generated(alone(generator, "w1 w2 w3", 1), 1, prompt_tokens=4)  # <s> too


def test_tokens_are_counted_without_padding(build: Build) -> None:
    generator = build("llama")
    outputs = generator.generate(PROMPTS)
    for output in outputs:
        words = len(output.text.split())
        assert output.tokens == words if words == 8 else output.tokens in (words, words + 1)
    assert max(o.tokens for o in outputs) <= 8


def test_no_prompts_generate_nothing(build: Build) -> None:
    assert build("llama").generate([]) == []


def test_a_long_prompt_loses_its_beginning_and_the_log_says_so(
    build: Build, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    generator = build("llama", template="{{ messages[0].content }}")  # no special tokens added
    ending = " ".join(WORDS[:24])  # 32 positions less 8 for the answer
    with caplog.at_level(logging.WARNING, "ragkit"):
        long, exact, short = generator.generate([f"w30 w31 {ending}", ending, "w1"])
    assert long == exact
    assert "1 of 3 prompts are longer than 24 tokens" in caplog.text
    assert long != generator.generate([f"{ending[3:]} w31"])[0]


def test_a_long_prompt_keeps_its_special_tokens(build: Build) -> None:
    generator = build("llama")
    ending = " ".join(WORDS[:23])  # 24 with <s>
    long, exact = generator.generate([f"w30 w31 {ending}", ending])
    assert long == exact


@pytest.mark.parametrize("max_new_tokens", [32, 100])
def test_an_answer_that_leaves_no_room_for_a_prompt_is_refused(
    max_new_tokens: int, build: Build
) -> None:
    generator = build("llama", max_new_tokens=max_new_tokens)
    with pytest.raises(ModelError, match=f"{max_new_tokens} leaves no room .* in the 32 tokens"):
        generator.generate(["w1"])


def test_the_answer_of_an_encoder_decoder_takes_no_room_from_the_prompt(build: Build) -> None:
    generator = build("bart", max_new_tokens=20)
    prompt = " ".join(WORDS[:25])
    assert generator.generate([prompt])[0].text == alone(generator, prompt, 20)


def test_a_chat_template_makes_the_prompt_where_there_is_one(build: Build) -> None:
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}answer"
    chat = [{"role": "system", "content": "w1"}, {"role": "user", "content": "w2"}]
    assert build("llama", template).render(chat, lambda _: "plain") == "system w1 user w2 answer"
    assert build("llama").render(chat, lambda m: f"{len(m)} plain") == "2 plain"


def test_a_template_writes_its_own_special_tokens(build: Build) -> None:
    with_template = build("llama", "{{ bos_token }} {{ messages[0].content }}")
    prompt = with_template.render([{"role": "user", "content": "w1 w2 w3"}], lambda _: "")
    found = with_template.generate([prompt])
    assert found == build("llama").generate(["w1 w2 w3"])


def test_the_architecture_decides_between_decoder_and_encoder_decoder(build: Build) -> None:
    for kind, expected in (("llama", LlamaForCausalLM), ("t5", T5ForConditionalGeneration)):
        generator = build(kind)
        assert isinstance(generator.model, expected)
        assert not generator.model.training


def test_a_tokenizer_without_padding_pads_with_its_end(build: Build) -> None:
    original = build("llama")
    expected = original.generate(PROMPTS)
    words = tokenizer("llama")
    words.pad_token = None
    words.save_pretrained(original.config.model)
    generator = Generator.load(original.config)
    assert generator.tokenizer.pad_token_id == END
    assert [o.text for o in generator.generate(PROMPTS)] == [o.text for o in expected]


def test_a_folder_without_weights_is_one_error(build: Build) -> None:
    config = build("llama").config
    (Path(config.model) / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        Generator.load(config)
