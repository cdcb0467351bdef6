"""Cerebras' `.mdl`: files put together by hand, both ways, and files with something wrong."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from ragkit.checkpoints import cerebras
from ragkit.checkpoints.layouts import layout_of
from ragkit.checkpoints.parts import ONLY, Checkpoint, Dense, Part, Reading, Writing
from ragkit.checkpoints.proof import check_used, trace
from ragkit.checkpoints.weights import as_stored, contents
from ragkit.config.blocks import Vectors
from ragkit.errors import ModelError
from ragkit.models.layouts import EncoderSettings
from ragkit.stages.convert import Config, convert, opened

CONFIG: dict[str, Any] = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 11, "hidden_size": 8,
    "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
    "hidden_act": "gelu_new", "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3,
    "max_position_embeddings": 6, "type_vocab_size": 2, "initializer_range": 0.5,
    "layer_norm_eps": 1e-7, "pad_token_id": 0, "tie_word_embeddings": True,
    "position_embedding_type": "absolute",
}  # fmt: skip
# the same in the words of Cerebras' Model Zoo
BLOCK: dict[str, Any] = {
    "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_heads": 2, "filter_size": 12,
    "encoder_nonlinearity": "gelu_new", "dropout_rate": 0.2, "attention_dropout_rate": 0.3,
    "max_position_embeddings": 6, "num_segments": 2, "initializer_range": 0.5,
    "layer_norm_epsilon": 1e-7, "pad_token_id": 0, "share_embedding_weights": True,
    "position_embedding_type": "learned",
}  # fmt: skip
TWO = {"model": {"q_encoder": BLOCK, "ctx_encoder": BLOCK}}
Q, P = "question_encoder", "ctx_encoder"


def random_bert(seed: int) -> BertModel:
    """Return a BERT of random weights, LayerNorms included."""
    torch.manual_seed(seed)
    model = BertModel(BertConfig(**CONFIG), add_pooling_layer=False).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def theirs(model: BertModel) -> dict[str, Tensor]:
    """Return a BERT's weights by Cerebras' names, from the modules themselves."""
    embeddings = model.embeddings
    tensors = {
        "embedding_layer.word_embeddings.weight": embeddings.word_embeddings.weight,
        "embedding_layer.position_embeddings.embed.weight": embeddings.position_embeddings.weight,
        "embedding_layer.segment_embeddings.weight": embeddings.token_type_embeddings.weight,
        "embed_ln_f.weight": embeddings.LayerNorm.weight,
        "embed_ln_f.bias": embeddings.LayerNorm.bias,
    }
    for number, layer in enumerate(model.encoder.layer):
        modules = {
            "self_attn.proj_q_dense_layer": layer.attention.self.query,
            "self_attn.proj_k_dense_layer": layer.attention.self.key,
            "self_attn.proj_v_dense_layer": layer.attention.self.value,
            "self_attn.proj_output_dense_layer": layer.attention.output.dense,
            "norm1": layer.attention.output.LayerNorm,
            "ffn.ffn.0.linear_layer": layer.intermediate.dense,
            "ffn.ffn.1.linear_layer": layer.output.dense,
            "norm2": layer.output.LayerNorm,
        }
        for name, module in modules.items():
            stem = f"transformer_encoder.layers.{number}.{name}"
            tensors |= {f"{stem}.weight": module.weight, f"{stem}.bias": module.bias}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def two_towers() -> dict[str, Tensor]:
    """Return the state dict of two towers, as DocChat's."""
    return {
        f"{prefix}.{name}": tensor
        for prefix, seed in ((Q, 1), (P, 2))
        for name, tensor in theirs(random_bert(seed)).items()
    }


def saved(folder: Path, state: Mapping[str, Any], params: object = TWO) -> Path:
    """Write a .mdl, and a YAML beside it, and return the folder."""
    folder.mkdir(exist_ok=True)
    torch.save({"model": dict(state)}, folder / "checkpoint_900.mdl")
    if params is not None:
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def hf_part(folder: Path, model: BertModel, dtype: torch.dtype | None = None) -> Part:
    """Return a BERT as a part, its weights in a safetensors file, some perhaps in `dtype`."""
    folder.mkdir(parents=True)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if dtype:
        state |= {k: v.to(dtype) for k, v in state.items() if "attention" in k}
    save_file(state, folder / "model.safetensors")
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text("{}")
    stored = contents(folder / "model.safetensors").tensors
    weights = {name: as_stored(one) for name, one in stored.items()}
    return Part(weights, CONFIG, {"tokenizer.json": tokenizer})


