"""BERT under the names that files in the wild have for it, as transformers' plain BertModel.

Bare, behind a prefix (`bert.`, `question_encoder.bert_model.`), with heads, a pooler, buffers, or
LayerNorms by TensorFlow's names.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import BertConfig, BertModel

from ragkit.checkpoints.parts import Checkpoint, Part, some
from ragkit.checkpoints.weights import Weight
from ragkit.errors import ModelError

_FIRST = "embeddings.word_embeddings.weight"
_LEFT_OUT = {
    re.compile(r"(cls|classifier|qa_outputs)\."): "a head: vectors are made without",
    re.compile(r"pooler\."): "the pooler: vectors are made without",
    re.compile(r"embeddings\.(position_ids|token_type_ids)$"): "a buffer that the model makes",
}
# what a configuration must say, or not say at all, for its model to be a plain encoder
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("bert", "dpr"),
    "position_embedding_type": ("absolute", None),
    "projection_dim": (0, None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
}


def bare_bert(checkpoint: Checkpoint, tower: str) -> Checkpoint:
    """Return the checkpoint with one part as a BertModel without its pooler, names and config.

    Raises:
        ModelError: the part is no plain BERT, or its weights are not those of its configuration.
    """
    part = checkpoint.parts[tower]
    where = f"{checkpoint.path} ({tower})" if tower else str(checkpoint.path)
    config = plain_config(part, where)
    prefix = _prefix(part, where)
    left_out = {name: reason for name in part.weights if (reason := _reason(name, prefix))}
    kept = checkpoint.without(left_out, tower)
    weights: dict[str, Weight] = {}
    for name, weight in kept.parts[tower].weights.items():
        bare = _bare(name, prefix)
        if bare in weights:
            raise ModelError(f"{where}: {bare} is there twice, once as {name}")
        weights[bare] = weight
    check_weights(weights, config, where)
    plain = replace(part, weights=weights, config=config)
    return replace(kept, parts={**kept.parts, tower: plain})


def plain_config(part: Part, where: str) -> dict[str, Any]:
    """Return the configuration of a part as BertModel's.

    where: the part, for messages
    Raises:
        ModelError: it is of another model, or of one that computes more than BertModel does.
    """
    for key, plain in _PLAIN.items():
        if (value := part.config.get(key)) not in plain:
            raise ModelError(
                f"{where}: no plain BERT: {key} is {value!r} in its configuration, not {plain[0]!r}"
            )
    if part.dense:
        raise ModelError(f"{where}: no plain BERT: a linear layer follows its pooling")
    kept = {key: value for key, value in part.config.items() if key != "projection_dim"}
    return {**kept, "model_type": "bert", "architectures": ["BertModel"]}


def check_weights(weights: Mapping[str, Weight], config: Mapping[str, Any], where: str) -> None:
    """Compare the names and shapes of weights with those of a BertModel without its pooler.

    where: the part, for messages
    Raises:
        ModelError: naming what is unknown or missing, or the first of another shape.
    """
    expected = _expected(config, where)
    if unknown := [name for name in weights if name not in expected]:
        raise ModelError(f"{where}: weights that BERT has not: {some(unknown)}")
    if missing := [name for name in expected if name not in weights]:
        raise ModelError(f"{where}: weights of BERT that are missing: {some(missing)}")
    for name, weight in weights.items():
        if weight.shape != expected[name]:
            raise ModelError(
                f"{where}: {name}: its configuration expects {expected[name]}, found {weight.shape}"
            )


def _expected(config: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's weights, by name."""
    try:
        with torch.device("meta"):
            model = BertModel(BertConfig.from_dict(dict(config)), add_pooling_layer=False)
    except Exception as error:  # of whatever kind each of its settings' checks raises
        reason = str(error).strip().split("\n")[-1].strip()
        raise ModelError(f"{where}: its configuration makes no BERT: {reason}") from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _prefix(part: Part, where: str) -> str:
    """Return what stands before the names of BERT's weights."""
    prefixes = [name.removesuffix(_FIRST) for name in part.weights if name.endswith(_FIRST)]
    if len(prefixes) != 1:
        found = f"{len(prefixes)} times" if prefixes else "not"
        raise ModelError(f"{where}: no plain BERT: {_FIRST} is {found} among its weights")
    return prefixes[0]


def _reason(name: str, prefix: str) -> str:
    """Return why a weight is left out; "": it is not."""
    bare = name.removeprefix(prefix)
    return next((reason for known, reason in _LEFT_OUT.items() if known.match(bare)), "")


def _bare(name: str, prefix: str) -> str:
    """Return transformers' name of a weight; one outside of BERT keeps its own."""
    if not name.startswith(prefix):
        return name
    bare = name.removeprefix(prefix)
    return bare.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )
