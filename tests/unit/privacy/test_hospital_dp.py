"""Hospital-level privacy on whole numbers: the bound is exact, the noise is what is charged, seeds are not private."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fedmed.privacy.discrete_gaussian as sampler
from fedmed.errors import AccountingError, UpdateRejectedError
from fedmed.privacy.accountant import Concentrated, epsilon
from fedmed.privacy.discrete_gaussian import SeededSource, SystemSource, discrete_gaussian
from fedmed.privacy.hospital_dp import (
    HospitalDp,
    add_central_noise,
    add_share,
    central_event,
    clip_to_integers,
    noise_to_signal,
    shares_event,
)

pytestmark = pytest.mark.unit

FALSE_ALARM = 1e-9
"""Each statistical test here fails a right sampler with at most this probability, as its noise is truly random."""


def weights(variance: int) -> tuple[np.ndarray, np.ndarray]:
    """The distribution itself, summed out; 12 standard deviations hold all but 1e-30 of it."""
    reach = 12 * math.isqrt(variance) + 12
    x = np.arange(-reach, reach + 1)
    p = np.exp(-(x.astype(np.float64) ** 2) / (2 * variance))
    return x, p / p.sum()


def variance_is(draws: np.ndarray, variance: float) -> bool:
    """A two-sided chi-square test of variance about a mean of zero, which the square's spread makes normal."""
    from statistics import NormalDist

    squares = draws.astype(np.float64) ** 2
    z = (squares.mean() / variance - 1.0) * math.sqrt(draws.size / 2.0)
    return abs(z) < NormalDist().inv_cdf(1.0 - FALSE_ALARM / 2.0)


@pytest.mark.parametrize("variance", [1, 2, 7, 50])
def test_draws_have_the_weights_of_a_discrete_gaussian(variance):
    from scipy import stats

    x, p = weights(variance)
    draws = discrete_gaussian(variance, 200_000, SystemSource())
    counted = np.bincount(np.clip(draws, x[0], x[-1]) - x[0], minlength=x.size)
    rare = p * draws.size < 10
    observed = np.append(counted[~rare], counted[rare].sum())
    expected = np.append(p[~rare], p[rare].sum()) * draws.size
    if expected[-1] < 10:
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    assert stats.chisquare(observed, expected).pvalue > FALSE_ALARM


@pytest.mark.parametrize("variance", [1, 10, 2**40 + 3, 2**100])
def test_noise_has_the_stated_variance_and_a_test_with_the_power_to_tell(variance):
    draws = discrete_gaussian(variance, 1_000_000, SystemSource())
    x, p = weights(variance) if variance < 100 else (None, None)
    assert variance_is(draws, variance if x is None else float(np.sum(x.astype(float) ** 2 * p)))
    assert abs(draws.astype(float).mean()) < 6.2 * math.sqrt(variance / draws.size)
    assert not variance_is(draws, 1.03 * variance)
    assert not variance_is(draws, 0.97 * variance)


@pytest.mark.parametrize("variance", [1, 5, 2**62 + 1])
def test_float_and_exact_arithmetic_decide_alike(variance, monkeypatch):
    """With every choice in doubt, each is settled by exact arithmetic; the same bits give the same draws."""
    usual = discrete_gaussian(variance, 300, SeededSource(5))
    monkeypatch.setattr(sampler, "_DOUBT", 2.0)
    assert np.array_equal(discrete_gaussian(variance, 300, SeededSource(5)), usual)


@pytest.mark.parametrize("g", [Fraction(1, 3), Fraction(1), Fraction(40), Fraction(700)])
def test_a_choice_that_float64_cannot_make_gets_more_bits(g):
    """The first 53 bits of exp(-g) itself leave it open, whatever float64 says; more bits settle it both ways."""
    from decimal import Context, Decimal

    value = Fraction(Context(prec=400).exp(-Context(prec=400).divide(Decimal(g.numerator), Decimal(g.denominator))))
    bits = int(value * 2**53)

    class Fixed:
        private = False

        def __init__(self, fill):
            self.fill = fill

        def words(self, count):
            return np.full(count, self.fill, dtype=np.uint64)

    assert sampler._certain(bits, g, Fixed(0)) is True
    assert sampler._certain(bits, g, Fixed(2**64 - 1)) is False


@pytest.mark.parametrize("variance", [0, -1, 2**100 + 1])
def test_a_variance_out_of_range_is_an_error(variance):
    with pytest.raises(AccountingError, match="variance of integer noise"):
        discrete_gaussian(variance, 1, SystemSource())


