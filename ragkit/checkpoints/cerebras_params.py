"""The YAML that goes with a `.mdl`: what Cerebras' Model Zoo says of an encoder, as config.json.

Under `model:` (or `trainer.init.model:`) are a block for each of two towers, `q_encoder` and
`ctx_encoder`, or one for both, `encoder`; beside them how vectors are made. Weights are the
business of `ragkit.checkpoints.cerebras`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers import BertConfig

from ragkit.checkpoints.parts import ONLY, Checkpoint, LeftOut
from ragkit.checkpoints.vectors import told
from ragkit.config.load import read_yaml
from ragkit.errors import ModelError
from ragkit.models.layouts import EncoderSettings

PARAMS = "params.yaml"
BLOCKS = {"query": "q_encoder", "passage": "ctx_encoder", ONLY: "encoder"}

# where a run leaves its settings, in the folder of its checkpoints
_OF_A_RUN = Path("train") / "params_train.yaml"

# transformers' name, the Model Zoo's, and the Model Zoo's default; None: it must be said
_WORDS: tuple[tuple[str, str, Any], ...] = (
    ("vocab_size", "vocab_size", None),
    ("hidden_size", "hidden_size", 768),
    ("num_hidden_layers", "num_hidden_layers", 12),
    ("num_attention_heads", "num_heads", 12),
    ("intermediate_size", "filter_size", 3072),
    ("hidden_act", "encoder_nonlinearity", "gelu"),
    ("hidden_dropout_prob", "dropout_rate", 0.1),
    ("attention_probs_dropout_prob", "attention_dropout_rate", 0.1),
    ("max_position_embeddings", "max_position_embeddings", None),
    ("type_vocab_size", "num_segments", 2),
    ("initializer_range", "initializer_range", 0.02),
    ("layer_norm_eps", "layer_norm_epsilon", 1e-5),
    ("pad_token_id", "pad_token_id", 0),
    ("tie_word_embeddings", "share_embedding_weights", True),
)
# what else changes an encoder's outputs, and the only value that is BERT's
_PLAIN: Mapping[str, Any] = {
    "position_embedding_type": "learned",
    "attention_module": "aiayn_attention",
    "attention_type": "scaled_dot_product",
    "extra_attention_params": {},
    "mask_padding_in_positional_embed": False,
    "scale_qk_dot_by_d": False,
    "attention_logits_alpha": 1.0,
    "embeddings_scale": 1.0,
}
# of heads and poolers, which have no part in vectors
_OF_HEADS = {"add_pooling_layer", "pooler_nonlinearity", "mlm_nonlinearity"}
_POOLINGS = ("cls", "mean")
# what a config.json says beside the model's settings
_ABOUT = {
    "architectures", "model_type", "transformers_version", "dtype", "torch_dtype",
    "_name_or_path", "position_embedding_type",
}  # fmt: skip


def params_file(weights: Path) -> Path | None:
    """Return the YAML that goes with a file of weights; None: there is none.

    Raises:
        ModelError: several, and none of them is params.yaml.
    """
    folder = weights.parent
    if (folder / PARAMS).is_file():
        return folder / PARAMS
    files = sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))
    if len(files) > 1:
        listed = ", ".join(file.name for file in files)
        raise ModelError(f"{weights}: which YAML goes with it ({listed})? Call it {PARAMS}")
    if files:
        return files[0]
    return folder / _OF_A_RUN if (folder / _OF_A_RUN).is_file() else None


def read_params(file: Path) -> dict[str, Any]:
    """Return what a YAML says of the model.

    Raises:
        ConfigError: no YAML.
        ModelError: it says nothing of a model.
    """
    values = read_yaml(file).values
    trainer = values.get("trainer")
    if isinstance(trainer, dict) and isinstance(trainer.get("init"), dict):
        values = trainer["init"]
    model = values.get("model")
    if not isinstance(model, dict):
        raise ModelError(f"{file}: no `model:` with settings in it")
    return model


def pooling(params: Mapping[str, Any], file: Path) -> str:
    """Return how a model makes vectors: cls, or mean.

    Raises:
        ModelError: by a pooler with weights of its own, or in a way that is unknown.
    """
    blocks = [block for block in params.values() if isinstance(block, dict)]
    default = "ffn_pooler" if any(b.get("add_pooling_layer") for b in blocks) else "cls"
    said = params.get("pooler_type") or default
    if said not in _POOLINGS:
        raise ModelError(
            f"{file}: its vectors are made by {said} (pooler_type, or add_pooling_layer), and of a "
            f"BERT without pooler by {' or '.join(_POOLINGS)}"
        )
    return str(said)


def encoder_config(params: Mapping[str, Any], tower: str, file: Path) -> dict[str, Any]:
    """Return the config.json of a tower.

    Raises:
        ModelError: nothing is said of this tower, or it is no BERT.
    """
    block, name = _block(params, tower, file)
    for key, plain in _PLAIN.items():
        if (value := block.get(key)) not in (None, plain):
            raise ModelError(
                f"{file}: model.{name}.{key} is {value!r}, and BERT's is {plain!r}: transformers' "
                "BERT cannot be this model"
            )
    config: dict[str, Any] = {"model_type": "bert", "architectures": ["BertModel"]}
    for ours, theirs, default in _WORDS:
        value = block.get(theirs)
        config[ours] = default if value is None else value
        if config[ours] is None:
            raise ModelError(f"{file}: model.{name}.{theirs} is missing")
    if block.get("attention_dropout_rate") is None:
        config["attention_probs_dropout_prob"] = config["hidden_dropout_prob"]
    return {**config, "position_embedding_type": "absolute"}


def untranslated(params: Mapping[str, Any], towers: list[str], file: Path) -> list[LeftOut]:
    """Return the settings of a YAML that a config.json has no word for."""
    known = {theirs for _, theirs, _ in _WORDS} | _PLAIN.keys() | _OF_HEADS
    names = {_block(params, tower, file)[1] for tower in towers}
    keys = [key for key in params if key not in (*names, "pooler_type", "use_biencoder")]
    keys += [f"{name}.{key}" for name in sorted(names) for key in params[name] if key not in known]
    return [
        LeftOut(file, f"model.{key}", "a setting that BERT's config.json has not") for key in keys
    ]


def held(config: Mapping[str, Any], tower: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a config.json as it comes back from a YAML, and the values that do not.

    config: of a plain BERT
    """
    known = {ours for ours, _, _ in _WORDS} | _ABOUT
    defaults = BertConfig().to_dict()
    lost = [
        f"{tower}.{key}: {value!r}".removeprefix(".")
        for key, value in config.items()
        if key not in known and value != defaults.get(key) and value not in (None, False)
    ]
    block = {BLOCKS[tower]: to_block(config)}
    return encoder_config(block, tower, Path(PARAMS)), tuple(lost)


