"""How much ε an attack proves was spent, at least. Scores of canaries -> HERE -> gradient_audit, audit.

An attack that tells inserted from left out better than (ε, δ)-DP allows proves that (ε, δ) does not hold. Three proofs:
- ``rates_bound``: error rates over independent trials, one trained model or one step each. Under (ε, δ)-DP
  TPR <= e^ε FPR + δ and TNR <= e^ε FNR + δ (Kairouz et al. 2015, arXiv:1311.0776); with exact limits of the rates that
  bounds ε (Jagielski et al. 2020, arXiv:2006.07709).
- ``gaussian_bound``: the same trials, but it supposes a Gaussian mechanism, whose whole trade-off curve one number mu
  gives: mu = Φ⁻¹(TPR) - Φ⁻¹(FPR) (Dong et al. 2019, arXiv:1905.02383), bounded as in Nasr et al. 2023
  (arXiv:2302.07956). Much tighter at small δ.
- ``one_run_bound``: many canaries in one trained model, each in by a fair coin of its own (Steinke et al. 2023,
  arXiv:2305.08846, its theorem for approximate DP). Its trials may depend on each other.

Each holds with ``confidence``: in at most 1 - confidence of audits the bound lies above the true ε. A low bound proves
nothing, and no audit goes beyond what its trials allow: 500 + 500 perfectly separated ones certify at most ε 4.9 at
95 %. A threshold is never measured on the trials that chose it.

Neighbours differ by one record added or removed. A canary inserted k times is a group: (ε, δ)-DP for a record is
(k ε, δ (e^(k ε) - 1) / (e^ε - 1))-DP for it, and ``copies`` says so; the bound then is that of one record.
Not covered: replace-one neighbours; attacks that chose themselves by the answers; the tighter one-run bounds for f-DP.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import AccountingError, DataFormatError, EmptyDataError
from fedmed.evaluation.attacks.intervals import error_rate, lower_share, upper_share
from fedmed.utils.extras import require
from fedmed.utils.random_streams import stream

Scores = NDArray[np.float64]

CHOOSING_SHARE = 0.25  # of the trials; they choose a threshold, the rest measure it
GUESSING_SHARES = (0.1, 0.25, 0.5, 1.0)  # of the canaries in one run that are guessed at all, the surest ones
_MOST = 64.0  # no number of trials that fits a computer certifies more


@dataclass(frozen=True, slots=True)
class EpsilonBound:
    """ε is at least this, with ``confidence``; 0: nothing proved."""

    epsilon: float
    delta: float
    confidence: float
    by: Literal["rates", "gaussian", "one_run"]
    hits: int  # guesses that were right (one run), or trials of the guessed kind beyond the threshold
    trials: int  # guesses made, or trials of the guessed kind that were measured
    alarms: int | None = None  # trials of the other kind beyond the threshold; None: one run
    others: int | None = None  # trials of the other kind that were measured
    mu: float | None = None  # of the Gaussian proof


def rates_bound(
    inside: Scores, outside: Scores, *, delta: float, confidence: float, seed: int, copies: int = 1
) -> EpsilonBound:
    """Bound ε by the error rates of one threshold, whichever side of it tells more.

    Args:
        inside: [n] statistic of trials with the canary, independent of each other; higher means inserted.
        outside: [k] of trials without it.
        delta: at which ε is stated, from 0, below 1.
        confidence: of the bound; each of its two rates errs with half of the rest.
        seed: names the stream that parts choosing from measuring trials.
        copies: of the canary in one trial.

    Raises:
        EmptyDataError: fewer than 8 trials of a kind. DataFormatError: a statistic is not a finite number.
        AccountingError: delta, confidence or copies out of range.
    """
    alpha = _check(delta, confidence, copies)
    chooses, measures = _parted(inside, outside, seed)
    best, side, cut = -1.0, 1, 0.0
    for sign in (1, -1):
        pair = chooses.turned(sign)
        cuts = pair.cuts()
        hits, alarms = pair.limits(cuts, alpha)
        odds = (hits - delta) / alarms  # e^ε
        place = int(np.argmax(odds))
        if odds[place] > best:
            best, side, cut = float(odds[place]), sign, float(cuts[place])
    pair = measures.turned(side)
    hit, alarm = (float(limit[0]) for limit in pair.limits(np.array([cut]), alpha))
    return pair.bound("rates", cut, _of_rates(hit, alarm, delta, copies), delta, confidence)


def gaussian_bound(inside: Scores, outside: Scores, *, delta: float, confidence: float, seed: int) -> EpsilonBound:
    """Bound mu, and by it ε, of what is supposed to be a Gaussian mechanism; arguments as for ``rates_bound``, δ > 0.

    The threshold is midway between the medians, where mu shows best in few trials. What this refutes is the claim "a
    Gaussian mechanism with noise enough for ε". The ε of another one, subsampled for example, it does not bound.
    """
    alpha = _check(delta, confidence, 1)
    if delta == 0.0:
        raise AccountingError("a Gaussian mechanism has no ε at δ 0", "state a δ above 0")
    chooses, pair = _parted(inside, outside, seed)
    cut = float(np.median(chooses.found) + np.median(chooses.others)) / 2.0
    hit, alarm = (float(limit[0]) for limit in pair.limits(np.array([cut]), alpha))
    quantile = NormalDist().inv_cdf
    mu = max(0.0, quantile(hit) - quantile(alarm)) if hit > 0.0 and alarm < 1.0 else 0.0
    return pair.bound("gaussian", cut, gaussian_epsilon(mu, delta), delta, confidence, mu)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """ε of a mu-GDP mechanism at δ, above 0; mu = sensitivity / standard deviation, >= 0.

    Source: Balle and Wang 2018, arXiv:1805.06530, theorem 8; Dong et al. 2019, corollary 2.13.
    """
    if mu <= 0.0:
        return 0.0
    log_cdf = require("scipy.special", "privacy").log_ndtr

    def spent(epsilon: float) -> float:
        return math.exp(log_cdf(mu / 2 - epsilon / mu)) - math.exp(epsilon + log_cdf(-mu / 2 - epsilon / mu))

    return _last(lambda epsilon: spent(epsilon) > delta, most=mu * (mu / 2.0 + 40.0))


def one_run_bound(
    scores: Scores, inserted: NDArray[np.bool_], *, delta: float, confidence: float, seed: int, copies: int = 1
) -> EpsilonBound:
    """Bound ε by guesses about the canaries of one trained model.

    The highest scores are guessed to be in, as many of the lowest to be out, the others not guessed. How many are
    guessed is tried at each of ``GUESSING_SHARES``, and each errs with its part of 1 - confidence.

    Args:
        scores: [m] of all canaries; any function of the model and the canaries, not of who is in.
        inserted: [m] who is.
        delta, confidence, copies: see ``rates_bound``. delta times m far below 1, or nothing can be proved.
        seed: names the stream that orders equal scores: their place in the array may tell who is in.

    Raises:
        See ``rates_bound``; EmptyDataError where there are fewer than 8 canaries.
    """
    each = _check(delta, confidence, copies) / len(GUESSING_SHARES)
    if scores.shape != inserted.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise DataFormatError("canaries need one finite score and one flag each", "score every canary once")
    if scores.size < 8:
        raise EmptyDataError(f"{scores.size} canaries prove nothing", "make some hundreds")
    order = stream(seed, "one run", "ties").permutation(scores.size)
    ranked = inserted[order][np.argsort(scores[order], kind="stable")]  # [m] who is in, from the lowest score up
    best: tuple[float, int, int] = (-1.0, 0, 0)
    for share in GUESSING_SHARES:
        half = max(1, round(scores.size * share / 2.0))
        if 2 * half > scores.size:
            half = scores.size // 2
        right = int(ranked[-half:].sum()) + int((~ranked[:half]).sum())
        best = max(best, (_of_guesses(scores.size, 2 * half, right, delta, each, copies), right, 2 * half))
    return EpsilonBound(best[0], delta, confidence, "one_run", best[1], best[2])


def one_run_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """An upper bound on the chance of so many right guesses under (ε, δ)-DP.

    With f(v) = P[Binomial(guesses, e^ε / (1 + e^ε)) >= v] it is f(right) + 2 m δ max over i >= 1 of
    (f(right - i) - f(right)) / i, m = canaries.
    """
    if right == 0:
        return 1.0
    share_below = require("scipy.special", "privacy").betainc  # of a beta distribution, which is a binomial's upper end
    rate = 1.0 / (1.0 + math.exp(-epsilon))
    counts = np.arange(right, 0, -1) if delta > 0.0 else np.array([right])
    at_least = np.append(share_below(counts, guesses - counts + 1.0, rate), 1.0)  # f(right), f(right - 1) … f(0)
    worst = float(((at_least[1:] - at_least[0]) / np.arange(1, at_least.size)).max())
    return min(1.0, float(at_least[0]) + 2.0 * canaries * delta * worst)


def _of_guesses(canaries: int, guesses: int, right: int, delta: float, alpha: float, copies: int) -> float:
    def refuted(epsilon: float) -> bool:
        whole, slack = _of_group(epsilon, delta, copies)
        return slack < 1.0 and one_run_p_value(canaries, guesses, right, whole, slack) < alpha

    return _last(refuted)


def _of_rates(hit: float, alarm: float, delta: float, copies: int) -> float:
    """The largest ε that "hit <= e^ε alarm + δ" refutes."""

    def refuted(epsilon: float) -> bool:
        whole, slack = _of_group(epsilon, delta, copies)
        return hit > math.exp(whole) * alarm + slack

    if copies == 1:
        return max(0.0, math.log((hit - delta) / alarm)) if hit > delta else 0.0
    return _last(refuted)


def _of_group(epsilon: float, delta: float, copies: int) -> tuple[float, float]:
    """(ε, δ) of ``copies`` records together."""
    grows = sum(math.exp(min(700.0, number * epsilon)) for number in range(copies))
    return min(700.0, copies * epsilon), delta * grows


def _last(refuted: Callable[[float], bool], most: float = _MOST) -> float:
    """The end of the first stretch of ε, from 0, that is refuted: no larger ε can be claimed even if refuted again."""
    if not refuted(0.0):
        return 0.0
    low, step = 0.0, min(0.25, most / 8.0)
    while low < most and refuted(low + step):
        low += step
    high = low + step
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


@dataclass(frozen=True, slots=True)
class _Pair:
    """Trials of the guessed kind and of the other; scores at or above a cut are guessed."""

    found: Scores
    others: Scores

    def turned(self, side: int) -> _Pair:
        """1: as it is. -1: all signs turned, so that being out is what is guessed."""
        return self if side == 1 else _Pair(-self.others, -self.found)

    def cuts(self) -> Scores:
        """All cuts that differ in what they guess, each midway between two scores."""
        scores = np.unique(np.concatenate([self.found, self.others]))
        return (scores[1:] + scores[:-1]) / 2.0 if scores.size > 1 else scores

    def limits(self, cuts: Scores, alpha: float) -> tuple[Scores, Scores]:
        """[cuts] the lower limit of the hits' rate, the upper limit of the alarms'."""
        return (
            lower_share(_above(self.found, cuts), self.found.size, alpha / 2.0),
            upper_share(_above(self.others, cuts), self.others.size, alpha / 2.0),
        )

    def bound(
        self,
        by: Literal["rates", "gaussian"],
        cut: float,
        epsilon: float,
        delta: float,
        confidence: float,
        mu: float | None = None,
    ) -> EpsilonBound:
        hits, alarms = (int(_above(scores, np.array([cut]))[0]) for scores in (self.found, self.others))
        return EpsilonBound(epsilon, delta, confidence, by, hits, self.found.size, alarms, self.others.size, mu)


def _above(scores: Scores, cuts: Scores) -> NDArray[np.int64]:
    return scores.size - np.searchsorted(np.sort(scores), cuts, "left")


def _parted(inside: Scores, outside: Scores, seed: int) -> tuple[_Pair, _Pair]:
    """Trials that choose a threshold, and those that measure it."""
    parts = []
    for name, scores in (("in", inside), ("out", outside)):
        if scores.size < 8:
            raise EmptyDataError(
                f"{scores.size} trials prove nothing", "make some hundreds with and without the canary"
            )
        if scores.ndim != 1 or not np.isfinite(scores).all():
            raise DataFormatError("a trial's statistic is not one finite number", "see whether the mechanism overflows")
        mixed = stream(seed, "epsilon bound", name).permutation(scores.astype(np.float64))
        parts.append(np.split(mixed, [round(scores.size * CHOOSING_SHARE)]))
    return _Pair(parts[0][0], parts[1][0]), _Pair(parts[0][1], parts[1][1])


def _check(delta: float, confidence: float, copies: int) -> float:
    """1 - confidence, after all three were found to make sense."""
    if not 0.0 <= delta < 1.0:
        raise AccountingError(f"δ is {delta}", "it must be from 0 and below 1")
    if copies < 1:
        raise AccountingError(f"a canary with {copies} copies", "it must be a whole number from 1")
    return error_rate(confidence)
