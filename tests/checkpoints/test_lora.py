"""Adapters and their base as one model: what peft makes of them, bit for bit; what is refused."""

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from ragkit.checkpoints import lora, proof, references
from ragkit.checkpoints.layouts import layout_of
from ragkit.checkpoints.parts import Checkpoint, Reading
from ragkit.config.blocks import EncoderOptions
from ragkit.config.training import Lora
from ragkit.errors import ModelError
from ragkit.models.adapters import add_adapters, merge_adapters, save_adapters, with_adapters
from ragkit.models.encoder import Encoder
from ragkit.stages.convert import Config, convert

SMALL = {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LAYERS = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, **LAYERS)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, **LAYERS, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=16, n_layer=2, n_head=2)),
    "bert": lambda: BertModel(BertConfig(**SMALL, **LAYERS)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(**SMALL | {"decoder_start_token_id": 0}, d_model=16, d_kv=8, d_ff=24, num_layers=2,
                 num_heads=2)
    ),
}  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what peft says of models that tests mean to be so."""
    with warnings.catch_warnings(action="ignore"):
        yield


def filled(model: PeftModel) -> PeftModel:
    """Give adapters numbers, as peft begins with B = 0, and change what is trained beside them."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad:
                weights.normal_(0, 0.3)
    return model


def trained(name: str, folder: Path, **settings: Any) -> tuple[Path, PeftModel]:
    """Save a base and adapters of it; return the adapters' folder, and peft's model."""
    torch.manual_seed(0)
    MODELS[name]().save_pretrained(folder / "base")
    with quiet():
        base = type(MODELS[name]()).from_pretrained(folder / "base")
        model = filled(get_peft_model(base, LoraConfig(r=4, lora_alpha=8, **settings)))
        model.save_pretrained(folder / "adapter")
    return folder / "adapter", model


def read(folder: Path, base: Path | None = None) -> Checkpoint:
    layout = layout_of(folder)
    assert layout.name == "lora"
    checkpoint = layout.read(folder, Reading(base=base))
    proof.check_used(checkpoint)
    return checkpoint


def tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {name: weight.read() for name, weight in checkpoint.named().items()}


