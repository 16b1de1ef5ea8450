from __future__ import annotations

import numpy as np
import pytest

from fedmed.errors import DataFormatError, EmptyDataError
from fedmed.evaluation.attacks.membership import auc_interval, hits_at, loss_scores, membership, ratio_scores
from fedmed.evaluation.likelihood import RowScores
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit


def draws(count: int, mean: float, *names: str | int) -> np.ndarray:
    return stream(17, "membership", *names).normal(mean, 1.0, count)


def rows(nll: list[float], tokens: list[int]) -> RowScores:
    count = len(nll)
    return RowScores(np.array(nll), np.array(tokens), np.zeros(count), np.zeros(count, dtype=np.int64))


def test_auc_counts_every_pair_and_ties_half() -> None:
    members, others = np.array([1.0, 2.0, 2.0, 5.0]), np.array([0.0, 2.0, 4.0])
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    assert auc_interval(members, others)[0] == pytest.approx(np.mean(pairs))


def test_delongs_variance_equals_the_slow_sum_over_pairs() -> None:
    members, others = draws(23, 0.7, "m"), draws(31, 0.0, "o")
    auc, low, high = auc_interval(members, others)
    wins = (members[:, None] > others[None, :]).astype(float)
    variance = wins.mean(axis=1).var(ddof=1) / 23 + wins.mean(axis=0).var(ddof=1) / 31
    middle = np.log(auc / (1 - auc))
    half = 1.959963984540054 * np.sqrt(variance) / (auc * (1 - auc))
    assert (low, high) == pytest.approx(tuple(1 / (1 + np.exp(-(middle + sign * half))) for sign in (-1, 1)))


def test_the_auc_interval_holds_the_truth_about_95_times_in_100() -> None:
    # members N(1, 1), others N(0, 1): AUC = Phi(1 / sqrt 2)
    truth = 0.7602499
    held = []
    for trial in range(600):
        _, low, high = auc_interval(draws(40, 1.0, "m", trial), draws(60, 0.0, "o", trial))
        held.append(low <= truth <= high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_full_separation_on_few_records_is_not_called_certain() -> None:
    auc, low, high = auc_interval(np.array([3.0, 4.0, 5.0]), np.array([0.0, 1.0, 2.0, 2.5]))
    assert (auc, high) == (1.0, 1.0)
    assert low == pytest.approx(0.025 ** (1 / 3))


@pytest.mark.parametrize(("others", "fpr", "above", "resolved"), [
    (98, 0.01, 0, False), (99, 0.01, 0, True), (199, 0.01, 1, True), (500, 0.01, 4, True),
    (998, 0.001, 0, False), (999, 0.001, 0, True), (5000, 0.001, 4, True),
])  # fmt: skip
def test_the_threshold_leaves_no_more_non_members_above_than_the_rate_allows(others, fpr, above, resolved) -> None:
    scores = np.arange(others, dtype=float)
    hits = hits_at(np.array([others - 1 - above, others - 1 - above + 0.5]), scores, fpr)
    assert hits.found == 1  # the one above the threshold, not the one that ties with it
    assert hits.resolved is resolved
    assert hits.fpr_reached == pytest.approx((above + 1) / (others + 1))


def test_a_new_non_member_is_called_a_member_no_more_often_than_stated() -> None:
    alarms = [hits_at(draws(200, 0.0, "new", t), draws(199, 0.0, "old", t), 0.01).share for t in range(400)]
    assert np.mean(alarms) == pytest.approx(0.01, abs=0.002)  # 80,000 new non-members, clustered by threshold


def test_ties_among_non_members_never_raise_the_false_alarms() -> None:
    hits = hits_at(np.ones(50), np.ones(300), 0.01)
    assert (hits.found, hits.share, hits.low) == (0, 0.0, 0.0)


def test_a_ratio_forgives_easy_text_and_a_loss_does_not() -> None:
    easy_unseen, hard_seen = 0, 1
    target = rows([10.0, 30.0], [10, 10])
    reference = rows([10.0, 50.0], [10, 10])
    assert loss_scores(target)[easy_unseen] > loss_scores(target)[hard_seen]
    assert ratio_scores(target, reference).tolist() == [0.0, 20.0]


def test_a_ratio_of_different_rows_is_refused() -> None:
    with pytest.raises(DataFormatError, match="different rows"):
        ratio_scores(rows([1.0], [3]), rows([1.0], [4]))


def test_scores_that_are_missing_or_not_finite_are_errors() -> None:
    with pytest.raises(EmptyDataError, match="non-members"):
        membership([1.0], [])
    with pytest.raises(DataFormatError, match="members"):
        membership([float("nan")], [1.0])


def test_guessing_shows_as_guessing() -> None:
    report = membership(draws(2000, 0.0, "a"), draws(2000, 0.0, "b"))
    assert report.auc_low < 0.5 < report.auc_high
    assert report.at_1_percent.low <= 0.01 <= report.at_1_percent.high
    assert report.at_01_percent.low <= 0.001 <= report.at_01_percent.high
