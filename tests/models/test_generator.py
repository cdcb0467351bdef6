"""Generators: batches give what single prompts give; long prompts and impossible limits."""

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from ragkit.config.answering import HfAnswerer
from ragkit.errors import ModelError
from ragkit.log import logger
from ragkit.models.decoding import Row, _choose
from ragkit.models.generator import Generator

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
    "mistral": lambda: MistralForCausalLM(
        MistralConfig(**SMALL, **DECODER, bos_token_id=START, intermediate_size=64,
                      num_key_value_heads=2, sliding_window=6)
    ),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(**SMALL, bos_token_id=START, hidden_size=32, num_hidden_layers=1, state_size=4)
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(**SMALL | {"decoder_start_token_id": PAD}, d_model=32, d_kv=8, d_ff=64,
                 num_layers=2, num_heads=4, initializer_factor=3.0)
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
    single = "$A </s>" if kind in ("t5", "bart") else "<s> $A"
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
    assert output.text == alone(generator, "w1 w2 w3", 1)
    assert (output.tokens, output.prompt_tokens) == (1, 4)  # <s> too


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
    assert generator.traits.padding == END
    assert [o.text for o in generator.generate(PROMPTS)] == [o.text for o in expected]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "t5", "bart"])
def test_tokens_are_those_of_generate_for_one_prompt_at_a_time(kind: str, build: Build) -> None:
    """Prompts of 1 to 16 words and answers of 1 to 15 tokens, four rows at a time."""
    draw = random.Random(0)
    prompts = [draw.choices(range(4, 44), k=draw.randint(1, 16)) for _ in range(24)]
    generator = build(kind, batch_size=4, max_new_tokens=15)
    ends = [END, *range(4, 9)]  # so many that answers end at different places
    generator.model.generation_config.eos_token_id = ends
    generator.model.generation_config.repetition_penalty = 1.3
    expected = [whole(generator, prompt) for prompt in prompts]
    assert len({len(answer) for answer in expected}) > 2
    rows = [Row(i, prompt) for i, prompt in enumerate(prompts)]
    steps = [[row.position for row in stepped] for stepped in generator._decode(rows, 4)]
    assert [row.tokens for row in rows] == expected
    assert all(row.done for row in rows)
    assert max(map(len, steps)) == 4
    assert sum(map(len, steps)) == sum(map(len, expected))  # nobody waits for others
    if generator.traits.decoder:  # others take the place of rows that are done
        longest = sorted(range(24), key=lambda i: -len(prompts[i]))
        batches = [longest[i : i + 4] for i in range(0, 24, 4)]
        waiting = sum(max(len(expected[i]) for i in batch) for batch in batches)
        assert len(steps) < waiting


def whole(generator: Generator, prompt: list[int]) -> list[int]:
    """What transformers generates after a prompt, without padding."""
    config = generator.model.generation_config
    ids = torch.tensor([prompt])
    output = generator.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1,
        max_new_tokens=generator.config.max_new_tokens, eos_token_id=config.eos_token_id,
        pad_token_id=PAD,
    )[0].tolist()  # fmt: skip
    return output[len(prompt) :] if generator.traits.decoder else output[1:]


def test_a_sliding_window_sees_no_further_where_rows_come_and_go(build: Build) -> None:
    generator = build("mistral", batch_size=3, max_new_tokens=12)
    prompts = [list(range(4, 4 + n)) for n in (1, 16, 3, 9, 2, 14, 7)]
    found = dict(generator.generate_ids(prompts))
    words = generator.tokenizer
    expected = [words.decode(whole(generator, p), skip_special_tokens=True) for p in prompts]
    assert [found[i].text for i in range(7)] == expected


def test_recurrent_models_generate_too(build: Build) -> None:
    generator = build("mamba", batch_size=3)
    prompts = [list(range(4, 4 + n)) for n in (5, 9, 2, 14, 7)]
    rows = [Row(i, prompt) for i, prompt in enumerate(prompts)]
    assert list(generator._decode(rows, 3))
    assert [row.tokens for row in rows] == [whole(generator, prompt) for prompt in prompts]


def test_texts_come_as_they_are_finished_with_their_places(build: Build) -> None:
    generator = build("llama", batch_size=2)
    prompts = [[2, 4], [2, *range(4, 20)], [2, 9, 8]]
    found = list(generator.generate_ids(prompts))
    assert sorted(i for i, _ in found) == [0, 1, 2]
    assert found[0][0] != 0  # the longest are first
    assert [dict(found)[i].prompt_tokens for i in range(3)] == [2, 17, 3]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_stop_over_two_tokens_ends_an_answer_and_is_left_out(kind: str, build: Build) -> None:
    prompt = "w12 w3"
    answer = alone(build(kind), prompt).split()
    stop = " ".join(answer[3:5])
    first = " ".join(answer).index(stop)
    stopped = build(kind, stop=["never", stop])
    (found,) = stopped.generate([prompt])
    assert found.text == " ".join(answer)[:first].strip()
    assert found.tokens == len(found.text.split()) + 2


def test_a_stop_in_the_prompt_ends_nothing(build: Build) -> None:
    generator = build("llama")
    first = alone(generator, "w1 w2 w3").split()[0]
    stopped = build("llama", stop=["w1 w2", f"w3 {first}"])  # the second ends in the answer
    assert stopped.generate(["w1 w2 w3"])[0].text == alone(generator, "w1 w2 w3")


