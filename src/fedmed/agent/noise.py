"""Whether two adapters differ on the public records beyond noise: a paired bootstrap. judge -> HERE -> reasoning.

Every comparison of a run uses the same resamples, so that the same losses give the same answer whenever they are asked
about. Shapes: n = public records, D = resamples.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap" (percentile intervals).
Not covered: how well the public records stand for the hospitals' own; another seed's training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.utils.random_streams import stream

DRAWS = 2000

Losses = NDArray[np.float64]
"""Nats of each public record's answer, ``[n]``."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A number taken from the public records, and the same number of every resample."""

    value: float
    draws: NDArray[np.float64]  # [D]

    def low(self, level: float) -> float:
        """The bound that the number is above with this chance, one-sided."""
        return float(np.quantile(self.draws, 1 - level))

    def high(self, level: float) -> float:
        """The bound that the number is below with this chance, one-sided."""
        return float(np.quantile(self.draws, level))

    @property
    def error(self) -> float:
        """Standard error."""
        return float(self.draws.std())

    def __sub__(self, other: Measured) -> Measured:
        return Measured(self.value - other.value, self.draws - other.draws)

    def over(self, other: Measured | float) -> Measured:
        """This divided by something that is not near zero."""
        if isinstance(other, Measured):
            with np.errstate(divide="ignore", invalid="ignore"):  # a resample may come out at zero all the same
                return Measured(self.value / other.value, self.draws / other.draws)
        return Measured(self.value / other, self.draws / other)


def mean(parts: Sequence[Measured]) -> Measured:
    """The mean of several numbers from the same records."""
    return Measured(
        sum(part.value for part in parts) / len(parts), np.sum([part.draws for part in parts], axis=0) / len(parts)
    )


class Noise:
    """What the public records can tell apart.

    Args:
        tokens: answer tokens of each public record.
        seed: of the run.
    """

    def __init__(self, tokens: Sequence[int], seed: int) -> None:
        self._tokens = np.asarray(tokens, dtype=np.float64)
        number = len(self._tokens)
        drawn = stream(seed, "agent", "bootstrap").integers(0, number, (DRAWS, number))
        counts = np.zeros((DRAWS, number))
        np.add.at(counts, (np.arange(DRAWS)[:, None], drawn), 1.0)
        self._counts = counts
        self._totals = counts @ self._tokens

    def loss(self, nats: Losses) -> float:
        """Nats per answer token."""
        return float(nats.sum() / self._tokens.sum())

    def less(self, more: Losses, less: Losses) -> Measured:
        """By how much the second loss is below the first, in nats per answer token, record for record."""
        by = more - less
        return Measured(self.loss(by), (self._counts @ by) / self._totals)
