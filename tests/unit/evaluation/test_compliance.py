"""Each control of the report's table points to code and a test that are there; evidence is the run's own."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from fedmed.evaluation.controls import CONTROLS, Control, Evidence
from fedmed.evaluation.report_compliance import compliance

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
DIGESTS = {
    name: f"{place:02x}" * 32
    for place, name in enumerate(
        ("config.yaml", "data_manifest.json", "rounds.jsonl", "privacy_audit.json", "adapter/adapter_model.safetensors")
    )
}


@pytest.mark.parametrize("control", CONTROLS, ids=lambda one: f"{one.law} {one.where}")
def test_a_control_names_code_and_tests_that_are_there(control: Control) -> None:
    assert all((ROOT / "src" / "fedmed" / one).is_file() for one in control.code)
    for pointer in control.tests:
        path, name = pointer.split("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, pointer
    assert control.code
    assert control.tests
    assert control.remains


def test_both_laws_are_there_and_no_kind_of_evidence_is_without_a_control() -> None:
    assert {one.law for one in CONTROLS} == {"HIPAA", "GDPR"}
    assert {one.evidence for one in CONTROLS} == set(get_args(Evidence))
    assert len({(one.law, one.where) for one in CONTROLS}) == len(CONTROLS)


def words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup))


def test_each_row_shows_code_test_evidence_and_what_stays_with_the_hospital(full_summary: dict[str, Any]) -> None:
    summary = full_summary | {"data_gate": {"status": "public"}, "audit_log": {"head": "cd" * 32}}
    page = compliance(summary, {"privacy": {"share_metrics": True}}, {"beyond": []}, DIGESTS, "intact, 36 lines")
    text = words(page)
    for control in CONTROLS:
        assert all(f"src/fedmed/{one}" in text for one in control.code)
        assert all(one in text for one in control.tests)
        assert control.remains in page.replace("&#x27;", "'")
    assert page.count("<tr>") == len(CONTROLS) + 2
    assert "no certificate and claims none" in text
    assert "63.7 MB sent by all hospitals; losses and counts shared" in text.replace("\u202f", " ")
    assert "intact, 36 lines head cdcdcdcdcdcd…" in text
    assert "2 sample answers went through the rails, 1 withheld" in text
    assert all(f"{digest[:12]}…" in text and digest in page for digest in DIGESTS.values())


def test_evidence_says_none_where_there_is_none_and_follows_the_run(full_summary: dict[str, Any]) -> None:
    bare = words(compliance({}, {}, {}, {}, ""))
    assert "Nothing: not attacked yet" in bare
    assert "Nothing: no noise was added" in bare
    assert "Nothing: updates were not summed under masks" in bare
    assert "Not verified" in bare
    gate = {
        "status": "scanned", "documents": 1200, "documents_with_findings": 31, "quarantined": 4,
        "refused": {"no_consent": 7},
    }  # fmt: skip
    summary = full_summary | {
        "data_gate": gate, "forgotten_records": {"train": 3},
        "privacy": {"example_epsilon": 7.93, "unit": "patient", "secure_sum": True},
    }  # fmt: skip
    text = words(compliance(summary, {}, {"beyond": ["a", "b"]}, {}, ""))
    assert "Identifiers in 31 of 1,200 documents, replaced; 4 set aside" in text
    assert "7 records without consent were refused" in text
    assert "3 records it was trained on were forgotten since" in text
    assert "ε 7.93 for one patient" in text
    assert "Updates were summed under masks" in text
    assert "Beyond 2 of its limits" in text
    del summary["data_gate"]
    assert "in the folders of coordinator and hospitals" in words(compliance(summary, {}, {}, {}, "")).lower()
