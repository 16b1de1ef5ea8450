"""Exact bounds for a share of successes. HERE -> membership, epsilon_bound, gradient_audit.

Source: Clopper and Pearson 1934, "The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial".
Not covered: trials that depend on each other, and a share that was chosen because of how it came out: correct for that
first, or measure it on other trials.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import AccountingError
from fedmed.utils.extras import require

Numbers: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = int | NDArray[np.int64]


def upper_share(hits: Counts, trials: int, alpha: float) -> Numbers:
    """The share that is above the true one but for a chance of ``alpha``; 1 where nothing was tried.

    Args:
        hits: one count or an array of counts, each 0 .. ``trials``.
        trials: >= 0, independent of each other.
        alpha: one-sided chance of error, above 0 and below 1.
    """
    counts = np.asarray(hits, dtype=np.float64)
    if trials == 0:
        return np.ones_like(counts)
    quantile = require("scipy.special", "privacy").betaincinv  # of a beta distribution
    missed = np.maximum(trials - counts, 0.5)  # a beta with a zero is no distribution; those places are filled here
    return np.where(counts >= trials, 1.0, quantile(counts + 1.0, missed, 1.0 - alpha))


def lower_share(hits: Counts, trials: int, alpha: float) -> Numbers:
    """The share that is below the true one but for a chance of ``alpha``; see ``upper_share``."""
    missed: Any = trials - np.asarray(hits, dtype=np.int64)
    return 1.0 - upper_share(missed, trials, alpha)


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """A two-sided interval that holds the true share with at least ``confidence``; (0, 1) when nothing was tried.

    Raises:
        AccountingError: the confidence is not between 0 and 1.
        MissingExtraError: scipy is not installed.
    """
    alpha = error_rate(confidence) / 2.0
    return float(lower_share(hits, trials, alpha)), float(upper_share(hits, trials, alpha))


def error_rate(confidence: float) -> float:
    """1 - confidence. Raises an AccountingError unless it lies between 0 and 1."""
    if not 0.0 < confidence < 1.0:
        raise AccountingError(f"the confidence is {confidence}", "it must be above 0 and below 1")
    return 1.0 - confidence
