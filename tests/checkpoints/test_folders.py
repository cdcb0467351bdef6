"""Folders of transformers: every family through shards and precisions; indices that do not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from ragkit.checkpoints import folders
from ragkit.checkpoints.layouts import layout_of
from ragkit.checkpoints.parts import Reading
from ragkit.errors import ModelError
from ragkit.stages.convert import Config, convert

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "vocab_size": 50, "max_position_embeddings": 32}  # fmt: skip
LANGUAGE = {**SMALL, "num_key_value_heads": 1}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 50}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta": ("RobertaModel", SMALL),
    "modernbert": ("ModernBertModel", SMALL | {"pad_token_id": 0, "global_attn_every_n_layers": 2}),
    "mpnet": ("MPNetModel", SMALL),
    "xlm-roberta heads": ("XLMRobertaForMaskedLM", SMALL),
    "t5": ("T5ForConditionalGeneration", T5),
    "bart": ("BartForConditionalGeneration", {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "vocab_size": 50, "max_position_embeddings": 32,
    }),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50}),
    "gpt-neox": ("GPTNeoXForCausalLM", SMALL),
    "llama": ("LlamaForCausalLM", LANGUAGE),
    "llama tied": ("LlamaForCausalLM", LANGUAGE | {"tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", LANGUAGE),
    "qwen3": ("Qwen3ForCausalLM", LANGUAGE | {"head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", LANGUAGE | {"head_dim": 8}),
    "mixtral": ("MixtralForCausalLM", LANGUAGE | {"num_local_experts": 2}),
    "a span reader": ("BertForQuestionAnswering", SMALL),
}  # fmt: skip


def states(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors in a folder's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_through_precisions_and_shards(family: str, tmp_path: Path) -> None:
    name, sizes = FAMILIES[family]
    kind: Any = getattr(hf, name)
    torch.manual_seed(0)
    kind(kind.config_class(**sizes)).save_pretrained(tmp_path / "source")
    before = states(tmp_path / "source")
    convert(
        Config(
            source=str(tmp_path / "source"), to="hf", output=tmp_path / "shards",
            max_shard_size="4KB",
        )
    )  # fmt: skip
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    convert(
        Config(
            source=str(tmp_path / "shards"), to="hf", output=tmp_path / "half", dtype="bf16"
        )
    )  # fmt: skip
    convert(Config(source=str(tmp_path / "half"), to="hf", output=tmp_path / "back", dtype="fp32"))
    after = states(tmp_path / "back")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        rounded = tensor.bfloat16().float() if tensor.is_floating_point() else tensor
        assert torch.equal(rounded, after[key]), key
    shards = kind.from_pretrained(tmp_path / "shards").state_dict()
    for key, tensor in kind.from_pretrained(tmp_path / "source").state_dict().items():
        assert torch.equal(tensor, shards[key]), key
    configs = [
        json.loads((tmp_path / place / "config.json").read_text()) for place in ("source", "back")
    ]
    assert configs[0] == configs[1]


def sharded(folder: Path, weight_map: object) -> Path:
    """Make a folder of two shards, with `a` and `b`, and with an index of its own."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name in "ab":
        save_file({name: torch.ones(2)}, folder / f"{name}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ([], "no weight_map, which says in which file each tensor is"),
        ({"a": "b.safetensors", "b": "a.safetensors"}, "a: expected in b.safetensors, found in a"),
        (
            {"a": "a.safetensors", "c": "b.safetensors"},
            "c: expected in b.safetensors, found in none",
        ),
        ({"a": "a.safetensors", "x": "../b.safetensors"}, "are missing: ../b.safetensors"),
    ],
)
def test_an_index_is_held_against_its_files(weight_map: object, said: str, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "sharded", weight_map)
    with pytest.raises(ModelError, match=said):
        folders.read(folder, Reading())


def test_a_tensor_that_the_index_does_not_name_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "sharded", {"a": "a.safetensors", "b": "b.safetensors"})
    assert list(folders.read(folder, Reading()).named()) == ["a", "b"]
    save_file({"b": torch.ones(2), "old": torch.ones(2)}, folder / "b.safetensors")
    with pytest.raises(ModelError, match=r"old: expected in no file, found in b\.safetensors"):
        folders.read(folder, Reading())


def test_a_configuration_that_describes_no_model_is_an_error_of_the_model() -> None:
    config = {
        "architectures": ["BertModel"], "model_type": "bert",
        "hidden_size": 16, "num_attention_heads": 3,
    }  # fmt: skip
    with pytest.raises(ModelError, match=r"describes no BertModel: The hidden size \(16\)"):
        folders.tied(config)


def test_what_is_missing_to_a_checkpoint_is_said(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"weights, and no config\.json beside them"):
        layout_of(tmp_path)
    with pytest.raises(ModelError, match="a file alone is no checkpoint .* give its folder"):
        layout_of(tmp_path / "model.safetensors")
