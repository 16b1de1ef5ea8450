from __future__ import annotations

import math

import numpy as np
import pytest

from fedmed.errors import AccountingError
from fedmed.evaluation.attacks.intervals import clopper_pearson, lower_share, upper_share

pytestmark = pytest.mark.unit


def at_least(hits: int, trials: int, share: float) -> float:
    return sum(math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(hits, trials + 1))


def test_the_exact_interval_equals_the_published_one() -> None:
    # Newcombe 1998, table I, method 5: 81 of 263 -> 0.2527 to 0.3676; 15 of 148 -> 0.0578 to 0.1617
    assert clopper_pearson(81, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert clopper_pearson(15, 148) == pytest.approx((0.0578, 0.1617), abs=5e-5)


@pytest.mark.parametrize(("hits", "trials"), [(1, 9), (5, 9), (8, 9), (3, 40)])
def test_at_each_limit_such_an_outcome_has_the_stated_chance(hits: int, trials: int) -> None:
    assert at_least(hits, trials, float(lower_share(hits, trials, 0.02))) == pytest.approx(0.02)
    assert 1 - at_least(hits + 1, trials, float(upper_share(hits, trials, 0.02))) == pytest.approx(0.02)


def test_no_hit_and_all_hits_reach_the_ends_and_no_trial_says_nothing() -> None:
    assert clopper_pearson(0, 20) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    assert clopper_pearson(20, 20) == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_arrays_of_counts_give_what_single_counts_give() -> None:
    counts = np.arange(8)
    assert np.allclose(upper_share(counts, 7, 0.01), [float(upper_share(int(k), 7, 0.01)) for k in counts])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 1.5, -0.1])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(AccountingError, match="confidence"):
        clopper_pearson(1, 2, confidence)
