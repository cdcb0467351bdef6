"""What an encoder-decoder learns: labels by hand, losses of the plain model, what is saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerBase

from ragkit.data.schema import Example, Passage
from ragkit.errors import ModelError
from ragkit.models.pretrained import traits
from ragkit.rag.prompting import Prompter
from ragkit.training.dropout import set_dropout
from ragkit.training.items import Item
from ragkit.training.seq2seq import Seq2SeqObjective, seq2seq

Build = Callable[[str], Any]
ITEMS = [
    Item("a", ((11, 12, 13), (14,)), (20, 21, 3)),
    Item("b", ((15, 16),), (22, 3)),
    Item("c", ((17,), (18, 19, 11, 12, 13), (5, 6)), (23, 24, 25, 26, 3)),
]


@pytest.fixture
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_encoder)


def test_the_decoder_reads_what_came_before_each_label() -> None:
    batch = Seq2SeqObjective(start=2, padding=0).collate(ITEMS[:2])
    assert batch["labels"].tolist() == [[20, 21, 3], [22, 3, -100]]
    assert batch["decoder_input_ids"].tolist() == [[2, 20, 21], [2, 22, 3]]
    assert batch["input_ids"].tolist() == [[11, 12, 13, 14, 15, 16], [0, 0, 0, 1, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["example_ids"] == ["a", "b"]


def test_the_decoder_s_input_is_padded_with_a_token() -> None:
    batch = Seq2SeqObjective(start=2, padding=9).collate(ITEMS)
    assert batch["decoder_input_ids"][1].tolist() == [2, 22, 3, 9, 9]


@pytest.mark.parametrize("kind", ["t5", "flan-t5", "umt5", "bart", "longt5", "bert"])
def test_the_loss_of_one_text_is_the_plain_model_s(
    kind: str, encoder_decoder: Build, tokenizer: Any
) -> None:
    model = encoder_decoder(kind)
    items = [Item(i.example_id, i.texts[:1], i.answer) for i in ITEMS]
    expected = 0.0
    with seq2seq(model, tokenizer) as objective, torch.no_grad():
        found = objective.loss(model, objective.collate(items))
    for item in items:
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor(item.texts),
                decoder_input_ids=torch.tensor([[objective.start, *item.answer[:-1]]]),
            ).logits[0]
        targets = torch.tensor(item.answer)
        expected -= float(logits.log_softmax(-1)[torch.arange(len(targets)), targets].sum())
    assert found.dtype == torch.float32 and found.shape == ()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_loss_is_the_sum_of_its_examples_whatever_their_texts(
    encoder_decoder: Build, tokenizer: Any
) -> None:
    model = encoder_decoder("t5")
    with seq2seq(model, tokenizer) as objective, torch.no_grad():
        together = objective.loss(model, objective.collate(ITEMS))
        alone = [objective.loss(model, objective.collate([item])) for item in ITEMS]
    assert float(together) == pytest.approx(float(sum(alone)), rel=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", ["t5", "umt5", "bert", "bart"])
def test_activations_that_are_computed_twice_give_the_same_gradients(
    kind: str, reentrant: bool, encoder_decoder: Build, tokenizer: Any
) -> None:
    found = []
    for twice in (False, True):
        model = encoder_decoder(kind)
        set_dropout(model.train(), 0.0)
        if twice:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        with seq2seq(model, tokenizer) as objective:
            objective.loss(model, objective.collate(ITEMS)).backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    largest = max(float(gradient.abs().max()) for gradient in found[0])
    for once, again in zip(*found, strict=True):
        torch.testing.assert_close(again, once, rtol=1e-3, atol=1e-5 * largest)


def test_an_answer_has_one_end_and_a_question_without_passages_is_read(
    encoder_decoder: Build, tokenizer: Any
) -> None:
    model = encoder_decoder("bert")
    ends = traits(model, tokenizer).ends
    prompter = Prompter(tokenizer, ends, decoder=False, max_length=64, max_answer_tokens=8,
                        fused=True)  # fmt: skip
    example = Example("q", "which fuse is in the gateway")
    items = []
    for passages in ([], [Passage("p", "the fuse holds twelve volts"), Passage("r", "a relay")]):
        prompt = prompter.write(example, passages)
        assert prompt is not None
        items.append(Item("q", prompt.texts, prompter.answer(example, "twelve volts")))
    with seq2seq(model, tokenizer) as objective:
        batch = objective.collate(items)
        objective.loss(model, batch).backward()
    assert [len(item.texts) for item in items] == [1, 2]
    assert (batch["labels"] == ends[0]).sum(dim=1).tolist() == [1, 1]
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["t5", "bart", "bert"])
def test_what_was_trained_is_loaded_by_transformers_and_begins_and_ends_as_trained(
    kind: str, encoder_decoder: Build, tokenizer: Any, tmp_path: Path
) -> None:
    model = encoder_decoder(kind)
    names = list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with seq2seq(model, tokenizer) as objective:
        batch = objective.collate(ITEMS)
        before = objective.loss(model, batch)
        before.backward()
        optimizer.step()
        with torch.no_grad():
            after = objective.loss(model, batch)
        model.save_pretrained(tmp_path)
    assert after < before
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert list(loaded.state_dict()) == names
    with seq2seq(loaded, tokenizer) as objective, torch.no_grad():
        assert float(objective.loss(loaded, batch)) == pytest.approx(float(after), rel=1e-5)
    settings = loaded.generation_config
    starts = {"t5": 0, "bart": 2, "bert": tokenizer.cls_token_id}
    assert settings.decoder_start_token_id == objective.start == starts[kind]
    assert (settings.eos_token_id, settings.pad_token_id) == (3, 0)
    row = torch.tensor([ITEMS[0].texts[0]])
    torch.testing.assert_close(loaded.generate(row, max_new_tokens=4, do_sample=False),
                               model.generate(row, max_new_tokens=4, do_sample=False))  # fmt: skip


def test_a_model_that_names_no_beginning_is_refused_and_left_alone(
    encoder_decoder: Build, tokenizer: Any
) -> None:
    model = encoder_decoder("t5")
    model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="decoder_start_token_id"), seq2seq(model, tokenizer):
        pass
    assert not any("forward" in vars(module) for module in model.modules())
