"""Hide a whole hospital: clip its update, sum whole numbers, add whole-number noise. algorithm.finish -> HERE -> sum.

Neighbours differ in one hospital's update, which is replaced by zeros; who takes part, and the noise that a hospital
itself adds, stay. All weights are 1: a weight by records would tell their number and stretch the bound.

1. **Clip and round** at the hospital (``clip_to_integers``): L2 norm at most ``clip``, then whole multiples of 1/scale,
   cut towards zero. Cutting never lengthens, so rounding costs no privacy; it moves each number by less than 1/scale.
2. **Noise**, one of two ways:
   *central* (``add_central_noise``): the coordinator adds N_Z(0, V) to the sum, V = (sigma clip scale)^2 rounded up.
   Each round is 1/(2 sigma^2)-zCDP (Canonne et al. 2020, arXiv:2004.00010, theorem 14). It hides a hospital from those
   who get the result, and nothing from the coordinator.
   *shares* (``add_share``): each hospital adds N_Z(0, V / h) before an exact integer sum, with h the fewest honest
   shares that a closed round can hold: ``min_replies - colluding``. A sum of discrete Gaussians is not one, by a
   distance that ``shares_event`` charges (Kairouz, Liu and Steinke 2021, arXiv:2102.06387, proposition 14).
   **Drop-outs**: fewer replies mean less noise, so the charge that a hospital makes before it sends supposes
   ``min_replies``, and a round with fewer must not be opened. It hides a hospital from a coordinator that sees the sum
   alone, which needs a secure sum (``privacy.secure_sum``): without one each update shows with its own share only, and
   this charge fails.

Not covered: sums that wrap around (nothing wraps here: 64-bit numbers, bounds checked); a random choice
of hospitals (charged as if all took part); metrics and record counts, which need noise of their own or have to stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import AccountingError, UpdateRejectedError
from fedmed.privacy.accountant import Concentrated
from fedmed.privacy.discrete_gaussian import LARGEST_VARIANCE, Source, SystemSource, discrete_gaussian
from fedmed.types import AdapterState

Integers: TypeAlias = dict[str, NDArray[np.int64]]

SCALE = 2**32  # that of federated.fixed_point
_LARGEST_BOUND = 2**50  # of one hospital's numbers; millions of them sum below 2^63 with their noise
_ROUNDING = 1.0 - 2.0**-40  # a norm in float64 over 2^40 numbers is off by less than this


@dataclass(frozen=True, slots=True)
class HospitalDp:
    """The settings of hospital-level privacy.

    Args:
        clip: L2 bound of one hospital's update, > 0, in the update's units.
        sigma: noise multiplier, standard deviation of all noise on the sum / clip; >= 0, 0 is no privacy.
        min_replies: fewest hospitals that a round may be closed with, >= 1.
        colluding: of these, how many may tell others their own share; below ``min_replies``.
        scale: whole numbers are multiples of 1 / scale.

    Raises:
        AccountingError: a value out of range, or noise beyond what 64-bit sums bear.
    """

    clip: float
    sigma: float
    min_replies: int
    colluding: int = 0
    scale: int = SCALE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.clip) and self.clip > 0.0 and 1 <= self.clip * self.scale <= _LARGEST_BOUND):
            raise AccountingError(
                f"the clip bound {self.clip:g} at scale {self.scale} is out of range",
                f"clip times scale must lie between 1 and {_LARGEST_BOUND:.3g}",
            )
        if not (math.isfinite(self.sigma) and self.sigma >= 0.0 and self.variance <= LARGEST_VARIANCE):
            raise AccountingError(
                f"the noise multiplier {self.sigma:g} is out of range", "it must be a number from 0, or lower the scale"
            )
        if not 0 <= self.colluding < self.min_replies:
            raise AccountingError(
                f"{self.colluding} colluding hospitals leave no honest share among {self.min_replies} replies",
                "raise the fewest replies of a round",
            )

    @property
    def bound(self) -> Fraction:
        """L2 bound of one hospital's whole numbers."""
        return Fraction(self.clip) * self.scale

    @property
    def variance(self) -> int:
        """Of all noise on a sum of whole numbers."""
        return math.ceil((Fraction(self.sigma) * self.bound) ** 2)

    @property
    def share_variance(self) -> int:
        """Of one hospital's share."""
        return math.ceil(Fraction(self.variance, self.min_replies - self.colluding))


@dataclass(frozen=True, slots=True)
class Noised:
    """Whole numbers with noise in them."""

    arrays: Integers
    private: bool  # False: no noise, or from a test's seed, which anybody can subtract


