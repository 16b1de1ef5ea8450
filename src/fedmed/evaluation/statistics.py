"""How sure a measured number is: intervals for an accuracy and for a gain in loss. numpy only.

Not covered: records that belong together (several questions on one term) count as independent, so an interval over
them is somewhat too narrow; nor do intervals cover another seed's training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedmed.evaluation.likelihood import RowScores
from fedmed.utils.random_streams import stream

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Gain:
    """By which share the loss fell, with a 95 % interval over records; ``summary.json``'s ``gain``."""

    relative: float  # (before - after) / before
    low: float
    high: float
    few_shot_share: float | None = None  # part of that fall which worked examples give by themselves


def wilson_interval(correct: int, total: int, z: float = _Z95) -> tuple[float, float]:
    """Interval for a share of successes (95 % by default); (0, 1) when nothing was tried.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    if total == 0:
        return 0.0, 1.0
    share = correct / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def relative_gain(
    before: RowScores,
    after: RowScores,
    *,
    seed: int,
    few_shot_loss: float | None = None,
    resamples: int = 2000,
) -> Gain:
    """Compare two losses on the same records by a paired bootstrap (percentile interval, 95 %).

    Args:
        before, after: sums of the same rows in the same order, e.g. base and federated.
        seed: names the random stream together with the purpose.
        few_shot_loss: nats per answer token of the base with worked examples; None when not measured.
        resamples: bootstrap draws of whole records.

    Raises:
        ValueError: the two do not hold the same rows.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap".
    """
    if len(before.nll) == 0 or not np.array_equal(before.tokens, after.tokens):
        raise ValueError("a gain needs the same records, at least one, scored twice")
    random = stream(seed, "paired_bootstrap")
    gains = np.empty(resamples)
    for draw in range(resamples):
        rows = random.integers(0, len(before.nll), len(before.nll))
        gains[draw] = 1 - after.nll[rows].sum() / before.nll[rows].sum()  # token counts are equal and cancel
    low, high = np.quantile(gains, [0.025, 0.975])
    fall = before.loss - after.loss
    share = None if few_shot_loss is None or fall <= 0 else (before.loss - few_shot_loss) / fall
    return Gain(fall / before.loss, float(low), float(high), share)
