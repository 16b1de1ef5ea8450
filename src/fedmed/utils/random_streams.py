"""Named random streams: the same (seed, names) give the same numbers, and no global generator is touched.

Never for privacy noise or keys; those come from the operating system's generator.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. ``stream_seed(17, "hospital_A", 3, "order")``."""
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator of its own for one purpose."""
    return np.random.default_rng(stream_seed(seed, *names))
