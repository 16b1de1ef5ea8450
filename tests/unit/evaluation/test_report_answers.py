"""The report's first screen answers four questions from what was measured, and says what was not."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fedmed.evaluation.report_answers import four_lines, release

pytestmark = pytest.mark.unit

CHECKS = [
    {"name": "held-out loss", "kept": True, "told": "fell by 39.9%"},
    {"name": "privacy audit", "kept": True, "told": "within its limits"},
    {"name": "sign-off by clinician", "kept": True, "told": "Dr A"},
]


def answers(*files: dict[str, Any]) -> list[str]:
    markup = four_lines(*(*files, {}, {}, {})[:4])
    told = re.findall(r"<dd>(.*?)</dd>", markup)
    return [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", one)).replace("\u202f", " ") for one in told]


def test_where_every_hospital_gained_the_least_gain_is_told_and_the_references_beside_it(full_summary) -> None:
    helped, *_ = answers(full_summary)
    assert helped == (
        "Held-out loss fell at all 2 hospitals; least at hospital_B: −39.8 %. "
        "Worked examples in the prompt alone give 55.2 % of the fall. Against each hospital alone: −8.4 %."
    )


def test_a_hospital_that_lost_and_one_that_was_harmed_are_named(full_summary) -> None:
    full_summary["loss"]["per_hospital"]["hospital_B"]["federated"] = 3.6
    evaluation = {
        "held_out": {"fairness": {"harmed": ["hospital_B"]}},
        "joining": {"hospitals": {"a": {"verdict": {"shared": "helps"}}, "b": {"verdict": {"shared": "harms"}}}},
    }
    helped, *_ = answers(full_summary, evaluation)
    assert "fell at 1 of 2 hospitals; least at hospital_B: +7.8 %" in helped
    assert "Harmed: hospital_B." in helped
    assert "sharing helps 1 of 2 and harms 1." in helped


def test_what_was_not_measured_is_said(full_summary) -> None:
    helped, cost, sign, _ = answers({})
    assert helped == "Not measured yet."
    assert "not attacked yet" in cost
    assert "fedmed release RUN" in sign
    full_summary["loss"]["per_hospital"] = None
    full_summary["comparison"] = None
    helped, *_ = answers(full_summary)
    assert "single ones share no losses" in helped
    assert "Whether joining beats training alone was not measured." in helped


def test_privacy_is_told_as_bought_spent_and_attacked(full_summary) -> None:
    _, cost, *_ = answers(full_summary)
    assert cost.startswith("Nothing is guaranteed:")
    full_summary["privacy"] |= {"example_epsilon": 7.2, "example_budget": 8.0, "delta": 1e-5, "unit": "patient"}
    audit = {"audit": {"by_loss": {"auc": 0.52}, "by_ratio": {"auc": 0.61}}, "beyond": ["one"]}
    _, cost, *_ = answers(full_summary, {}, audit)
    assert cost == (
        "ε 7.2 for one patient at δ 1e-05, 0.80 left of 8. Attacked: who was in it is guessed with AUC 0.61 "
        "(0.5: not at all), beyond 1 of the limits."
    )


def test_nothing_is_to_be_signed_while_something_is_not_kept(full_summary) -> None:
    gate = {"checks": [*CHECKS, {"name": "exams", "kept": False, "told": "not taken"}], "adapter": "ab", "evidence_sha256": "cd"}  # fmt: skip  # noqa: E501
    assert answers(full_summary, {}, {}, gate)[2] == "Nothing yet. Not kept or not measured: exams."
    gate["checks"] = [*CHECKS, {"name": "sign-off by engineer", "kept": False, "told": "nobody"}]
    assert answers(full_summary, {}, {}, gate)[2].endswith("all within the limits. Still to sign: engineer.")
    gate["checks"] = CHECKS
    assert answers(full_summary, {}, {}, gate)[2].endswith("everybody who must has signed.")
    shown = release(gate | {"overridden": ["safety.release.min_gain=-1"], "released": "2026-01-01T00:00:00Z"})
    assert shown.count('class="kept"') == 3
    assert "Other limits than the run was started with: safety.release.min_gain=-1" in shown
    assert release({}) == ""


def test_what_is_not_covered_begins_with_patients_and_leads_to_the_list(full_summary) -> None:
    assert answers(full_summary)[3] == (
        "Use with patients; whether an answer is right, which no figure here measures; "
        "and 2 things that no privacy guarantee covers."
    )
    assert "beyond the 30 questions that people rated" in answers(full_summary, {"ratings": {"questions": 30}})[3]
    assert 'href="#privacy"' in four_lines(full_summary, {}, {}, {})
