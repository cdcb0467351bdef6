"""Low-rank adapters on a generator or an encoder's towers (LoRA, Hu et al., 2021), by peft.

While they are on, the base is frozen and checkpoints hold the adapters alone. `merge_adapters` puts
saved adapters into the weights of a base, which is then a model like any other.
"""

import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import PreTrainedModel

from ragkit.config.training import Lora
from ragkit.errors import ModelError
from ragkit.models.encoder import Encoder


def with_adapters(model: PreTrainedModel, lora: Lora, save: list[str] | None = None) -> PeftModel:
    """Return a generator with adapters, all else frozen.

    save: names of heads that are trained whole
    Raises:
        ModelError: the model has no module of a name in `target_modules`.
    """
    _check_targets(lora, [n for n, m in model.named_modules() if isinstance(m, nn.Linear)])
    if lora.quantize:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # type: ignore[no-untyped-call]
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        modules_to_save=save,
    )
    with _older_names():
        adapted = get_peft_model(model, config)
    base = model.name_or_path
    if base and Path(base).is_dir():  # so that they find it from whatever folder
        adapted.peft_config["default"].base_model_name_or_path = str(Path(base).resolve())
    return adapted


def continue_adapters(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Return a generator with saved adapters that go on learning."""
    with _older_names():
        return PeftModel.from_pretrained(model, str(folder), is_trainable=True)


def merged(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return the model that adapters were trained on with the saved ones added to its weights."""
    with _older_names():
        adapter = PeftModel.from_pretrained(model, str(folder))
    whole = adapter.merge_and_unload()
    assert isinstance(whole, PreTrainedModel)
    return whole


def add_adapters(encoder: Encoder, lora: Lora) -> dict[str, PeftModel]:
    """Put adapters into each tower, in place, and freeze all else.

    Returns: peft's models, by the subfolder to save each in
    Raises:
        ModelError: the model has no module of a name in `target_modules`.
    """
    encoder.requires_grad_(False)
    adapters: dict[str, PeftModel] = {}
    for route, tower in _routes(encoder).items():
        layers = [n for n, m in tower.model.named_modules() if isinstance(m, nn.Linear)]
        _check_targets(lora, layers)
        heads = [name for name in layers if name.split(".")[0] == "pooler"]
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            exclude_modules=heads or None,
        )
        with _older_names():
            adapters[route] = get_peft_model(tower.model, config)
    encoder.register_state_dict_post_hook(_keep_trained)  # type: ignore[no-untyped-call]
    encoder.register_load_state_dict_post_hook(_expect_trained)  # type: ignore[no-untyped-call]
    return adapters


def save_adapters(adapters: dict[str, PeftModel], folder: Path) -> None:
    """Write adapters as peft loads them, those of two towers in a subfolder each."""
    for route, adapter in adapters.items():
        adapter.save_pretrained(str(folder / route), save_embedding_layers=False)


def merge_adapters(encoder: Encoder, folder: Path) -> None:
    """Add saved adapters to the weights of the encoder that they were trained on, in place."""
    for route, tower in _routes(encoder).items():
        with _older_names():
            adapter = PeftModel.from_pretrained(tower.model, str(folder / route))
        adapter.merge_and_unload()


def _routes(encoder: Encoder) -> dict[str, Encoder]:
    if encoder.passage_tower is None:
        return {"": encoder}
    return {"query": encoder, "document": encoder.passage_tower}


@contextmanager
def _older_names() -> Iterator[None]:
    """Silence the warning that peft asks transformers by a name that will go with version 6."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def _check_targets(lora: Lora, layers: list[str]) -> None:
    if lora.target_modules == "all-linear":
        return
    for target in lora.target_modules:
        if not any(f".{layer}".endswith(f".{target}") for layer in layers):
            names = sorted({layer.rsplit(".", 1)[-1] for layer in layers})
            raise ModelError(
                f"lora.target_modules: {target!r}: the model has no linear layer of this name; "
                f"it has {', '.join(names)}"
            )


def _trained(module: nn.Module) -> set[str]:
    return {name for name, weights in module.named_parameters() if weights.requires_grad}


def _keep_trained(
    module: nn.Module, state: MutableMapping[str, Any], prefix: str, _: dict[str, Any]
) -> None:
    """Leave what is frozen out of a state to be saved: the base is where it was loaded from."""
    trained = _trained(module)
    frozen = [k for k in state if k.startswith(prefix) and k[len(prefix) :] not in trained]
    for key in frozen:
        del state[key]


def _expect_trained(module: nn.Module, keys: Any) -> None:
    """Miss nothing but what is trained when a state is loaded."""
    trained = tuple(_trained(module))
    keys.missing_keys[:] = [key for key in keys.missing_keys if key.endswith(trained)]
