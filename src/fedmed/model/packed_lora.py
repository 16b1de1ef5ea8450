"""Several hospitals' adapters on one frozen base in one pass: each applies to the tokens of its own hospital.

While ``installed`` is on, every layer that PEFT adapted reads its A and B from the hospitals of the pass and adds their
gradients where each hospital keeps its own; every other linear layer is frozen. PEFT's own adapter lies idle.
Source of the idea: one base under many adapters as in S-LoRA (Sheng et al. 2023, arXiv:2311.03285), here for training.

Shapes: T = tokens of the pass, r = rank of a hospital, d_in / d_out = width of a layer's input / output.
Not covered: LoRA dropout, DoRA, adapters on other layers than linear ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedmed.model.adapter import adapted_layers, adapter_parameters, scale_of
from fedmed.model.frozen_linear import fast_products
from fedmed.types import CORE, AdapterState

_ADAPTER = "default"


class Gradient:
    """What a loss says about each array of an adapter that trains: a flat vector, and views of it by key.

    Args:
        flat: float32 [n], filled in place.
        places: PEFT key -> (where it lies in ``flat``, its shape).
        cores: key of a core -> key of its B, whose gradient is gathered beside the flat vector.
        like: key of such a B -> an array of its shape.
    """

    def __init__(
        self,
        flat: torch.Tensor,
        places: Mapping[str, tuple[slice, tuple[int, ...]]],
        cores: Mapping[str, str],
        like: Mapping[str, torch.Tensor],
    ) -> None:
        self.flat = flat
        self.arrays = {key: flat[place].view(shape) for key, (place, shape) in places.items()}
        self._beside = {key_b: torch.zeros_like(like[key_b]) for key_b in cores.values()}
        self.arrays |= self._beside

    def clear(self) -> None:
        """Back to zero."""
        self.flat.zero_()
        for gradient in self._beside.values():
            gradient.zero_()


class HospitalAdapter:
    """One hospital's A and B during a local training: what trains lies in one flat float32 parameter.

    Where ``start`` has a core [r, r] for a layer, the layer's B is ``B core``, made anew before each step, and the
    core's gradient is ``B^T`` times that B's: A and B themselves stay as they are.

    Args:
        start: PEFT key -> array, and cores under ``types.CORE``; copied.
        trainable: keys that move; None: all.
        device: where the adapter lives.
    """

    def __init__(self, start: AdapterState, trainable: Sequence[str] | None, device: torch.device) -> None:
        moving = sorted(start) if trainable is None else sorted(trainable)
        sizes = [start[key].size for key in moving]
        flat = torch.from_numpy(np.concatenate([np.ravel(start[key]).astype(np.float32) for key in moving]))
        self.flat = torch.nn.Parameter(flat.to(device))
        self.flat.grad = torch.zeros_like(self.flat)
        ends = np.cumsum(sizes)
        self._places = {
            key: (slice(int(end) - size, int(end)), start[key].shape)
            for key, size, end in zip(moving, sizes, ends, strict=True)
        }
        # what was given, as it is now
        self._arrays = {key: self.flat.detach()[place].view(shape) for key, (place, shape) in self._places.items()}
        for key in start.keys() - self._arrays.keys():
            self._arrays[key] = torch.from_numpy(np.array(start[key], dtype=np.float32)).to(device)
        self.values = dict(self._arrays)  # A and B as the layers use them
        self._cores = {key: key.removesuffix(CORE) + ".lora_B.weight" for key in start if key.endswith(CORE)}
        self.gradient = self._gradient(self.flat.grad)

    @property
    def gradients(self) -> Mapping[str, torch.Tensor]:
        """Of the whole step, by key."""
        return self.gradient.arrays

    def new_gradient(self) -> Gradient:
        """Another gradient of this adapter, for a part of a step: one example's, say."""
        return self._gradient(torch.zeros_like(self.flat.detach()))

    def begin_step(self) -> None:
        """No gradient yet, and B as the cores make it."""
        self.gradient.clear()
        for core, key_b in self._cores.items():
            self.values[key_b] = self._arrays[key_b] @ self._arrays[core]

    def end_step(self, gradient: Gradient | None = None) -> None:
        """Carry the gradient of each B on to its core; None: in the whole step's."""
        arrays = (gradient or self.gradient).arrays
        for core, key_b in self._cores.items():
            torch.matmul(self._arrays[key_b].t(), arrays[key_b], out=arrays[core])

    def state(self) -> AdapterState:
        """A float32 copy of what was given, keys sorted."""
        return {key: np.array(self._arrays[key].cpu().numpy(), copy=True) for key in sorted(self._arrays)}

    def _gradient(self, flat: torch.Tensor) -> Gradient:
        return Gradient(flat, self._places, self._cores, self._arrays)


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens ``start`` to ``end`` of a pass belong to one hospital; their gradient goes to ``gradient``."""

    start: int
    end: int
    adapter: HospitalAdapter
    gradient: Gradient


class Pass:
    """What the patched layers look at; ``anchor`` is there so that autograd comes by, it gets no gradient."""

    def __init__(self, device: torch.device) -> None:
        self.segments: Sequence[Segment] = ()
        self.anchor = torch.ones((), device=device, requires_grad=True)


def setting_against(dropout: float, use_dora: bool) -> str | None:
    """Which LoRA setting stands against several adapters at once; None: none."""
    if dropout:
        return "LoRA dropout is on"
    return "DoRA is on" if use_dora else None


def why_not(model: Any) -> str | None:
    """What stands against several adapters at once on this PEFT model; None: nothing."""
    config = model.peft_config[_ADAPTER]
    if reason := setting_against(config.lora_dropout, config.use_dora):
        return reason
    layers = adapted_layers(model)
    keys = {f"{name}.lora_{side}.weight" for name in layers for side in "AB"}
    if set(adapter_parameters(model)) != keys or not all(_is_plain(layer) for layer in layers.values()):
        return "the adapter has parts that are not A and B of linear layers"
    return None


@contextlib.contextmanager
def installed(model: Any, current: Pass) -> Iterator[None]:
    """Patch ``model`` for the block; ``current`` may be given other segments between two passes."""
    adapted = adapted_layers(model)
    with fast_products(model):
        try:
            for name, layer in adapted.items():
                layer.forward = _adapted_forward(layer, name, current)
            yield
        finally:
            for layer in adapted.values():
                vars(layer).pop("forward", None)  # the class's own comes back


def _is_plain(layer: Any) -> bool:
    return isinstance(layer.get_base_layer(), torch.nn.Linear)  # bitsandbytes' 4-bit layer is a subclass


def _adapted_forward(layer: Any, name: str, current: Pass) -> Callable[..., torch.Tensor]:
    base = layer.get_base_layer()
    scale = scale_of(layer)
    keys = (f"{name}.lora_A.weight", f"{name}.lora_B.weight")

    def forward(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        y = base(x)
        out: torch.Tensor = _LoraDelta.apply(  # type: ignore[no-untyped-call]
            y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]), current.anchor, current.segments, keys, scale
        )
        return out.view(y.shape)

    return forward


class _LoraDelta(torch.autograd.Function):
    """``y += scale * B (A x)`` on each segment, in place; gradients go where the hospital keeps them."""

    @staticmethod
    def forward(
        ctx: Any,
        y: torch.Tensor,
        x: torch.Tensor,
        anchor: torch.Tensor,
        segments: Sequence[Segment],
        keys: tuple[str, str],
        scale: float,
    ) -> torch.Tensor:
        narrow = []
        with torch.autocast(x.device.type, enabled=False):  # y says which format the arithmetic has
            for segment in segments:
                a, b = (segment.adapter.values[key].to(y.dtype) for key in keys)
                u = x[segment.start : segment.end].to(y.dtype) @ a.t()  # [t, r]
                y[segment.start : segment.end].addmm_(u, b.t(), alpha=scale)
                narrow.append(u)
        ctx.save_for_backward(x, *narrow)
        ctx.segments, ctx.keys, ctx.scale = segments, keys, scale
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *narrow = ctx.saved_tensors
        key_a, key_b = ctx.keys
        to_input = torch.empty_like(x) if ctx.needs_input_grad[1] else None
        for segment, u in zip(ctx.segments, narrow, strict=True):
            place = slice(segment.start, segment.end)
            into = segment.gradient.arrays
            g, part = gradient[place], x[place].to(gradient.dtype)
            a, b = (segment.adapter.values[key].to(gradient.dtype) for key in ctx.keys)
            if key_b in into:
                into[key_b].add_(g.t() @ u, alpha=ctx.scale)
            narrow_gradient = g @ b  # [t, r], without the scale
            if key_a in into:
                into[key_a].add_(narrow_gradient.t() @ part, alpha=ctx.scale)
            if to_input is not None:
                to_input[place] = (narrow_gradient @ a).mul_(ctx.scale)
        return gradient, to_input, None, None, None, None
