from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fedmed.evaluation.attacks.audit import AuditLimits, RunAudit, limits_passed
from fedmed.evaluation.attacks.canaries import exposure
from fedmed.evaluation.attacks.epsilon_bound import EpsilonBound
from fedmed.evaluation.attacks.membership import membership
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.unit

DRAW = stream(17, "audit")
GUESSING = membership(DRAW.normal(size=400), DRAW.normal(size=400))
TELLING = membership(DRAW.normal(4.0, 1.0, 400), DRAW.normal(size=400))
NOTHING_LEARNT = exposure(DRAW.normal(size=100), DRAW.normal(size=100), seed=17)
LEARNT = exposure(DRAW.normal(size=100), DRAW.normal(9.0, 1.0, 100), seed=17)
PRIVATE = RunAudit(GUESSING, GUESSING, NOTHING_LEARNT, EpsilonBound(0.2, 1e-5, 0.95, "one_run", 120, 200), 1.0, 1)
LIMITS = AuditLimits(max_membership_auc=0.6, max_tpr_at_1_percent_fpr=0.1, max_exposure_bits=0.5)


def test_an_audit_is_plain_json() -> None:
    values = json.loads(json.dumps(PRIVATE.as_dict(), allow_nan=False))
    assert values["by_loss"]["at_1_percent"]["members"] == 400
    assert values["epsilon"]["epsilon"] == 0.2


def test_a_private_run_keeps_its_limits() -> None:
    assert limits_passed(PRIVATE, LIMITS) == []
    assert limits_passed(PRIVATE, AuditLimits()) == []


def test_each_limit_that_is_passed_is_named_whichever_attack_passes_it() -> None:
    leaky = replace(PRIVATE, by_ratio=TELLING, exposure=LEARNT, epsilon=replace(PRIVATE.epsilon, epsilon=1.5))
    said = limits_passed(leaky, LIMITS)
    assert len(said) == 4
    assert "AUC" in said[0]
    assert "1 % false alarms" in said[1]
    assert "bits" in said[2]
    assert "1.5, above 1" in said[3]


def test_a_limit_on_epsilon_goes_before_the_claim_and_no_claim_limits_nothing() -> None:
    assert len(limits_passed(PRIVATE, replace(LIMITS, max_epsilon_lower_bound=0.1))) == 1
    assert limits_passed(replace(PRIVATE, claimed_epsilon=None), LIMITS) == []


def test_what_was_not_measured_counts_as_passed() -> None:
    blind = replace(PRIVATE, exposure=None, epsilon=None)
    assert len(limits_passed(blind, LIMITS)) == 2
    few = membership(np.zeros(40), np.linspace(0, 1, 98))
    assert any("99 non-members" in clause for clause in limits_passed(replace(PRIVATE, by_loss=few), LIMITS))
