"""What a decoder learns: the answers' tokens alone, packed or padded, to the same gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from ragkit.models.packing import IMPLEMENTATION, attending
from ragkit.training.causal import CausalObjective
from ragkit.training.items import Continued, Item, continued

ITEMS = [
    Item("a", ((5, 6, 7, 8, 9, 10, 11),), (12, 13, 2)),
    Item("b", ((20, 21),), (22, 2)),
    Item("c", ((30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41),), (42, 43, 44, 45, 2)),
]
SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def decoder(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def one_by_one(model: Any) -> torch.Tensor:
    """Return the sum of the losses of the answers, each sequence in a call of its own."""
    total = torch.zeros(())
    for item in ITEMS:
        ids = torch.tensor([[*item.texts[0], *item.answer]])
        labels = torch.tensor([[-100] * len(item.texts[0]) + list(item.answer)])
        logits = model(input_ids=ids).logits
        total = total + functional.cross_entropy(
            logits[0, :-1].float(), labels[0, 1:], reduction="sum", ignore_index=-100
        )
    return total


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_the_answer_alone_is_learned_and_its_end_once() -> None:
    found = continued(ITEMS[0])
    assert found.ids == (5, 6, 7, 8, 9, 10, 11, 12, 13)
    # the prompt's last token is followed by the answer's first
    assert found.targets == ((6, 12), (7, 13), (8, 2))


def test_a_packed_batch_by_hand() -> None:
    batch = CausalObjective(padding=0, offset=0).collate(ITEMS[:2])
    assert batch["input_ids"].tolist() == [[20, 21, 22, 5, 6, 7, 8, 9, 10, 11, 12, 13]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8]]
    assert batch["packed_lengths"] == [3, 9]
    assert batch["places"].tolist() == [1, 2, 9, 10, 11]
    assert batch["labels"].tolist() == [22, 2, 12, 13, 2]
    assert batch["example_ids"] == ["b", "a"]


def test_a_padded_batch_by_hand() -> None:
    batch = CausalObjective(padding=0).collate([ITEMS[1], Item("d", ((7, 8, 9),), (10, 2))])
    assert batch["input_ids"].tolist() == [[0, 20, 21, 22], [7, 8, 9, 10]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 0, 1, 2], [0, 1, 2, 3]]
    assert batch["rows"].tolist() == [0, 0, 1, 1]
    assert batch["places"].tolist() == [2, 3, 2, 3]
    assert batch["labels"].tolist() == [22, 2, 10, 2]


@pytest.mark.parametrize("offset", [0, None])
def test_loss_and_gradients_are_those_of_single_sequences(
    offset: int | None, tiny_decoder: Path
) -> None:
    model = decoder(tiny_decoder)
    expected = one_by_one(model)
    theirs = gradients(model, expected)
    objective = CausalObjective(padding=0, offset=offset)
    implementation = "sdpa" if offset is None else IMPLEMENTATION
    with attending(model, implementation):
        loss = objective.loss(model, objective.collate(ITEMS))
        ours = gradients(model, loss)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "model",
    [
        GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32)),
        GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=64)),
    ],
    ids=["gpt2", "gpt_neox"],
)
def test_models_that_are_not_packed_learn_the_same_from_padded_rows(model: Any) -> None:
    model.eval()
    objective = CausalObjective(padding=0)
    loss = objective.loss(model, objective.collate(ITEMS))
    torch.testing.assert_close(loss, one_by_one(model), rtol=1e-5, atol=1e-5)


def test_a_packed_sequence_does_not_see_its_neighbours(tiny_decoder: Path) -> None:
    model = decoder(tiny_decoder)
    objective = CausalObjective(padding=0, offset=0)
    with attending(model, IMPLEMENTATION), torch.no_grad():
        alone = objective.loss(model, objective.collate(ITEMS[2:]))
        others = objective.loss(model, objective.collate(ITEMS[:2]))
        together = objective.loss(model, objective.collate(ITEMS))
    torch.testing.assert_close(together, alone + others, rtol=1e-5, atol=1e-5)


def test_what_follows_an_answer_need_not_be_its_end(tiny_decoder: Path) -> None:
    """In a conversation the next turn stands where an answer ends."""
    model = decoder(tiny_decoder)
    chat = Continued("chat", (5, 6, 7, 8, 9), ((1, 7), (2, 2), (4, 2)))
    objective = CausalObjective(padding=0)
    logits = model(input_ids=torch.tensor([chat.ids])).logits[0].log_softmax(-1)
    expected = -(logits[1, 7] + logits[2, 2] + logits[4, 2])
    found = objective.loss(model, objective.collate([chat]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_no_logits_are_made_where_nothing_is_learned(tiny_decoder: Path) -> None:
    model = decoder(tiny_decoder)
    shapes: list[torch.Size] = []
    model.lm_head.register_forward_hook(lambda *given: shapes.append(given[2].shape))
    objective = CausalObjective(padding=0, offset=0)
    with attending(model, IMPLEMENTATION):
        objective.loss(model, objective.collate(ITEMS))
    assert shapes == [(1, 10, model.config.vocab_size)]
