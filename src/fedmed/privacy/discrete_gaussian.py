"""Whole numbers with a Gaussian's weights, drawn exactly from the operating system's generator. -> HERE -> hospital_dp.

N_Z(0, v) gives x the weight exp(-x^2 / 2v). Continuous noise in floating point leaks through its low bits (Mironov
2012); whole numbers do not. The method is Canonne, Kamath and Steinke 2020, arXiv:2004.00010, algorithms 1 to 3: a
discrete Laplace is proposed and kept with probability exp(-(|y| - v/t)^2 / 2v), t = floor(sqrt(v)) + 1.

Each such choice, "true with probability exp(-g)", compares a uniform number with exp(-g) in float64. Where the two are
closer than ``_DOUBT``, which no rounding error here reaches, the uniform number gets more bits and exp(-g) more digits
until the answer is certain. So every draw is exact, and arrays take float64's time.

Not covered: timing. How long a draw takes depends on what was rejected; an adversary who times it, on the same core
for example, may learn something about the noise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import AccountingError

LARGEST_VARIANCE = 2**100  # sqrt is 2^50: a sum of millions of draws stays far below 2^63
_DOUBT = 2.0**-40
"""Errors of g and of exp together stay below 300 * 2^-53 for every y that can be proposed; this is 27 times as much."""
_BLOCK = 1 << 18  # draws at a time
_BITS = 53

Words = NDArray[np.uint64]


class Source(Protocol):
    """Where random bits come from."""

    @property
    def private(self) -> bool:
        """Whether nobody can predict them."""

    def words(self, count: int) -> Words:
        """``count`` words of 64 independent fair bits."""


class SystemSource:
    """The operating system's generator; the only one that makes a result private."""

    private = True

    def words(self, count: int) -> Words:
        """See ``Source``."""
        return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)


class SeededSource:
    """For tests only: the same seed gives the same noise, so whoever knows it can subtract it."""

    private = False

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def words(self, count: int) -> Words:
        """See ``Source``."""
        return np.asarray(self._generator.integers(0, 2**64, size=count, dtype=np.uint64))


def discrete_gaussian(variance: int, count: int, source: Source) -> NDArray[np.int64]:
    """Draw ``count`` independent numbers of N_Z(0, variance).

    Args:
        variance: a whole number from 1 to ``LARGEST_VARIANCE``; that of the Gaussian whose weights are taken, which
            the draws' own variance never exceeds and equals to 1e-6 from 1 on.
        count: how many, >= 0.
        source: of random bits.

    Raises:
        AccountingError: ``variance`` out of range.
    """
    if not 1 <= variance <= LARGEST_VARIANCE:
        raise AccountingError(
            f"the variance of integer noise is {variance}", f"scale it to lie between 1 and {LARGEST_VARIANCE:.3g}"
        )
    kept = np.empty(count, dtype=np.int64)
    done = 0
    while done < count:
        some = _some(variance, min(_BLOCK, 3 * (count - done) + 64), source)[: count - done]
        kept[done : done + some.size] = some
        done += some.size
    return kept


def _some(variance: int, tries: int, source: Source) -> NDArray[np.int64]:
    t = math.isqrt(variance) + 1
    proposed = _discrete_laplace(t, tries, source)
    distance = np.abs(proposed)
    off = distance.astype(np.float64) - float(variance) / float(t)

    def exact(index: int) -> Fraction:
        return Fraction((int(distance[index]) * t - variance) ** 2, 2 * variance * t * t)

    kept: NDArray[np.int64] = proposed[_true_with_exp_minus(off * off / (2.0 * float(variance)), exact, source)]
    return kept


def _discrete_laplace(t: int, tries: int, source: Source) -> NDArray[np.int64]:
    """At most ``tries`` draws with weights exp(-|x| / t)."""
    low = _below(t, tries, source)
    low = low[_true_with_exp_minus(low / float(t), lambda index: Fraction(int(low[index]), t), source)]
    high = np.zeros(low.size, dtype=np.int64)
    going = np.arange(low.size)
    while going.size:  # 64-bit numbers would take 2^12 successes in a row, of probability 1/e each, to overflow
        going = going[_true_with_exp_minus(np.ones(going.size), lambda _: Fraction(1), source)]
        high[going] += 1
    size: NDArray[np.int64] = low + t * high
    negative = (source.words(size.size) & np.uint64(1)).astype(bool)
    kept = ~(negative & (size == 0))  # zero has one sign only
    signed: NDArray[np.int64] = np.where(negative, -size, size)[kept]
    return signed


def _below(bound: int, tries: int, source: Source) -> NDArray[np.int64]:
    """At most ``tries`` uniform draws of 0 … bound - 1."""
    bits = (bound - 1).bit_length()
    if bits == 0:
        return np.zeros(tries, dtype=np.int64)
    drawn = (source.words(tries) >> np.uint64(64 - bits)).astype(np.int64)
    kept: NDArray[np.int64] = drawn[drawn < bound]
    return kept


def _true_with_exp_minus(g: NDArray[np.float64], exact: Callable[[int], Fraction], source: Source) -> NDArray[np.bool_]:
    """For each g >= 0: true with probability exp(-g), where ``exact(index)`` is the g that is meant."""
    drawn = source.words(g.size) >> np.uint64(64 - _BITS)
    distance = np.exp(-g) - drawn.astype(np.float64) * 2.0**-_BITS
    answer = distance > 0.0
    for index in np.flatnonzero(np.abs(distance) <= _DOUBT):
        answer[index] = _certain(int(drawn[index]), exact(int(index)), source)
    return answer


def _certain(drawn: int, g: Fraction, source: Source) -> bool:
    """Whether a uniform number that begins with the bits ``drawn`` lies below exp(-g)."""
    bits, digits = _BITS, 60
    while True:
        context = Context(prec=digits)
        value: Any = Fraction(
            context.exp(-context.divide(Decimal(g.numerator), Decimal(g.denominator)))
        )  # both steps are rounded correctly, so the error is below (g + 1) exp(-g) 10^(1 - digits) <= 10^(2 - digits)
        error = Fraction(1, 10 ** (digits - 2))
        if Fraction(drawn + 1, 2**bits) <= value - error:
            return True
        if Fraction(drawn, 2**bits) >= value + error:
            return False
        drawn = (drawn << 64) | int(source.words(1)[0])
        bits, digits = bits + 64, digits + 20
