"""Texts read apart in one row: the states, losses and gradients of texts padded to the longest."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AttentionInterface, AutoModelForSeq2SeqLM, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import BaseModelOutput

from ragkit.errors import ModelError
from ragkit.models.fused import encoder_of, fused, pack
from ragkit.models.packing import IMPLEMENTATION, packed_attention

Build = Callable[[str], Any]
PACKED = ["t5", "flan-t5", "mt5", "umt5", "bert"]
PADDED = ["bart", "longt5"]  # LongT5 hands no keywords to its encoder
LENGTHS = [[7, 3, 60], [5], [12, 14, 1, 6]]  # of the texts of three examples
ANSWERS = torch.tensor([[2, 9, 10, 11], [2, 30, 31, 32], [2, 5, 5, 5]])


def texts(lengths: list[list[int]]) -> list[list[list[int]]]:
    """Return random tokens, none of them special."""
    generator = torch.Generator().manual_seed(1)
    return [
        [torch.randint(5, 200, (n,), generator=generator).tolist() for n in row] for row in lengths
    ]


def padded_memory(model: Any, examples: list[list[list[int]]]) -> dict[str, Any]:
    """Return what a decoder gets where every text is padded to the longest of the batch."""
    longest = max(len(text) for example in examples for text in example)
    most = max(map(len, examples))
    rows = torch.zeros(len(examples), most, longest, dtype=torch.long)
    mask = torch.zeros_like(rows)
    for b, example in enumerate(examples):
        for n, text in enumerate(example):
            rows[b, n, : len(text)] = torch.tensor(text)
            mask[b, n, : len(text)] = 1
    read = mask.flatten(0, 1).clone()
    read[:, 0] = 1  # a text that is not there has to be something; the decoder does not see it
    states = model.get_encoder()(input_ids=rows.flatten(0, 1), attention_mask=read)
    memory = states.last_hidden_state.reshape(len(examples), most * longest, -1)
    return {
        "encoder_outputs": BaseModelOutput(last_hidden_state=memory),
        "attention_mask": mask.flatten(1),
    }


def logits_of(model: Any, examples: list[list[list[int]]]) -> Tensor:
    """Return the logits of fusion-in-decoder as ragkit reads."""
    with fused(model):
        found: Tensor = model(**pack(examples), decoder_input_ids=ANSWERS[: len(examples)]).logits
    return found


def test_texts_are_laid_end_to_end_and_numbered() -> None:
    packed = pack([[[5, 6, 7], [8]], [[9, 10]]])
    assert packed["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10], [0, 0, 0, 1, 2, 2]]
    assert packed["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("kind", [*PACKED, *PADDED])
def test_texts_in_one_row_are_what_padded_texts_are(kind: str, encoder_decoder: Build) -> None:
    model, examples = encoder_decoder(kind).double(), texts(LENGTHS)
    with torch.no_grad():
        expected = model(**padded_memory(model, examples), decoder_input_ids=ANSWERS).logits
        found = logits_of(model, examples)
        changed = logits_of(model, [*examples[:2], examples[2][:3]])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.std()))
    assert not torch.allclose(changed[2], found[2], rtol=1e-3)  # every text counts
    torch.testing.assert_close(changed[:2], found[:2], rtol=1e-6, atol=1e-6)  # for its own alone


@pytest.mark.parametrize("kind", [*PACKED, *PADDED])
def test_one_text_is_read_as_the_plain_model_reads_it(kind: str, encoder_decoder: Build) -> None:
    model, examples = encoder_decoder(kind).double(), texts([[9], [4], [31]])
    with torch.no_grad():
        found = logits_of(model, examples)
        for row, (text,), answer in zip(found, examples, ANSWERS, strict=True):
            plain = model(input_ids=torch.tensor([text]), decoder_input_ids=answer[None]).logits[0]
            torch.testing.assert_close(row, plain, rtol=1e-6, atol=1e-6 * float(plain.std()))


@pytest.mark.parametrize("kind", [*PACKED, *PADDED])
def test_gradients_are_those_of_padded_texts(kind: str, encoder_decoder: Build) -> None:
    model, examples = encoder_decoder(kind), texts(LENGTHS)
    weights = [p for p in model.parameters() if p.requires_grad]
    plain = model(**padded_memory(model, examples), decoder_input_ids=ANSWERS).logits
    upstream = torch.randn(plain.shape, generator=torch.Generator().manual_seed(2))
    both = [
        torch.autograd.grad((logits * upstream).sum(), weights, allow_unused=True)
        for logits in (logits_of(model, examples), plain)
    ]
    reached = [(n, *pair) for (n, _), *pair in zip(model.named_parameters(), *both, strict=True)]
    reached = [each for each in reached if each[2] is not None]  # but a pooler's
    assert len(reached) > 20
    largest = max(float(expected.abs().max()) for _, _, expected in reached)
    for name, found, expected in reached:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("kind", ["t5", "bert", "bart"])
def test_the_model_is_itself_again_afterwards(kind: str, encoder_decoder: Build) -> None:
    model = encoder_decoder(kind)
    names, row = list(model.state_dict()), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = model(input_ids=row, decoder_input_ids=ANSWERS[:1]).logits
        with fused(model):
            with fused(model):
                pass
            logits_of(model, texts([[3]]))  # a context within a context ends with the outer one
            assert list(model.state_dict()) == names
            assert "forward" in vars(encoder_of(model))
        after = model(input_ids=row, decoder_input_ids=ANSWERS[:1]).logits
    assert torch.equal(before, after)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_copy_of_a_model_reads_with_weights_of_its_own(encoder_decoder: Build) -> None:
    model, examples = encoder_decoder("t5"), texts(LENGTHS)
    with torch.no_grad(), fused(model):
        expected = model(**pack(examples), decoder_input_ids=ANSWERS).logits
        twin = deepcopy(model)
        for weights in model.parameters():
            weights.zero_()
        found = twin(**pack(examples), decoder_input_ids=ANSWERS).logits
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["t5", "umt5", "bert", "bart"])
def test_what_is_saved_inside_is_the_plain_model(
    kind: str, encoder_decoder: Build, tmp_path: Path
) -> None:
    model, row = encoder_decoder(kind), torch.tensor([[5, 6, 7, 8]])
    model.save_pretrained(tmp_path / "outside")
    with fused(model):
        model.save_pretrained(tmp_path / "inside")
    configs = [
        json.loads((tmp_path / f / "config.json").read_text()) for f in ("outside", "inside")
    ]
    assert configs[0] == configs[1]
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "inside").eval()
    with torch.no_grad():
        expected = model(input_ids=row, decoder_input_ids=ANSWERS[:1]).logits
        found = loaded(input_ids=row, decoder_input_ids=ANSWERS[:1]).logits
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks
def test_adapters_are_trained_within_it(encoder_decoder: Build) -> None:
    model = encoder_decoder("t5")
    before = logits_of(model, texts(LENGTHS))
    adapted: Any = get_peft_model(
        model, LoraConfig(target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")
    )
    adapted.eval()
    # an adapter begins as nothing
    torch.testing.assert_close(logits_of(adapted, texts(LENGTHS)), before)
    logits_of(adapted, texts(LENGTHS)).sum().backward()
    trained = [n for n, p in adapted.named_parameters() if p.grad is not None]
    assert trained and all("lora" in name for name in trained)


def test_several_processes_make_the_same_calls(
    encoder_decoder: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, examples = encoder_decoder("bart"), texts([[60, 2, 9]])
    encoder, shapes = encoder_of(model), []
    encoder.embed_tokens.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    with torch.no_grad():
        expected = logits_of(model, examples)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        found = logits_of(model, examples)
    assert [tuple(shape) for shape in shapes] == [(2, 9), (1, 60), (3, 60)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_no_bias_is_larger_than_the_longest_text(
    encoder_decoder: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        sizes.append(tuple(kwargs["position_bias"].shape))
        return packed_attention(*args, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, IMPLEMENTATION, watched)
    for kind in ("t5", "umt5"):
        logits_of(encoder_decoder(kind), texts(LENGTHS))
    assert sizes == [(1, 4, 60, 60)] * 4


def test_a_model_without_an_encoder_is_refused() -> None:
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                    num_attention_heads=1)
    )  # fmt: skip
    with pytest.raises(ModelError, match="llama has no encoder of its own"), fused(model):
        pass
