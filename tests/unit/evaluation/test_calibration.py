from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from fedmed.errors import EmptyDataError
from fedmed.evaluation.calibration import auroc, bins_for, brier, brier_skill, diagram, ece, measure

pytestmark = pytest.mark.unit


def drawn(count: int, seed: int = 0, *, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and outcomes that are right as often as they say, plus ``shift``."""
    random = np.random.default_rng(seed)
    p = random.uniform(0.1, 0.9, count)
    return p, random.random(count) < p + shift


def test_auroc_and_brier_are_scikit_learns_also_with_ties() -> None:
    p, y = drawn(300)
    p = p.round(1)
    assert auroc(p, y) == pytest.approx(roc_auc_score(y, p))
    assert brier(p, y) == pytest.approx(brier_score_loss(y, p))


def test_ece_by_hand() -> None:
    p, y = np.array([0.1, 0.3, 0.6, 0.8]), np.array([False, True, True, True])
    assert ece(p, y, 2) == pytest.approx((abs(0.2 - 0.5) + abs(0.7 - 1.0)) / 2)
    assert ece(p, y, 1) == pytest.approx(0.3)


def test_equal_confidences_share_a_bin_whatever_the_order_of_outcomes() -> None:
    p, y = np.full(10, 0.5), np.array([True] * 5 + [False] * 5)
    assert ece(p, y, 5) == 0.0
    assert len(diagram(p, y, 5)) == 1


def test_bins_hold_about_equally_many_answers_each_once() -> None:
    p, y = drawn(205)
    sizes = [one.answers for one in diagram(p, y, 10)]
    assert sum(sizes) == 205
    assert set(sizes) <= {20, 21}


def test_skill_is_zero_for_the_base_rate_and_one_for_the_truth() -> None:
    y = np.array([True, True, False, True])
    assert brier_skill(np.full(4, 0.75), y) == pytest.approx(0.0)
    assert brier_skill(y.astype(float), y) == 1.0
    assert brier_skill(1.0 - y, y) < 0.0


def test_without_a_wrong_answer_there_is_neither_skill_nor_auroc() -> None:
    found = measure([0.5, 0.6], [True, True], seed=1)
    assert found.auroc is None
    assert found.brier_skill is None
    assert math.isnan(auroc(np.array([0.5]), np.array([True])))


def test_a_true_confidence_has_an_ece_near_what_chance_gives_and_a_false_one_a_larger() -> None:
    true = measure(*drawn(2000), seed=1)
    false = measure(*drawn(2000, shift=-0.2), seed=1)
    assert true.ece.value < 2 * true.ece_if_true < 0.08
    assert false.ece.value > 0.12
    assert false.ece.low > true.ece.high


def test_intervals_hold_their_value_and_shrink_with_answers() -> None:
    small, large = measure(*drawn(100), seed=1), measure(*drawn(3000), seed=1)
    for found in (small, large):
        assert found.brier.low < found.brier.value < found.brier.high
        assert found.auroc is not None
        assert found.auroc.low < found.auroc.value < found.auroc.high
    assert large.brier.high - large.brier.low < small.brier.high - small.brier.low


def test_answers_of_one_group_count_as_one() -> None:
    p, y = drawn(50)
    alone = measure(p, y, seed=1)
    copied = measure(np.repeat(p, 8), np.repeat(y, 8), seed=1, groups=np.repeat(np.arange(50), 8).tolist())
    assert copied.brier.value == pytest.approx(alone.brier.value)
    assert copied.brier.high - copied.brier.low == pytest.approx(alone.brier.high - alone.brier.low, rel=0.2)


def test_the_same_seed_gives_the_same_intervals() -> None:
    p, y = drawn(60)
    assert measure(p, y, seed=3) == measure(p, y, seed=3)
    assert measure(p, y, seed=3).brier.low != measure(p, y, seed=4).brier.low


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(EmptyDataError):
        measure([], [], seed=1)
    with pytest.raises(ValueError, match="2 confidences for 1"):
        measure([0.1, 0.2], [True], seed=1)
    for wrong in (1.1, -0.1, math.nan):
        with pytest.raises(ValueError, match="outside"):
            measure([wrong], [True], seed=1)


@pytest.mark.parametrize(("answers", "bins"), [(1, 5), (599, 5), (600, 6), (999, 9), (5000, 10)])
def test_few_answers_make_few_bins(answers: int, bins: int) -> None:
    assert bins_for(answers) == bins
    assert len(measure(*drawn(answers), seed=1, resamples=2).bins) == min(bins, answers)
