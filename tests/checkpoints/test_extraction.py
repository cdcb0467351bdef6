"""Adapters made of two models: what a rank keeps, what is kept whole, and what is refused."""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from ragkit.checkpoints import extraction, folders, lora, proof
from ragkit.checkpoints.parts import Checkpoint, Reading, Writing
from ragkit.errors import ModelError
from ragkit.stages.convert import Config, convert, inspect

SMALL = {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LAYERS = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
# each with the layers that are tuned, and whether the weight is the transpose of a linear layer's
MODELS: dict[str, tuple[Callable[[], PreTrainedModel], str, bool]] = {
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**SMALL, **LAYERS)), "_proj.weight", False),
    "gpt2": (lambda: GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=16, n_layer=2, n_head=2)),
             "c_attn.weight", True),
    "bert": (lambda: BertModel(BertConfig(**SMALL, **LAYERS)), "dense.weight", False),
    "t5": (lambda: T5ForConditionalGeneration(
        T5Config(**SMALL | {"decoder_start_token_id": 0}, d_model=16, d_kv=8, d_ff=24, num_layers=2,
                 num_heads=2)), "Attention.q.weight", False),
}  # fmt: skip


def tuned(name: str, folder: Path, rank: int = 4, also: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Save a base, and a model that differs by matrices of a rank.

    also: endings of weights that differ at random
    Returns: the differences of that rank, by the weight's name
    """
    torch.manual_seed(0)
    make, ending, _ = MODELS[name]
    model = make()
    model.save_pretrained(folder / "base")
    differences = {}
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.endswith(ending):
                rows, columns = weight.shape
                differences[key] = torch.randn(rows, rank) @ torch.randn(rank, columns) * 0.1
                weight += differences[key]
            elif also and key.endswith(also):
                weight += torch.randn_like(weight)
    model.save_pretrained(folder / "tuned")
    return differences


def opened(folder: Path) -> Checkpoint:
    return folders.read(folder, Reading())


def adapted(folder: Path, rank: int = 4) -> Checkpoint:
    source = opened(folder / "tuned")
    checkpoint = extraction.adapt(source, Writing(base=folder / "base", rank=rank))
    proof.check_used(checkpoint)
    return checkpoint


def write(folder: Path, rank: int = 4) -> Path:
    extraction.write(adapted(folder, rank), folder / "adapter", Writing())
    return folder / "adapter"


def merged(folder: Path) -> dict[str, Tensor]:
    checkpoint = lora.read(folder, Reading())
    proof.check_used(checkpoint)
    return {name: weight.read() for name, weight in checkpoint.named().items()}


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_a_difference_of_rank_four_comes_back_from_rank_four(name: str, tmp_path: Path) -> None:
    differences = tuned(name, tmp_path)
    folder = write(tmp_path)
    assert_close(merged(folder), load_file(tmp_path / "tuned" / "model.safetensors"))
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["r"] == settings["lora_alpha"] == 4
    modules = sorted(key.removesuffix(".weight") for key in differences)
    assert sorted(settings["target_modules"]) == modules
    assert settings["base_model_name_or_path"] == str(tmp_path / "base")
    assert settings["fan_in_fan_out"] is MODELS[name][2]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_peft_loads_them_and_merges_to_the_tuned_model(name: str, tmp_path: Path) -> None:
    tuned(name, tmp_path)
    folder = write(tmp_path)
    kind = type(MODELS[name][0]())
    with warnings.catch_warnings(action="ignore"):
        model = PeftModel.from_pretrained(kind.from_pretrained(tmp_path / "base"), str(folder))
        whole = model.merge_and_unload()
    expected = kind.from_pretrained(tmp_path / "tuned").state_dict()
    assert_close(whole.state_dict(), expected)
    assert model.peft_type == "LORA"


def test_rank_two_keeps_the_squares_of_two_singular_values(tmp_path: Path) -> None:
    differences = tuned("llama", tmp_path)
    checkpoint = adapted(tmp_path, rank=2)
    kept = total = 0.0
    for key, difference in differences.items():
        squares = torch.linalg.svdvals(difference.double()).square()
        name = f"base_model.model.{key.replace('.weight', '.lora_A.weight')}"
        share = float(squares[:2].sum() / squares.sum())
        assert checkpoint.named()[name].how.endswith(f"{share:.2%} kept by rank 2")
        kept, total = kept + float(squares[:2].sum()), total + float(squares.sum())
    assert f"rank 2 of 14 linear layers keeps {kept / total:.2%} of" in checkpoint.made["adapters"]


def test_what_is_written_is_what_was_extracted(tmp_path: Path) -> None:
    tuned("bert", tmp_path)
    checkpoint = adapted(tmp_path).cast(torch.bfloat16)
    extraction.write(checkpoint, tmp_path / "adapter", Writing())
    again = extraction.written(tmp_path / "adapter", Reading())
    traced = list(proof.trace(checkpoint, again))
    assert {t.name for t in traced} == load_file(
        tmp_path / "adapter/adapter_model.safetensors"
    ).keys()
    assert {t.dtype for t in traced} == {"bf16"}
    assert all("kept by rank 4, fp32 to bf16" in t.how for t in traced)


@pytest.mark.parametrize(
    ("name", "also", "whole"),
    [
        ("llama", ("norm.weight",), {"model.norm", "model.layers.0.input_layernorm"}),
        ("llama", ("embed_tokens.weight",), {"model.embed_tokens"}),
        ("bert", ("LayerNorm.bias", "word_embeddings.weight"), {"embeddings.LayerNorm"}),
        ("bert", ("dense.bias", "query.bias"), set()),  # of layers with factors, and without
        ("gpt2", ("ln_f.weight", "c_attn.bias"), {"transformer.ln_f"}),
        ("t5", ("shared.weight",), {"shared", "lm_head", "encoder.embed_tokens"}),
        ("t5", ("relative_attention_bias.weight",), set()),
    ],
)
def test_what_is_no_linear_layer_is_kept_whole(
    name: str, also: tuple[str, ...], whole: set[str], tmp_path: Path
) -> None:
    tuned(name, tmp_path, also=also)
    folder = write(tmp_path)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert whole <= set(settings["modules_to_save"] or [])
    assert_close(merged(folder), load_file(tmp_path / "tuned" / "model.safetensors"))
    unmerged = proof.outputs_of(lora.load(folder, Reading(), "cpu"))
    whole = proof.outputs_of(folders.load(tmp_path / "tuned", Reading(), "cpu"))
    assert proof.largest_difference(unmerged, whole, exact=False) < 1e-4


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL, **LAYERS, tie_word_embeddings=True))
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        model.model.embed_tokens.weight += 1
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    model.save_pretrained(tmp_path / "tuned")
    folder = write(tmp_path)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert sorted(settings["modules_to_save"]) == ["lm_head", "model.embed_tokens"]
    assert_close(merged(folder), load_file(tmp_path / "tuned" / "model.safetensors"))
    again = lora.read(folder, Reading())
    assert again.parts[""].config["tie_word_embeddings"] is True


def test_a_rank_beyond_a_matrix_is_that_of_the_matrix(tmp_path: Path) -> None:
    tuned("bert", tmp_path)
    folder = write(tmp_path, rank=20)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert set(settings["rank_pattern"].values()) == {16}
    assert settings["rank_pattern"] == settings["alpha_pattern"]
    assert_close(merged(folder), load_file(tmp_path / "tuned" / "model.safetensors"))


def test_large_matrices_are_decomposed_in_part_and_alike_each_time() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(1100, 4, generator=generator) for _ in range(2))
    difference = left @ right.T
    state = torch.get_rng_state()
    first, second = (extraction.factors_of(difference, 4) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.a, second.a)
    assert torch.equal(first.b, second.b)
    assert first.share == pytest.approx(1, abs=1e-6)
    triangles = [torch.linalg.qr(side).R for side in (left, right)]
    squares = torch.linalg.svdvals(triangles[0] @ triangles[1].T).square()
    share = float(squares[:2].sum() / squares.sum())
    assert extraction.factors_of(difference, 2).share == pytest.approx(share, abs=1e-5)


def test_two_towers_have_adapters_each(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tuned("bert", tmp_path / name)
    sources = {t: opened(tmp_path / n / "tuned") for t, n in (("query", "one"), ("passage", "two"))}
    both = Checkpoint(
        tmp_path, {tower: one.parts[""] for tower, one in sources.items()},
        tuple(s for one in sources.values() for s in one.stored),
    )  # fmt: skip
    checkpoint = extraction.adapt(both, Writing(base=tmp_path / "one" / "base", rank=4))
    proof.check_used(checkpoint)
    assert checkpoint.made.keys() == {"query adapters", "passage adapters"}
    extraction.write(checkpoint, tmp_path / "adapter", Writing())
    again = extraction.written(tmp_path / "adapter", Reading())
    assert len(list(proof.trace(checkpoint, again))) == len(checkpoint.named()) > 0
    weights = lora.read(tmp_path / "adapter", Reading()).parts["passage"].weights
    expected = load_file(tmp_path / "two" / "tuned" / "model.safetensors")
    assert_close({name: weight.read() for name, weight in weights.items()}, expected)


def test_the_whole_command_tells_what_is_kept(tmp_path: Path) -> None:
    tuned("llama", tmp_path)
    wanted = Config(
        source=str(tmp_path / "tuned"), to="lora", output=tmp_path / "adapter",
        base=str(tmp_path / "base"), rank=4,
    )  # fmt: skip
    told = convert(wanted)
    assert "made: adapters: rank 4 of 14 linear layers keeps 100.00% of their" in told
    assert "left out: 7 (as in its base)" in told
    account = json.loads((tmp_path / "adapter" / "conversion.json").read_text())
    assert account["outputs"]["largest_difference"] < 1e-5
    assert account["tensors"][0]["how"].endswith("100.00% kept by rank 4")


def test_a_base_is_asked_for(tmp_path: Path) -> None:
    tuned("llama", tmp_path)
    with pytest.raises(ModelError, match="the difference to another model: --base MODEL"):
        extraction.adapt(opened(tmp_path / "tuned"), Writing())
    rows = inspect(Config(source=str(tmp_path / "tuned")))
    assert any("--base MODEL" in str(cell) for cell in rows.columns[1].cells)


def test_a_base_that_is_no_folder_of_a_model_is_refused(tmp_path: Path) -> None:
    """Adapters on adapters: what the new ones name would be the base of the old ones."""
    tuned("llama", tmp_path, rank=2)
    adapters = write(tmp_path, rank=2)
    with pytest.raises(ModelError, match="adapter: lora: adapters name a folder of their base"):
        extraction.adapt(opened(tmp_path / "tuned"), Writing(base=adapters, rank=2))


def test_equal_models_have_nothing_to_extract(tmp_path: Path) -> None:
    tuned("llama", tmp_path)
    same = opened(tmp_path / "base")
    with pytest.raises(ModelError, match="no weight differs .*: there is nothing to extract"):
        extraction.adapt(same, Writing(base=tmp_path / "base"))
    rounded = same.cast(torch.bfloat16)  # its rounding is no difference
    with pytest.raises(ModelError, match="there is nothing to extract"):
        extraction.adapt(rounded, Writing(base=tmp_path / "base"))


def test_other_shapes_and_other_models_are_named(tmp_path: Path) -> None:
    tuned("llama", tmp_path)
    config = LlamaConfig(**{**SMALL, "vocab_size": 44}, **LAYERS)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "more")
    with pytest.raises(ModelError, match=r"is \(40, 16\), and the base's is \(44, 16\)"):
        extraction.adapt(opened(tmp_path / "tuned"), Writing(base=tmp_path / "more"))
    BertModel(BertConfig(**SMALL, **LAYERS)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match=r"the base has no .*: adapters cannot add weights"):
        extraction.adapt(opened(tmp_path / "tuned"), Writing(base=tmp_path / "bert"))


def test_norms_alone_are_no_adapters(tmp_path: Path) -> None:
    tuned("llama", tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    torch.nn.init.constant_(model.model.norm.weight, 2)
    model.save_pretrained(tmp_path / "tuned")
    with pytest.raises(ModelError, match="model.norm.weight, and adapters need a linear layer"):
        adapted(tmp_path)


def test_weights_of_no_module_are_named(tmp_path: Path) -> None:
    tuned("bert", tmp_path)
    for name, value in (("base", 0.0), ("tuned", 1.0)):
        file = tmp_path / name / "model.safetensors"
        save_file(load_file(file) | {"strange": torch.full((3,), value)}, file)
    with pytest.raises(ModelError, match="strange: of no module that adapters can hold"):
        adapted(tmp_path)


def test_a_class_that_is_not_transformers_own_is_refused(tmp_path: Path) -> None:
    tuned("bert", tmp_path)
    file = tmp_path / "tuned" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["MyModel"]}))
    with pytest.raises(ModelError, match="its class is none of transformers'"):
        adapted(tmp_path)


def test_a_base_in_the_hub_s_cache_is_named_as_there(tmp_path: Path) -> None:
    tuned("bert", tmp_path)
    place = tmp_path / "models--owner--name" / "snapshots" / "0123"
    place.parent.mkdir(parents=True)
    (tmp_path / "base").rename(place)
    checkpoint = extraction.adapt(opened(tmp_path / "tuned"), Writing(base=place))
    assert checkpoint.parts[""].config["base_model_name_or_path"] == "owner/name"


def test_weights_that_the_base_alone_has_are_told(tmp_path: Path) -> None:
    tuned("bert", tmp_path)
    file = tmp_path / "tuned" / "model.safetensors"
    held = {key: t for key, t in load_file(file).items() if not key.startswith("pooler")}
    save_file(held, file, metadata={"format": "pt"})
    gone = "that weights of its base are gone: pooler.dense.bias, pooler.dense.weight"
    assert adapted(tmp_path).lost == (gone,)


def test_settings_that_differ_are_told(tmp_path: Path) -> None:
    tuned("bert", tmp_path)
    file = tmp_path / "tuned" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_act": "relu"}))
    assert adapted(tmp_path).lost == ("config.json: hidden_act: relu (its base: gelu)",)


def test_a_default_left_out_is_no_other_setting(tmp_path: Path) -> None:
    tuned("bert", tmp_path)
    file = tmp_path / "base" / "config.json"
    config = json.loads(file.read_text())
    del config["layer_norm_eps"], config["is_decoder"]
    file.write_text(json.dumps(config))
    assert adapted(tmp_path).lost == ()
