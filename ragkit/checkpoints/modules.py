"""The modules of OpenChatKit's models: embedding, layers and head, each on its own in a file.

Which tensors are of which module is seen from their names, and is held against the model that the
configuration describes. Which files there are is the business of `openchatkit` and `pipeline`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ragkit.checkpoints.folders import CONFIG, companions, others, skeleton, without_copies
from ragkit.checkpoints.parts import ONLY, Checkpoint, LeftOut, Part, Reading, some
from ragkit.checkpoints.weights import Contents, Stored, Weight, as_stored
from ragkit.data.files import read_json
from ragkit.errors import ModelError
from ragkit.log import hushed
from ragkit.models.loading import REPORTS

# what a state dict may have before the names that matter, when it was not taken of the innermost
PREFIX = r"(?:(?:_orig_mod|module|model|gpt_neox|state_dict|model_state_dict)\.)*"
_INNER = re.compile(rf"^{PREFIX}(.+)$")
_TRAINING = re.compile(r"^(?:optim|scheduler|lr_scheduler|rng)")

# a rotary frequency in half precision may be so far off
_RELATIVE, _ABSOLUTE = 1e-2, 1e-6
_FREQUENCIES = ".rotary_emb.inv_freq"
_MASKS = (".attention.bias", ".attention.masked_bias")
_HINTS = {
    "embedding": "is the first stage missing?",
    "layer": "are files of another checkpoint among these?",
    "head": "is the last stage missing?",
}


@dataclass(frozen=True)
class Family:
    """A family of models: how its tensors are called, and its configuration's rotary settings.

    body: what transformers has before the names of all but the head
    embedding, norm, head, layer: the first parts of the names in their modules
    aliases: names that some versions of transformers use, and those of its files
    rotary: what older versions call a setting of `rope_parameters`
    """

    model_type: str
    architecture: str
    body: str
    embedding: str
    norm: str
    head: str
    layer: tuple[str, ...]
    aliases: Mapping[str, str]
    rotary: Mapping[str, str]

    @property
    def embedded(self) -> str:
        """The embedding's name in transformers."""
        return f"{self.body}{self.embedding}.weight"

    @property
    def headed(self) -> str:
        """The head's name in transformers' files."""
        return f"{self.head}.weight"

    def name(self, key: str, layer: int | None) -> str:
        """Return the name that transformers' files have for a tensor of a module."""
        if layer is not None:
            return f"{self.body}layers.{layer}.{key}"
        return key if key.split(".")[0] == self.head else f"{self.body}{key}"

    def model(self, config: Mapping[str, Any], path: Path) -> PreTrainedModel:
        """Return the model that a configuration describes, without weights.

        path: for messages
        Raises:
            ModelError: none is described.
        """
        try:
            model = skeleton({**config, "architectures": [self.architecture]})
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        assert model is not None, "a class of transformers'"
        return model


FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            "gpt_neox", "GPTNeoXForCausalLM", "gpt_neox.", "embed_in", "final_layer_norm",
            "embed_out", ("attention", "mlp", "input_layernorm", "post_attention_layernorm"),
            {"lm_head.weight": "embed_out.weight"},
            {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
        ),
        Family(
            "llama", "LlamaForCausalLM", "model.", "embed_tokens", "norm",
            "lm_head", ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm"),
            {}, {"rope_theta": "rope_theta"},
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Module:
    """A module as a file has it: its tensors, by their names within it.

    file: that it is in
    place: that, and where in it; for messages
    """

    file: Path
    place: str
    tensors: Mapping[str, Stored]

    def kind(self, family: Family, path: Path) -> str:
        """Return what a module is: embedding, layer or head.

        Raises:
            ModelError: neither, or tensors of more than one.
        """
        firsts = {key.split(".")[0] for key in self.tensors}
        kinds = {_kind(first, family) for first in firsts}
        if len(kinds) == 1 and (kind := kinds.pop()):
            return kind
        raise ModelError(
            f"{path}: {self.place}: expected the tensors of an embedding, a layer or a head of "
            f"{family.model_type}, found {some(sorted(firsts)) or 'none'}"
        )


def _kind(first: str, family: Family) -> str:
    if first == family.embedding:
        return "embedding"
    if first in (family.norm, family.head):
        return "head"
    return "layer" if first in family.layer else ""


def inner(key: str) -> str:
    """Return a tensor's name without what the state dicts of outer modules have before it."""
    match = _INNER.match(key)
    return match[1] if match else key


def settings_folder(path: Path, reading: Reading) -> Path:
    """Return the folder with a checkpoint's configuration and tokenizer: itself, or the base.

    Raises:
        ModelError: neither has a configuration.
    """
    for folder in (path, reading.base):
        if folder is not None and (folder / CONFIG).is_file():
            return folder
    if reading.base is not None:
        raise ModelError(f"{reading.base}: no {CONFIG} in it")
    raise ModelError(
        f"{path}: no {CONFIG} in it; --base MODEL gives the configuration and the tokenizer of "
        "the model that it was made from"
    )


def assembled(
    path: Path,
    settings: Path,
    modules: Sequence[Module],
    opened: Mapping[Path, Contents],
) -> Checkpoint:
    """Put modules together, in their order, and hold them against their configuration.

    settings: the folder with config.json and the tokenizer
    opened: all files, with what is in no module too
    Raises:
        ModelError: no such family, modules that are missing or too many, or in another order, or
            tensors other than those that the configuration describes.
    """
    config = read_json(settings / CONFIG)
    family = _family(path, modules, config, settings)
    kinds = [module.kind(family, path) for module in modules]
    _check_order(path, modules, kinds, config.get("num_hidden_layers"), settings)
    weights: dict[str, Weight] = {}
    layers = iter(range(len(kinds)))
    for module, kind in zip(modules, kinds, strict=True):
        layer = next(layers) if kind == "layer" else None
        for key, stored in module.tensors.items():
            weights[family.name(key, layer)] = as_stored(stored)
    part = Part(weights, {**config, "architectures": [family.architecture]}, companions(settings))
    all_stored = tuple(s for one in opened.values() for s in one.tensors.values())
    left_out = (*others(list(opened), list(opened.values())), *_of_training(all_stored))
    return checked(Checkpoint(path, {ONLY: part}, all_stored, left_out), family)


def checked(checkpoint: Checkpoint, family: Family) -> Checkpoint:
    """Return the checkpoint with the weights that its configuration describes, tied ones once.

    Buffers that transformers makes itself are left out.

    Raises:
        ModelError: weights that are missing, or unknown, or of another shape; buffers that differ
            from what transformers would make.
    """
    part = checkpoint.parts[ONLY]
    model = family.model(part.config, checkpoint.path)
    expected = {
        family.aliases.get(name, name): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
    }
    buffers = _buffers(part.weights, expected, model)
    found = without_copies(checkpoint.without(buffers, ONLY), ONLY)
    weights = found.parts[ONLY].weights
    tied = family.headed if model.config.tie_word_embeddings else None
    if missing := [name for name in expected if name not in weights and name != tied]:
        raise ModelError(
            f"{checkpoint.path}: {len(missing)} of {len(expected)} weights that its configuration "
            f"describes are missing: {some(missing)}"
        )
    for name, weight in weights.items():
        source = weight.sources[0]
        if name not in expected:
            raise ModelError(
                f"{source.file}: {source.key}: the {family.architecture} of its configuration has "
                f"no such weight ({name})"
            )
        if weight.shape != expected[name]:
            raise ModelError(
                f"{source.file}: {source.key}: expected {expected[name]} by its configuration, "
                f"found {weight.shape} ({name})"
            )
    return found


def built(checkpoint: Checkpoint, device: str) -> dict[str, PreTrainedModel]:
    """Return the model of a checkpoint, in fp32; device: "meta" for names and shapes alone."""
    part = checkpoint.parts[ONLY]
    family = FAMILIES[part.config["model_type"]]
    model = family.model(part.config, checkpoint.path)
    if device == "meta":
        return {ONLY: model}
    weights = {name: weight.read() for name, weight in part.weights.items()}
    with hushed(REPORTS):
        loaded = type(model).from_pretrained(
            None, config=model.config, state_dict=weights, dtype=torch.float32
        )
    return {ONLY: loaded}


def _family(path: Path, modules: Sequence[Module], config: object, settings: Path) -> Family:
    """Return the family of modules, which is the configuration's too."""
    said = config.get("model_type") if isinstance(config, dict) else None
    if said not in FAMILIES:
        raise ModelError(
            f"{settings / CONFIG}: model_type: expected {' or '.join(FAMILIES)}, found {said!r}"
        )
    first = {key.split(".")[0] for module in modules for key in module.tensors}
    for family in FAMILIES.values():
        if family.embedding in first and family.model_type != said:
            raise ModelError(
                f"{path}: its tensors are of {family.model_type} ({family.embedding}.weight), and "
                f"{settings / CONFIG} is of {said}"
            )
    return FAMILIES[said]


def _check_order(
    path: Path, modules: Sequence[Module], kinds: Sequence[str], said: object, settings: Path
) -> None:
    """Make sure that modules are an embedding, so many layers, and a head."""
    per_file: dict[str, int] = {}
    for module, kind in zip(modules, kinds, strict=True):
        if kind == "layer":
            per_file[module.file.name] = per_file.get(module.file.name, 0) + 1
    counted = ", ".join(f"{count} in {name}" for name, count in per_file.items())
    total = f"expected {said} layers by {settings / CONFIG}, found {kinds.count('layer')}"
    total += f" ({counted})" if counted else ""
    wanted = ["embedding", *["layer"] * (len(kinds) - 2), "head"]
    for module, kind, expected in zip(modules, kinds, wanted, strict=False):
        if kind != expected:
            raise ModelError(
                f"{path}: {module.place}: expected the tensors of the {expected}, found those of "
                f"the {kind}: {_HINTS[expected]} ({total})"
            )
    if kinds.count("layer") != said:
        raise ModelError(f"{path}: {total}")


def _buffers(
    weights: Mapping[str, Weight], expected: Mapping[str, Any], model: PreTrainedModel
) -> dict[str, str]:
    """Return tensors that are no weights, and why they are not needed."""
    found = {}
    for name, weight in weights.items():
        if name in expected:
            continue
        if name.endswith(_MASKS):
            found[name] = "a mask that transformers makes itself"
        elif name.endswith(_FREQUENCIES):
            _check_frequencies(weight, model)
            found[name] = "rotary frequencies that transformers makes itself, the same"
    return found


def _check_frequencies(weight: Weight, model: PreTrainedModel) -> None:
    """Compare rotary frequencies of a file with those of the configuration, before any scaling."""
    rotary: Any = type(model.base_model.rotary_emb)
    made, _ = rotary.compute_default_rope_parameters(model.config)
    found = weight.read().float()
    if found.shape != made.shape or not torch.allclose(found, made, _RELATIVE, _ABSOLUTE):
        source = weight.sources[0]
        raise ModelError(
            f"{source.file}: {source.key}: the model was trained with other rotary frequencies "
            f"than its configuration describes: expected {_ends(made)}, found {_ends(found)}"
        )


def _ends(values: torch.Tensor) -> str:
    return f"{len(values)} from {values.max():.4g} to {values.min():.4g}"


def _of_training(stored: Sequence[Stored]) -> list[LeftOut]:
    return [
        LeftOut(s.file, s.key, "state of the training") for s in stored if _TRAINING.match(s.key)
    ]
