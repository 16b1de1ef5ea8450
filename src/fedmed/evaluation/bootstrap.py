"""Intervals for several models measured on the same items, and for the differences between them. numpy only.

A measure is a ratio of sums over items: an accuracy (right answers over answers), or a loss (nats over tokens). Items
are drawn with replacement, the same ones for all models, so that what makes an item hard for all of them cancels in a
difference. Items of one group (questions on one term) are drawn together. 95 % percentile intervals.

Not covered: another training with another seed; a choice of exam or setting made after looking at the figures; fewer
than about ten groups, where any interval of this kind is too narrow; ``sign`` says nothing there.
Source: Efron and Tibshirani 1993.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.utils.random_streams import stream

RESAMPLES = 2000
MIN_DRAWN = 10
"""Groups below which an interval of this kind is too narrow to say that there is a difference."""
BASE, FEDERATED, DELTA = "base", "federated", "delta"
_TAILS = (0.025, 0.975)
_AT_ONCE = 2_000_000  # drawn places held in memory


@dataclass(frozen=True, slots=True)
class Interval:
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Resampled:
    """One measure of k models: as it is, and once a resample."""

    names: tuple[str, ...]  # k
    value: NDArray[np.float64]  # [k]
    draws: NDArray[np.float64]  # [resamples, k]
    drawn: int  # groups, or items where each stands alone

    def of(self, name: str) -> Interval:
        """One model's measure."""
        at = self.names.index(name)
        return interval(float(self.value[at]), self.draws[:, at])

    def difference(self, name: str, other: str) -> Interval:
        """One model's measure less another's."""
        at, less = self.names.index(name), self.names.index(other)
        return interval(float(self.value[at] - self.value[less]), self.draws[:, at] - self.draws[:, less])

    def sign(self, name: str, other: str) -> int | None:
        """1 or -1: one model's measure is shown to lie above or below another's; 0: neither is; None: too few items.

        Shown: the whole interval of the difference lies on one side of zero.
        """
        if self.drawn < MIN_DRAWN:
            return None
        less = self.difference(name, other)
        return int(less.low > 0) - int(less.high < 0)

    def compared(self) -> dict[str, dict[str, float]]:
        """``base``, ``federated`` and ``delta`` (federated less base) as plain JSON values."""
        told = {BASE: self.of(BASE), FEDERATED: self.of(FEDERATED), DELTA: self.difference(FEDERATED, BASE)}
        return {name: asdict(one) for name, one in told.items()}


def interval(value: float, draws: NDArray[np.float64]) -> Interval:
    """The interval that resamples [resamples] of a figure span."""
    low, high = np.quantile(draws, _TAILS)
    return Interval(value, float(low), float(high))


def resample(
    models: Mapping[str, Sequence[float] | NDArray[np.float64]],
    *,
    seed: int,
    names: Sequence[str | int],
    weights: Sequence[float] | NDArray[np.int64] | None = None,
    groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
) -> Resampled:
    """Draw items again and again, and measure every model on each draw.

    Args:
        models: name -> [items] of the same items in the same order: 1 or 0, or nats.
        seed, names: name the random stream.
        weights: [items] what the sum is divided by, e.g. tokens; None: each item counts one.
        groups: [items] which items belong together; None: each stands alone.
        resamples: draws.

    Raises:
        ValueError: no item, or the models were not measured on as many.
    """
    counts = {len(own) for own in models.values()}
    if len(counts) != 1 or counts == {0}:
        raise ValueError("a comparison needs the same items, at least one, measured by all")
    [count] = counts
    divided_by = np.ones(count) if weights is None else weights
    columns = np.column_stack([*models.values(), divided_by]).astype(np.float64)
    if groups is not None:
        places = {name: place for place, name in enumerate(dict.fromkeys(groups))}
        summed = np.zeros((len(places), columns.shape[1]))
        np.add.at(summed, [places[name] for name in groups], columns)
        columns = summed
    random = stream(seed, "bootstrap", *names)
    drawn = len(columns)
    draws = np.empty((resamples, len(models)))
    step = max(1, _AT_ONCE // drawn)
    for start in range(0, resamples, step):
        rows = random.integers(0, drawn, (min(step, resamples - start), drawn))
        draws[start : start + step] = _ratios(columns[rows].sum(axis=1))
    return Resampled(tuple(models), _ratios(columns.sum(axis=0)[None])[0], draws, drawn)


def _ratios(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[…, k + 1] sums -> […, k] measures."""
    ratios: NDArray[np.float64] = sums[:, :-1] / sums[:, -1:]
    return ratios


def mean_of(parts: Mapping[str, Resampled]) -> Resampled:
    """The plain mean over parts, each drawn within itself: every exam counts alike, whatever its size."""
    values = [part.value for part in parts.values()]
    draws = [part.draws for part in parts.values()]
    names = next(iter(parts.values())).names
    return Resampled(names, np.mean(values, axis=0), np.mean(draws, axis=0), sum(part.drawn for part in parts.values()))
