from __future__ import annotations

from pathlib import Path

import pytest

from fedmed.config.schema import SafetySection
from fedmed.errors import SafetyPolicyError
from fedmed.safety.guardrails import MedicalGuardrails
from fedmed.safety.policy_file import load_policy, read_policy

pytestmark = pytest.mark.unit

GOOD = """\
format: 1
version: "7"
limits: {max_question_characters: 50, max_phrase_repeats: 3}
contexts:
  negated:
    where: before
    patterns: ['not \\w* ?$']
input:
  - id: local.closed
    severity: low
    action: refer
    why: the clinic answers this itself
    say: Call the clinic.
    patterns: ['opening hours']
output:
  - id: local.leeches
    severity: high
    action: withhold
    why: no leeches here
    patterns: ["don't spare the leeches|leeches"]
    unless: [negated]
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_hospital_s_policy_replaces_the_packaged_one(tmp_path: Path) -> None:
    guardrails = MedicalGuardrails(SafetySection(policy=str(_write(tmp_path, GOOD))))
    assert guardrails.check_response("Use LEECHES.") == (False, "local.leeches: no leeches here")
    assert guardrails.check_response("Do not use leeches.").is_safe
    assert guardrails.check_response("You have cancer.").is_safe
    assert not guardrails.check_question("what are the opening hours?").is_safe


def test_the_packaged_policy_is_read_once() -> None:
    assert load_policy() is load_policy()


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("severity: high", "severity: awful", ["line 17", "rule 'local.leeches'", "severity"]),
        ("action: withhold", "action: delete", ["line 18", "rule 'local.leeches'", "action"]),
        ("unless: [negated]", "unless: [negatd]", ["line 21", "rule 'local.leeches'", "negatd", "negated"]),
        ("unless: [negated]", "unlass: [negated]", ["rule 'local.leeches'", "unlass"]),
        ("['opening hours']", "['opening (hours']", ["line 14", "rule 'local.closed'", "not a regular expression"]),
        ("['opening hours']", "['(opening)?']", ["line 14", "rule 'local.closed'", "matches every text"]),
        ("['opening hours']", "[17]", ["line 14", "rule 'local.closed'", "text"]),
        ("['opening hours']", "[]", ["line 14", "rule 'local.closed'", "patterns"]),
        ("say: Call the clinic.", "say: ''", ["line 13", "rule 'local.closed'", "'say'"]),
        ("id: local.leeches", "id: local.closed", ["line 16", "rule 'local.closed'", "twice"]),
        ("format: 1", "format: 9", ["line 1", "format"]),
        ("max_phrase_repeats: 3", "max_phrase_repeats: '3'", ["line 3", "max_phrase_repeats"]),
        ("where: before", "where: [", ["line 8", "not YAML"]),
    ],
)
def test_a_wrong_policy_is_refused_with_its_line_and_rule(tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    assert old in GOOD
    path = _write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(SafetyPolicyError) as caught:
        read_policy(path)
    for part in [str(path), *parts]:
        assert part in str(caught.value)


def test_everything_that_is_wrong_is_reported_at_once(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD.replace("severity: high", "severity: awful").replace("version:", "versoin:"))
    with pytest.raises(SafetyPolicyError) as caught:
        read_policy(path)
    assert "awful" in str(caught.value) or "severity" in str(caught.value)
    assert "versoin" in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SafetyPolicyError, match="not a policy"):
        read_policy(_write(tmp_path, text))


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(SafetyPolicyError, match="cannot be read as text"):
        read_policy(path)


def test_a_missing_file_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(SafetyPolicyError, match=r"there is no policy file .*gone\.yaml"):
        MedicalGuardrails(SafetySection(policy=str(tmp_path / "gone.yaml")))


def test_a_rule_of_the_packaged_policy_is_switched_off_or_softened_and_one_is_added(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(
        "format: 2\nversion: ours\nextends: packaged\nchange:\n"
        "  subject.not_medical: {off: true}\n  dosing.instruction: {action: annotate}\n"
        "output:\n  - id: local.leeches\n    severity: high\n    action: withhold\n    why: no leeches here\n"
        "    signs: ['use|apply ..2 leeches']\n",
        encoding="utf-8",
    )
    policy = read_policy(path)
    rules = {check.id: check.action for check in policy.checks}
    assert "subject.not_medical" not in rules
    assert rules["dosing.instruction"] == "annotate"
    assert not MedicalGuardrails(SafetySection(policy=str(path))).check_response("Apply two leeches.").is_safe
