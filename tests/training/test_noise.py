"""Noise on embeddings: of the size that a text's own length gives it, and only while training."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ragkit.models.packing import IMPLEMENTATION, attending
from ragkit.training.causal import CausalObjective
from ragkit.training.items import Item
from ragkit.training.noise import add_noise, text_lengths
from ragkit.training.seq2seq import seq2seq

ALPHA = 5.0


def test_each_place_knows_the_length_of_its_text() -> None:
    embedded = torch.zeros(1, 6, 4)
    assert text_lengths([2, 4], embedded).tolist() == [[2, 2, 4, 4, 4, 4]]
    assert text_lengths(None, embedded).tolist() == [[6] * 6]
    # an encoder's texts are packed, and its decoder's rows are not
    assert text_lengths([2, 4], torch.zeros(2, 3, 4)).tolist() == [[3] * 3]


def test_noise_is_as_large_as_the_paper_says_and_absent_in_evaluation(tiny_decoder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    plain = model.get_input_embeddings().weight
    seen: list[torch.Tensor] = []
    add_noise(model, ALPHA, CausalObjective.lengths_of)
    model.get_input_embeddings().register_forward_hook(lambda *given: seen.append(given[2]))
    objective = CausalObjective(padding=0, offset=0)
    items = [
        Item("short", (tuple(range(5, 9)),), (2,)),
        Item("long", (tuple(range(5, 105)),), (2,)),
    ]
    batch = objective.collate(items)
    torch.manual_seed(0)
    with attending(model, IMPLEMENTATION):
        model.train()
        objective.loss(model, batch)
        model.eval()
        objective.loss(model, batch)
    noisy, still = seen
    assert torch.equal(still[0], plain[batch["input_ids"][0]])
    noise = (noisy - still)[0]
    for part, length in ((noise[:4], 4), (noise[4:], 100)):
        largest = ALPHA / math.sqrt(length * 32)
        assert 0.9 * largest < part.abs().max() <= largest


@pytest.mark.parametrize("kind", ["t5", "bart", "bert"])
def test_of_an_encoder_decoder_what_is_read_gets_noise(
    kind: str, encoder_decoder: Callable[[str], Any], tiny_encoder: Path
) -> None:
    model = encoder_decoder(kind)
    items = [Item("a", ((11, 12, 13), (14, 15)), (20, 21, 3))]
    with seq2seq(model, AutoTokenizer.from_pretrained(tiny_encoder)) as objective:
        batch = objective.collate(items)
        add_noise(model, ALPHA, objective.lengths_of)
        still = [float(objective.loss(model, batch).detach()) for _ in range(2)]
        for module in model.modules():
            module.training = not isinstance(module, torch.nn.Dropout)
        noisy = [float(objective.loss(model, batch).detach()) for _ in range(2)]
        model.eval()
        model.generate(
            encoder_outputs=model.get_encoder()(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ),
            attention_mask=batch["attention_mask"], max_new_tokens=2,
        )  # fmt: skip
    assert still[0] == still[1] != noisy[0] != noisy[1]
