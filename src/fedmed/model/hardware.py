"""Which device and number format a model gets, and why."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fedmed.config.schema import ModelSection
from fedmed.errors import ModelError


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a base model lives; ``reason`` says why, for the log."""

    device: torch.device
    dtype: torch.dtype
    reason: str


def place(config: ModelSection) -> Placement:
    """Choose device and dtype.

    Raises:
        ModelError: a device that is not there was asked for, or 4-bit without CUDA.
    """
    device, why_device = _device(config.device)
    if config.quantization == "4bit" and device.type != "cuda":
        raise ModelError("4-bit weights need a CUDA device", "set model.quantization=null")
    dtype, why_dtype = _dtype(config.dtype, device)
    return Placement(device, dtype, f"{device} ({why_device}), {str(dtype).removeprefix('torch.')} ({why_dtype})")


def _device(asked: str) -> tuple[torch.device, str]:
    there = torch.cuda.is_available()
    if asked == "auto":
        return (torch.device("cuda", 0), "the first GPU") if there else (torch.device("cpu"), "no CUDA device")
    device = torch.device(asked)
    if device.type == "cuda" and (not there or (device.index or 0) >= torch.cuda.device_count()):
        raise ModelError(f"there is no device '{asked}'", f"this machine has {torch.cuda.device_count()} CUDA devices")
    return device, "as set"


def _dtype(asked: str, device: torch.device) -> tuple[torch.dtype, str]:
    if asked == "auto":
        if device.type == "cuda" and torch.cuda.is_bf16_supported():
            return torch.bfloat16, "the GPU has it"
        return torch.float32, "fast bf16 is not certain here"
    return (torch.bfloat16 if asked == "bf16" else torch.float32), "as set"


def keep_global_generators() -> Any:
    """A context in which torch's global generators may be seeded and drawn from; at its end they are put back."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    return torch.random.fork_rng(devices=devices)


def give_back_free_memory() -> None:
    """Return free heap pages to the system: tensors of many sizes leave holes in the heap, which would only grow."""
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # not glibc: there is nothing to do
        return lambda pad: None
    return trim