def test_stops_that_the_model_names_itself_count(build: Build) -> None:
    generator = build("llama")
    second = alone(generator, "w1 w2 w3").split()[1]
    generator.model.generation_config.stop_strings = second
    assert generator.generate(["w1 w2 w3"])[0].tokens == 2


def test_without_an_end_token_answers_go_on_to_the_limit_and_the_log_says_so(
    build: Build, log_lines: list[str]
) -> None:
    generator = build("llama")
    words = tokenizer("llama")
    words.eos_token = words.pad_token = None
    words.save_pretrained(generator.config.model)
    generator.model.generation_config.eos_token_id = None
    generator.model.config.eos_token_id = None
    generator.model.save_pretrained(generator.config.model)
    endless = Generator.load(generator.config)
    assert endless.traits.ends == ()
    assert [o.tokens for o in endless.generate(PROMPTS)] == [8] * 5
    assert "no end token is known of it: its answers go on to max_new_tokens (8)" in log_lines[-1]


def test_a_draw_depends_on_seed_and_prompt_and_on_nobody_else(build: Build) -> None:
    drawn = {"temperature": 1.5, "max_new_tokens": 8}
    alone_ = [build("llama", **drawn).generate([prompt])[0] for prompt in PROMPTS]
    for size in (2, 5):
        assert build("llama", batch_size=size, **drawn).generate(PROMPTS) == alone_
    assert build("llama", seed=1, **drawn).generate(PROMPTS) != alone_


def test_a_prompt_that_is_asked_again_gets_another_draw(build: Build) -> None:
    drawn = {"temperature": 1.5, "max_new_tokens": 8}
    generator = build("llama", **drawn)
    twice, again = generator.generate(["w1 w2"] * 2), generator.generate(["w1 w2"])
    assert len({o.text for o in [*twice, *again]}) == 3
    assert build("llama", **drawn).generate(["w1 w2"] * 3) == [*twice, *again]


def test_draws_follow_the_shares_of_the_likeliest_tokens() -> None:
    scores = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().expand(4000, 4)
    rows = [Row(i, [1], random.Random(i)) for i in range(4000)]
    counts = torch.bincount(_choose(scores, rows), minlength=4) / 4000
    assert counts[1] == 0
    assert torch.allclose(counts, torch.tensor([0.5, 0.0, 0.3, 0.2]), atol=0.03)


@pytest.mark.parametrize("limit", [{"top_k": 1}, {"top_p": 0.001}])
def test_a_draw_among_one_token_is_greedy(limit: dict[str, float], build: Build) -> None:
    expected = [o.text for o in build("llama").generate(PROMPTS)]
    found = build("llama", temperature=2.0, **limit).generate(PROMPTS)
    assert [o.text for o in found] == expected


@pytest.mark.parametrize("options", [{}, {"stop": ["w1"]}, {"temperature": 1.0}])
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_pieces_of_a_stream_are_the_text(
    kind: str, options: dict[str, object], build: Build
) -> None:
    whole_, streamed = (build(kind, max_new_tokens=15, **options) for _ in range(2))
    prompt = [4, 5, 6]
    ((_, expected),) = whole_.generate_ids([prompt])
    pieces = list(streamed.stream(prompt))
    assert "".join(pieces) == expected.text
    assert len(pieces) > 2 or len(expected.text) < 20
    assert all(pieces)


def test_a_stream_that_is_given_up_ends(build: Build) -> None:
    generator = build("llama", max_new_tokens=15)
    steps: list[object] = []
    generator.model.register_forward_hook(lambda *_: steps.append(None))
    pieces: Any = generator.stream([4, 5, 6])
    next(pieces)
    pieces.close()
    begun = len(steps)
    assert 0 < begun < 15
    assert generator.generate(["w1"])


def test_where_memory_runs_out_batches_are_halved(build: Build, log_lines: list[str]) -> None:
    generator = build("llama", batch_size=8, temperature=1.0)
    expected = build("llama", batch_size=8, temperature=1.0).generate(PROMPTS * 3)

    def small(_: object, __: object, values: dict[str, Any]) -> None:
        if len(values["input_ids"]) > 3:
            raise torch.OutOfMemoryError

    generator.model.register_forward_pre_hook(small, with_kwargs=True)
    assert generator.generate(PROMPTS * 3) == expected
    said = [line for line in log_lines if "memory" in line]
    assert said == [
        "out of memory with batch_size: 8; going on with 4",
        "out of memory with batch_size: 4; going on with 2",
    ]


def test_where_memory_does_not_suffice_for_one_prompt_it_is_said(build: Build) -> None:
    generator = build("llama", batch_size=2)

    def none(*_: object) -> None:
        raise torch.OutOfMemoryError

    generator.model.register_forward_pre_hook(none)
    message = (
        r"one prompt of 12 tokens .* lower max_new_tokens \(8\), .* \(n_passages, max_length\)"
    )
    with pytest.raises(ModelError, match=message):
        generator.generate(PROMPTS)
    with pytest.raises(ModelError, match="out of memory with one prompt of 3 tokens"):
        list(generator.stream([4, 5, 6]))


def test_a_folder_without_weights_is_one_error(build: Build) -> None:
    config = build("llama").config
    (Path(config.model) / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        Generator.load(config)
