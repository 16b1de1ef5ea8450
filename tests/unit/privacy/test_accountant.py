"""ε against published figures, a closed form, a numerical integration written here, and itself under change."""

from __future__ import annotations

import math
import sys
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.errors import AccountingError, MissingExtraError
from fedmed.privacy import accountant
from fedmed.privacy.accountant import (
    Concentrated,
    SampledGaussian,
    epsilon,
    event_as_dict,
    event_from_dict,
    solve_rate,
    solve_sigma,
    solve_steps,
)

pytestmark = pytest.mark.unit


def PHI(x: float) -> float:
    """NormalDist().cdf, without its absolute error of 1e-16, which is a lot far out."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


@pytest.mark.parametrize(
    ("q", "sigma", "steps", "delta", "rdp", "pld"),
    [(0.01, 1.0, 1000, 1e-5, 2.101, 1.828),
     (256 / 16_407, 0.8, 300, 1e-5, 3.637, 3.011), (1.0, 5.0, 50, 1e-3, 5.420, 4.845)],
)  # fmt: skip
def test_known_figures(q, sigma, steps, delta, rdp, pld):
    spent = epsilon([SampledGaussian(q, sigma, steps)], delta)
    assert spent.pld == pytest.approx(pld, abs=5e-4)
    assert spent.rdp == pytest.approx(rdp, abs=5e-4)
    assert (spent.epsilon, spent.by, spent.delta, spent.unit) == (spent.pld, "pld", delta, "record")
    assert spent.sampling == (("Poisson, secret",) if q < 1 else ("none",))


def balle_wang(sigma: float, delta: float) -> float:
    """ε of a Gaussian with sensitivity 1, from its exact δ(ε); Balle and Wang 2018, arXiv:1805.06530, theorem 8."""

    def exact_delta(eps: float) -> float:
        tail = PHI(-0.5 / sigma - eps * sigma)
        return PHI(0.5 / sigma - eps * sigma) - (math.exp(eps + math.log(tail)) if tail > 0 else 0.0)

    low, high = 0.0, 500.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if exact_delta(middle) > delta else (low, middle)
    return high


@pytest.mark.parametrize(
    ("sigma", "steps", "delta"), [(1.0, 1, 1e-5), (5.0, 50, 1e-3), (4.0, 10, 1e-6), (20.0, 3, 1e-5), (0.8, 1, 1e-8)]
)
def test_without_sampling_epsilon_is_the_closed_form(sigma, steps, delta):
    """Steps of a Gaussian compose into one with sigma / sqrt(steps)."""
    exact = balle_wang(sigma / math.sqrt(steps), delta)
    assert exact * (1 - 1e-9) <= epsilon([SampledGaussian(1.0, sigma, steps)], delta).epsilon <= exact + 1e-3


def integrated(q: float, sigma: float, steps: int, delta: float, grid: float = 2e-4) -> tuple[float, float]:
    """Two numbers that ε lies between: the loss rounded down and up to a grid, and convolved ``steps`` times."""

    def epsilons(down: bool) -> list[float]:
        return [one_direction(removed, down) for removed in (True, False)]

    def one_direction(removed: bool, down: bool) -> float:
        edges = np.linspace(-12 * sigma - 1, 12 * sigma + 2, 400_001)
        loss = np.log1p(q * np.expm1((2 * edges - 1) / (2 * sigma**2)))  # log of mixture over noise alone, increasing
        noise, moved = (np.vectorize(NormalDist(m, sigma).cdf)(edges) for m in (0.0, 1.0))
        mass = np.diff((1 - q) * noise + q * moved) if removed else np.diff(noise)
        loss = loss if removed else -loss
        ends = np.minimum(loss[:-1], loss[1:]) if down else np.maximum(loss[:-1], loss[1:])
        cells = (np.floor(ends / grid) if down else np.ceil(ends / grid)).astype(np.int64)
        first = int(cells.min())
        pmf = np.bincount(cells - first, weights=mass)
        size = 1 << (steps * pmf.size).bit_length()
        composed = np.fft.irfft(np.fft.rfft(pmf, size) ** steps, size)[: steps * (pmf.size - 1) + 1]
        composed = np.maximum(composed, 0.0)
        losses = (first * steps + np.arange(composed.size)) * grid
        low, high = 0.0, 200.0
        for _ in range(60):
            middle = (low + high) / 2
            beyond = losses > middle
            stick = float(np.sum(composed[beyond] * -np.expm1(middle - losses[beyond])))
            low, high = (middle, high) if stick > delta else (low, middle)
        return high

    return max(epsilons(down=True)), max(epsilons(down=False))


@pytest.mark.parametrize(
    ("q", "sigma", "steps", "delta"),
    [(0.1, 1.0, 4, 1e-5), (0.02, 0.8, 8, 1e-4), (0.5, 2.0, 3, 1e-5), (0.9, 1.5, 2, 1e-3)],
)
def test_with_sampling_epsilon_is_what_integration_gives(q, sigma, steps, delta):
    low, high = integrated(q, sigma, steps, delta)
    assert high - low < 4e-3
    assert low - 1e-6 <= epsilon([SampledGaussian(q, sigma, steps)], delta).epsilon <= high + 1e-3


def by_hand_zcdp(rho: float, delta: float) -> float:
    orders = 1.0 + np.geomspace(1e-3, 1e4, 200_001)
    return float(np.min(rho * orders + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)))


@pytest.mark.parametrize(("rho", "steps", "delta"), [(0.02, 1, 1e-5), (0.1, 5, 1e-3), (2.0, 1, 1e-5)])
def test_zcdp_is_converted_as_canonne_kamath_and_steinke_do(rho, steps, delta):
    """arXiv:2004.00010, proposition 12; a grid of orders may cost a little."""
    best = by_hand_zcdp(rho * steps, delta)
    spent = epsilon([Concentrated(rho, steps)], delta)
    assert best * (1 - 1e-6) <= spent.epsilon <= best * 1.02
    assert (spent.by, spent.pld, spent.unit) == ("rdp", None, "hospital")
    assert spent.epsilon >= balle_wang(1 / math.sqrt(2 * rho * steps), delta), "a Gaussian is rho-zCDP, and costs less"


ranges = {"q": st.floats(1e-3, 0.3), "sigma": st.floats(0.7, 5.0), "steps": st.integers(1, 200)}


@settings(max_examples=12, deadline=None)
@given(**ranges, more=st.floats(1.1, 3.0), delta=st.floats(1e-8, 1e-3))
@pytest.mark.slow
def test_epsilon_moves_the_right_way_with_each_number(q, sigma, steps, more, delta):
    """To 1e-3 of the figure and 2e-3 outright, which is what the grid may blur."""

    def counted(q, sigma, steps, delta):
        return epsilon([SampledGaussian(q, sigma, steps)], delta).epsilon

    base = counted(q, sigma, steps, delta)
    room = 1e-3 * base + 2e-3
    assert counted(q, sigma * more, steps, delta) <= base + room
    assert counted(q, sigma, steps, min(0.5, delta * more)) <= base + room
    assert counted(min(1.0, q * more), sigma, steps, delta) >= base - room
    assert counted(q, sigma, math.ceil(steps * more), delta) >= base - room


@settings(max_examples=10, deadline=None)
@given(**ranges, parts=st.integers(2, 5), other=st.floats(0.7, 5.0))
def test_rounds_and_runs_compose_whatever_their_order(q, sigma, steps, parts, other):
    rounds = [SampledGaussian(q, sigma, steps)] * parts
    assert epsilon(rounds, 1e-5) == epsilon([SampledGaussian(q, sigma, steps * parts)], 1e-5)
    mixed = [*rounds, SampledGaussian(q, other, 3)]
    assert epsilon(mixed, 1e-5) == epsilon(mixed[::-1], 1e-5)
    assert epsilon(mixed, 1e-5).epsilon >= epsilon(rounds, 1e-5).epsilon - 1e-3


def test_pld_never_exceeds_rdp_where_both_make_sense():
    for q, sigma, steps in [(0.01, 1.0, 100), (0.1, 2.0, 10), (0.5, 0.9, 20), (1.0, 3.0, 5)]:
        spent = epsilon([SampledGaussian(q, sigma, steps)], 1e-5)
        assert spent.pld <= spent.rdp
        assert spent.epsilon == min(spent.pld, spent.rdp)


def test_no_noise_is_no_privacy_and_no_event_costs_nothing():
    assert epsilon([SampledGaussian(0.1, 0.0, 1)], 1e-5).epsilon == math.inf
    assert epsilon([Concentrated(math.inf, 1)], 1e-5).epsilon == math.inf
    assert epsilon([], 1e-5).epsilon == 0.0


def test_an_absurd_epsilon_is_bounded_without_a_grid_of_gigabytes():
    spent = epsilon([SampledGaussian(0.5, 0.2, 100_000)], 1e-5)
    assert spent.by == "rdp"
    assert spent.pld is None
    assert spent.epsilon > 1e4


@pytest.mark.parametrize(
    ("target", "delta", "q", "steps"), [(1.0, 1e-5, 0.01, 100), (8.0, 1e-5, 8 / 3000, 16), (8.0, 1e-3, 1.0, 10)]
)
def test_the_solved_sigma_meets_the_target_and_a_little_less_does_not(target, delta, q, steps):
    sigma = solve_sigma(target, delta, q, steps)
    assert epsilon([SampledGaussian(q, sigma, steps)], delta).epsilon <= target
    assert epsilon([SampledGaussian(q, sigma * 0.999, steps)], delta).epsilon > target


def test_integer_noise_needs_a_little_more_than_the_gaussian():
    gaussian, discrete = (solve_sigma(8.0, 1e-3, 1.0, 10, noise=noise) for noise in ("gaussian", "discrete"))
    assert gaussian == pytest.approx(1.518, abs=1e-3)
    assert gaussian < discrete < 1.1 * gaussian


def test_the_solved_steps_are_the_most_that_fit():
    steps = solve_steps(2.0, 1e-5, 0.01, 1.0)
    assert epsilon([SampledGaussian(0.01, 1.0, steps)], 1e-5).epsilon <= 2.0
    assert epsilon([SampledGaussian(0.01, 1.0, steps + 1)], 1e-5).epsilon > 2.0
    assert solve_steps(8.0, 1e-5, 1e-6, 1000.0) == 10_000_000


def test_what_only_the_coarse_grid_puts_over_the_target_is_not_where_a_search_ends():
    """Between 1 and 2 on the coarse grid, but 3 still fits on the fine one."""

    def share(place, grid):
        return place / (1.9 if grid == accountant._COARSE else 3.4)

    assert accountant._boundary(1, 2, share, 100, whole=True) == 3
    assert accountant._boundary(1, 2, share, 100) == pytest.approx(3.4, rel=2e-4)
    assert accountant._boundary(1, 2, share, 3) == 3


def test_at_a_tiny_delta_rounding_in_the_pld_cannot_lower_epsilon():
    """With a rate of all but 1 the closed form holds, yet losses are convolved as with any rate below 1."""
    for delta in (1e-9, 1e-13, 1e-20):
        spent = epsilon([SampledGaussian(1 - 1e-13, 100.0, 1000)], delta)
        assert spent.epsilon >= balle_wang(100 / math.sqrt(1000), delta) * (1 - 1e-9)
        assert (spent.pld is None) == (delta < 1e-10)
        assert math.isfinite(spent.epsilon)


def test_the_solved_rate_is_the_largest_that_fits():
    rate = solve_rate(2.0, 1e-5, 1.0, 100)
    assert epsilon([SampledGaussian(rate, 1.0, 100)], 1e-5).epsilon <= 2.0
    assert epsilon([SampledGaussian(rate * 1.001, 1.0, 100)], 1e-5).epsilon > 2.0
    assert solve_rate(2.0, 1e-5, 100.0, 10) == 1.0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: SampledGaussian(0.0, 1.0, 1), "sampling rate is 0.0: it must be above 0"),
        (lambda: SampledGaussian(1.1, 1.0, 1), "sampling rate"),
        (lambda: SampledGaussian(math.nan, 1.0, 1), "sampling rate"),
        (lambda: SampledGaussian(0.1, -1.0, 1), "noise multiplier"),
        (lambda: SampledGaussian(0.1, math.nan, 1), "noise multiplier"),
        (lambda: SampledGaussian(0.1, 1.0, 0), "number of steps"),
        (lambda: SampledGaussian(0.1, 1.0, 1.5), "number of steps"),
        (lambda: SampledGaussian(0.1, 1.0, 1, "clinic"), "use one of record, patient, hospital"),
        (lambda: Concentrated(-1.0, 1), "rho"),
        (lambda: epsilon([SampledGaussian(0.1, 1.0, 1)], 0.0), "δ is 0.0"),
        (lambda: epsilon([SampledGaussian(0.1, 1.0, 1)], 1.0), "δ is 1.0"),
        (lambda: epsilon([SampledGaussian(0.1, 1.0, 1), Concentrated(0.1, 1)], 1e-5), "do not add up"),
        (lambda: solve_sigma(0.0, 1e-5, 0.1, 1), "ε is 0.0"),
        (lambda: solve_sigma(1.0, 1e-5, 0.1, 1, noise="discrete"), "without sampling"),
        (lambda: solve_steps(0.1, 1e-5, 0.5, 0.5), "one step alone costs ε"),
        (lambda: event_from_dict({"kind": "laplace"}, "record"), "'laplace' is unknown"),
        (lambda: event_from_dict({"kind": "zcdp"}, "record"), "cannot be read"),
        (lambda: event_from_dict(3, "record"), "cannot be read"),
    ],
)
def test_numbers_that_make_no_sense_are_named(call, said):
    with pytest.raises(AccountingError, match=said):
        call()


@given(
    event=st.builds(
        SampledGaussian, st.floats(1e-9, 1.0), st.floats(0.0, 1e9), st.integers(1, 10**7), st.just("patient")
    )
    | st.builds(Concentrated, st.floats(0.0, math.inf), st.integers(1, 100), st.just("patient"))
)
def test_an_event_survives_json(event):
    import json

    assert event_from_dict(json.loads(json.dumps(event_as_dict(event), allow_nan=False)), "patient") == event


def test_without_the_extra_the_error_names_it(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "dp_accounting"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(MissingExtraError, match=r"fedmed\[privacy\]"):
        epsilon([Concentrated(0.1, 1)], 1e-5)
