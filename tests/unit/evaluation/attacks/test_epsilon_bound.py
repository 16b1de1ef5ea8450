from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from fedmed.errors import AccountingError, DataFormatError, EmptyDataError
from fedmed.evaluation.attacks.epsilon_bound import (
    gaussian_bound,
    gaussian_epsilon,
    one_run_bound,
    one_run_p_value,
    rates_bound,
)
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

PHI = NormalDist().cdf


def trials(count: int, mu: float, *names: str | int) -> tuple[np.ndarray, np.ndarray]:
    draw = stream(17, "epsilon bound", *names)
    return draw.normal(mu, 1.0, count), draw.normal(0.0, 1.0, count)


def answers(count: int, epsilon: float, *names: str | int) -> tuple[np.ndarray, np.ndarray]:
    """Randomised response, which spends exactly ε on each record: (scores, who is in)."""
    draw = stream(17, "randomised response", *names)
    inserted = draw.random(count) < 0.5
    told = draw.random(count) < 1 / (1 + math.exp(-epsilon))
    return np.where(told, inserted, ~inserted) + draw.random(count) / 2, inserted


# Rates


def test_perfect_separation_of_500_and_500_certifies_no_more_than_4_9() -> None:
    inside, outside = np.linspace(1, 2, 667), np.linspace(-2, -1, 667)  # a quarter chooses, 500 measure
    bound = rates_bound(inside, outside, delta=0.0, confidence=0.95, seed=17)
    limit = 0.025 ** (1 / 500)
    assert (bound.hits, bound.trials, bound.alarms, bound.others) == (500, 500, 0, 500)
    assert bound.epsilon == pytest.approx(math.log(limit / (1 - limit)))
    assert 4.85 < bound.epsilon < 4.95


def test_the_bound_lies_above_the_true_epsilon_no_more_often_than_stated() -> None:
    truth = 1.0
    false = []
    for trial in range(300):
        scores, inserted = answers(800, truth, trial)
        told = (scores >= 1).astype(float)
        bound = rates_bound(told[inserted], told[~inserted], delta=0.0, confidence=0.9, seed=trial)
        false.append(bound.epsilon > truth)
    assert np.mean(false) < 0.1


def test_it_finds_most_of_the_epsilon_of_randomised_response() -> None:
    scores, inserted = answers(20_000, 2.0, "many")
    told = (scores >= 1).astype(float)
    bound = rates_bound(told[inserted], told[~inserted], delta=0.0, confidence=0.95, seed=17)
    assert 1.85 < bound.epsilon <= 2.0


def test_a_leak_seen_from_below_only_is_found_too() -> None:
    # Who scores 0 is surely out; who is in always scores 1, and so does half of the others.
    outside = np.repeat([0.0, 1.0], 1000)
    bound = rates_bound(np.ones(2000), outside, delta=1e-5, confidence=0.95, seed=17)
    assert bound.epsilon > 4.0
    assert bound.hits < 0.6 * bound.trials


def test_no_difference_proves_nothing() -> None:
    same = np.zeros(500)
    assert rates_bound(same, same, delta=0.0, confidence=0.95, seed=17).epsilon == 0.0
    assert gaussian_bound(same, same, delta=1e-5, confidence=0.95, seed=17).epsilon == 0.0


def test_a_larger_delta_or_more_copies_prove_less_of_one_record() -> None:
    inside, outside = trials(4000, 2.0, "copies")
    proved = [
        rates_bound(inside, outside, delta=delta, confidence=0.95, seed=17, copies=copies).epsilon
        for delta, copies in [(0.0, 1), (0.05, 1), (0.0, 2), (1e-3, 2), (1e-3, 8)]
    ]
    assert proved[0] > proved[1] > 0.0
    assert proved[2] == pytest.approx(proved[0] / 2, abs=0.05)  # two records at ε are one at 2 ε
    assert proved[2] > proved[3] > proved[4] > 0.0


# Gaussian


def test_epsilon_of_a_gaussian_equals_its_exact_delta_turned_round() -> None:
    for mu, epsilon in [(0.25, 1.0), (1.0, 3.0), (3.0, 12.0)]:
        delta = PHI(mu / 2 - epsilon / mu) - math.exp(epsilon) * PHI(-mu / 2 - epsilon / mu)
        assert gaussian_epsilon(mu, delta) == pytest.approx(epsilon, rel=1e-6)
    assert gaussian_epsilon(0.0, 1e-5) == 0.0
    assert gaussian_epsilon(12.0, 1e-5) == pytest.approx(12**2 / 2 + 12 * 4.2649, rel=0.02)


def test_the_gaussian_bound_lies_above_the_truth_no_more_often_than_stated_and_comes_near() -> None:
    truth = gaussian_epsilon(0.5, 1e-5)
    bounds = [gaussian_bound(*trials(2000, 0.5, t), delta=1e-5, confidence=0.9, seed=t).epsilon for t in range(200)]
    assert np.mean(np.array(bounds) > truth) < 0.1
    assert np.median(bounds) > 0.6 * truth


