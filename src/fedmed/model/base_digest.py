"""One number for a frozen base: whether two machines train on the same weights. load_model -> HERE -> hello, policy.

Not covered: the tokenizer; code that comes with a model, which is never run.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch


def base_digest(model: Any) -> str:
    """SHA-256, in hex, over names, types, shapes and values of all weights but the adapter's.

    Args:
        model: a PEFT model or its base: both give the same, wherever they lie.
    """
    digest = hashlib.sha256()
    named = {_plain(name): weight for name, weight in model.named_parameters() if "lora_" not in name}
    for name in sorted(named):
        weight = named[name].detach()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\0".encode())
        digest.update(weight.contiguous().reshape(-1).view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def _plain(name: str) -> str:
    """A weight's name without what PEFT puts around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")
