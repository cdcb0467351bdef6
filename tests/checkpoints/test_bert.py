"""BERT's weights by the names of other people's files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from ragkit.checkpoints.bert import bare_bert
from ragkit.checkpoints.parts import ONLY, Checkpoint, Part
from ragkit.checkpoints.proof import check_used
from ragkit.checkpoints.weights import as_stored, contents
from ragkit.errors import ModelError

CONFIG = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 11,
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 6, "type_vocab_size": 2,
}  # fmt: skip


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    """The weights of a random BERT, with those of its pooler."""
    torch.manual_seed(0)
    return dict(BertModel(BertConfig(**CONFIG)).state_dict())


def checkpoint(folder: Path, tensors: dict[str, Tensor], **config: object) -> Checkpoint:
    """Return a checkpoint of one part with these tensors in its file."""
    file = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    stored = contents(file).tensors
    part = Part({name: as_stored(one) for name, one in stored.items()}, {**CONFIG, **config})
    return Checkpoint(folder, {ONLY: part}, tuple(stored.values()))


@pytest.mark.parametrize("prefix", ["", "bert.", "question_encoder.bert_model."])
def test_any_prefix_is_taken_off_and_the_pooler_and_buffers_are_left_out(
    tmp_path: Path, tensors: dict[str, Tensor], prefix: str
) -> None:
    given = {prefix + name: tensor for name, tensor in tensors.items()}
    given[f"{prefix}embeddings.position_ids"] = torch.arange(6)[None]
    bare = bare_bert(checkpoint(tmp_path, given), ONLY)
    part = bare.parts[ONLY]
    expected = {name for name in tensors if not name.startswith("pooler.")}
    assert part.weights.keys() == expected
    assert all(torch.equal(part.weights[name].read(), tensors[name]) for name in expected)
    assert {left.key: left.reason for left in bare.left_out} == {
        f"{prefix}pooler.dense.weight": "the pooler: vectors are made without",
        f"{prefix}pooler.dense.bias": "the pooler: vectors are made without",
        f"{prefix}embeddings.position_ids": "a buffer that the model makes",
    }
    check_used(bare)


def test_heads_are_left_out_and_the_configuration_becomes_the_bare_models(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    given = {f"bert.{name}": tensor for name, tensor in tensors.items() if "pooler" not in name}
    given |= {"cls.predictions.bias": torch.zeros(11), "classifier.weight": torch.zeros(2, 8)}
    bare = bare_bert(checkpoint(tmp_path, given, model_type="dpr", projection_dim=0), ONLY)
    assert [left.key for left in bare.left_out] == ["classifier.weight", "cls.predictions.bias"]
    assert {left.reason for left in bare.left_out} == {"a head: vectors are made without"}
    assert bare.parts[ONLY].config == {**CONFIG, "architectures": ["BertModel"]}


def test_gamma_and_beta_are_a_layer_norms_weight_and_bias(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    given = {}
    for name, tensor in tensors.items():
        ending = ".".join(name.split(".")[-2:])
        given[name.replace(ending, old.get(ending, ending))] = tensor + 1
    weights = bare_bert(checkpoint(tmp_path, given), ONLY).parts[ONLY].weights
    name = "encoder.layer.1.attention.output.LayerNorm.weight"
    assert weights[name].sources[0].key.endswith("output.LayerNorm.gamma")
    assert torch.equal(weights[name].read(), tensors[name] + 1)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta' in its configuration, not 'bert'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"projection_dim": 4}, "projection_dim is 4"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_size": 7}, "makes no BERT: The hidden size [(]7[)] is not a multiple"),
        ({"hidden_act": "none"}, "makes no BERT: 'none'"),
        (
            {"num_hidden_layers": 3},
            "weights of BERT that are missing: encoder.layer.2..* and 11 more",
        ),
        ({"num_hidden_layers": 1}, "weights that BERT has not: encoder.layer.1..* and 11 more"),
        ({"vocab_size": 12}, r"word_embeddings.weight: .* expects \(12, 8\), found \(11, 8\)"),
    ],
)
def test_another_model_or_another_configuration_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], config: dict[str, object], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        bare_bert(checkpoint(tmp_path, tensors, **config), ONLY)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encode_proj.weight": "pooler.dense.weight"}, "weights that BERT has not: encode_proj"),
        ({"embeddings.LayerNorm.gamma": "embeddings.LayerNorm.weight"}, "is there twice"),
        ({"x.embeddings.word_embeddings.weight": "embeddings.word_embeddings.weight"}, "2 times"),
    ],
)
def test_weights_that_are_no_berts_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor], change: dict[str, str], said: str
) -> None:
    given = tensors | {name: tensors[like].clone() for name, like in change.items()}
    with pytest.raises(ModelError, match=said):
        bare_bert(checkpoint(tmp_path, given), ONLY)


def test_a_model_without_word_embeddings_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    del tensors["embeddings.word_embeddings.weight"]
    with pytest.raises(ModelError, match="word_embeddings.weight is not among its weights"):
        bare_bert(checkpoint(tmp_path, tensors), ONLY)
