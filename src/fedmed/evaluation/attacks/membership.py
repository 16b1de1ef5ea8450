"""Can it be told who was trained on? Scores of members and of others -> AUC and hits at few false alarms.

Two attacks, both of which say "member" above a threshold:
- ``loss_scores``: minus the loss a token (Yeom et al. 2018, arXiv:1709.01604). It takes easy text for known text.
- ``ratio_scores``: log of how much likelier the trained model finds an answer than a reference model does, so that easy
  text no longer counts (Mireshghallah et al. 2022, arXiv:2203.03929). This is the offline attack of Carlini et al.
  2022 (arXiv:2112.03570) with one model that never saw the record, the frozen base, in place of many: there is no
  spread to divide by, so it is weaker than theirs at few false alarms.

Averages hide harm done to few, so what counts are the hits at a false-alarm rate (FPR) of 1 % and of 0.1 %.
Not covered: shadow models; an attacker who has other hospitals' records; members and others that differ in more than
membership (date, source, length) measure that difference instead: draw both from one pool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import DataFormatError, EmptyDataError
from fedmed.evaluation.attacks.intervals import clopper_pearson, error_rate
from fedmed.evaluation.likelihood import RowScores

Scores: TypeAlias = NDArray[np.float64]
"""[rows] finite; the higher, the more likely a member."""


@dataclass(frozen=True, slots=True)
class Hits:
    """Members found at one false-alarm rate."""

    fpr: float  # what was asked for
    fpr_reached: float  # chance that the threshold calls a new non-member a member; above ``fpr``: too few of them
    share: float  # members found / members: the TPR
    low: float  # exact interval of that share, given the threshold
    high: float
    found: int
    members: int

    @property
    def resolved(self) -> bool:
        """Whether there were non-members enough: at least 1 / fpr - 1 (99 for 1 %, 999 for 0.1 %)."""
        return self.fpr_reached <= self.fpr * (1.0 + 1e-9)


@dataclass(frozen=True, slots=True)
class Membership:
    """What one attack can tell; 0.5 is guessing."""

    auc: float  # chance that a member scores above a non-member, ties count half
    auc_low: float  # see ``auc_interval``
    auc_high: float
    at_1_percent: Hits
    at_01_percent: Hits
    members: int
    non_members: int
    confidence: float  # of all intervals, each by itself


def loss_scores(target: RowScores) -> Scores:
    """Minus the nats an answer token."""
    return -target.nll / target.tokens


def ratio_scores(target: RowScores, reference: RowScores) -> Scores:
    """ln p_target(answer) - ln p_reference(answer), whole answers: base loss less target loss, in nats.

    Raises:
        DataFormatError: the two do not hold the same rows.
    """
    if not np.array_equal(target.tokens, reference.tokens):
        raise DataFormatError("target and reference scored different rows", "score the same rows with both")
    return reference.nll - target.nll


def membership(
    members: Sequence[float] | Scores, others: Sequence[float] | Scores, confidence: float = 0.95
) -> Membership:
    """Measure one attack.

    Args:
        members: scores of records that were trained on.
        others: scores of records that were not, from the same pool.
        confidence: of each interval.

    Raises:
        EmptyDataError: one side has no score. DataFormatError: a score is not a finite number.
        AccountingError: the confidence is not between 0 and 1.
    """
    inside, outside = _checked(members, "members"), _checked(others, "non-members")
    auc, low, high = auc_interval(inside, outside, confidence)
    return Membership(
        auc,
        low,
        high,
        hits_at(inside, outside, 0.01, confidence),
        hits_at(inside, outside, 0.001, confidence),
        inside.size,
        outside.size,
        confidence,
    )


def hits_at(members: Scores, others: Scores, fpr: float, confidence: float = 0.95) -> Hits:
    """Members above a threshold that the non-members set.

    The threshold is a non-member's score with ``a`` of n non-members above it, a the largest number with
    (a + 1) / (n + 1) <= fpr. A new non-member from the same pool passes it with at most that chance, so the rate is not
    flattered by the records that set it, as it would be with a = fpr n. Who ties with the threshold is not found.
    """
    count = others.size
    above = max(0, math.floor(fpr * (count + 1) * (1.0 + 1e-12)) - 1)
    threshold = np.sort(others)[count - 1 - above]
    found = int(np.sum(members > threshold))
    low, high = clopper_pearson(found, members.size, confidence)
    return Hits(fpr, (above + 1) / (count + 1), found / members.size, low, high, found, members.size)


def auc_interval(members: Scores, others: Scores, confidence: float = 0.95) -> tuple[float, float, float]:
    """The AUC and an interval: DeLong's variance (DeLong et al. 1988), normal on the scale ln(AUC / (1 - AUC)).

    Where the two sides do not overlap at all that variance is 0 and says nothing. The interval is an exact one then:
    min(members, others) disjoint pairs were independent trials, and all came out alike.
    """
    below = _mid_ranks(members, others)  # [members] share of others below each member
    above = _mid_ranks(others, members)
    auc = float(below.mean())
    if auc in (0.0, 1.0):
        pairs = min(members.size, others.size)
        return auc, *clopper_pearson(round(auc * pairs), pairs, confidence)
    if min(members.size, others.size) < 2:
        return auc, 0.0, 1.0
    variance = below.var(ddof=1) / members.size + above.var(ddof=1) / others.size
    half = NormalDist().inv_cdf(1.0 - error_rate(confidence) / 2.0) * math.sqrt(variance) / (auc * (1.0 - auc))
    middle = math.log(auc / (1.0 - auc))
    return auc, _logistic(middle - half), _logistic(middle + half)


def _mid_ranks(scores: Scores, among: Scores) -> Scores:
    """For each score the share of ``among`` below it, ties half."""
    ordered = np.sort(among)
    return (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / (2.0 * among.size)


def _logistic(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value > -700.0 else 0.0


def _checked(scores: Sequence[float] | Scores, what: str) -> Scores:
    array = np.asarray(scores, dtype=np.float64)
    if array.size == 0:
        raise EmptyDataError(f"there are no scores of {what}", "hold out more records")
    if array.ndim != 1 or not np.isfinite(array).all():
        raise DataFormatError(
            f"the scores of {what} are not one finite number a record", "see which loss is not finite"
        )
    return array
