"""What may be summed so that nothing wraps around, and integers <-> words modulo 2^bits. update -> HERE -> masks.

Masked words wrap around on purpose. The sum under the masks must not, or it would be silently wrong:

    largest value * largest total weight <= 2^(bits - 1) - 1

FED-MED's own integers fit 64 bits: |value| <= 2^6 at scale 2^32, total weight <= 2^24, so |sum| <= 2^62. For 32 bits
``choose_scale`` takes the largest power of two that fits. Rounding to a multiple of 1 / scale moves a value, and any
weighted mean of such values, by at most half a unit, 1 / (2 scale).

Not covered: a hospital that lies within its bound, or sends words beyond it. Masks hide both; only the sum as a whole
is checked against the bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import SecureSumError

Words = NDArray[Any]
"""uint32 or uint64, little-endian."""

MOST_HOSPITALS = 64


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all hospitals declare before anything is masked.

    Args:
        bits: 32 or 64, of one word.
        hospitals: that may take part, 2 … 64.
        largest_value: |integer| of one number of one hospital, before its weight; >= 1.
        largest_total_weight: of all hospitals together; at least one each.

    Raises:
        SecureSumError: out of range, or the sum could wrap around.
    """

    bits: int
    hospitals: int
    largest_value: int
    largest_total_weight: int

    def __post_init__(self) -> None:
        if self.bits not in (32, 64):
            raise SecureSumError(f"words of {self.bits} bits are not known", "take 32 or 64")
        if not 2 <= self.hospitals <= MOST_HOSPITALS:
            raise SecureSumError(
                f"{self.hospitals} hospitals cannot hide each other here", f"2 to {MOST_HOSPITALS} can"
            )
        if self.largest_value < 1 or self.largest_total_weight < self.hospitals:
            raise SecureSumError(
                f"value {self.largest_value} and total weight {self.largest_total_weight} bound nothing",
                "values go up to at least 1, and each hospital weighs at least 1",
            )
        if self.largest_sum >= 2 ** (self.bits - 1):
            raise SecureSumError(
                f"sums up to {self.largest_value} * {self.largest_total_weight} could wrap around in {self.bits} bits",
                "lower the scale or the total weight, or take 64 bits",
            )

    @property
    def largest_sum(self) -> int:
        """Of the magnitudes of one number over all hospitals."""
        return self.largest_value * self.largest_total_weight

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one word."""
        return np.dtype("<u4" if self.bits == 32 else "<u8")

    def limit(self, weight: int | None) -> int:
        """The largest |integer| that a hospital of this weight may send, weight included.

        Args:
            weight: its public weight; None: weights are not public, so each hospital gets an equal part of the total
                and its weight, which it multiplies in itself, must be at most that part.
        """
        return self.largest_value * (self.largest_total_weight // self.hospitals if weight is None else weight)


@dataclass(frozen=True, slots=True)
class Scale:
    """Real values as multiples of 2^-exponent.

    Args:
        exponent: scale is 2^exponent; may be negative.
        largest: |value| that may be rounded.
    """

    exponent: int
    largest: float

    @property
    def scale(self) -> float:
        """Integers per unit of value, a power of two."""
        return math.ldexp(1.0, self.exponent)

    @property
    def error(self) -> float:
        """The most that rounding moves a value: half a unit."""
        return math.ldexp(0.5, -self.exponent)

    @property
    def largest_value(self) -> int:
        """The largest |integer| that a value can become."""
        return math.ceil(Fraction(self.largest) * Fraction(2) ** self.exponent)


def choose_scale(bits: int, largest: float, total_weight: int) -> Scale:
    """The finest power-of-two scale at which no weighted sum wraps around.

    Args:
        bits: 32 or 64.
        largest: bound on |value|, 2^-60 … 2^60.
        total_weight: of all hospitals, >= 1.

    Raises:
        SecureSumError: out of range, or the weights alone fill the words.
    """
    if bits not in (32, 64) or not 2.0**-60 <= largest <= 2.0**60 or total_weight < 1:
        raise SecureSumError(
            f"no scale for {bits} bits, values to {largest:g} and weight {total_weight}",
            "take 32 or 64 bits, values within 2^-60 … 2^60 and weights from 1",
        )
    room = (2 ** (bits - 1) - 1) // total_weight
    if room < 1:
        raise SecureSumError(f"a total weight of {total_weight} fills {bits} bits", "lower the weights")
    exponent = math.frexp(float(room))[1] - math.frexp(largest)[1] + 1
    while Fraction(largest) * Fraction(2) ** exponent > room:
        exponent -= 1
    return Scale(exponent, largest)


def quantise(values: NDArray[Any], scale: Scale) -> NDArray[np.int64]:
    """Round float values to whole multiples of 1 / scale, within ``scale.error``.

    Args:
        values: float32 or float64, any shape; left as it is.
        scale: of ``choose_scale``.

    Raises:
        SecureSumError: a value is not finite or beyond ``scale.largest``.
    """
    if not bool(np.all(np.abs(values) <= scale.largest)):  # a NaN compares false
        raise SecureSumError(f"a value is not finite or beyond ±{scale.largest:g}", "clip the update first")
    # Scaling by a power of two is exact in float64, so the only rounding is the one to a whole number.
    return np.rint(values.astype(np.float64) * scale.scale).astype(np.int64)


def to_words(values: NDArray[Any], bounds: Bounds, limit: int, who: str) -> Words:
    """A hospital's own range check, then its integers as words; always a copy.

    Args:
        values: one dimension of signed integers; left as it is.
        bounds: the width of a word.
        limit: |integer| that this hospital may send, see ``Bounds.limit``.
        who: the hospital, for the error.

    Raises:
        SecureSumError: not such an array, or an integer beyond the limit. Names the hospital, never a value.
    """
    if values.ndim != 1 or values.dtype.kind != "i":
        raise SecureSumError(
            f"'{who}' wants to send something else than one row of signed integers",
            "round and flatten it first",
            culprit=who,
        )
    if values.size and not (-limit <= int(values.min()) and int(values.max()) <= limit):
        raise SecureSumError(
            f"an integer of '{who}' is beyond its declared bound of {limit}",
            "clip the update before it is rounded",
            culprit=who,
        )
    return values.astype(np.dtype("<i4" if bounds.bits == 32 else "<i8")).view(bounds.dtype)


def from_words(words: Words, bounds: Bounds, limit: int) -> NDArray[np.int64]:
    """A sum without its masks, as signed integers.

    Args:
        words: modulo 2^bits; left as they are.
        bounds: the width of a word.
        limit: on |sum|, of the hospitals that are in it.

    Raises:
        SecureSumError: the sum is beyond the limit, so somebody sent more than was declared; who, nobody can tell.
    """
    signed = words.view(np.dtype("<i4" if bounds.bits == 32 else "<i8")).astype(np.int64)
    if signed.size and not (-limit <= int(signed.min()) and int(signed.max()) <= limit):
        raise SecureSumError(
            "the sum is beyond what the declared bounds allow, so a hospital sent numbers out of range",
            "masks hide which; do not use this sum",
        )
    return signed
