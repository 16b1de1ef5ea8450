"""Which hospital is worst off, how wide the gap is, and who was harmed beyond what chance explains."""

from __future__ import annotations

import numpy as np
import pytest

from fedmed.evaluation.bootstrap import Resampled, resample
from fedmed.evaluation.fairness import fairness

pytestmark = pytest.mark.unit


def hospital(before: float, change: float, noise: float, seed: int, records: int = 60) -> Resampled:
    random = np.random.default_rng(seed)
    base = before + random.normal(0, 0.5, records)
    return resample(
        {"base": base, "federated": base + change + random.normal(0, noise, records)}, seed=seed, names=(seed,)
    )


FOUR = {
    "gains": hospital(3.0, -1.0, 0.1, 1),
    "gains most": hospital(3.2, -1.8, 0.1, 2),
    "harmed": hospital(2.0, +0.5, 0.1, 3),
    "unclear": hospital(2.5, 0.01, 1.0, 4),
    "tiny": hospital(2.5, -1.0, 0.1, 5, records=9),
}


def test_hospitals_are_told_apart_by_whether_their_interval_holds_zero() -> None:
    found = fairness(FOUR)
    assert found is not None
    assert (found.gained, found.harmed, found.unclear) == (["gains", "gains most"], ["harmed"], ["unclear"])
    assert found.too_few == ["tiny"]  # nine records cannot show a gain, however large it looks
    assert (found.least_gain, found.most_gain) == ("harmed", "gains most")


def test_worst_best_and_gap_are_those_of_the_losses_themselves() -> None:
    found = fairness(FOUR)
    assert found is not None
    after = {name: float(one.value[1]) for name, one in FOUR.items()}
    before = [float(one.value[0]) for one in FOUR.values()]
    assert after[found.worst] == max(after.values())
    assert after[found.best] == min(after.values())
    assert found.gap["federated"]["value"] == pytest.approx(max(after.values()) - min(after.values()))
    assert found.gap["base"]["value"] == pytest.approx(max(before) - min(before))
    assert found.gap["delta"]["value"] == pytest.approx(found.gap["federated"]["value"] - found.gap["base"]["value"])
    drawn = [
        max(one.draws[draw, 1] for one in FOUR.values()) - min(one.draws[draw, 1] for one in FOUR.values())
        for draw in range(2000)
    ]
    assert found.gap["federated"]["low"] == pytest.approx(np.quantile(drawn, 0.025))
    assert found.gap["federated"]["low"] <= found.gap["federated"]["value"] <= found.gap["federated"]["high"]


def test_one_hospital_is_compared_with_nobody() -> None:
    assert fairness({"alone": FOUR["gains"]}) is None
