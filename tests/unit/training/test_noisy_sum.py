"""What one step of DP-SGD lets out: bounded contributions, noise of the stated size, secret samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedmed.config.schema import ExampleSection, TrainingSection
from fedmed.privacy.accountant import SampledGaussian, epsilon
from fedmed.privacy.discrete_gaussian import SeededSource, SystemSource
from fedmed.training.dp_sgd import NoisySum, plan_noise, poisson_sample, privatize

pytestmark = pytest.mark.unit


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.floats(1e-3, 1e3))
def test_no_contribution_is_longer_than_the_bound(values, clip):
    gradient = torch.tensor([values])
    out = privatize(gradient, clip, 0.0, SeededSource(1))
    norm, clipped = float(gradient.double().norm()), float(out.double().norm())
    assert clipped <= clip
    assert clipped == pytest.approx(min(norm, clip), rel=1e-5)


def test_a_gradient_that_is_not_finite_adds_nothing_and_says_so():
    noisy = NoisySum(3, 1.0, 0.0, SeededSource(1))
    assert math.isnan(noisy.add(torch.tensor([1.0, math.nan, 0.0])))
    assert noisy.add(torch.zeros(3)) == 0.0
    assert not noisy.close().any()


def test_noise_has_sigma_times_the_bound_as_its_standard_deviation():
    size, clip, sigma, alarm = 200_000, 0.5, 1.7, 1e-6
    noise = privatize(torch.zeros(1, size), clip, sigma, SystemSource()).double()
    low, high = stats.chi2.ppf([alarm / 2, 1 - alarm / 2], size)
    assert low < float((noise / (sigma * clip)).square().sum()) < high


def test_a_sample_has_the_stated_rate_and_another_each_time():
    source, units, rate = SystemSource(), 400, 0.05
    sizes = [len(poisson_sample(units, rate, source)) for _ in range(500)]
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], units * 500, rate)
    assert low <= sum(sizes) <= high
    # a batch's size is chance: its variance is that of a binomial (99.9999 % interval of a scaled chi-square)
    mean = sum(sizes) / 500
    spread = sum((size - mean) ** 2 for size in sizes) / (units * rate * (1 - rate))
    assert stats.chi2.ppf(5e-7, 499) < spread < stats.chi2.ppf(1 - 5e-7, 499)
    assert poisson_sample(units, 1.0, source) == list(range(units))
    assert poisson_sample(0, 0.5, source) == []


def test_a_plan_follows_from_the_settings_and_the_number_of_records():
    pytest.importorskip("dp_accounting")
    training = TrainingSection(batch_size=4, gradient_accumulation_steps=2, max_steps=3)
    plan = plan_noise(400, training, ExampleSection(epsilon=2.0), rounds=5)
    assert (plan.rate, plan.batch, plan.steps) == (8 / 400, 8.0, 3)
    assert epsilon([SampledGaussian(plan.rate, plan.sigma, 15)], 1e-5).epsilon == pytest.approx(2.0, rel=1e-3)
    all_of_them = plan_noise(3, training, ExampleSection(epsilon=2.0, noise_multiplier=9.0), rounds=1)
    assert (all_of_them.rate, all_of_them.batch, all_of_them.sigma) == (1.0, 3.0, 9.0)
    by_epochs = plan_noise(64, TrainingSection(batch_size=4, epochs=2), ExampleSection(epsilon=2.0), rounds=1)
    assert by_epochs.steps == 8