def to_block(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Model Zoo's settings of a plain BERT."""
    defaults = BertConfig().to_dict()
    block = {theirs: config.get(ours, defaults[ours]) for ours, theirs, _ in _WORDS}
    return {
        **{key: value for key, value in block.items() if value is not None},
        "position_embedding_type": "learned",
        "add_pooling_layer": False,
        "pooler_nonlinearity": "tanh",
        "mlm_nonlinearity": block["encoder_nonlinearity"],
    }


def settings_held(
    wanted: EncoderSettings, positions: int
) -> tuple[EncoderSettings, tuple[str, ...]]:
    """Return an encoder's settings as far as a YAML says them, and those that it does not.

    Its scores are dot products of vectors that are not normalised; of prefixes it knows nothing.

    positions: tokens that the model takes
    """
    pooling = wanted.pooling if wanted.pooling in _POOLINGS else "cls"
    said = EncoderSettings(pooling=pooling, normalize=False, max_length=positions)
    return said, tuple(told(wanted, said))


def write_params(checkpoint: Checkpoint, file: Path) -> None:
    """Write the YAML of an adapted checkpoint."""
    settings = next(iter(checkpoint.parts.values())).settings
    assert settings is not None
    params: dict[str, Any] = {
        BLOCKS[tower]: to_block(part.config) for tower, part in checkpoint.parts.items()
    }
    params |= {
        "pooler_type": settings.pooling,
        "use_biencoder": len(checkpoint.parts) > 1,
    }
    file.write_text(yaml.safe_dump({"model": params}, sort_keys=False), encoding="utf-8")


def _block(params: Mapping[str, Any], tower: str, file: Path) -> tuple[dict[str, Any], str]:
    """Return the settings of a tower and their name; `encoder` may be both towers'."""
    for name in (BLOCKS[tower], BLOCKS[ONLY]):
        if isinstance(block := params.get(name), dict):
            return block, name
    raise ModelError(f"{file}: no model.{BLOCKS[tower]} with settings in it")
