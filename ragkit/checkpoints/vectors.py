"""What turns a checkpoint's model into an encoder: how its settings are found, kept and lost.

Only sentence-transformers folders say all of them; of other layouts the architecture gives them, as
`ragkit.models.loading` has it, and what differs from that has to be told where a model is used.
"""

from dataclasses import asdict, replace

import torch
from transformers import AutoConfig, AutoModel

from ragkit.checkpoints.bert import bare_bert
from ragkit.checkpoints.parts import Checkpoint, Part
from ragkit.config.blocks import Vectors
from ragkit.data.files import read_json
from ragkit.errors import ModelError
from ragkit.models.layouts import EncoderSettings, TowerLayout
from ragkit.models.loading import NO_LIMIT, positions, settings_of

_TOKENIZER = "tokenizer_config.json"


def with_settings(checkpoint: Checkpoint, wanted: Vectors) -> Checkpoint:
    """Return the checkpoint with an encoder's settings in each part: wanted, said, or usual ones.

    Usual ones that nobody said are in its `made`.

    Raises:
        ModelError: a part that cannot be an encoder.
    """
    parts, made = {}, dict(checkpoint.made)
    for tower, part in checkpoint.parts.items():
        parts[tower] = replace(part, settings=given(part.settings or settings(part), wanted))
        if part.settings is None:
            made |= assumed(parts[tower], wanted)
    return replace(checkpoint, parts=parts, made=made)


def given(said: EncoderSettings, wanted: Vectors) -> EncoderSettings:
    """Return settings with those in their place that are wanted."""
    return replace(said, **wanted.model_dump(exclude_none=True))


def assumed(part: Part, wanted: Vectors) -> dict[str, str]:
    """Return the settings of a part that neither its files nor anybody said, to be told."""
    asked, held = wanted.model_dump(exclude_none=True), asdict(part.settings or settings(part))
    named = [f"{key}: {held[key]!r}" for key in ("pooling", "normalize") if key not in asked]
    where = "no file says so: if it is otherwise, set encoder.pooling, encoder.normalize"
    return {", ".join(named): where} if named else {}


def without_settings(checkpoint: Checkpoint, layout: str, wanted: Vectors) -> Checkpoint:
    """Return the checkpoint as a layout of plain models holds it: settings are said to be lost.

    wanted: settings that somebody gave, which are lost as well
    Raises:
        ModelError: dense layers behind the pooling, which are weights.
    """
    lost: dict[str, None] = dict.fromkeys(checkpoint.lost)
    parts = {}
    for tower, part in checkpoint.parts.items():
        if part.dense:
            raise ModelError(
                f"{checkpoint.path}: {layout} has no room for the {len(part.dense)} dense layers "
                "behind its pooling; sentence-transformers has"
            )
        if part.settings or wanted.model_dump(exclude_none=True):
            said = part.settings or settings(part)
            lost |= dict.fromkeys(told(given(said, wanted), settings(part)))
        parts[tower] = replace(part, settings=None)
    return replace(checkpoint, parts=parts, lost=tuple(lost))


def settings(part: Part, layout: TowerLayout | None = None) -> EncoderSettings:
    """Return the settings that a folder says, else those that a plain model is used with.

    Raises:
        ModelError: an architecture that transformers does not know.
    """
    try:
        config = AutoConfig.for_model(**part.config)
        with torch.device("meta"):
            model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    except (KeyError, ValueError, TypeError) as error:
        kind = part.config.get("model_type", "a model without a type")
        reason = str(error).split(". Should contain one of")[0]  # some hundred of them
        raise ModelError(f"{kind}: transformers makes no encoder of it: {reason}") from error
    said = read_json(part.files[_TOKENIZER]) if _TOKENIZER in part.files else {}
    limits = positions(model), min(int(said.get("model_max_length") or NO_LIMIT), NO_LIMIT)
    return settings_of(layout or TowerLayout(""), config, limits, Vectors())


def without_dpr(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the BERTs within DPR's classes, and their settings.

    Raises:
        ModelError: one with a projection, or with weights that are not BERT's.
    """
    for tower, part in checkpoint.parts.items():
        if part.config.get("model_type") == "dpr":
            said = replace(part, settings=settings(part))
            checkpoint = replace(checkpoint, parts={**checkpoint.parts, tower: said})
            checkpoint = bare_bert(checkpoint, tower)
    return checkpoint


def told(wanted: EncoderSettings, held: EncoderSettings) -> list[str]:
    """Return the settings that are not those that a layout holds, and where they can be given."""
    return [
        f"{key}: {value!r} (where it is used, {_where(key)})"
        for key, value in asdict(wanted).items()
        if value != getattr(held, key)
    ]


def _where(key: str) -> str:
    if key in Vectors.model_fields:
        return f"set encoder.{key}"
    return "keep to sentence-transformers, which alone can say it"