def test_at_a_small_delta_the_gaussian_proof_is_the_tighter_one() -> None:
    inside, outside = trials(2000, 1.0, "tighter")
    rates = rates_bound(inside, outside, delta=1e-5, confidence=0.95, seed=17).epsilon
    assert gaussian_bound(inside, outside, delta=1e-5, confidence=0.95, seed=17).epsilon > 1.5 * rates


# One run


def slow_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    rate = math.exp(epsilon) / (1 + math.exp(epsilon))
    chance = [math.comb(guesses, k) * rate**k * (1 - rate) ** (guesses - k) for k in range(guesses + 1)]
    worst = max(sum(chance[max(0, right - i) : right]) / i for i in range(1, canaries + 1))
    return min(1.0, sum(chance[right:]) + 2 * canaries * delta * worst)


@pytest.mark.parametrize(("canaries", "guesses", "right"), [(40, 40, 30), (60, 20, 19), (30, 10, 0), (25, 5, 5)])
@pytest.mark.parametrize("delta", [0.0, 1e-4, 1e-2])
def test_the_p_value_equals_the_slow_sum(canaries: int, guesses: int, right: int, delta: float) -> None:
    for epsilon in (0.0, 0.5, 2.0):
        expected = slow_p_value(canaries, guesses, right, epsilon, delta)
        assert one_run_p_value(canaries, guesses, right, epsilon, delta) == pytest.approx(expected)


def test_the_one_run_bound_lies_above_the_truth_no_more_often_than_stated() -> None:
    false = []
    for trial in range(150):
        scores, inserted = answers(400, 1.0, "one run", trial)
        false.append(one_run_bound(scores, inserted, delta=0.0, confidence=0.9, seed=trial).epsilon > 1.0)
    assert np.mean(false) < 0.1


def test_the_one_run_bound_finds_most_of_randomised_response_and_at_most_what_its_guesses_allow() -> None:
    scores, inserted = answers(20_000, 2.0, "many in one run")
    assert 1.8 < one_run_bound(scores, inserted, delta=1e-7, confidence=0.95, seed=17).epsilon <= 2.0
    bound = one_run_bound(np.arange(1000.0), np.arange(1000) >= 500, delta=0.0, confidence=0.95, seed=17)
    rate = (0.05 / 4) ** (1 / 1000)  # four numbers of guesses share the chance of error
    assert (bound.hits, bound.trials) == (1000, 1000)
    assert bound.epsilon == pytest.approx(math.log(rate / (1 - rate)), abs=1e-6)


def test_equal_scores_do_not_tell_who_is_in_by_their_place_in_the_array() -> None:
    inserted = np.arange(2000) < 1000
    assert one_run_bound(np.zeros(2000), inserted, delta=0.0, confidence=0.95, seed=17).epsilon == 0.0
    assert one_run_bound(np.zeros(2000), ~inserted, delta=0.0, confidence=0.95, seed=17).epsilon == 0.0


def test_canaries_that_were_repeated_prove_less_of_one_record() -> None:
    scores, inserted = answers(4000, 4.0, "repeated")
    one = one_run_bound(scores, inserted, delta=0.0, confidence=0.95, seed=17).epsilon
    four = one_run_bound(scores, inserted, delta=0.0, confidence=0.95, seed=17, copies=4).epsilon
    assert four == pytest.approx(one / 4, abs=1e-6)


# What is refused


@pytest.mark.parametrize("bad", [{"delta": -0.1}, {"delta": 1.0}, {"confidence": 1.0}, {"copies": 0}])
def test_numbers_out_of_range_are_refused(bad: dict[str, float]) -> None:
    settings = {"delta": 0.0, "confidence": 0.95, "copies": 1} | bad
    with pytest.raises(AccountingError):
        rates_bound(np.zeros(20), np.zeros(20), seed=17, **settings)  # type: ignore[arg-type]


def test_too_little_or_damaged_input_is_an_error() -> None:
    with pytest.raises(EmptyDataError):
        rates_bound(np.zeros(7), np.zeros(20), delta=0.0, confidence=0.95, seed=17)
    with pytest.raises(DataFormatError):
        rates_bound(np.full(20, np.inf), np.zeros(20), delta=0.0, confidence=0.95, seed=17)
    with pytest.raises(DataFormatError):
        one_run_bound(np.zeros(20), np.zeros(21, dtype=bool), delta=0.0, confidence=0.95, seed=17)
    with pytest.raises(EmptyDataError):
        one_run_bound(np.zeros(4), np.ones(4, dtype=bool), delta=0.0, confidence=0.95, seed=17)
    with pytest.raises(AccountingError, match="δ 0"):
        gaussian_bound(np.zeros(20), np.zeros(20), delta=0.0, confidence=0.95, seed=17)
