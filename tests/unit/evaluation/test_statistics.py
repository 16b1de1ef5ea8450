from __future__ import annotations

import numpy as np
import pytest

from fedmed.evaluation.likelihood import RowScores
from fedmed.evaluation.statistics import relative_gain, wilson_interval

pytestmark = pytest.mark.unit


def scores(per_token: np.ndarray, tokens: np.ndarray) -> RowScores:
    return RowScores(per_token * tokens, tokens, np.zeros(len(tokens)), np.zeros(len(tokens), dtype=int))


TOKENS = np.arange(5, 65)
BASE = scores(np.linspace(2.5, 3.5, 60), TOKENS)


def test_wilson_gives_the_published_interval() -> None:
    # Newcombe 1998, table I: 81 of 263 -> 0.2553 to 0.3662
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (1, 1), (0, 0)])
def test_wilson_stays_between_zero_and_one(correct: int, total: int) -> None:
    low, high = wilson_interval(correct, total)
    assert 0.0 <= low <= high <= 1.0


def test_wilson_holds_the_true_share_about_95_times_in_100() -> None:
    random = np.random.default_rng(3)
    shares = random.uniform(0.1, 0.9, size=4000)
    intervals = [wilson_interval(int(random.binomial(40, share)), 40) for share in shares]
    held = [low <= share <= high for share, (low, high) in zip(shares, intervals, strict=True)]
    assert 0.935 <= np.mean(held) <= 0.965


def test_the_gain_is_the_relative_fall_of_the_token_weighted_loss() -> None:
    gain = relative_gain(BASE, scores(BASE.nll / BASE.tokens * 0.7, TOKENS), seed=17)
    assert gain.relative == pytest.approx(0.3)
    assert gain.low == pytest.approx(0.3)  # the same share in every record leaves nothing to resample
    assert gain.high == pytest.approx(0.3)


def test_noise_in_the_records_widens_the_interval_around_the_gain() -> None:
    noisy = scores(BASE.nll / BASE.tokens * np.random.default_rng(5).uniform(0.5, 0.9, 60), TOKENS)
    gain = relative_gain(BASE, noisy, seed=17)
    assert gain.low < gain.relative < gain.high
    assert 0.02 < gain.high - gain.low < 0.12


def test_the_interval_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    noisy = scores(BASE.nll / BASE.tokens * np.random.default_rng(5).uniform(0.5, 0.9, 60), TOKENS)
    assert relative_gain(BASE, noisy, seed=17) == relative_gain(BASE, noisy, seed=17)
    assert relative_gain(BASE, noisy, seed=17).low != relative_gain(BASE, noisy, seed=18).low


def test_worked_examples_half_way_down_are_half_of_the_gain() -> None:
    after = scores(BASE.nll / BASE.tokens * 0.6, TOKENS)
    half_way = (BASE.loss + after.loss) / 2
    assert relative_gain(BASE, after, seed=17, few_shot_loss=half_way).few_shot_share == pytest.approx(0.5)


def test_without_a_gain_there_is_no_share_of_it() -> None:
    assert relative_gain(BASE, BASE, seed=17, few_shot_loss=1.0).few_shot_share is None


def test_other_records_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="the same records"):
        relative_gain(BASE, scores(BASE.nll, TOKENS + 1), seed=17)
