"""Dropout wherever a model keeps it: in modules, and in the numbers that attention layers hold."""

from collections.abc import Iterator

from torch import nn

_NUMBERS = ("dropout", "attention_dropout")  # of T5, Llama, Mistral, Qwen, ModernBERT and others


def set_dropout(model: nn.Module, probability: float) -> None:
    """Set every dropout of a model but those of adapters, which have a setting of their own."""
    for name, module in model.named_modules():
        if "lora_dropout" not in name:
            for attribute in _attributes(module):
                setattr(module, attribute, probability)


def draws(model: nn.Module) -> bool:
    """Return whether a model draws random numbers as it is: it trains with dropout."""
    return model.training and any(
        getattr(module, attribute) > 0
        for module in model.modules()
        for attribute in _attributes(module)
    )


def _attributes(module: nn.Module) -> Iterator[str]:
    if isinstance(module, nn.Dropout):
        yield "p"
    yield from (name for name in _NUMBERS if isinstance(vars(module).get(name), float))
