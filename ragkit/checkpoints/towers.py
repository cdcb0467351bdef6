"""Encoders of two towers as folders of transformers': `q_encoder/` and `ctx_encoder/`.

As plain models (Dragon's way), or as the classes that transformers has for DPR (Karpukhin et al.,
2020), which are BERTs under longer names and are read as BERTs.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import DPRConfig, PreTrainedModel

from ragkit.checkpoints import folders
from ragkit.checkpoints.bert import bare_bert
from ragkit.checkpoints.parts import ONLY, TOWERS, Checkpoint, Part, Reading, Writing
from ragkit.checkpoints.vectors import without_dpr, without_settings
from ragkit.data.files import read_json

FOLDERS = dict(zip(TOWERS, ("q_encoder", "ctx_encoder"), strict=True))

# DPR's classes, and what stands before a BERT's names in them
_CLASSES = {
    "query": ("DPRQuestionEncoder", "question_encoder.bert_model."),
    "passage": ("DPRContextEncoder", "ctx_encoder.bert_model."),
}


def found(path: Path) -> bool:
    """Return whether a folder has both towers."""
    return all(folders.found(path / name) for name in FOLDERS.values())


def found_dpr(path: Path) -> bool:
    """Return whether a folder has both towers, as classes of DPR."""
    return found(path) and all(
        read_json(path / name / folders.CONFIG).get("model_type") == "dpr"
        for name in FOLDERS.values()
    )


def read(path: Path, _: Reading) -> Checkpoint:
    """Read both towers.

    Raises:
        ModelError: as `folders.read`.
    """
    return without_dpr(
        folders.read_towers(path, {tower: path / name for tower, name in FOLDERS.items()})
    )


def load(path: Path, _: Reading, device: str) -> dict[str, PreTrainedModel]:
    """Load both towers as transformers does."""
    return {tower: folders.load_model(path / name, device) for tower, name in FOLDERS.items()}


def adapt(checkpoint: Checkpoint, writing: Writing) -> Checkpoint:
    """Return the checkpoint as two folders hold it; one tower for both is written twice.

    Raises:
        ModelError: dense layers.
    """
    plain = without_settings(_doubled(without_dpr(checkpoint)), "hf-dual", writing.vectors)
    for tower in TOWERS:
        plain = folders.without_copies(plain, tower)
    return plain


def adapt_dpr(checkpoint: Checkpoint, writing: Writing) -> Checkpoint:
    """Return the checkpoint as DPR's classes hold it: BERTs without a pooler.

    Raises:
        ModelError: dense layers, or a tower that is no BERT.
    """
    doubled = _doubled(checkpoint)
    for tower in TOWERS:
        doubled = bare_bert(doubled, tower)
    as_dpr = {t: replace(p, config=_dpr_config(p, t)) for t, p in doubled.parts.items()}
    told = without_settings(replace(doubled, parts=as_dpr), "dpr", writing.vectors)
    parts = {t: replace(p, config=doubled.parts[t].config) for t, p in told.parts.items()}
    return replace(told, parts=parts)


def write(checkpoint: Checkpoint, folder: Path, writing: Writing) -> None:
    """Write both towers."""
    for tower, name in FOLDERS.items():
        folders.write_part(checkpoint.parts[tower], folder / name, writing.max_shard_size)


def write_dpr(checkpoint: Checkpoint, folder: Path, writing: Writing) -> None:
    """Write both towers as DPR's classes."""
    parts = {tower: _as_dpr(part, tower) for tower, part in checkpoint.parts.items()}
    write(replace(checkpoint, parts=parts), folder, writing)


def _doubled(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint of two towers; of one for both, each is that one."""
    if ONLY not in checkpoint.parts:
        return checkpoint
    one = checkpoint.parts[ONLY]
    made = {**checkpoint.made, FOLDERS["passage"]: f"the same weights as {FOLDERS['query']}"}
    return replace(checkpoint, parts=dict.fromkeys(TOWERS, one), made=made)


def _as_dpr(part: Part, tower: str) -> Part:
    prefix = _CLASSES[tower][1]
    weights = {prefix + name: weight for name, weight in part.weights.items()}
    return replace(part, weights=weights, config=_dpr_config(part, tower))


def _dpr_config(part: Part, tower: str) -> dict[str, Any]:
    """Return a BERT's configuration as one of DPR."""
    shared: Mapping[str, Any] = DPRConfig().to_dict()
    kept = {key: value for key, value in part.config.items() if key in shared}
    name = _CLASSES[tower][0]
    return {**kept, "model_type": "dpr", "architectures": [name], "projection_dim": 0}