def edit(folder: Path, **settings: Any) -> None:
    """Change settings of saved adapters."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"target_modules": ["q_proj", "down_proj"]}),
        ("llama", {"target_modules": "all-linear", "use_rslora": True}),
        ("llama", {"target_modules": ["lm_head", "v_proj"]}),
        ("llama", {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1],
                   "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["norm", "lm_head"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"]}),  # of which attn.c_proj is square
        ("gpt2", {"target_modules": ["c_fc"], "bias": "all"}),
        ("bert", {"target_modules": ["query", "dense"], "bias": "lora_only"}),
        ("bert", {"target_modules": ["query", "word_embeddings"]}),
        ("t5", {"target_modules": ["q", "wo"]}),
    ],
)  # fmt: skip
def test_weights_are_those_of_peft_to_the_bit(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder, model = trained(name, tmp_path, **settings)
    before = load_file(tmp_path / "base" / "model.safetensors")
    checkpoint = read(folder)
    with quiet():
        merged = model.merge_and_unload().state_dict()
    found = tensors(checkpoint)
    assert found.keys() == before.keys()
    assert_equal(found, merged)
    changed = {key for key in found if not torch.equal(found[key], before[key])}
    said = {key for key, weight in checkpoint.named().items() if weight.how}
    assert changed == said != set()


def test_a_weight_is_its_base_s_and_scaled_b_a(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = MODELS["llama"]().to(torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    a, b = torch.randn(2, 16), torch.randn(24, 2)
    folder = tmp_path / "by-hand"
    folder.mkdir()
    layer = "base_model.model.model.layers.1.mlp.up_proj"
    save_file(
        {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b},
        folder / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["up_proj"]}
    settings["base_model_name_or_path"] = str(tmp_path / "base")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    weight = read(folder).named()["model.layers.1.mlp.up_proj.weight"]
    before = base.model.layers[1].mlp.up_proj.weight
    assert torch.equal(weight.read(), (before.float() + 3 * (b @ a)).bfloat16())
    assert weight.how == "merged with LoRA, rank 2, fp32 to bf16"
    assert [s.file.parent.name for s in weight.sources] == ["base", "by-hand", "by-hand"]


def test_torch_files_and_keys_with_the_adapters_name_are_read(tmp_path: Path) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"])
    expected = tensors(read(folder))
    file = folder / "adapter_model.safetensors"
    held = {key.replace(".weight", ".default.weight"): t for key, t in load_file(file).items()}
    file.unlink()
    torch.save(held, folder / "adapter_model.bin")
    assert_equal(tensors(read(folder)), expected)


def test_adapters_of_a_class_without_the_prefix_find_their_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = BertForMaskedLM(BertConfig(**SMALL, **LAYERS))
    whole.save_pretrained(tmp_path / "base")  # names begin with bert.
    inner = BertModel.from_pretrained(tmp_path / "base", add_pooling_layer=False)
    with quiet():
        model = filled(get_peft_model(inner, LoraConfig(r=4, target_modules=["query", "value"])))
    model.save_pretrained(tmp_path / "adapter")
    found = tensors(read(tmp_path / "adapter"))
    merged = {f"bert.{key}": t for key, t in model.merge_and_unload().state_dict().items()}
    assert_equal({key: t for key, t in found.items() if key in merged}, merged)
    told = convert(Config(source=str(tmp_path / "adapter"), to="hf", output=tmp_path / "out"))
    assert "outputs on random tokens: at most" in told


def test_gpt2_s_files_without_the_prefix_take_adapters_with_it(tmp_path: Path) -> None:
    folder, _ = trained("gpt2", tmp_path, target_modules=["c_attn"])
    expected = tensors(read(folder))
    file = tmp_path / "base" / "model.safetensors"
    bare = {key.removeprefix("transformer."): t for key, t in load_file(file).items()}
    save_file(bare, file, metadata={"format": "pt"})
    found = {f"transformer.{key}": t for key, t in tensors(read(folder)).items()}
    assert_equal(found, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
)
def test_one_of_two_tied_weights_is_set_apart(settings: dict[str, Any], tmp_path: Path) -> None:
    folder, model = trained("tied", tmp_path, **settings)
    convert(Config(source=str(folder), to="hf", output=tmp_path / "out"))
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    )
    account = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert account["made"] == {
        "lm_head.weight": "apart from model.embed_tokens.weight, which it was tied to"
    }
    tokens = torch.arange(20)[None]
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens).logits, model.eval()(tokens).logits)


def test_tied_weights_that_were_both_saved_alike_stay_tied(tmp_path: Path) -> None:
    both = ["embed_tokens", "lm_head"]
    folder, _ = trained("tied", tmp_path, target_modules=["q_proj"], modules_to_save=both)
    file = folder / "adapter_model.safetensors"
    held = load_file(file)
    embedding = held["base_model.model.model.embed_tokens.weight"]
    save_file(held | {"base_model.model.lm_head.weight": embedding.clone()}, file)
    checkpoint = read(folder)
    assert "lm_head.weight" not in checkpoint.named()
    assert torch.equal(tensors(checkpoint)["model.embed_tokens.weight"], embedding)
    assert checkpoint.parts[""].config["tie_word_embeddings"] is True


def test_a_weight_that_a_class_always_ties_is_not_set_apart(tmp_path: Path) -> None:
    folder, _ = trained("t5", tmp_path, target_modules=["q", "lm_head"])
    with pytest.raises(ModelError, match=r"lm_head.weight and shared.weight are one in T5"):
        read(folder)


def test_a_generator_s_adapters_become_the_model_that_training_merges(
    tiny_decoder: Path, tmp_path: Path
) -> None:
    base = LlamaForCausalLM.from_pretrained(tiny_decoder)
    model = filled(with_adapters(base, Lora(r=4, alpha=8)))
    model.save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "model" / "generator.json").write_text("{}")
    told = convert(Config(source=str(tmp_path / "run"), to="hf", output=tmp_path / "out"))
    assert_equal(
        load_file(tmp_path / "out" / "model.safetensors"), model.merge_and_unload().state_dict()
    )
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"generator.json", "tokenizer.json", "config.json"} <= names
    largest = json.loads((tmp_path / "out" / "conversion.json").read_text())["outputs"]
    assert largest["largest_difference"] < 1e-5
    assert "(lora) ->" in told


@pytest.mark.parametrize("separate", [False, True])
def test_a_retriever_s_adapters_become_the_towers_that_training_merges(
    separate: bool, tiny_encoder: Path, tmp_path: Path
) -> None:
    def load() -> Encoder:
        encoder = Encoder.load(str(tiny_encoder), EncoderOptions(device="cpu"))
        return encoder.with_passage_tower() if separate else encoder

    encoder = load()
    torch.manual_seed(0)
    adapters = add_adapters(encoder, Lora(r=4, alpha=8))
    for model in adapters.values():
        filled(model)
    save_adapters(adapters, tmp_path / "adapter")
    expected = load()
    merge_adapters(expected, tmp_path / "adapter")
    checkpoint = read(tmp_path / "adapter")
    towers = {"query": expected, "passage": expected.passage_tower} if separate else {"": expected}
    assert checkpoint.parts.keys() == towers.keys()
    whole: dict[str, PreTrainedModel] = {}
    for name, tower in towers.items():
        assert tower is not None
        weights = {key: w.read() for key, w in checkpoint.parts[name].weights.items()}
        assert_equal(weights, tower.model.state_dict())
        whole[name] = BertModel.from_pretrained(tiny_encoder)
        whole[name].load_state_dict(weights)
    loaded = lora.load(tmp_path / "adapter", Reading(), "cpu")
    outputs = (proof.outputs_of(models) for models in (loaded, whole))
    assert proof.largest_difference(*outputs, exact=False) < 1e-4


def test_one_model_s_adapters_are_not_added_to_two_towers(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        encoder = Encoder.load(str(tiny_encoder), EncoderOptions(device="cpu"))
        encoder = encoder.with_passage_tower() if name == "two" else encoder
        save_adapters(add_adapters(encoder, Lora(r=2)), tmp_path / name)
    with pytest.raises(ModelError, match="a base of two towers, for what is one model"):
        read(tmp_path / "one", tmp_path / "two")


def test_adapters_upon_adapters_are_merged_with_both(tmp_path: Path) -> None:
    first, _ = trained("llama", tmp_path / "1", target_modules=["q_proj"])
    second, _ = trained("llama", tmp_path / "2", target_modules=["q_proj"])
    name = "model.layers.0.self_attn.q_proj.weight"
    base = load_file(tmp_path / "1" / "base" / "model.safetensors")[name]
    added = [tensors(read(folder))[name] - base for folder in (first, second)]
    both = tensors(read(second, first))[name]
    torch.testing.assert_close(both, base + added[0] + added[1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, r"adapter_config.json: no plain LoRA: it sets use_dora"),
        ({"peft_type": "IA3"}, "peft_type is IA3; of peft's adapters only LORA is merged"),
        ({"lora_bias": True, "target_parameters": ["x"]}, "it sets lora_bias, target_parameters"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base"),
        ({"r": 8}, r"q_proj: adapter_config.json says rank 8, and its factors have 4"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path: --base MODEL"),
        (
            {"base_model_name_or_path": "/no/such/model"},
            "another by --base MODEL.: /no/such/model: no such",
        ),
    ],
)
def test_settings_that_cannot_be_merged_are_named(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"])
    edit(folder, **settings)
    with pytest.raises(ModelError, match=said):
        read(folder)


def test_a_base_on_the_hub_is_fetched_at_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"])
    expected = tensors(read(folder))
    edit(folder, base_model_name_or_path="owner/name", revision="v2")
    asked = []

    def fetch(name: str, revision: str | None, **_: object) -> str:
        asked.append((name, revision))
        return str(tmp_path / "base")

    monkeypatch.setattr(references, "snapshot_download", fetch)
    assert_equal(tensors(read(folder)), expected)
    assert asked == [("owner/name", "v2")]

    def fail(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(references, "snapshot_download", fail)
    with pytest.raises(ModelError, match=r"adapter: .*--base MODEL.*owner/name: .*: no network"):
        read(folder)


def test_adapters_are_no_base_of_their_own(tmp_path: Path) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"])
    with pytest.raises(ModelError, match="these are the adapters, and no base of their own"):
        read(folder, folder)


def test_settings_without_a_rank_are_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 8}')
    with pytest.raises(ModelError, match="it does not say r and lora_alpha"):
        read(tmp_path)


def test_adapters_without_weights_are_named(tmp_path: Path) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"])
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="adapters without weights"):
        read(folder)


def test_a_base_of_other_shapes_is_named_with_both(tmp_path: Path) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"])
    config = LlamaConfig(**{**SMALL, **LAYERS, "hidden_size": 32})
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    expected = r"q_proj: the base's weight is \(32, 32\), and the adapters are for \(16, 16\)"
    with pytest.raises(ModelError, match=expected):
        read(folder, tmp_path / "other")


def test_adapters_of_another_model_are_named_with_what_the_base_has(tmp_path: Path) -> None:
    folder, _ = trained("llama", tmp_path / "one", target_modules=["q_proj"])
    trained("bert", tmp_path / "two", target_modules=["query"])
    said = "2 of its 2 weights are not its base's: model.*q_proj.weight; the base has embeddings"
    with pytest.raises(ModelError, match=said):
        read(folder, tmp_path / "two" / "base")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"])
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"adapter_model.safetensors: cannot be read .* whole\?"):
        read(folder)


class Runs:
    """What runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"])
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"a": Runs(tmp_path / "ran")}, folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model.bin: refused: .* would run code"):
        read(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held, key: {k: t for k, t in held.items() if k != key}, "lora_B without lora_A"),
        (lambda held, key: held | {key: torch.ones(3, 16)}, r"lora_A is \(3, 16\) and lora_B"),
        (lambda held, key: held | {key: torch.ones(4)}, r"expected \(rank, in\) and \(out, rank\)"),
        (lambda held, key: held | {key.replace("lora_A", "lora_magnitude_vector"): torch.ones(16)},
         "1 of its 3 weights are not its base's: .*lora_magnitude_vector"),
    ],
)  # fmt: skip
def test_tensors_that_are_no_pair_are_named(
    change: Callable[[dict[str, Tensor], str], dict[str, Tensor]], said: str, tmp_path: Path
) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"])
    file = folder / "adapter_model.safetensors"
    held = load_file(file)
    save_file(change(held, min(held)), file)
    with pytest.raises(ModelError, match=said):
        read(folder)