def clip_to_integers(update: AdapterState, settings: HospitalDp) -> Integers:
    """Scale an update down to the clip bound and cut it to whole multiples of 1 / scale.

    Args:
        update: PEFT key -> float32 array; left as it is.
        settings: bound and scale.

    Returns:
        Whole numbers whose L2 norm over all arrays is at most ``settings.bound``, exactly.

    Raises:
        UpdateRejectedError: a value is not finite; names the arrays.
    """
    broken = sorted(name for name, array in update.items() if not np.all(np.isfinite(array)))
    if broken:
        raise UpdateRejectedError(f"the update has values that are not finite in {', '.join(broken)}")
    norm = math.sqrt(math.fsum(float(np.sum(np.square(array, dtype=np.float64))) for array in update.values()))
    largest = settings.clip * _ROUNDING
    factor = float(settings.scale) * (largest / norm * _ROUNDING if norm > largest else 1.0)
    return {name: np.trunc(array.astype(np.float64) * factor).astype(np.int64) for name, array in update.items()}


def add_central_noise(
    total: Mapping[str, NDArray[np.int64]], settings: HospitalDp, source: Source | None = None
) -> Noised:
    """Add all of the noise to a sum of clipped updates.

    Args:
        total: the sum, each hospital with weight 1; left as it is.
        settings: how much.
        source: of random bits; None: the operating system's generator. Any other marks the result not private.
    """
    return _add(total, settings.variance, source)


def add_share(update: Mapping[str, NDArray[np.int64]], settings: HospitalDp, source: Source | None = None) -> Noised:
    """Add one hospital's share of the noise to its clipped update; arguments as in ``add_central_noise``."""
    return _add(update, settings.share_variance, source)


def central_event(settings: HospitalDp, rounds: int = 1) -> Concentrated:
    """What rounds with central noise cost each hospital."""
    return Concentrated(_rho(settings, 1, settings.variance, 1), rounds)


def shares_event(settings: HospitalDp, numbers: int, rounds: int = 1, *, replies: int | None = None) -> Concentrated:
    """What rounds with shares cost each hospital, seen by those who see the sum and know the colluders' shares.

    Args:
        settings: what each hospital adds.
        numbers: in one update.
        rounds: with the same settings.
        replies: shares that are in the sum; None: as few as a closed round can hold, which is what a hospital charges
            before it sends, as it cannot know better then.

    Returns:
        The event; infinite where no honest share is left.
    """
    honest = (settings.min_replies if replies is None else replies) - settings.colluding
    if honest < 1:
        return Concentrated(math.inf, rounds)
    return Concentrated(_rho(settings, honest, settings.share_variance, numbers), rounds)


def noise_to_signal(numbers: int, clip: float, noise_std: float, hospitals: int) -> float:
    """How much longer the noise on a sum is than the longest sum there can be.

    Args:
        numbers: trained and sent, > 0: noise has this many independent parts.
        clip: L2 bound of one contribution.
        noise_std: standard deviation of the noise on each number of the sum, in the same units.
        hospitals: contributions in the sum, all of them at the bound and pointing one way: the best case.

    Returns:
        ``noise_std sqrt(numbers) / (clip hospitals)``; above 1 a single sum is mostly noise.
    """
    return noise_std * math.sqrt(numbers) / (clip * hospitals)


def _rho(settings: HospitalDp, shares: int, variance: int, numbers: int) -> float:
    """Proposition 14's third bound; it asks for a share's standard deviation of 1/2, and a whole variance gives 1."""
    if variance == 0:
        return math.inf
    distance = 10.0 * sum(math.exp(-2.0 * math.pi**2 * variance * k / (k + 1)) for k in range(1, min(shares, 1000)))
    if shares > 1000:
        distance += 10.0 * (shares - 1000) * math.exp(-2.0 * math.pi**2 * variance * 1000 / 1001)
    root = math.sqrt(settings.bound**2 / (shares * variance)) + distance * math.sqrt(numbers)
    return root**2 / 2.0 * (1.0 + 2.0**-40)  # the last factor: rounding of this line itself


def _add(values: Mapping[str, NDArray[np.int64]], variance: int, source: Source | None) -> Noised:
    source = source or SystemSource()
    if variance == 0:
        return Noised({name: array.copy() for name, array in values.items()}, private=False)
    noised = {}
    for name in sorted(values):
        array = values[name]
        if array.size and int(np.max(np.abs(array))) > 2**61:
            raise UpdateRejectedError(f"the whole numbers of '{name}' leave no room for noise in 64 bits")
        noised[name] = array + discrete_gaussian(variance, array.size, source).reshape(array.shape)
    return Noised(noised, private=source.private)
