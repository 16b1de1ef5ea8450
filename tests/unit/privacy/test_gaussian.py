"""Gaussian noise has the stated distribution; sampling has the stated rate. False alarms: below 1e-6 a test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedmed.privacy.discrete_gaussian import SeededSource, SystemSource
from fedmed.privacy.gaussian import gaussian, uniform

pytestmark = pytest.mark.unit

COUNT = 400_000
ALARM = 1e-6


@pytest.mark.parametrize("source", [SystemSource(), SeededSource(3)], ids=["system", "seed"])
def test_noise_is_standard_normal(source):
    drawn = gaussian(COUNT, source).astype(np.float64)
    low, high = stats.chi2.ppf([ALARM / 4, 1 - ALARM / 4], COUNT)
    assert low < float(np.sum(drawn**2)) < high
    assert stats.kstest(drawn, "norm").pvalue > ALARM / 2


def test_the_test_of_variance_has_power():
    drawn = 1.02 * gaussian(COUNT, SeededSource(3)).astype(np.float64)
    assert float(np.sum(drawn**2)) > stats.chi2.ppf(1 - ALARM / 4, COUNT)


def test_numbers_of_one_draw_are_independent():
    drawn = gaussian(COUNT, SeededSource(5)).astype(np.float64)
    for lag in (1, 2, COUNT // 2):
        correlation = float(np.mean(drawn[:-lag] * drawn[lag:])) * math.sqrt(COUNT - lag)
        assert abs(correlation) < stats.norm.isf(ALARM / 6)


def test_uniform_numbers_lie_in_their_range_and_an_odd_count_is_served():
    drawn = uniform(10_001, SeededSource(1))
    assert drawn.shape == (10_001,)
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    assert gaussian(7, SystemSource()).shape == (7,)
    assert gaussian(0, SystemSource()).shape == (0,)