def test_a_quantised_base_is_named(tmp_path: Path) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"])
    file = tmp_path / "base" / "model.safetensors"
    eights = {key: t.to(torch.int8) for key, t in load_file(file).items()}
    save_file(eights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"q_proj: its base is quantised \(int8\)"):
        read(folder)


def test_a_sum_beyond_the_precision_of_its_base_is_named(tmp_path: Path) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"])
    file = tmp_path / "base" / "model.safetensors"
    halves = {key: t.half() for key, t in load_file(file).items()}
    save_file(halves, file, metadata={"format": "pt"})
    held = load_file(folder / "adapter_model.safetensors")
    save_file({key: t * 1e4 for key, t in held.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="q_proj: its largest value, .* is beyond fp16"):
        tensors(read(folder))


def test_peft_s_forward_is_not_compared_with_adapters_half_in_place(tmp_path: Path) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"])
    edit(folder, target_modules=["q_proj", "v_proj"])
    with pytest.raises(ModelError, match="peft has no place, or no tensor, for .*v_proj.*lora_A"):
        lora.load(folder, Reading(), "cpu")


def test_rank_stabilised_adapters_are_scaled_by_the_root(tmp_path: Path) -> None:
    folder, _ = trained("llama", tmp_path, target_modules=["q_proj"], use_rslora=True)
    name = "model.layers.0.self_attn.q_proj"
    held = load_file(folder / "adapter_model.safetensors")
    a, b = (held[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    before = load_file(tmp_path / "base" / "model.safetensors")[f"{name}.weight"]
    found = tensors(read(folder))[f"{name}.weight"]
    torch.testing.assert_close(found, before + 8 / math.sqrt(4) * (b @ a))
