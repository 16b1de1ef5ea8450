"""``training.compile``: torch.compile for the parts of a model that are many small kernels.

Norms, and MLPs that hold no adapter, are compiled each for itself, with sizes left open, since every pass has another
number of tokens. They are in use inside ``compiled`` only, so that evaluation and copies of the model never meet them.
The engine swaps the forward of the linear layers inside (``model.packed_lora.installed``): torch.compile guards what
it found there, and compiles again where it finds something else.
Not covered: attention, whose row layout changes with every pass; MLPs that hold an adapter, whose backward writes into
buffers of the hospitals; quantised layers.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from fedmed.errors import TrainingError
from fedmed.utils.logger import get_logger

log = get_logger(__name__)

Compile: TypeAlias = Literal["auto", "on", "off"]
Part: TypeAlias = tuple[Any, Callable[..., Any]]
"""A module, and what stands in for its call."""


def compiled_parts(model: Any, setting: Compile, backend: str = "inductor") -> list[Part]:
    """What ``compiled`` puts into ``model``; compiling itself happens when it first runs, once in a process.

    Args:
        model: a PEFT model.
        setting: on, off, or auto: on with CUDA where all is there that compiling needs.
        backend: of ``torch.compile``; others than inductor need no compiler.

    Raises:
        TrainingError: ``setting`` is on and there is nothing to compile with.
    """
    device = model.get_input_embeddings().weight.device
    if setting == "off" or (setting == "auto" and device.type != "cuda"):
        return []
    reason = _why_not(device) if backend == "inductor" else None
    if reason is not None:
        if setting == "on":
            raise TrainingError(f"training.compile is on, but {reason}", "install that, or set training.compile=auto")
        _say_once(reason)
        return []
    return [
        (module, torch.compile(module._call_impl, dynamic=True, backend=backend)) for module in _small_kernels(model)
    ]


@contextlib.contextmanager
def compiled(parts: Sequence[Part], setting: Compile) -> Iterator[None]:
    """Let the modules of ``parts`` run compiled.

    What cannot be compiled is an error with ``on``; with ``auto`` it runs as it is, and torch says why.
    """
    if not parts:
        yield
        return
    before = [module._compiled_call_impl for module, _ in parts]
    try:
        for module, call in parts:
            module._compiled_call_impl = call  # as torch.nn.Module.compile leaves it
        with torch._dynamo.config.patch(suppress_errors=setting == "auto"):
            yield
    finally:
        for (module, _), call in zip(parts, before, strict=True):
            module._compiled_call_impl = call


def _small_kernels(model: Any) -> list[Any]:
    named = [(name.rpartition(".")[2], module) for name, module in model.named_modules()]
    return [module for name, module in named if name.endswith("norm") or (name == "mlp" and _is_frozen(module))]


def _is_frozen(mlp: Any) -> bool:
    """Whether it is made of plain linear layers without an adapter; bitsandbytes' 4-bit layer is a subclass."""
    inside = list(mlp.modules())
    return all(type(module) is torch.nn.Linear for module in inside if isinstance(module, torch.nn.Linear)) and not any(
        hasattr(module, "lora_A") for module in inside
    )


def _why_not(device: torch.device) -> str | None:
    """What is missing here that compiling needs at run time; None: nothing known."""
    wanted, named = ("CXX", ("g++", "clang++", "c++")), "a C++ compiler"
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "triton is missing"
        if torch.cuda.get_device_capability(device) < (7, 0):
            return "a GPU of compute capability 7.0 is missing"
        wanted, named = ("CC", ("gcc", "clang", "cc")), "a C compiler"
    variable, programs = wanted
    if not any(map(shutil.which, (os.environ.get(variable, ""), *programs))):
        return f"{named} is missing"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python.h is missing"
    return None


@functools.cache
def _say_once(reason: str) -> None:
    log.info("nothing is compiled, which is slower: %s", reason)
