"""Adapters: what they train, what checkpoints hold, and that merging changes no vector."""

import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_model, save_file

from ragkit.config.blocks import EncoderOptions
from ragkit.config.training import Lora
from ragkit.errors import MissingExtraError, ModelError
from ragkit.models.adapters import add_adapters, merge_adapters, save_adapters
from ragkit.models.encoder import Encoder

TEXTS = ["which fuse is in the gateway", "a relay", "the pump stops after thirty minutes", "valve"]


def load(folder: Path, separate: bool = False) -> Encoder:
    encoder = Encoder.load(str(folder), EncoderOptions(device="cpu"))
    return encoder.with_passage_tower() if separate else encoder


def vectors_of(encoder: Encoder) -> np.ndarray:
    with torch.inference_mode():
        kinds = ("query", "passage")
        return np.concatenate([encoder.encode_as(k, encoder.tokenize(TEXTS, k)) for k in kinds])


def train(encoder: Encoder, steps: int = 3) -> None:
    """Take steps that move questions towards other passages."""
    optimizer = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], 1e-2)
    ids = [*encoder.tokenize(TEXTS, "query"), *encoder.tokenize(TEXTS[::-1], "passage")]
    for _ in range(steps):
        vectors = encoder(ids, len(TEXTS))
        (-(vectors[: len(TEXTS)] * vectors[len(TEXTS) :]).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()


def weights_of(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in encoder.named_parameters()}


@pytest.mark.parametrize("separate", [False, True])
def test_training_changes_the_adapters_and_nothing_else(separate: bool, tiny_encoder: Path) -> None:
    torch.manual_seed(0)
    encoder = load(tiny_encoder, separate)
    begun = vectors_of(encoder)
    add_adapters(encoder, Lora(r=4, alpha=8))
    np.testing.assert_allclose(vectors_of(encoder), begun, atol=1e-6)  # they begin at zero
    before = weights_of(encoder)
    train(encoder)
    changed = {n for n, weights in weights_of(encoder).items() if not weights.equal(before[n])}
    assert changed == {n for n in before if "lora_" in n}
    assert not any("pooler" in n for n in changed)
    layers = 2 * 6 * (1 + separate)  # two layers of query, key, value, output, up, down
    assert len(changed) == 2 * layers
    assert np.abs(vectors_of(encoder) - begun).max() > 0.01


@pytest.mark.parametrize("separate", [False, True])
def test_merged_adapters_give_the_vectors_of_the_trained_model(
    separate: bool, tiny_encoder: Path, tmp_path: Path
) -> None:
    library: ModuleType = pytest.importorskip("sentence_transformers")
    torch.manual_seed(0)
    encoder = load(tiny_encoder, separate)
    adapters = add_adapters(encoder, Lora(r=4, alpha=8))
    train(encoder)
    save_adapters(adapters, tmp_path / "adapter")
    merged = load(tiny_encoder, separate)
    merge_adapters(merged, tmp_path / "adapter")
    expected = vectors_of(encoder)
    assert np.abs(vectors_of(merged) - expected).max() < 1e-5
    assert not any("lora" in name for name in merged.state_dict())
    merged.save(tmp_path / "model")
    assert np.abs(vectors_of(Encoder.load(str(tmp_path))) - expected).max() < 1e-5
    model = library.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    theirs = np.concatenate([model.encode_query(TEXTS), model.encode_document(TEXTS)])
    assert np.abs(theirs - expected).max() < 1e-5


def test_saved_adapters_are_loaded_by_peft(tiny_encoder: Path, tmp_path: Path) -> None:
    encoder = load(tiny_encoder)
    adapters = add_adapters(encoder, Lora(r=4, alpha=8, target_modules=["query", "value"]))
    train(encoder)
    save_adapters(adapters, tmp_path)
    base = load(tiny_encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        peft = PeftModel.from_pretrained(base.model, str(tmp_path))
    said = peft.peft_config["default"].to_dict()
    assert (said["r"], said["lora_alpha"]) == (4, 8)
    assert np.abs(vectors_of(base) - vectors_of(encoder)).max() < 1e-6


@pytest.mark.parametrize("separate", [False, True])
def test_checkpoints_hold_the_adapters_alone_and_bring_them_back(
    separate: bool, tiny_encoder: Path, tmp_path: Path
) -> None:
    lora = Lora(r=4, alpha=8)
    whole = torch.nn.ModuleDict({"encoder": load(tiny_encoder, separate)})
    add_adapters(whole["encoder"], lora)
    train(whole["encoder"])
    state = whole.state_dict()
    assert state and all("lora_" in name for name in state)
    save_file(state, tmp_path / "model.safetensors")
    again = torch.nn.ModuleDict({"encoder": load(tiny_encoder, separate)})
    add_adapters(again["encoder"], lora)
    load_model(again, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(vectors_of(again["encoder"]), vectors_of(whole["encoder"]))
    del state[next(iter(state))]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        load_model(again, tmp_path / "model.safetensors")


def test_dropout_of_the_adapters_is_what_was_asked(tiny_encoder: Path) -> None:
    encoder = load(tiny_encoder)
    add_adapters(encoder, Lora(dropout=0.25))
    found = {m.p for n, m in encoder.named_modules() if "lora_dropout.default" in n}
    assert found == {0.25}


def test_a_layer_that_is_not_there_is_named(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="lora.target_modules: 'q_proj'.*it has dense, key, query"):
        add_adapters(load(tiny_encoder), Lora(target_modules=["q_proj"]))


def test_four_bits_need_a_gpu(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="needs a CUDA GPU"):
        Encoder.load(str(tiny_encoder), quantize="4bit")


def test_four_bits_need_their_package(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"ragkit\[quantize\]"):
        Encoder.load(str(tiny_encoder), quantize="4bit")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_adapters_of_a_base_in_four_bits_are_trained_and_merged(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    encoder = Encoder.load(str(tiny_encoder), quantize="4bit").to("cuda")
    adapters = add_adapters(encoder, Lora(r=4, alpha=8))
    train(encoder)
    assert all("lora_" in name for name in encoder.state_dict())
    save_adapters(adapters, tmp_path)
    merged = load(tiny_encoder)
    merge_adapters(merged, tmp_path)
    with torch.inference_mode():
        ids = encoder.tokenize(TEXTS, "query")
        near = torch.cosine_similarity(encoder(ids).cpu(), merged(ids))
    assert near.min() > 0.9  # the base was rounded to 4 bits while training
