"""Gaussian noise in floating point, from a generator that nobody can predict. random bits -> HERE -> training.dp_sgd.

One Gaussian in float64 has low bits that betray what it was added to (Mironov 2012). As Opacus does in its secure mode,
each number is the sum of four, halved: Holohan and Braghin 2021, arXiv:2107.10138, who show that finding the four from
their sum takes more work than anybody has. Where noise can be whole numbers, ``discrete_gaussian`` is exact instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedmed.privacy.discrete_gaussian import Source

_ADDED = 4  # Gaussians a number; their sum has the standard deviation sqrt(_ADDED)
_BLOCK = 1 << 18  # numbers at a time: 8 MB of random words


def uniform(count: int, source: Source) -> NDArray[np.float64]:
    """``count`` uniform numbers in [0, 1), multiples of 2^-53."""
    return (source.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def gaussian(count: int, source: Source) -> NDArray[np.float64]:
    """``count`` independent numbers of N(0, 1)."""
    drawn = np.empty(count)
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        total = np.zeros(size)
        for _ in range(_ADDED // 2):  # Box and Muller 1958 gives two at once
            radius = np.sqrt(-2.0 * np.log1p(-uniform(size, source)))
            angle = 2.0 * np.pi * uniform(size, source)
            total += radius * (np.cos(angle) + np.sin(angle))
        drawn[start : start + size] = total / np.sqrt(_ADDED)
    return drawn
