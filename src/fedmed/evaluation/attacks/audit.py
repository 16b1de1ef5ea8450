"""One run's audit as plain values, and the limits it must keep. membership, canaries, epsilon_bound -> HERE -> a gate.

What could not be measured counts as a limit not kept: silence is no proof.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fedmed.evaluation.attacks.canaries import Exposure
from fedmed.evaluation.attacks.epsilon_bound import EpsilonBound
from fedmed.evaluation.attacks.membership import Membership


@dataclass(frozen=True, slots=True)
class RunAudit:
    """What the attacks found out about one trained adapter."""

    by_loss: Membership
    by_ratio: Membership
    exposure: Exposure | None  # None: no canaries
    epsilon: EpsilonBound | None  # of one record; None: no canaries
    claimed_epsilon: float | None  # None: nothing was claimed
    copies: int  # of each canary in the training records

    def as_dict(self) -> dict[str, Any]:
        """Nested dicts of numbers, strings and None, fit for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class AuditLimits:
    """None: not limited, except for ``max_epsilon_lower_bound``."""

    max_membership_auc: float | None = None  # of the better attack
    max_tpr_at_1_percent_fpr: float | None = None  # of the better attack
    max_exposure_bits: float | None = None  # mean exposure above chance
    max_epsilon_lower_bound: float | None = None  # None: the claimed ε, where one is claimed


def limits_passed(audit: RunAudit, limits: AuditLimits) -> list[str]:
    """One clause for each limit that this audit goes beyond, or cannot speak to; empty: it keeps all of them.

    Measured values count, not the ends of their intervals: on few records chance alone can go beyond a tight limit.
    """
    attacks = (audit.by_loss, audit.by_ratio)
    beyond: list[str] = []

    def check(what: str, value: float, limit: float, unit: str = "") -> None:
        if not value <= limit:  # so that a NaN fails
            beyond.append(f"{what} is {value:.3g}{unit}, above {limit:.3g}{unit}")

    if limits.max_membership_auc is not None:
        check("the AUC of membership inference", max(attack.auc for attack in attacks), limits.max_membership_auc)
    if limits.max_tpr_at_1_percent_fpr is not None:
        if not audit.by_loss.at_1_percent.resolved:
            beyond.append(f"a false-alarm rate of 1 % needs 99 non-members, there are {audit.by_loss.non_members}")
        found = max(attack.at_1_percent.share for attack in attacks)
        check("the share of members found at 1 % false alarms", found, limits.max_tpr_at_1_percent_fpr)
    if limits.max_exposure_bits is not None:
        if audit.exposure is None:
            beyond.append("there were no canaries to measure exposure with")
        else:
            check("mean exposure above chance", audit.exposure.above_chance, limits.max_exposure_bits, " bits")
    most = audit.claimed_epsilon if limits.max_epsilon_lower_bound is None else limits.max_epsilon_lower_bound
    if most is not None:
        if audit.epsilon is None:
            beyond.append("there were no canaries to bound ε with")
        else:
            check("the lower bound on ε", audit.epsilon.epsilon, most)
    return beyond