def hf_pair(folder: Path, dtype: torch.dtype | None = None, **parts: Part) -> Checkpoint:
    """Return two towers with transformers' names."""
    towers = {
        "query": hf_part(folder / "q_encoder", random_bert(1), dtype),
        "passage": hf_part(folder / "ctx_encoder", random_bert(2), dtype),
        **parts,
    }
    stored = [s for part in towers.values() for w in part.weights.values() for s in w.sources]
    return Checkpoint(folder, towers, tuple(stored))


@pytest.mark.parametrize("wrapped", ["", "model."])
def test_two_towers_are_read_by_transformers_names(tmp_path: Path, wrapped: str) -> None:
    state = {wrapped + name: tensor for name, tensor in two_towers().items()}
    folder = saved(tmp_path / "run", state)
    assert layout_of(folder).name == layout_of(folder / "checkpoint_900.mdl").name == "cerebras"
    checkpoint = cerebras.read(folder / "checkpoint_900.mdl", Reading())
    check_used(checkpoint)
    assert checkpoint.left_out == ()
    assert checkpoint.parts["query"].settings == EncoderSettings(
        "cls", normalize=False, max_length=6
    )
    tokens = torch.tensor([[2, 5, 7, 3]])
    for tower, seed in (("query", 1), ("passage", 2)):
        part = checkpoint.parts[tower]
        assert part.config == CONFIG
        loaded = BertModel(BertConfig(**part.config), add_pooling_layer=False).eval()
        loaded.load_state_dict({name: weight.read() for name, weight in part.weights.items()})
        expected = random_bert(seed)(tokens).last_hidden_state
        assert torch.equal(loaded(tokens).last_hidden_state, expected)


def test_a_bare_state_dict_and_a_trainers_settings_are_read(tmp_path: Path) -> None:
    torch.save(two_towers(), tmp_path / "a.mdl")
    settings = {"trainer": {"init": TWO | {"optimizer": {"AdamW": {}}}}}
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "params_train.yaml").write_text(yaml.safe_dump(settings))
    checkpoint = cerebras.read(tmp_path, Reading())
    assert len(checkpoint.named()) == 2 * 37
    assert checkpoint.parts["passage"].config == CONFIG


