"""Whole training runs with each objective: what the settings ask for reaches the Trainer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ragkit.config.training import Contrastive, TrainLoop
from ragkit.data.schema import Example, Passage
from ragkit.errors import DataError
from ragkit.models.encoder import Encoder
from ragkit.training.collate import PairCollator
from ragkit.training.guide import guide_vectors
from ragkit.training.retriever import train_retriever

ASKED = ["gateway", "voltage", "sensor", "relay", "valve", "pump", "fuse", "alarm"]
SAID = ["red", "green", "blue", "light", "twelve", "twenty", "thirty", "forty"]
CORPUS = {f"p{i}": Passage(f"p{i}", f"it holds {word}") for i, word in enumerate(SAID)}
EXAMPLES = [
    Example(
        f"q{i}", f"which {word}", (), (f"p{i}",), tuple(f"p{(i + j) % 8}" for j in (1, 2, 3)),
        scores={f"p{i}": 6.0, **{f"p{(i + j) % 8}": -1.0 * j for j in (1, 2, 3)}},
    )
    for i, word in enumerate(ASKED)
]  # fmt: skip


def train(
    model: Path, folder: Path, examples: list[Example] = EXAMPLES, loop: Any = None, **loss: Any
) -> Encoder:
    encoder = Encoder.load(str(model))
    settings = {"batch_size": 4, "learning_rate": 5e-3, "warmup": 0.0, "precision": "fp32",
                "device": "cpu", **(loop or {})}  # fmt: skip
    train_retriever(
        encoder, examples, CORPUS, folder, loss=Contrastive(**loss), loop=TrainLoop(**settings)
    )
    return encoder


def places(encoder: Encoder) -> list[int]:
    """Return for each question how many passages are nearer than its own."""
    with torch.no_grad():
        queries = encoder(encoder.tokenize([e.question for e in EXAMPLES], "query"))
        passages = encoder(encoder.tokenize([p.text for p in CORPUS.values()], "passage"))
    scores = queries @ passages.T
    return [int(n) for n in (scores > scores.diag()[:, None]).sum(dim=1)]


def weights(encoder: Encoder) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in encoder.parameters()])


@pytest.mark.parametrize(
    "loss",
    [
        {"cached": True, "chunk_tokens": 16, "symmetric": 0.5},
        {"hard_neg_ratio": 0.5, "symmetric": "docchat"},
        {"matryoshka": [32, 8], "n_negatives": 2},
        {"distillation": {"method": "kl", "contrastive_weight": 0.0}, "n_negatives": 3},
        {"distillation": {"method": "margin_mse", "weight": 0.01}, "n_negatives": 3},
    ],
    ids=["cached", "pooled", "matryoshka", "kl", "margin_mse"],
)
def test_training_brings_each_question_nearer_to_its_passage(
    loss: dict[str, Any], tiny_encoder: Path, tmp_path: Path
) -> None:
    before = places(Encoder.load(str(tiny_encoder)))
    after = places(train(tiny_encoder, tmp_path, loop={"epochs": 10}, **loss))
    assert sum(after) < sum(before) / 3


def test_cached_training_ends_with_the_weights_of_plain_training(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    loop = {"epochs": 2, "gradient_accumulation": 2, "batch_size": 2}
    plain = train(tiny_encoder, tmp_path / "a", loop=loop)
    cached = train(tiny_encoder, tmp_path / "b", loop=loop, cached=True, chunk_tokens=10)
    torch.testing.assert_close(weights(cached), weights(plain), rtol=0, atol=1e-5)
    assert not torch.allclose(weights(plain), weights(Encoder.load(str(tiny_encoder))), atol=1e-3)


def test_a_guides_vectors_are_computed_once_and_are_those_of_the_batchs_texts(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, seen = PairCollator.__call__, []

    def spy(self: PairCollator, pairs: list[Any]) -> dict[str, Any]:
        batch = inner(self, pairs)
        seen.append(batch)
        return batch

    monkeypatch.setattr(PairCollator, "__call__", spy)
    # an example without positives has no row: those after it must not be taken for it
    examples = [replace(EXAMPLES[0], positive_ids=()), *EXAMPLES[1:]]
    train(tiny_encoder, tmp_path, examples, guide={"model": str(tiny_encoder)})
    guide = Encoder.load(str(tiny_encoder))
    for batch in seen:
        with torch.no_grad():
            expected = guide(batch["token_ids"])
        torch.testing.assert_close(batch["guide"], expected, rtol=0, atol=1e-5)
    written = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "guide").glob("*.npy")}
    assert set(written) == {"queries.npy", "passages.npy"}
    options = Contrastive(guide={"model": str(tiny_encoder)}).guide
    assert options is not None
    queries, passages = guide_vectors(options, examples[1:], CORPUS, tmp_path)
    assert isinstance(passages, np.ndarray) and passages.shape == (8, 32)
    assert queries.shape == (7, 32)
    again = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "guide").glob("*.npy")}
    assert again == written


def test_a_batch_larger_than_the_data_has_all_of_it(tiny_encoder: Path, tmp_path: Path) -> None:
    loop = {"epochs": 2}
    found = train(tiny_encoder, tmp_path / "a", loop={**loop, "batch_size": 64}, n_negatives=0)
    same = train(tiny_encoder, tmp_path / "b", loop={**loop, "batch_size": 8}, n_negatives=0)
    torch.testing.assert_close(weights(found), weights(same), rtol=0, atol=1e-6)


def test_a_corpus_of_one_passage_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    same = [replace(e, positive_ids=("p0",), negative_ids=()) for e in EXAMPLES]
    with pytest.raises(DataError, match="nothing to contrast"):
        train(tiny_encoder, tmp_path, same)
