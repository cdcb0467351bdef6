"""Generation from texts read apart: what the model generates from padded texts; batches, ends."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import decoders
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from ragkit.config.blocks import LocalModel
from ragkit.config.training import Lora
from ragkit.errors import ModelError
from ragkit.models.adapters import with_adapters
from ragkit.models.fid import generate_fused
from ragkit.models.fused import encoder_of
from ragkit.models.generator import Generator
from ragkit.models.pretrained import traits
from ragkit.training.items import Item
from ragkit.training.seq2seq import seq2seq

Build = Callable[[str], Any]
KINDS = ["t5", "umt5", "bart", "bert"]
LENGTHS = [[9, 30], [2], [12, 12, 1], [5, 4], [40]]


@pytest.fixture
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_encoder)


def prompts() -> list[list[list[int]]]:
    """Return texts of random tokens."""
    generator = torch.Generator().manual_seed(1)
    return [
        [torch.randint(5, 200, (n,), generator=generator).tolist() for n in row] for row in LENGTHS
    ]


def generator_of(model: Any, tokenizer: Any, **options: Any) -> Generator:
    values = {"model": "a/b", "max_new_tokens": 6, "precision": "fp32", "device": "cpu"}
    return Generator(model, tokenizer, LocalModel.model_validate({**values, **options}))


def alone(model: Any, tokenizer: Any, texts: Sequence[list[int]], count: int = 6) -> str:
    """Return what transformers generates for one prompt, from states of each text by itself."""
    with torch.no_grad():
        states = [model.get_encoder()(input_ids=torch.tensor([t])).last_hidden_state for t in texts]
        memory = torch.cat(states, dim=1)
        tokens = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory),
            attention_mask=torch.ones(memory.shape[:2], dtype=torch.long),
            decoder_start_token_id=traits(model, tokenizer).start, eos_token_id=3, pad_token_id=0,
            max_new_tokens=count, do_sample=False,
        )  # fmt: skip
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_say_what_each_prompt_says_by_itself(
    kind: str, batch_size: int, encoder_decoder: Build, tokenizer: Any
) -> None:
    model = encoder_decoder(kind)
    expected = [alone(model, tokenizer, texts) for texts in prompts()]
    assert len(set(expected)) >= 3  # the texts matter
    outputs = generate_fused(generator_of(model, tokenizer, batch_size=batch_size), prompts())
    assert [output.text for output in outputs] == expected
    assert [output.prompt_tokens for output in outputs] == [sum(row) for row in LENGTHS]
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_in_training_is_in_training_again(encoder_decoder: Build, tokenizer: Any) -> None:
    model = encoder_decoder("t5").train()
    model.encoder.block[0].eval()
    before = [module.training for module in model.modules()]
    found = generate_fused(generator_of(model, tokenizer), prompts())
    assert [module.training for module in model.modules()] == before
    assert found == generate_fused(
        generator_of(model.eval(), tokenizer), prompts()
    )  # without dropout


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_a_model_with_adapters_answers_in_the_midst_of_its_training(
    kind: str, encoder_decoder: Build, tokenizer: Any
) -> None:
    expected = generate_fused(generator_of(encoder_decoder(kind), tokenizer), prompts())
    model = with_adapters(encoder_decoder(kind).train(), Lora(r=2))  # they change nothing yet
    item = Item("q", tuple(map(tuple, prompts()[0])), (7, 8, 3))
    with seq2seq(model, tokenizer) as objective:
        batch = objective.collate([item])
        assert generate_fused(generator_of(model, tokenizer), prompts()) == expected
        objective.loss(model, batch).backward()
        assert generate_fused(generator_of(model, tokenizer), prompts()) == expected
        objective.loss(model, batch).backward()
    learned = [p.grad for p in model.parameters() if p.grad is not None]
    assert learned and all(torch.isfinite(gradient).all() for gradient in learned)


def test_answers_that_have_ended_are_worked_on_no_more(
    encoder_decoder: Build, tokenizer: Any
) -> None:
    model, sizes = encoder_decoder("bart"), []
    whole = [output.ids for output in generate_fused(generator_of(model, tokenizer), prompts())]
    model.generation_config.eos_token_id = [3, *{ids[i] for i, ids in enumerate(whole)}]
    decoder = model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda _, __, given: sizes.append(len(given["input_ids"])), with_kwargs=True
    )
    outputs = generate_fused(generator_of(model, tokenizer, batch_size=8), prompts())
    hook.remove()
    assert sum(sizes) == sum(output.tokens for output in outputs)
    assert sizes[0] == 5 > sizes[-1]


def test_where_memory_runs_out_fewer_questions_are_answered_together(
    encoder_decoder: Build, tokenizer: Any, log_lines: list[str]
) -> None:
    model = encoder_decoder("t5")
    expected = generate_fused(generator_of(model, tokenizer), prompts())

    def small(_: object, __: object, given: dict[str, Any]) -> None:
        if len(given["input_ids"]) > 2:
            raise torch.OutOfMemoryError

    model.decoder.register_forward_pre_hook(small, with_kwargs=True)
    assert generate_fused(generator_of(model, tokenizer, batch_size=4), prompts()) == expected
    assert log_lines == ["out of memory with batch_size: 4; going on with 2"]


def test_a_sampled_answer_depends_on_the_prompt_and_the_seed_alone(
    encoder_decoder: Build, tokenizer: Any
) -> None:
    model, asked = encoder_decoder("t5"), prompts()

    def sample(seed: int, batch_size: int, texts: Any) -> list[str]:
        options = {"temperature": 2.0, "top_k": 50, "top_p": 0.95, "seed": seed}
        generator = generator_of(model, tokenizer, batch_size=batch_size, **options)
        return [output.text for output in generate_fused(generator, texts)]

    one = sample(1, 1, asked)
    assert one == sample(1, 8, asked) == sample(1, 2, asked[::-1])[::-1]
    assert one != sample(2, 8, asked)
    assert one != [output.text for output in generate_fused(generator_of(model, tokenizer), asked)]


def test_one_candidate_is_no_choice(encoder_decoder: Build, tokenizer: Any) -> None:
    model = encoder_decoder("t5")
    greedy = generate_fused(generator_of(model, tokenizer), prompts())
    for options in ({"top_k": 1}, {"top_p": 1e-6}):
        sampled = generate_fused(
            generator_of(model, tokenizer, temperature=2.0, **options), prompts()
        )
        assert sampled == greedy


def test_an_answer_ends_before_a_text_that_stops_it(encoder_decoder: Build, tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.decoder = decoders.WordPiece()
    model = encoder_decoder("bart")
    whole = [o.text for o in generate_fused(generator_of(model, tokenizer), prompts())]
    stop = next(word for text in whole for word in text.split()[1:])
    expected = [text.split(stop)[0].strip() for text in whole]
    outputs = generate_fused(generator_of(model, tokenizer, stop=[stop, "never"]), prompts())
    assert [output.text for output in outputs] == expected != whole
    ended = [o.tokens for o, text in zip(outputs, whole, strict=True) if stop in text]
    assert min(ended) < 6


def test_tokens_are_counted_up_to_the_end(encoder_decoder: Build, tokenizer: Any) -> None:
    model = encoder_decoder("t5")
    (whole,) = generate_fused(generator_of(model, tokenizer), prompts()[:1])
    words = whole.text.split()
    assert whole.tokens == len(words) == 6
    model.generation_config.eos_token_id = [199, *tokenizer.convert_tokens_to_ids(words[-1:])]
    (output,) = generate_fused(generator_of(model, tokenizer), prompts()[:1])
    assert 0 < output.tokens == words.index(words[-1]) + 1 < 6
    assert generate_fused(generator_of(model, tokenizer), []) == []


def test_it_is_loaded_from_a_folder(encoder_decoder: Build, tokenizer: Any, tmp_path: Path) -> None:
    model = encoder_decoder("t5")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = LocalModel(model=str(tmp_path), max_new_tokens=6, precision="fp32", device="cpu")
    loaded = Generator.load(config)
    assert generate_fused(loaded, prompts()) == generate_fused(
        generator_of(model, tokenizer), prompts()
    )
    assert encoder_of(loaded.model) is loaded.model.encoder


def test_a_model_that_only_decodes_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=8,
            n_layer=1,
            n_head=1,
            n_positions=16,
            bos_token_id=2,
            eos_token_id=3,
        )  # fmt: skip
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="gpt2 has no encoder of its own.* method: sft"):
        generate_fused(Generator.load(LocalModel(model=str(tmp_path))), [[[5]]])
