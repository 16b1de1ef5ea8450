"""Weighted sums in whole numbers, so that no order of arrival can change a bit. hospital's payload -> HERE -> close.

Floating-point addition depends on its order; integer addition does not. Every value is rounded to a multiple of
2^-32, multiplied by its hospital's weight and added as a 64-bit integer:

    |value| <= 2^6, scale 2^32, total weight <= 2^24   =>   |sum| <= 2^62 < 2^63, so it cannot overflow.

Both bounds are checked before anything is added. Rounding moves a mean by at most 2^-33.
Under masks (``masked_round``) the same integers are summed, and the same sum comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import FederationError, UpdateRejectedError
from fedmed.types import Shapes

SCALE = 2**32  # one unit of the integers is 2^-32
LARGEST_VALUE = 64.0
LARGEST_TOTAL_WEIGHT = 2**24  # training records of all hospitals in one round


def within_bound(array: NDArray[np.float32]) -> bool:
    """Whether every value is finite and at most ``LARGEST_VALUE`` in magnitude."""
    return bool(np.all(np.abs(array) <= LARGEST_VALUE))  # a NaN compares false


def to_fixed(name: str, array: NDArray[np.float32]) -> NDArray[np.int64]:
    """Round an array to multiples of 2^-32, as integers.

    Args:
        name: the array's key, for the error.
        array: any shape; left as it is.

    Returns:
        The integers, same shape.

    Raises:
        UpdateRejectedError: a value is not finite or beyond ``LARGEST_VALUE``.
    """
    if not within_bound(array):
        raise UpdateRejectedError(f"array '{name}' has a value that is not finite or beyond ±{LARGEST_VALUE:g}")
    # Scaling by a power of two is exact in float64, so the only rounding is the one to a whole number.
    return np.rint(array.astype(np.float64) * SCALE).astype(np.int64)


class FixedPointSum:
    """A running weighted sum; its size is that of one update, whatever the number of hospitals.

    Args:
        shapes: the keys and shapes that every update must have.
    """

    def __init__(self, shapes: Shapes) -> None:
        self._sums = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()}
        self._weight = 0

    @property
    def total_weight(self) -> int:
        return self._weight

    def add(self, arrays: Mapping[str, NDArray[np.float32]], weight: int) -> None:
        """Add ``weight`` times the arrays; on an error the sum stays as it was.

        Args:
            arrays: keys and shapes as in ``shapes``.
            weight: whole number >= 0.

        Raises:
            UpdateRejectedError: other keys or shapes, a value out of bounds, or a weight that is negative or
                takes the total beyond ``LARGEST_TOTAL_WEIGHT``.
        """
        self._check(arrays, weight)
        fixed = {name: to_fixed(name, array) for name, array in arrays.items()}
        for name, integers in fixed.items():
            integers *= weight
            self._sums[name] += integers
        self._weight += weight

    def add_sums(self, sums: Mapping[str, NDArray[np.int64]], weight: int) -> None:
        """Add what was summed elsewhere, weights included; on an error the sum stays as it was.

        Args:
            sums: keys and shapes as in ``shapes``.
            weight: of all that are in it, together.

        Raises:
            UpdateRejectedError: as ``add`` does.
        """
        self._check(sums, weight)
        limit = round(LARGEST_VALUE * SCALE) * weight
        for name, integers in sums.items():
            if integers.size and not -limit <= int(integers.min()) <= int(integers.max()) <= limit:
                raise UpdateRejectedError(f"the sum of '{name}' is beyond what {weight} records can come to")
        for name, integers in sums.items():
            self._sums[name] += integers
        self._weight += weight

    def _check(self, arrays: Mapping[str, NDArray[Any]], weight: int) -> None:
        if weight < 0 or self._weight + weight > LARGEST_TOTAL_WEIGHT:
            raise UpdateRejectedError(
                f"weight {weight} on top of {self._weight} is outside 0 … {LARGEST_TOTAL_WEIGHT} in total"
            )
        if arrays.keys() != self._sums.keys():
            raise UpdateRejectedError("the update's arrays have other names than the sum's")
        for name, array in arrays.items():
            if array.shape != self._sums[name].shape:
                raise UpdateRejectedError(f"array '{name}' has shape {array.shape}, not {self._sums[name].shape}")

    def mean(self) -> dict[str, NDArray[np.float64]]:
        """The weighted mean, in float64 so that its reader rounds only once.

        Division keeps the whole part and the remainder apart: a factor common to all weights changes no bit.

        Raises:
            FederationError: the total weight is zero.
        """
        if self._weight == 0:
            raise FederationError("there is nothing to average", "at least one update needs a weight above zero")
        means = {}
        for name, total in self._sums.items():
            whole, rest = np.divmod(total, self._weight)
            means[name] = (whole.astype(np.float64) + rest / self._weight) / SCALE
        return means
