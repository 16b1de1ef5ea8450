"""One digest for a whole adapter, without torch: coordinators and hospitals compare by it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def adapter_sha256(state: Mapping[str, Any]) -> str:
    """SHA-256 over each sorted key with its shape, type and bytes: equal exactly when the adapters are, bit for bit."""
    digest = hashlib.sha256()
    for key in sorted(state):
        array = np.ascontiguousarray(state[key])
        digest.update(f"{key}\0{array.shape}\0{array.dtype.str}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
