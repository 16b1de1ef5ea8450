"""Add products B A to the frozen weights of the adapted layers, for a while. job.folded -> HERE -> training.

Methods that fold (FedEx-LoRA, FLoRA, sketch with ``residual: fold``) train on a base that moves from round to round.
The base's own weights are kept aside and put back bit for bit, so nothing drifts.
Shapes: A [k, d_in], B [d_out, k] of any rank k; the weight gains ``scale * B A`` with the adapter's own scale.
Not covered: bf16 and 4-bit weights, in which most of a small product would be lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmed.errors import AdapterMismatchError, ModelError
from fedmed.model.adapter import adapted_layers, scale_of
from fedmed.types import AdapterState

_HINT = "fold what was trained on this model"


@contextlib.contextmanager
def folded(model: Any, products: AdapterState) -> Iterator[None]:
    """``model``'s base holds the products inside the block.

    Args:
        model: a PEFT model.
        products: PEFT keys -> A and B; empty: nothing changes.

    Raises:
        AdapterMismatchError: a layer has no adapter in this model, or its products have other widths or lack a side.
        ModelError: its weights are not float32.
    """
    layers = adapted_layers(model)
    names = sorted({key.rpartition(".lora_")[0] for key in products})
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for name in names:
                if name not in layers:
                    raise AdapterMismatchError(f"the base has no adapted layer {name}", _HINT)
                weight = layers[name].get_base_layer().weight
                if weight.dtype != torch.float32:  # bf16 has 8 bits: most of a small product would be rounded away
                    raise ModelError(
                        f"the weights of {name} are {weight.dtype}, too coarse to add a product to",
                        "set model.dtype to fp32 and model.quantization to null, or choose a method that does not fold",
                    )
                a, b = (
                    torch.from_numpy(array).to(weight.device, torch.float32)
                    for array in _pair(products, name, tuple(weight.shape))
                )
                kept.append((weight, weight.detach().clone()))
                weight.addmm_(b, a, alpha=scale_of(layers[name]))
        yield
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)


def _pair(products: AdapterState, name: str, shape: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A and B of one layer, whose product has the ``shape`` of its weight."""
    a, b = (np.asarray(products.get(f"{name}.lora_{side}.weight", np.empty((0, 0)))) for side in "AB")
    if (b.shape[0], a.shape[1]) != shape or b.shape[1] != a.shape[0]:
        raise AdapterMismatchError(
            f"B {b.shape} A {a.shape} cannot be folded into {name}, whose weight is {shape}", _HINT
        )
    return a, b
