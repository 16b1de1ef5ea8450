"""Is one step of DP-SGD as private as it claims? The mechanism, run many times with and without a worst-case gradient.

White box (Nasr et al. 2023, arXiv:2302.07956): the attacker sees the noisy sum and knows every other gradient. The
canary's gradient is one direction, far longer than the clip bound, so that missing clipping shows; the others pull the
other way, so that clipping their sum in place of each of them shows too. The statistic is the sum's part along that
direction. A correct Gaussian mechanism spends all of its ε against exactly this attack, so there is no slack in which
an error could hide but that of counting.

Two proofs, rates and Gaussian (see ``epsilon_bound``), each at half of the allowed chance of error; the larger counts.
A correct mechanism is called broken in at most 1 - ``confidence`` of audits: one in a thousand by default.

Not covered: sampling (audit the step on a fixed batch, claim the ε of rate 1); many steps together; a generator that
can be predicted; who computes the per-example gradients, and whether they are those of single examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import AccountingError
from fedmed.evaluation.attacks.epsilon_bound import EpsilonBound, gaussian_bound, rates_bound
from fedmed.utils.random_streams import stream

Mechanism: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.floating]]
"""Per-example gradients [n, d], any n >= 1 -> noisy sum (or mean over a fixed number) [d]; new noise at each call."""

CANARY_NORM = 100.0  # times the clip bound
OTHERS_PULL = 5.0  # times the clip bound, each, against the canary
OTHERS_SPREAD = 2.0  # times the clip bound, their norm in all directions, about


@dataclass(frozen=True, slots=True)
class GradientAudit:
    """``epsilon`` is at least what one step spends, with ``confidence``."""

    epsilon: float
    delta: float
    confidence: float
    repeats: int  # with the canary, and as many without
    rates: EpsilonBound
    gaussian: EpsilonBound


def audit_mechanism(
    mechanism: Mechanism,
    *,
    clip: float,
    delta: float,
    repeats: int = 1000,
    confidence: float = 0.999,
    seed: int = 17,
    dimension: int = 64,
    others: int = 8,
) -> GradientAudit:
    """Bound the ε of one step from below.

    Args:
        mechanism: one DP-SGD step on a fixed batch: clip each row, sum, add noise.
        clip: its L2 bound of a row, > 0.
        delta: at which ε is claimed, above 0.
        repeats: runs with the canary, and as many without; >= 1,000 tells σ / 4 at claimed ε 1.
        confidence: of the bound.
        seed: names the streams of gradients and of the split of trials. Noise is the mechanism's own.
        dimension: d. others: gradients beside the canary's.

    Raises:
        AccountingError: a value out of range. EmptyDataError: too few repeats.
        DataFormatError: the mechanism gave something else than [d] finite numbers.
    """
    if not (clip > 0.0 and delta > 0.0 and dimension >= 2 and others >= 1):
        raise AccountingError("clip, delta, dimension or others are out of range", "see audit_mechanism")
    direction, without = _gradients(clip, dimension, others, seed)
    canary = (CANARY_NORM * clip * direction)[None].astype(np.float32)
    inserted = np.concatenate([without, canary])
    inside = np.array([float(mechanism(inserted) @ direction) for _ in range(repeats)])
    outside = np.array([float(mechanism(without) @ direction) for _ in range(repeats)])
    each = 1.0 - (1.0 - confidence) / 2.0
    rates = rates_bound(inside, outside, delta=delta, confidence=each, seed=seed)
    gaussian = gaussian_bound(inside, outside, delta=delta, confidence=each, seed=seed)
    return GradientAudit(max(rates.epsilon, gaussian.epsilon), delta, confidence, repeats, rates, gaussian)


def _gradients(clip: float, dimension: int, others: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The canary's direction [d], one coordinate, and the other gradients [others, d]."""
    draw = stream(seed, "gradient audit")
    direction = np.zeros(dimension)
    direction[int(draw.integers(dimension))] = 1.0
    around = draw.normal(0.0, OTHERS_SPREAD * clip / np.sqrt(dimension), (others, dimension))
    return direction, (around - OTHERS_PULL * clip * direction).astype(np.float32)
