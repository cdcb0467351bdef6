"""A linear layer after the pooling, as sentence-transformers' Dense module saves it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ragkit.data.files import read_json, write_json
from ragkit.errors import ModelError
from ragkit.models.layouts import DAMAGED, model_file

_ACTIVATIONS = {
    activation.__name__: activation
    for activation in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)
}


class Dense(nn.Module):
    """activation(W x + b), from pooled states to vectors."""

    def __init__(self, n_in: int, n_out: int, bias: bool, activation: str) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out, bias=bias)
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, vectors: Tensor) -> Tensor:
        """Turn (B, in) into (B, out)."""
        return torch.as_tensor(self.activation(self.linear(vectors)))

    @classmethod
    def load(cls, source: str, path: str) -> Self:
        """Read the module in the subfolder `path` of a folder or hub model.

        Raises:
            ModelError: weights are missing, or it computes something else.
        """
        file = model_file(source, f"{path}/config.json")
        weights = model_file(source, f"{path}/model.safetensors")
        pickled = None if weights else model_file(source, f"{path}/pytorch_model.bin")
        if file is None or not (weights or pickled):
            raise ModelError(f"{source}: modules.json names {path}, without a config or weights")
        config = read_json(file)
        _check(source, path, config)
        try:
            layer = cls(
                config["in_features"],
                config["out_features"],
                config.get("bias", True),
                _activation(config),
            )
            layer.load_state_dict(
                load_file(weights) if weights else torch.load(str(pickled), weights_only=True)
            )
        except DAMAGED as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"{source}: {path}: cannot be loaded: {reason}") from error
        return layer

    def save(self, folder: Path) -> None:
        """Write a folder that sentence-transformers loads."""
        write_json(
            folder / "config.json",
            {
                "in_features": self.linear.in_features,
                "out_features": self.linear.out_features,
                "bias": self.linear.bias is not None,
                "activation_function": (
                    f"{type(self.activation).__module__}.{type(self.activation).__name__}"
                ),
            },
        )
        weights = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors")


def _activation(config: Mapping[str, Any]) -> str:
    return str(config.get("activation_function", "Tanh")).rsplit(".", 1)[-1]


def _check(source: str, path: str, config: Mapping[str, Any]) -> None:
    """Refuse a layer that is not a plain linear one over the pooled vector."""
    odd = {
        "activation_function": _activation(config) not in _ACTIVATIONS,
        "module_input_name": config.get("module_input_name", "sentence_embedding")
        != "sentence_embedding",
        "use_residual": bool(config.get("use_residual")),
    }
    if wrong := [f"{key}: {config[key]}" for key, is_odd in odd.items() if is_odd]:
        raise ModelError(f"{source}: {path} has {', '.join(wrong)}, unknown to ragkit")
