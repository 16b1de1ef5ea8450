"""Intervals for base, federated and the difference between them, on the same items. numpy only. likelihood -> HERE.

A measure is a ratio of sums over items: an accuracy (right answers over answers), or a loss (nats over tokens). Items
are drawn with replacement, the same ones for base and federated, so that what makes an item hard for both cancels in
the difference. Items of one group (questions on one term) are drawn together. 95 % percentile intervals.

Not covered: another training with another seed; a choice of exam or setting made after looking at the figures; fewer
than about ten groups, where any interval of this kind is too narrow. Source: Efron and Tibshirani 1993.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.utils.random_streams import stream

RESAMPLES = 2000
_TAILS = (0.025, 0.975)
_AT_ONCE = 2_000_000  # drawn places held in memory


@dataclass(frozen=True, slots=True)
class Interval:
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Resampled:
    """One measure of base and federated: as it is, and once a resample."""

    value: NDArray[np.float64]  # [2] base, federated
    draws: NDArray[np.float64]  # [resamples, 2]

    def intervals(self) -> dict[str, Interval]:
        """``base``, ``federated`` and ``delta`` (federated less base)."""
        columns = {
            "base": (self.value[0], self.draws[:, 0]),
            "federated": (self.value[1], self.draws[:, 1]),
            "delta": (self.value[1] - self.value[0], self.draws[:, 1] - self.draws[:, 0]),
        }
        return {name: _interval(float(value), draws) for name, (value, draws) in columns.items()}


def _interval(value: float, draws: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(draws, _TAILS)
    return Interval(value, float(low), float(high))


def resample(
    base: Sequence[float] | NDArray[np.float64],
    federated: Sequence[float] | NDArray[np.float64],
    *,
    seed: int,
    names: Sequence[str | int],
    weights: Sequence[float] | NDArray[np.float64] | None = None,
    groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
) -> Resampled:
    """Draw items again and again, and measure base and federated on each draw.

    Args:
        base, federated: [items] of the same items in the same order: 1 or 0, or nats.
        seed, names: name the random stream.
        weights: [items] what the sum is divided by, e.g. tokens; None: each item counts one.
        groups: [items] which items belong together; None: each stands alone.
        resamples: draws.

    Raises:
        ValueError: no item, or the two differ in length.
    """
    count = len(base)
    if count == 0 or len(federated) != count:
        raise ValueError("a comparison needs the same items, at least one, measured twice")
    columns = np.column_stack([base, federated, np.ones(count) if weights is None else weights]).astype(np.float64)
    if groups is not None:
        places = {name: place for place, name in enumerate(dict.fromkeys(groups))}
        summed = np.zeros((len(places), 3))
        np.add.at(summed, [places[name] for name in groups], columns)
        columns = summed
    random = stream(seed, "bootstrap", *names)
    drawn = len(columns)
    draws = np.empty((resamples, 2))
    step = max(1, _AT_ONCE // drawn)
    for start in range(0, resamples, step):
        rows = random.integers(0, drawn, (min(step, resamples - start), drawn))
        draws[start : start + step] = _ratios(columns[rows].sum(axis=1))
    return Resampled(_ratios(columns.sum(axis=0)[None])[0], draws)


def _ratios(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[…, 3] sums -> […, 2] base and federated."""
    ratios: NDArray[np.float64] = sums[:, :2] / sums[:, 2:]
    return ratios


def mean_of(parts: Mapping[str, Resampled]) -> Resampled:
    """The plain mean over parts, each drawn within itself: every exam counts alike, whatever its size."""
    return Resampled(
        np.mean([part.value for part in parts.values()], axis=0),
        np.mean([part.draws for part in parts.values()], axis=0),
    )
