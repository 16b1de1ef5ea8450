"""Correct steps of DP-SGD pass at claimed ε 1 and 2; each broken one is caught above its claim.

A correct mechanism is called broken in at most one of a thousand audits; noise here comes from named streams, so that
none of these tests is one of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedmed.errors import AccountingError, DataFormatError, EmptyDataError
from fedmed.evaluation.attacks.epsilon_bound import gaussian_epsilon
from fedmed.evaluation.attacks.gradient_audit import audit_mechanism
from fedmed.privacy.accountant import solve_sigma
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

CLIP, DELTA = 0.5, 1e-5
SIGMAS = {claim: solve_sigma(claim, DELTA, 1.0, 1) for claim in (1.0, 2.0)}


def mechanism(sigma: float, name: str | int, *, clips: str = "each") -> Callable[[np.ndarray], np.ndarray]:
    draw = stream(17, "mechanism", name)

    def clipped(rows: np.ndarray) -> np.ndarray:
        return rows * np.minimum(1.0, CLIP / np.linalg.norm(rows, axis=1, keepdims=True))

    def step(gradients: np.ndarray) -> np.ndarray:
        rows = gradients.astype(np.float64)
        total = (clipped(rows) if clips == "each" else rows).sum(axis=0, keepdims=True)
        total = clipped(total) if clips == "sum" else total
        return (total + draw.normal(0.0, sigma * CLIP, total.shape))[0]

    return step


@pytest.mark.parametrize("claim", [1.0, 2.0])
def test_a_correct_mechanism_stays_below_its_claim_and_not_because_the_audit_is_blind(claim: float) -> None:
    assert gaussian_epsilon(1 / SIGMAS[claim], DELTA) == pytest.approx(claim, rel=1e-3)
    audit = audit_mechanism(mechanism(SIGMAS[claim], f"correct {claim}"), clip=CLIP, delta=DELTA)
    assert audit.epsilon < claim
    many = audit_mechanism(mechanism(SIGMAS[claim], f"many {claim}"), clip=CLIP, delta=DELTA, repeats=20_000)
    assert 0.5 * claim < many.epsilon < claim


@pytest.mark.parametrize("claim", [1.0, 2.0])
@pytest.mark.parametrize(
    ("fault", "share_of_sigma", "clips"),
    [("noise left out", 0.0, "each"), ("clipping left out", 1.0, "none"), ("a quarter of sigma", 0.25, "each")],
)
def test_a_broken_mechanism_is_caught_above_its_claim(claim: float, fault: str, share_of_sigma: float, clips: str):
    broken = mechanism(share_of_sigma * SIGMAS[claim], f"{fault} {claim}", clips=clips)
    assert audit_mechanism(broken, clip=CLIP, delta=DELTA, repeats=1000).epsilon > claim


def test_clipping_the_sum_in_place_of_each_gradient_is_caught_by_more_repeats() -> None:
    broken = mechanism(SIGMAS[1.0], "sum", clips="sum")
    assert audit_mechanism(broken, clip=CLIP, delta=DELTA, repeats=6000).epsilon > 1.0


def test_false_alarms_are_no_more_than_stated() -> None:
    audits = [
        audit_mechanism(mechanism(SIGMAS[1.0], n), clip=CLIP, delta=DELTA, repeats=400, confidence=0.9, seed=n)
        for n in range(60)
    ]
    assert np.mean([audit.epsilon > 1.0 for audit in audits]) <= 0.1


def test_the_canary_counts_wherever_it_points() -> None:
    broken = [mechanism(SIGMAS[1.0] / 4, f"seed {seed}") for seed in range(5)]
    assert all(audit_mechanism(b, clip=CLIP, delta=DELTA, seed=s).epsilon > 1.0 for s, b in enumerate(broken))


def test_settings_out_of_range_and_a_mechanism_that_overflows_are_errors() -> None:
    good = mechanism(1.0, "errors")
    with pytest.raises(AccountingError):
        audit_mechanism(good, clip=0.0, delta=DELTA)
    with pytest.raises(EmptyDataError):
        audit_mechanism(good, clip=CLIP, delta=DELTA, repeats=5)
    with pytest.raises(DataFormatError):
        audit_mechanism(lambda rows: np.full(rows.shape[1], np.nan), clip=CLIP, delta=DELTA)