updates = st.fixed_dictionaries(
    {
        "a": hnp.arrays(np.float32, (3, 2), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
        "b": hnp.arrays(np.float32, (4,), elements=st.floats(-1.0, 1.0, width=32)),
    }
)


@settings(max_examples=200, deadline=None)
@given(update=updates, clip=st.floats(1e-3, 1e3), scale=st.sampled_from([1000, 2**16, 2**32]))
def test_the_norm_of_the_whole_numbers_never_exceeds_the_bound(update, clip, scale):
    plan = HospitalDp(clip, 1.0, 2, scale=scale)
    whole = clip_to_integers(update, plan)
    squares = sum(int(value) ** 2 for array in whole.values() for value in array.ravel())
    assert squares <= plan.bound**2
    norm = math.sqrt(sum(float(np.sum(array.astype(np.float64) ** 2)) for array in update.values()))
    factor = min(1.0, clip / norm) if norm else 1.0
    for name, array in update.items():
        assert whole[name] == pytest.approx(array.astype(np.float64) * factor * scale, abs=1.001, rel=1e-9)


def test_an_update_that_is_not_finite_is_refused_by_name():
    with pytest.raises(UpdateRejectedError, match="not finite in b"):
        clip_to_integers({"a": np.ones(2, np.float32), "b": np.full(2, np.nan, np.float32)}, HospitalDp(1.0, 1.0, 2))


def test_central_noise_is_the_sums_and_reaches_every_array():
    plan = HospitalDp(1.0, 2.0, 4)
    total = {"a": np.full((300, 1000), 7, np.int64), "b": np.zeros(1000, np.int64)}
    noised = add_central_noise(total, plan)
    assert noised.private
    assert np.all(total["a"] == 7)
    assert variance_is(noised.arrays["a"].ravel() - 7, plan.variance)
    assert np.count_nonzero(noised.arrays["b"]) > 990
    assert math.sqrt(plan.variance) == pytest.approx(2.0 * 2**32)


def test_shares_of_the_fewest_replies_add_up_to_all_of_the_noise():
    plan = HospitalDp(0.5, 1.5, min_replies=6, colluding=2)
    shares = [add_share({"a": np.zeros(200_000, np.int64)}, plan).arrays["a"] for _ in range(4)]
    assert variance_is(np.sum(shares, axis=0), plan.variance)
    assert not variance_is(np.sum(shares[:3], axis=0), plan.variance), "a drop-out takes noise away"


def test_drop_outs_cost_more_and_more_replies_less():
    plan = HospitalDp(1.0, 2.0, min_replies=8, colluding=1)
    central = central_event(plan).rho
    assert central == pytest.approx(1 / 8, rel=1e-9)
    assert shares_event(plan, 10**6).rho == pytest.approx(central, rel=1e-9)
    assert shares_event(plan, 10**6, replies=5).rho == pytest.approx(central * 7 / 4, rel=1e-9)
    assert shares_event(plan, 10**6, replies=15).rho == pytest.approx(central / 2, rel=1e-9)
    assert shares_event(plan, 10**6, replies=1) == Concentrated(math.inf, 1)
    assert epsilon([shares_event(plan, 10, replies=1)], 1e-5).epsilon == math.inf


def divergence(p: np.ndarray, q: np.ndarray, order: float) -> float:
    both = (p > 1e-280) & (q > 1e-280)  # farther out nothing adds to the sum
    terms = order * np.log(p[both]) + (1 - order) * np.log(q[both])
    return math.log(float(np.sum(np.exp(terms)))) / (order - 1)


@pytest.mark.parametrize(("bound", "sigma", "shares"), [(1, 1.0, 2), (1, 1.5, 3), (3, 0.7, 4), (2, 1.0, 6)])
def test_the_charge_of_shares_is_at_least_the_divergence_summed_out(bound, sigma, shares):
    """One number, where rounding and the sum's shape matter most: Renyi divergence of the true sums, by convolution."""
    plan = HospitalDp(float(bound), sigma, min_replies=shares, scale=1)
    event = shares_event(plan, 1)
    _, one = weights(plan.share_variance)
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    shifted = np.roll(total, bound)
    inside = slice(bound, -bound)
    for order in (1.5, 2.0, 4.0, 8.0):
        true = max(divergence(total[inside], shifted[inside], order), divergence(shifted[inside], total[inside], order))
        assert true <= order * event.rho * (1 + 1e-12)
        gaussian = order * bound**2 / (2 * shares * plan.share_variance)
        if plan.share_variance == 1 and order == 1.5:
            assert true > gaussian * (1 + 1e-8), "a charge without proposition 14's distance would be too low"
    assert divergence(total[inside], shifted[inside], 2.0) >= 0.8 * 2.0 * event.rho, "the charge is not far too high"


def test_a_seed_or_no_noise_is_not_private():
    plan, zeros = HospitalDp(1.0, 2.0, 4), {"a": np.zeros(50, np.int64)}
    first, second = (add_central_noise(zeros, plan, SeededSource(3)) for _ in range(2))
    assert np.array_equal(first.arrays["a"], second.arrays["a"])
    assert not first.private
    assert not add_share(zeros, plan, SeededSource(3)).private
    assert not add_central_noise(zeros, HospitalDp(1.0, 0.0, 4)).private
    assert central_event(HospitalDp(1.0, 0.0, 4)).rho == math.inf
    fresh = [add_central_noise(zeros, plan).arrays["a"] for _ in range(2)]
    assert not np.array_equal(*fresh)


@pytest.mark.parametrize(
    "wrong",
    [{"clip": 0.0}, {"clip": math.nan}, {"clip": 1e9}, {"sigma": -1.0}, {"sigma": math.inf}, {"sigma": 1e9},
     {"colluding": 4}, {"colluding": -1}, {"min_replies": 0}],
)  # fmt: skip
def test_settings_out_of_range_are_an_error(wrong):
    with pytest.raises(AccountingError):
        HospitalDp(**({"clip": 1.0, "sigma": 1.0, "min_replies": 4, "scale": 2**32} | wrong))


def test_the_facts_figures_of_four_hospitals():
    """Ten rounds, eps 8, delta 1e-3, Gaussian sigma 1.518: about 380 clip norms for the full adapter, 45 for cores."""
    assert noise_to_signal(995_328, 1.0, 1.518, 4) == pytest.approx(380, rel=0.01)
    assert noise_to_signal(13_824, 2.0, 2 * 1.518, 4) == pytest.approx(45, rel=0.01)
    assert noise_to_signal(13_824, 1.0, 1.518, 179) == pytest.approx(1.0, rel=0.01)
