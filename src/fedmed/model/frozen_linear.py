"""Products with frozen weights: no gradient for the weight, and the fastest float32 kernel that this build has.

On a CPU, PyTorch's own float32 ``matmul`` goes through MKL, which on processors other than Intel's leaves half of the
vector unit unused; oneDNN, which comes with the same build, does not (``make bench-speed`` measures both). Elsewhere
and in other number formats this is ``torch.nn.functional.linear``.

Shapes: T = rows, k = width in, n = width out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

# oneDNN compiles a product for each shape and keeps 1,024 of them; every number of tokens is a shape of its own, so the
# cache would grow with the number of hospitals that have trained. It reads this at its first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")

_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
_FEW = 8  # rows that a reordered weight is laid out for; others are right, too


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``x [T, k]`` times ``weight [n, k]`` transposed, [T, n]; no gradient flows through it."""
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and _ONEDNN:
        y: torch.Tensor = _opaque(x, weight) if torch.compiler.is_compiling() else _onednn(x, weight)
        return y
    return torch.nn.functional.linear(x, weight)


def _onednn(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    # What torch's own compiler emits for a linear layer on a CPU; takes transposed views as they are.
    y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


# torch.compile lowers that operator only with weights that are constants of its graph, and fails with ours.
_opaque = torch.library.custom_op("fedmed::frozen_product", _onednn, mutates_args=())


@_opaque.register_fake
def _shape_of_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.dtype = x.dtype
        y = product(x.to(weight.dtype), weight)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (weight,) = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None
        return product(gradient.contiguous(), weight.t()).to(ctx.dtype), None, None


def frozen_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A linear layer [..., k] -> [..., n] whose weight is a constant: only ``x`` gets a gradient.

    Under autocast the product is taken in autocast's format, as ``torch.nn.functional.linear`` does.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        x = x.to(dtype)
    y: torch.Tensor = _FrozenLinear.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], weight.shape[0])


@contextlib.contextmanager
def fast_products(model: torch.nn.Module) -> Iterator[None]:
    """Inside the block every frozen plain linear layer of ``model`` is a ``frozen_linear``.

    Layers that train, and those that multiply in a way of their own (quantised ones), are left alone.
    """
    layers: list[Any] = [
        module for module in model.modules() if type(module) is torch.nn.Linear and not module.weight.requires_grad
    ]
    patched = [layer for layer in layers if "forward" not in vars(layer)]  # an outer block's stay its own
    for layer in patched:
        layer.forward = _forward_of(layer)
    try:
        yield
    finally:
        for layer in patched:
            del layer.forward  # the class's own comes back


def read_once_by_few_rows(layer: Any) -> None:
    """From now on a few rows take little longer in this layer than one; its weight must not change any more.

    Such a product takes as long as reading the weight, where a kernel takes it as it lies. PyTorch's own reorder it at
    every call, so 8 rows take three to four times as long as one. This keeps a copy of the weight in oneDNN's order,
    beside the weight, which one row reads as before. Elsewhere, and for layers of other kinds, nothing changes.
    """
    weight = getattr(layer, "weight", None)
    if type(layer) is not torch.nn.Linear or layer.bias is not None or not _ONEDNN:
        return
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return
    ordered = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _FEW)

    def forward(x: torch.Tensor) -> torch.Tensor:
        alone = x.numel() == x.shape[-1] or x.dtype != torch.float32 or torch.is_grad_enabled()
        return torch.nn.functional.linear(x, weight) if alone else _onednn(x, ordered)

    layer.forward = forward


def _forward_of(layer: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: frozen_linear(x, layer.weight, layer.bias)
