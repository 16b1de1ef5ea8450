"""Intervals by resampling: against a slow loop, by what they hold, and by what pairing and groups do to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedmed.evaluation.bootstrap import Interval, mean_of, resample
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit


def as_intervals(told: dict[str, dict[str, float]]) -> dict[str, Interval]:
    return {name: Interval(**one) for name, one in told.items()}


def compared(base: Any, after: Any, **how: Any) -> dict[str, Interval]:
    return as_intervals(resample({"base": base, "federated": after}, **how).compared())


def test_the_intervals_are_those_of_a_plain_loop_over_the_same_draws() -> None:
    random = np.random.default_rng(5)
    base, after = random.uniform(5, 40, 23), random.uniform(4, 35, 23)
    tokens = random.integers(3, 20, 23)
    found = compared(base, after, weights=tokens, seed=3, names=("x",), resamples=200)
    rows = stream(3, "bootstrap", "x").integers(0, 23, (200, 23))
    drawn = []
    for draw in rows:
        nats = [sum(float(side[place]) for place in draw) for side in (base, after)]
        drawn.append([value / sum(int(tokens[place]) for place in draw) for value in nats])
    for name, values in {
        "base": [one[0] for one in drawn],
        "federated": [one[1] for one in drawn],
        "delta": [one[1] - one[0] for one in drawn],
    }.items():
        low, high = np.quantile(values, [0.025, 0.975])
        assert (found[name].low, found[name].high) == pytest.approx((low, high))
    assert found["base"].value == pytest.approx(base.sum() / tokens.sum())
    assert found["delta"].value == pytest.approx((after.sum() - base.sum()) / tokens.sum())


def test_an_interval_of_a_difference_holds_the_truth_about_95_times_in_100() -> None:
    random = np.random.default_rng(11)
    held = 0
    for trial in range(400):
        hard = random.uniform(size=80)  # the same items are hard for both
        base, after = (hard + random.normal(0, 0.2, 80) < share for share in (0.4, 0.5))
        found = compared(base, after, seed=trial, names=("x",), resamples=400)["delta"]
        held += found.low <= TRUE_DELTA <= found.high
    assert 0.91 <= held / 400 <= 0.985


def _true_delta() -> float:
    random = np.random.default_rng(1)
    hard = random.uniform(size=400_000)
    return float(np.mean([(hard + random.normal(0, 0.2, hard.size) < share) for share in (0.4, 0.5)], axis=1) @ [-1, 1])


TRUE_DELTA = _true_delta()


def test_items_are_drawn_in_pairs_so_that_equal_scores_have_no_difference() -> None:
    scores = np.random.default_rng(2).integers(0, 2, 30)
    found = compared(scores, scores, seed=1, names=("x",))
    assert (found["delta"].value, found["delta"].low, found["delta"].high) == (0.0, 0.0, 0.0)
    assert found["base"].low < found["base"].value < found["base"].high


def test_a_repeated_item_adds_no_certainty_when_its_copies_are_one_group() -> None:
    random = np.random.default_rng(4)
    base, after = random.integers(0, 2, 20), random.integers(0, 2, 20)
    names = [f"term {place}" for place in range(20)]
    once = compared(base, after, seed=1, names=("x",))["delta"]
    grouped = compared(np.tile(base, 9), np.tile(after, 9), groups=names * 9, seed=1, names=("x",))["delta"]
    alone = compared(np.tile(base, 9), np.tile(after, 9), seed=1, names=("x",))["delta"]
    assert (grouped.low, grouped.high) == pytest.approx((once.low, once.high))
    assert alone.high - alone.low < 0.5 * (grouped.high - grouped.low)


def test_the_mean_counts_a_small_exam_as_much_as_a_large_one() -> None:
    small = resample({"base": [0, 1], "federated": [1, 1]}, seed=1, names=("a",))
    rare = [0] * 98 + [1] * 2
    large = resample({"base": rare, "federated": rare}, seed=1, names=("b",))
    found = as_intervals(mean_of({"small": small, "large": large}).compared())
    assert found["base"].value == pytest.approx((0.5 + 0.02) / 2)
    assert found["delta"].value == pytest.approx(0.25)


def test_nothing_to_compare_is_refused() -> None:
    for base, after in (([], []), ([1], [1, 0])):
        with pytest.raises(ValueError, match="same items"):
            compared(base, after, seed=1, names=("x",))
