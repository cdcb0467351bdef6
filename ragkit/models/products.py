"""The matrix products of linear layers on a CPU: the same numbers, by oneDNN's kernels.

torch multiplies fp32 matrices by MKL, which leaves half of an AMD processor's vector units idle;
oneDNN, which torch has as well, uses them (measured: 2.3 times as fast, and as fast as MKL
elsewhere). Which texts are multiplied, and when bf16 is good enough, is the business of others.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.overrides import TorchFunctionMode


def exact(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Compute the fp32 products of linear layers by oneDNN, gradients too.

    Does nothing on accelerators, without MKL, and where autocast is on: around it, or begun inside.
    """
    if device.type != "cpu" or not _has_both() or torch.is_autocast_enabled("cpu"):
        return contextlib.nullcontext()
    return _Products()


def bf16(device: torch.device) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Return regions with products and attention in bf16, residuals and LayerNorm in fp32.

    For inference, in any thread. On a CPU the weights are rounded once for all regions that come
    of one call, so they must not change meanwhile.
    """
    rounded: dict[nn.Parameter, Tensor] = {}  # by identity, as tensors are hashed

    @contextlib.contextmanager
    def region() -> Iterator[None]:
        with torch.autocast(device.type, torch.bfloat16):
            if device.type == "cpu" and _has_both():
                with _Bf16Products(rounded):
                    yield
            else:
                yield

    return region


def _has_both() -> bool:
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore
    return bool(both and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias; both fp32 or both bf16, the bias fp32."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Return a.T @ b. oneDNN copies the transpose of one of them: the smaller is the quicker."""
    if a.shape[1] > b.shape[1]:
        return _multiply(b.T, a.T).T
    return _multiply(a.T, b.T)


class _Linear(torch.autograd.Function):
    """A linear layer whose three products are oneDNN's."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        rows, inputs = gradient.flatten(0, -2), x.flatten(0, -2)
        return (
            _multiply(gradient, weight.T) if wanted[0] else None,
            _outer(rows, inputs) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )


class _Products(TorchFunctionMode):
    """Sends the linear layers of plain fp32 tensors to oneDNN; all else goes on as it was."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is nn.functional.linear:
            x, weight, bias = _operands(*args, **(kwargs or {}))
            if _suitable(x, weight):
                return self.linear(x, weight, bias)
        return function(*args, **(kwargs or {}))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the layer's output, in fp32 here."""
        if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return nn.functional.linear(x, weight, bias)
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            return _Linear.apply(x, weight, bias)  # type: ignore[no-any-return, no-untyped-call]
        return _multiply(x, weight, bias)


class _Bf16Products(_Products):
    """Multiplies in bf16; outputs are bf16, biases are added in fp32 before the rounding."""

    def __init__(self, rounded: dict[nn.Parameter, Tensor]) -> None:
        super().__init__()
        self.rounded = rounded

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the layer's output in bf16."""
        rounded = self.rounded.get(weight) if isinstance(weight, nn.Parameter) else None
        if rounded is None:
            rounded = weight.bfloat16()
            if isinstance(weight, nn.Parameter):
                self.rounded[weight] = rounded
        return _multiply(x.bfloat16(), rounded, bias)


def _operands(
    input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


def _suitable(x: Tensor, weight: Tensor) -> bool:
    """Return whether these are ordinary tensors on the CPU, the weights in fp32."""
    return (
        type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and x.device.type == weight.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and weight.dtype == torch.float32
        and x.dim() > 1
        and x.numel() > 0
    )
