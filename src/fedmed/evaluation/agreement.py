"""How far several raters agree beyond chance. ratings -> HERE.

1: they always agree, 0: as often as chance would have it, below: less. What all raters gave one and the same value has
no such figure: NaN.

Not covered: which figure is enough; raters who agree can be wrong together. Cohen's kappa of two raters is
scikit-learn's, see ``ratings.py``. Sources: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"; Fleiss
1971, "Measuring nominal scale agreement among many raters".
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmed.evaluation.bootstrap import RESAMPLES, Interval, interval
from fedmed.utils.random_streams import stream

Numbers: TypeAlias = NDArray[np.float64]
Level: TypeAlias = Literal["nominal", "ordinal"]


def krippendorff_alpha(ratings: Numbers, level: Level) -> float:
    """Krippendorff's alpha, any number of raters, ratings may be missing.

    Args:
        ratings: [raters, units] values; NaN where a rater gave none.
        level: nominal: two values are the same or not; ordinal: how many ratings lie between them.
    """
    pairs = _coincidences(ratings)
    return float(_alpha(pairs.sum(axis=0)[None], level)[0]) if len(pairs) else float("nan")


def alpha_interval(ratings: Numbers, level: Level, *, seed: int, name: str) -> Interval | None:
    """The same with a 95 % bootstrap interval over units; None where it is not defined.

    Resamples in which it is not defined are left out.
    """
    pairs = _coincidences(ratings)
    value = krippendorff_alpha(ratings, level)
    if not np.isfinite(value):
        return None
    rows = stream(seed, "agreement", name).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    draws = _alpha(np.stack([pairs[chosen].sum(axis=0) for chosen in rows]), level)
    draws = draws[np.isfinite(draws)]
    return interval(value, draws) if len(draws) else None


def _coincidences(ratings: Numbers) -> Numbers:
    """[units, values, values]: how often two raters of a unit gave these two values, each unit counting its ratings."""
    values = np.unique(ratings[np.isfinite(ratings)])
    counts = (ratings[:, :, None] == values).sum(axis=0).astype(np.float64)  # [units, values]
    counts = counts[counts.sum(axis=1) > 1]  # one rating pairs with none
    pairs = counts[:, :, None] * counts[:, None, :]
    at = np.arange(len(values))
    pairs[:, at, at] -= counts
    scaled: Numbers = pairs / (counts.sum(axis=1) - 1)[:, None, None]
    return scaled


def _alpha(pairs: Numbers, level: Level) -> Numbers:
    """[draws, values, values] coincidences -> [draws] alpha."""
    count = pairs.sum(axis=2)  # [draws, values]
    far = _distance(count, level)
    total = count.sum(axis=1)
    observed = (pairs * far).sum(axis=(1, 2))
    expected = (count[:, :, None] * count[:, None, :] * far).sum(axis=(1, 2)) / (total - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha: Numbers = 1 - observed / expected
    alpha[expected == 0] = np.nan
    return alpha


def _distance(count: Numbers, level: Level) -> Numbers:
    """[draws, values, values] squared distance of two values."""
    if level == "nominal":
        return np.broadcast_to(1.0 - np.eye(count.shape[1]), (len(count), count.shape[1], count.shape[1]))
    upto = np.cumsum(count, axis=1) - count / 2  # ratings below a value's middle
    squared: Numbers = (upto[:, :, None] - upto[:, None, :]) ** 2
    return squared


def fleiss_kappa(counts: Numbers) -> float:
    """Fleiss' kappa of raters who all rated every unit.

    Args:
        counts: [units, values] how many raters gave each unit each value; every row has one sum, above 1.

    Raises:
        ValueError: rows of different sums, or of one rating.
    """
    raters = counts.sum(axis=1)
    if len(counts) == 0 or raters[0] < 2 or (raters != raters[0]).any():
        raise ValueError("Fleiss' kappa needs at least two ratings of every unit, as many of each")
    agreed = ((counts**2).sum(axis=1) - raters) / (raters * (raters - 1))
    by_chance = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return float("nan") if by_chance == 1 else float((agreed.mean() - by_chance) / (1 - by_chance))