def test_settings_as_a_person_writes_them_are_read(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", two_towers(), None)
    (folder / "params_train.yaml").write_text(
        """
train_input: {data_processor: "DPRHDF5DataProcessor", batch_size: 64}
model:
    q_encoder: &base_model
        add_pooling_layer: False
        attention_dropout_rate: 0.3
        dropout_rate: 0.2
        encoder_nonlinearity: "gelu_new"
        filter_size: 12
        hidden_size: 8
        initializer_range: 0.5
        layer_norm_epsilon: 1e-7
        max_position_embeddings: 6
        num_heads: 2
        num_hidden_layers: 2
        pooler_nonlinearity: tanh
        vocab_size: 11
    ctx_encoder:
        <<: *base_model
    pooler_type: cls
    use_biencoder: true
runconfig: {max_steps: 900, seed: 1}
"""
    )
    parts = cerebras.read(folder, Reading()).parts
    assert parts["query"].config == parts["passage"].config == CONFIG


def test_what_is_not_said_is_what_the_model_zoo_takes(tmp_path: Path) -> None:
    named = ("vocab_size", "hidden_size", "num_heads", "filter_size", "num_hidden_layers")
    block = {key: BLOCK[key] for key in named} | {"max_position_embeddings": 6, "dropout_rate": 0.4}
    folder = saved(tmp_path / "run", two_towers(), {"model": {"encoder": block}})
    config = cerebras.read(folder, Reading()).parts["passage"].config
    assert config["layer_norm_eps"] == 1e-5
    assert config["attention_probs_dropout_prob"] == config["hidden_dropout_prob"] == 0.4
    assert (config["type_vocab_size"], config["hidden_act"]) == (2, "gelu")


def test_what_belongs_to_training_and_the_poolers_are_left_out_with_their_reasons(
    tmp_path: Path,
) -> None:
    pooler = f"{Q}.pooler.pooler.ffn.0.linear_layer.weight"
    file = {
        "model": two_towers() | {pooler: torch.ones(8, 8)},
        "optimizer": {"state": {"exp_avg": torch.ones(2)}},
        "global_step": 900,
    }
    torch.save(file, tmp_path / "a.mdl")
    blocks = {"q_encoder": BLOCK | {"mixed_precision": True}, "ctx_encoder": BLOCK}
    params = {"model": blocks | {"mutual_information": True, "pooler_type": "cls"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(params))
    checkpoint = cerebras.read(tmp_path, Reading())
    check_used(checkpoint)
    assert {left.key: left.reason for left in checkpoint.left_out} == {
        "global_step": "no tensor (int)",
        f"model.{pooler}": "the pooler: vectors are made without",
        "optimizer.state.exp_avg": "of training",
        "model.mutual_information": "a setting that BERT's config.json has not",
        "model.q_encoder.mixed_precision": "a setting that BERT's config.json has not",
    }


def test_a_pair_of_towers_comes_back_to_the_bit_with_its_tokenizer(tmp_path: Path) -> None:
    source = hf_pair(tmp_path / "source", dtype=torch.bfloat16)
    adapted = cerebras.adapt(source, Writing())
    assert (adapted.left_out, adapted.lost) == ((), ())
    cerebras.write(adapted, tmp_path / "written", Writing())
    state = torch.load(tmp_path / "written" / "model.mdl", weights_only=True)["model"]
    expected = two_towers()
    assert state.keys() == expected.keys()
    name = f"{P}.transformer_encoder.layers.1.norm2.bias"
    assert torch.equal(state[name], expected[name])
    name = f"{Q}.transformer_encoder.layers.1.self_attn.proj_k_dense_layer.weight"
    assert torch.equal(state[name], expected[name].bfloat16())
    params = yaml.safe_load((tmp_path / "written" / "params.yaml").read_text())
    of_heads = {
        "add_pooling_layer": False, "pooler_nonlinearity": "tanh", "mlm_nonlinearity": "gelu_new",
    }  # fmt: skip
    encoders = {"q_encoder": BLOCK | of_heads, "ctx_encoder": BLOCK | of_heads}
    assert params == {"model": encoders | {"pooler_type": "cls", "use_biencoder": True}}

    written = cerebras.read(tmp_path / "written", Reading())
    check_used(written)
    assert len(list(trace(adapted, written))) == 2 * 37
    assert len(list(trace(source, written))) == 2 * 37
    for tower, part in written.parts.items():
        assert part.settings == adapted.parts[tower].settings
        assert part.config == adapted.parts[tower].config == CONFIG
        assert part.files.keys() == {"tokenizer.json"}


def test_a_single_encoder_is_the_questions_and_comes_back(tmp_path: Path) -> None:
    part = hf_part(tmp_path / "source", random_bert(1))
    adapted = cerebras.adapt(Checkpoint(tmp_path, {ONLY: part}, ()), Writing())
    cerebras.write(adapted, tmp_path / "written", Writing())
    state = torch.load(tmp_path / "written" / "model.mdl", weights_only=True)["model"]
    assert {key.split(".")[0] for key in state} == {Q}
    model = yaml.safe_load((tmp_path / "written" / "params.yaml").read_text())["model"]
    assert (model["use_biencoder"], model["encoder"]["num_heads"]) == (False, 2)
    written = cerebras.read(tmp_path / "written", Reading())
    assert list(written.parts) == [ONLY]
    assert len(list(trace(adapted, written))) == 37


def test_values_without_a_word_of_theirs_are_listed_and_do_not_come_back(tmp_path: Path) -> None:
    source = hf_pair(tmp_path / "source")
    query = source.parts["query"]
    config = dict(CONFIG, classifier_dropout=0.1, use_cache=False, transformers_version="5")
    settings = EncoderSettings("last", query_prefix="query: ", max_length=5)
    towers = {name: replace(part, settings=settings) for name, part in source.parts.items()}
    towers["query"] = replace(query, config=config, settings=settings)
    wished = replace(source, parts=towers)
    (tmp_path / "source" / "ctx_encoder" / "tokenizer.json").write_text("[]")
    adapted = cerebras.adapt(wished, Writing())
    assert adapted.lost == (
        "query.classifier_dropout: 0.1",
        "pooling: 'last' (where it is used, set encoder.pooling)",
        "normalize: True (where it is used, set encoder.normalize)",
        "query_prefix: 'query: ' (where it is used, set encoder.query_prefix)",
        "max_length: 5 (where it is used, set encoder.max_length)",
        "passage: tokenizer.json, of another tokenizer",
    )
    assert adapted.parts["query"].config == CONFIG
    assert adapted.parts["query"].settings == EncoderSettings("cls", normalize=False, max_length=6)


def test_mean_pooling_is_written_and_read(tmp_path: Path) -> None:
    writing = Writing(Vectors(pooling="mean"))
    adapted = cerebras.adapt(hf_pair(tmp_path / "source"), writing)
    assert adapted.lost == ()
    cerebras.write(adapted, tmp_path / "written", writing)
    written = cerebras.read(tmp_path / "written", Reading())
    assert written.parts["passage"].settings == EncoderSettings(
        "mean", normalize=False, max_length=6
    )


def test_a_view_of_a_large_tensor_is_written_alone(tmp_path: Path) -> None:
    part = hf_part(tmp_path / "source", random_bert(1))
    name = "embeddings.word_embeddings.weight"
    whole = torch.randn(100_000, 8)
    view = replace(part.weights[name], read=lambda: whole[:11])
    source = Checkpoint(tmp_path, {ONLY: replace(part, weights={**part.weights, name: view})}, ())
    cerebras.write(cerebras.adapt(source, Writing()), tmp_path / "written", Writing())
    assert (tmp_path / "written" / "model.mdl").stat().st_size < 100_000


def test_the_base_gives_configuration_and_tokenizer_where_there_is_no_yaml(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    model = BertModel.from_pretrained(tiny_encoder)
    folder = saved(tmp_path, {f"{Q}.{k}": v for k, v in theirs(model).items()}, None)
    with pytest.raises(ModelError, match="no params.yaml beside it: .*--base MODEL"):
        cerebras.read(folder, Reading())
    written = convert(
        Config(source=str(folder), base=str(tiny_encoder), to="hf", output=tmp_path / "hf")
    )
    assert "37 tensors equal to their sources" in written
    back = BertModel.from_pretrained(tmp_path / "hf", add_pooling_layer=False).eval()
    tokens = torch.tensor([[2, 5, 7, 3]])
    assert torch.equal(
        back(tokens).last_hidden_state, model.eval()(tokens).last_hidden_state
    )  # fmt: skip
    assert (tmp_path / "hf" / "tokenizer.json").is_file()


def test_convert_writes_a_mdl_and_reads_it_again(tmp_path: Path, tiny_encoder: Path) -> None:
    out = tmp_path / "mdl"
    told = convert(Config(source=str(tiny_encoder), to="cerebras", output=out))
    assert "left out: 2 (the pooler: vectors are made without)" in told
    assert "checked: 37 tensors equal to their sources" in told
    back = convert(Config(source=str(out), to="hf", output=tmp_path / "hf", dtype="bf16"))
    assert "(cerebras)" in back
    assert "bf16" in back


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({f"{Q}.embed_ln_f.gamma": torch.ones(8)}, f"1 of its 75 tensors belong to no .*{Q}.embed"),
        ({"x": torch.ones(1)}, "1 of its 75 tensors belong to no layer .* model.x"),
    ],
)
def test_unknown_tensors_are_named(tmp_path: Path, change: dict[str, Tensor], said: str) -> None:
    folder = saved(tmp_path / "run", two_towers() | change)
    with pytest.raises(ModelError, match=said):
        convert(Config(source=str(folder), to="cerebras", output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_missing_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    state = two_towers()
    one = state.pop(f"{P}.transformer_encoder.layers.1.norm2.bias")
    with pytest.raises(ModelError, match=r"ctx_encoder: weights .* missing: encoder.layer.1.out"):
        cerebras.read(saved(tmp_path / "a", state), Reading())
    state[f"{P}.transformer_encoder.layers.1.norm2.bias"] = one[:7]
    with pytest.raises(ModelError, match=r"Norm.bias: .* expects \(8,\), found \(7,\)"):
        cerebras.read(saved(tmp_path / "b", state), Reading())


def test_layers_that_are_missing_or_not_as_many_as_the_settings_say_are_named(
    tmp_path: Path,
) -> None:
    kept = {k: v for k, v in two_towers().items() if f"{Q}.transformer_encoder.layers.0" not in k}
    with pytest.raises(ModelError, match=f"{Q}: encoder.layer.: no weights of layer 0, but of 1"):
        opened(Config(source=str(saved(tmp_path / "a", kept))), Reading())
    three = {"model": {"encoder": BLOCK | {"num_hidden_layers": 3}}}
    with pytest.raises(ModelError, match="says 3 layers, and there are weights of 2"):
        opened(Config(source=str(saved(tmp_path / "b", two_towers(), three))), Reading())


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"optimizer": {}}, "no `model:` with settings"),
        ({"model": {"q_encoder": BLOCK}}, "no model.ctx_encoder with settings"),
        ({"model": {"encoder": BLOCK, "use_biencoder": False}}, "says 1 encoder .* weights of 2"),
        ({"model": {"encoder": {"hidden_size": 8}}}, "model.encoder.vocab_size is missing"),
        ({"model": {"encoder": BLOCK | {"position_embedding_type": "rotary"}}}, "is 'rotary'"),
        ({"model": {"encoder": BLOCK | {"attention_type": "dot_product"}}}, "is 'dot_product'"),
        ({"model": {"encoder": BLOCK | {"add_pooling_layer": True}}}, "made by ffn_pooler"),
        ({"model": {"encoder": BLOCK, "pooler_type": "ffn_pooler"}}, "made by ffn_pooler"),
        ({"model": {"encoder": BLOCK | {"num_heads": 3}}}, "not a multiple of the number of att"),
    ],
)
def test_settings_of_no_bert_or_of_another_one_are_refused(
    tmp_path: Path, params: object, said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        cerebras.read(saved(tmp_path / "run", two_towers(), params), Reading())


def test_a_file_of_passages_alone_or_of_nothing_is_refused(tmp_path: Path) -> None:
    state = {key: tensor for key, tensor in two_towers().items() if key.startswith(P)}
    with pytest.raises(ModelError, match="no question_encoder among its weights [(]model.ctx_"):
        cerebras.read(saved(tmp_path / "a", state), Reading())
    with pytest.raises(ModelError, match="no question_encoder .*no tensors"):
        cerebras.read(saved(tmp_path / "b", {}), Reading())


def test_a_weight_with_and_without_its_wrapper_is_refused(tmp_path: Path) -> None:
    state = two_towers()
    state[f"model.{Q}.embed_ln_f.bias"] = torch.zeros(8)
    with pytest.raises(ModelError, match=f"{Q}.embed_ln_f.bias is there twice"):
        cerebras.read(saved(tmp_path / "run", state), Reading())


def test_which_of_several_files_is_asked(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", two_towers(), None)
    (folder / "a.yaml").write_text(yaml.safe_dump(TWO))
    (folder / "b.yaml").write_text(yaml.safe_dump(TWO))
    with pytest.raises(ModelError, match=r"which YAML .*\(a.yaml, b.yaml\)"):
        cerebras.read(folder, Reading())
    (folder / "checkpoint_450.mdl").write_bytes(b"")
    with pytest.raises(ModelError, match=r"\(checkpoint_450.mdl, checkpoint_900.mdl\)"):
        cerebras.read(folder, Reading())


class Harmful:
    """What removes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.remove, (str(self.file),)


def test_truncated_files_code_and_hdf5_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "run", two_towers()) / "checkpoint_900.mdl"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="checkpoint_900.mdl: cannot be read .*is it whole"):
        cerebras.read(file, Reading())
    file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ModelError, match="an HDF5 file, as cerebras.pytorch saves it"):
        cerebras.read(file, Reading())
    target = tmp_path / "target"
    target.write_text("here")
    torch.save({"model": {"x": Harmful(target)}}, file)
    with pytest.raises(ModelError, match="loading that would run code"):
        cerebras.read(file, Reading())
    assert target.exists()


def test_other_models_and_dense_layers_are_not_written(tmp_path: Path) -> None:
    part = hf_part(tmp_path / "source", random_bert(1))
    roberta = replace(part, config={**CONFIG, "model_type": "roberta"})
    with pytest.raises(ModelError, match="model_type is 'roberta'"):
        cerebras.adapt(Checkpoint(tmp_path, {ONLY: roberta}, ()), Writing())
    with pytest.raises(ModelError, match="a linear layer follows its pooling"):
        dense = replace(part, dense=(Dense({}, {}),))
        cerebras.adapt(Checkpoint(tmp_path, {ONLY: dense}, ()), Writing())


def test_towers_pooled_in_two_ways_are_refused(tmp_path: Path) -> None:
    source = hf_pair(tmp_path / "source")
    parts = {
        tower: replace(part, settings=EncoderSettings(pooling))
        for (tower, part), pooling in zip(source.parts.items(), ("mean", "cls"), strict=True)
    }
    with pytest.raises(ModelError, match=r"pooled in two ways \(cls, mean\)"):
        cerebras.adapt(replace(source, parts=parts), Writing())
