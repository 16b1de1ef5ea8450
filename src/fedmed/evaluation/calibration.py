"""Is a stated confidence true? Expected calibration error, Brier score and skill, AUROC, with intervals. numpy only.

ECE is over equal-mass bins: answers in the order of their stated confidence, cut into parts of (nearly) equal size, 5
to 10 of them by the number of answers; answers with the same confidence stay in one bin. A small sample shows an ECE
above zero even where every stated confidence is true; ``ece_if_true`` says how much, so that noise is not taken for
miscalibration, nor the reverse.

Not covered: calibration within subgroups (a specialty, a kind of question); other questions than those scored.
Source: Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; Nixon et al. 2019,
arXiv:1904.01685 (equal mass); Brier 1950; Hanley and McNeil 1982 (AUROC as a rank statistic).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import EmptyDataError
from fedmed.evaluation.statistics import wilson_interval
from fedmed.utils.random_streams import stream

RESAMPLES = 1000

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its 95 % interval (percentiles of a bootstrap over whole groups)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about one stated confidence, and the share of them that was right, with its Wilson interval."""

    stated: float
    right: float
    low: float
    high: float
    answers: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far stated confidences agree with what was right."""

    answers: int
    right: int
    ece: Figure
    ece_if_true: float  # the ECE to expect of so many answers if every stated confidence were exactly right
    brier: Figure
    brier_skill: Figure | None  # against stating these answers' own share of right ones each time; None: all or none is
    auroc: Figure | None  # chance that a right answer is stated surer than a wrong one; None: all or none is right
    bins: tuple[Bin, ...]


def measure(
    stated: Sequence[float],
    right: Sequence[bool],
    *,
    seed: int,
    groups: Sequence[Hashable] | None = None,
    bins: int | None = None,
    resamples: int = RESAMPLES,
) -> Reliability:
    """Compare stated confidences with outcomes.

    Args:
        stated: [answers] in [0, 1].
        right: [answers] whether the answer was right.
        seed: names the random streams together with the purpose.
        groups: what each answer belongs to (an ontology term); the bootstrap draws whole groups. None: each its own.
        bins: of the ECE and the diagram; None: as many as ``bins_for`` says.
        resamples: bootstrap draws.

    Raises:
        ValueError: lengths differ, or a confidence lies outside [0, 1]. EmptyDataError: there is no answer.
    """
    p, y = np.asarray(stated, dtype=np.float64), np.asarray(right, dtype=bool)
    own = list(range(len(p))) if groups is None else list(groups)
    if not len(p) == len(y) == len(own):
        raise ValueError(f"{len(p)} confidences for {len(y)} outcomes and {len(own)} groups")
    if len(p) == 0:
        raise EmptyDataError("no answer to measure confidence on", "raise training.evaluation.calibration_items")
    if not ((p >= 0.0) & (p <= 1.0)).all():
        raise ValueError("a confidence lies outside [0, 1]")
    bins = bins_for(len(p)) if bins is None else bins
    drawn = _bootstrap(p, y, own, bins, seed, resamples)
    chance = stream(seed, "calibration", "if_true")
    true = [ece(p, chance.random(len(p)) < p, bins) for _ in range(min(resamples, 200))]
    return Reliability(
        answers=len(p),
        right=int(y.sum()),
        ece=_figure(ece(p, y, bins), drawn[:, 0]),
        ece_if_true=float(np.mean(true)),
        brier=_figure(brier(p, y), drawn[:, 1]),
        brier_skill=_maybe(brier_skill(p, y), drawn[:, 2]),
        auroc=_maybe(auroc(p, y), drawn[:, 3]),
        bins=diagram(p, y, bins),
    )


def bins_for(answers: int) -> int:
    """One bin for each hundred answers, at least 5 and at most 10: of few answers a bin tells chance alone."""
    return min(max(answers // 100, 5), 10)


def ece(stated: Values, right: NDArray[np.bool_], bins: int) -> float:
    """Mean distance between stated confidence and share right over equal-mass bins, weighted by answers."""
    return float(
        sum(len(part) * abs(stated[part].mean() - right[part].mean()) for part in _parts(stated, bins)) / len(stated)
    )


def diagram(stated: Values, right: NDArray[np.bool_], bins: int) -> tuple[Bin, ...]:
    """The points of a reliability diagram, from the least to the most confident."""
    points = []
    for part in _parts(stated, bins):
        low, high = wilson_interval(int(right[part].sum()), len(part))
        points.append(Bin(float(stated[part].mean()), float(right[part].mean()), low, high, len(part)))
    return tuple(points)


def brier(stated: Values, right: NDArray[np.bool_]) -> float:
    """Mean squared distance between confidence and outcome; 0 is perfect, lower is better."""
    return float(np.mean((stated - right) ** 2))


def brier_skill(stated: Values, right: NDArray[np.bool_]) -> float:
    """By which share the Brier score lies below that of stating the share right every time; NaN where that is 0."""
    base = float(right.mean())
    return 1.0 - brier(stated, right) / (base * (1.0 - base)) if 0.0 < base < 1.0 else math.nan


def auroc(stated: Values, right: NDArray[np.bool_]) -> float:
    """The chance that a right answer is stated surer than a wrong one, ties half; NaN without one of both."""
    positive = int(right.sum())
    negative = len(right) - positive
    if not positive or not negative:
        return math.nan
    _, which, counts = np.unique(stated, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks = (last - (counts - 1) / 2.0)[which]  # from 1; ties share the middle of theirs
    return float((ranks[right].sum() - positive * (positive + 1) / 2.0) / (positive * negative))


def _parts(stated: Values, bins: int) -> list[NDArray[np.intp]]:
    """Indices by rising confidence in about ``bins`` equal parts; a tie goes to the part it begins in."""
    order = np.argsort(stated, kind="stable")
    ordered = stated[order]
    edges = np.linspace(0, len(stated), bins + 1).round().astype(int)[1:-1]
    cuts = sorted({int(np.searchsorted(ordered, ordered[edge - 1], side="right")) for edge in edges if edge > 0})
    return [part for part in np.split(order, cuts) if len(part)]


def _bootstrap(
    p: Values, y: NDArray[np.bool_], groups: Sequence[Hashable], bins: int, seed: int, resamples: int
) -> Values:
    """[resamples, 4]: ECE, Brier score, Brier skill, AUROC of answers drawn group by group."""
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    rows = [np.array(own) for own in members.values()]
    random = stream(seed, "calibration", "bootstrap")
    figures = np.empty((resamples, 4))
    for draw in range(resamples):
        chosen = np.concatenate([rows[group] for group in random.integers(0, len(rows), len(rows))])
        stated, right = p[chosen], y[chosen]
        figures[draw] = ece(stated, right, bins), brier(stated, right), brier_skill(stated, right), auroc(stated, right)
    return figures


def _figure(value: float, drawn: Values) -> Figure:
    known = drawn[~np.isnan(drawn)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (value, value)
    return Figure(value, float(low), float(high))


def _maybe(value: float, drawn: Values) -> Figure | None:
    return None if math.isnan(value) else _figure(value, drawn)
