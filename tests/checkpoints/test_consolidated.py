"""Names and shapes of weights that come without a configuration of their own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ragkit.checkpoints.consolidated import described
from ragkit.checkpoints.parts import Reading
from ragkit.checkpoints.weights import Weight
from ragkit.errors import ModelError


def weights(folder: Path, before: str = "") -> dict[str, Weight]:
    """Return a folder's weights, their names with something before them."""
    return {
        before + name: Weight(tuple(t.shape), t.dtype, (), t.clone)
        for name, t in load_file(folder / "model.safetensors").items()
    }


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module.encoder.model."])
def test_names_of_wrappers_are_taken_away(wrapper: str, tiny_encoder: Path) -> None:
    part = described(tiny_encoder, tiny_encoder, weights(tiny_encoder, wrapper), Reading())
    assert set(part.weights) == set(weights(tiny_encoder))
    assert part.config["hidden_size"] == 32
    assert part.files["tokenizer.json"] == tiny_encoder / "tokenizer.json"


def test_an_encoder_may_be_without_the_head_of_its_configuration(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    config = json.loads((tiny_encoder / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "architectures": ["BertForMaskedLM"]})
    )
    part = described(tmp_path, tmp_path, weights(tiny_encoder), Reading())
    assert set(part.weights) == set(weights(tiny_encoder))
    assert part.config["architectures"] == ["BertModel"]


def test_another_prefix_is_named(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match=r"not of a BertModel, .*tower.embeddings"):
        described(tiny_encoder, tiny_encoder, weights(tiny_encoder, "tower."), Reading())


def test_a_wrapper_of_some_weights_only_is_named(tiny_encoder: Path) -> None:
    mixed = weights(tiny_encoder) | {
        "module.more": Weight((1,), torch.float32, (), lambda: torch.ones(1))
    }
    with pytest.raises(ModelError, match=r"1 of \d+ weights are not of a BertModel.*module.more"):
        described(tiny_encoder, tiny_encoder, mixed, Reading())


def test_adapters_are_refused_by_name(tiny_encoder: Path) -> None:
    name = "base_model.model.encoder.layer.0.attention.self.query.lora_A.default.weight"
    adapters = {name: Weight((1,), torch.float32, (), lambda: torch.ones(1))}
    with pytest.raises(ModelError, match=r"adapters \(base_model.*lora_A.*adapter_config.json"):
        described(tiny_encoder, tiny_encoder, adapters, Reading())


def test_the_checkpoints_own_configuration_comes_before_the_bases(
    tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_encoder / "config.json", tmp_path)
    part = described(tmp_path, tmp_path, weights(tiny_encoder), Reading(base=tiny_decoder))
    assert part.config["model_type"] == "bert"
    assert part.files["tokenizer.json"] == tiny_decoder / "tokenizer.json"
