"""Matrix products by oneDNN: torch's own numbers and gradients, and left alone where they must."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ragkit.models import products

CPU = torch.device("cpu")


def layer(n_in: int = 24, n_out: int = 40, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(n_in, n_out, bias=bias)


def states(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The types of the products that went to oneDNN."""
    seen: list[torch.dtype] = []
    own: Callable[..., Tensor] = products._multiply

    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        assert x.dtype == weight.dtype
        seen.append(x.dtype)
        return own(x, weight, bias)

    monkeypatch.setattr(products, "_multiply", multiply)
    return seen


@pytest.mark.parametrize("n_out", [10, 40])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (2, 5, 24)])
def test_outputs_and_gradients_are_torchs(
    shape: tuple[int, ...], bias: bool, n_out: int, multiplied: list[torch.dtype]
) -> None:
    model, x = layer(n_out=n_out, bias=bias), states(*shape)
    upstream = states(*shape[:-1], n_out)
    wanted = [x.requires_grad_(), *model.parameters()]
    expected = model(x)
    gradients = torch.autograd.grad(expected, wanted, upstream)
    with products.exact(CPU):
        found = model(x)
    torch.testing.assert_close(found, expected)
    for ours, torchs in zip(torch.autograd.grad(found, wanted, upstream), gradients, strict=True):
        torch.testing.assert_close(ours, torchs)
    assert multiplied == [torch.float32] * 3


def test_frozen_weights_cost_no_product_of_theirs(multiplied: list[torch.dtype]) -> None:
    model, x = layer().requires_grad_(False), states(3, 24).requires_grad_()
    with products.exact(CPU):
        model(x).sum().backward()
    assert multiplied == [torch.float32] * 2
    assert model.weight.grad is None


def test_inference_mode_is_served_too(multiplied: list[torch.dtype]) -> None:
    model, x = layer(), states(3, 24)
    expected = model(x)
    with torch.inference_mode(), products.exact(CPU):
        torch.testing.assert_close(model(x), expected.detach())
    assert multiplied == [torch.float32]


def test_autocast_other_types_and_empty_inputs_are_torchs_business(
    multiplied: list[torch.dtype],
) -> None:
    model, x = layer(), states(3, 24)
    with torch.autocast("cpu", torch.bfloat16), products.exact(CPU):
        assert model(x).dtype == torch.bfloat16
    with products.exact(CPU), torch.autocast("cpu", torch.bfloat16):  # as in a Trainer's model
        assert model(x).dtype == torch.bfloat16
    with products.exact(CPU):
        assert layer().double()(x.double()).dtype == torch.float64
        assert model(x[:0]).shape == (0, 40)
        assert model(x[0]).shape == (40,)
    with products.exact(torch.device("meta")):
        model(x)
    assert multiplied == []


def test_nothing_changes_after_the_region(multiplied: list[torch.dtype]) -> None:
    model, x = layer(), states(3, 24)
    with products.exact(CPU):
        pass
    model(x)
    assert multiplied == []


def test_in_bf16_only_inputs_and_weights_are_rounded(multiplied: list[torch.dtype]) -> None:
    model, x = layer(), states(3, 24)
    rounded = x.bfloat16().double() @ model.weight.bfloat16().double().T + model.bias.double()
    with torch.inference_mode(), products.bf16(CPU)():
        found = model(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), rounded, rtol=2**-8, atol=0)
    assert multiplied == [torch.bfloat16]


def test_in_bf16_weights_made_on_the_way_are_taken_as_they_are() -> None:
    x = states(3, 24).bfloat16()
    with torch.inference_mode(), products.bf16(CPU)():
        for factor in (1.0, 2.0, 3.0):  # tensors that may be given one another's memory
            weight = layer().weight.detach() * factor
            expected = x @ weight.bfloat16().T
            torch.testing.assert_close(nn.functional.linear(x, weight), expected)


@pytest.mark.parametrize("region", [products.exact, lambda device: products.bf16(device)()])
def test_without_both_libraries_torch_multiplies(
    region: Callable[..., object], multiplied: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    with region(CPU):  # type: ignore[attr-defined]
        layer()(states(3, 24))
    assert multiplied == []
