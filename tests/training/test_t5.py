"""Encoders like T5: weights with two names, dropout of the attention kept as a number."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from ragkit.config.training import Contrastive, TrainLoop
from ragkit.data.schema import Example, Passage
from ragkit.models.encoder import Encoder
from ragkit.training.caching import encode_in_chunks
from ragkit.training.dropout import draws, set_dropout
from ragkit.training.retriever import train_retriever

WORDS = ["gateway", "voltage", "sensor", "relay", "valve", "pump"]
CORPUS = {f"p{i}": Passage(f"p{i}", f"it holds {w} volts") for i, w in enumerate(WORDS)}
EXAMPLES = [Example(f"q{i}", f"which {w}", (), (f"p{i}",)) for i, w in enumerate(WORDS)]
LOOP = {"batch_size": 3, "learning_rate": 3e-3, "precision": "fp32", "device": "cpu", "epochs": 2}


@pytest.fixture
def fresh(tiny_encoder: Path, tmp_path: Path) -> Callable[[], Encoder]:
    """Return a function that loads a small T5 with the words of `tiny_encoder`."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2
    )
    T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    return lambda: Encoder.load(str(tmp_path / "t5"))


def test_it_is_trained_chosen_on_dev_and_gone_on_with(
    fresh: Callable[[], Encoder], tmp_path: Path
) -> None:
    def train(folder: str, epochs: int) -> Encoder:
        encoder, qualities = fresh(), iter([0.1, 0.9, 0.2, 0.3, 0.3])
        train_retriever(
            encoder, EXAMPLES, CORPUS, tmp_path / folder, loss=Contrastive(),
            loop=TrainLoop(**LOOP, schedule="constant_with_warmup"),
            score=lambda _: {"ndcg@10": next(qualities)},
        )  # fmt: skip
        return encoder

    encoder = train("run", 2)
    best = load_file(tmp_path / "run" / "checkpoints" / "checkpoint-2" / "model.safetensors")
    state = {f"encoder.{name}": weights for name, weights in encoder.state_dict().items()}
    assert best and all(torch.equal(weights, state[name]) for name, weights in best.items())
    assert not torch.equal(encoder.model.encoder.embed_tokens.weight, fresh().model.shared.weight)
    assert encoder.model.encoder.embed_tokens.weight is encoder.model.shared.weight
    record = json.loads((tmp_path / "run/checkpoints/checkpoint-4/trainer_state.json").read_text())
    assert record["best_global_step"] == 2
    encoder.save(tmp_path / "saved")
    tokens = encoder.tokenize(["which pump"], "query")
    torch.testing.assert_close(Encoder.load(str(tmp_path / "saved"))(tokens), encoder(tokens))


def test_its_attention_drops_what_it_is_told_to(fresh: Callable[[], Encoder]) -> None:
    encoder = fresh().train()
    tokens = encoder.tokenize([p.text for p in CORPUS.values()], "passage")
    set_dropout(encoder, 0.0)
    assert not draws(encoder) and torch.equal(encoder(tokens), encoder(tokens))
    numbers = [m for m in encoder.modules() if isinstance(getattr(m, "dropout", None), float)]
    assert len(numbers) == 2
    numbers[0].dropout = 0.4
    assert draws(encoder) and not torch.equal(encoder(tokens), encoder(tokens))
    encoder.eval()
    assert not draws(encoder)


def test_cached_gradients_are_those_of_one_pass_with_dropout(fresh: Callable[[], Encoder]) -> None:
    encoder = fresh().train()
    tokens = encoder.tokenize([p.text for p in CORPUS.values()], "passage")
    upstream = torch.randn(len(tokens), 32, generator=torch.Generator().manual_seed(1))
    weights = list(encoder.parameters())
    found = []
    for one_pass in (True, False):
        torch.manual_seed(5)
        # a chunk for all: both draw the same numbers in the same order
        vectors = encoder(tokens, 0) if one_pass else encode_in_chunks(encoder, tokens, 0, 10_000)
        found.append(torch.autograd.grad(vectors, weights, upstream, allow_unused=True))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)
