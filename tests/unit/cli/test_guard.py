from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fedmed.cli import guard
from fedmed.errors import DataFormatError, DataNotFoundError, EmptyDataError, SafetyPolicyError

pytestmark = pytest.mark.unit


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    made.callback()(lambda: None)
    guard.register(made)
    return made


def _judge(app: typer.Typer, folder: Path, *lines: Any, more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    source, out = folder / "in.jsonl", folder / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = ["guard", "--input", str(source), "--out", str(out), *more]
    CliRunner().invoke(app, command, catch_exceptions=False)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_every_line_is_judged_in_its_order_and_under_its_id(app: typer.Typer, tmp_path: Path) -> None:
    found = _judge(
        app,
        tmp_path,
        {"id": "a", "question": "What is asthma?", "response": "A disease of the airways.", "confidence": 0.7},
        {"id": 2, "question": "I have crushing chest pain"},
        {"id": "c", "question": "Can I stop?", "response": "Stop taking your insulin at once."},
    )
    assert [(line["id"], line["allowed"], line["action"]) for line in found] == [
        ("a", True, "allow"),
        (2, False, "refer"),
        ("c", False, "withhold"),
    ]
    assert set(found[0]) == {"id", "allowed", "action", "reasons", "text"}
    assert found[0]["text"] == "A disease of the airways."
    assert "911" in found[1]["text"]
    assert {reason["rule"] for reason in found[2]["reasons"]} >= {"medication.stop"}
    assert set(found[2]["reasons"][0]) == {"rule", "severity", "why"}


def test_a_low_confidence_withholds(app: typer.Typer, tmp_path: Path) -> None:
    line = {"id": 1, "question": "What is asthma?", "response": "A disease of the airways.", "confidence": 0.1}
    (found,) = _judge(app, tmp_path, line)
    assert [reason["rule"] for reason in found["reasons"]] == ["confidence.low"]
    assert not found["allowed"]


def test_a_question_alone_is_given_back_without_identifiers(app: typer.Typer, tmp_path: Path) -> None:
    (found,) = _judge(app, tmp_path, {"id": 1, "question": "My date of birth is 3 May 1961. What is asthma?"})
    assert found["action"] == "rewrite"
    assert "1961" not in found["text"]


def test_another_policy_is_used_where_it_is_set(app: typer.Typer, tmp_path: Path) -> None:
    policy = tmp_path / "mine.yaml"
    text = "format: 2\nversion: '1'\nextends: packaged\nchange:\n  remedy.dangerous: {action: annotate}\n"
    policy.write_text(text, encoding="utf-8")
    line = {"id": 1, "question": "Worms?", "response": "Some people used to drink turpentine."}
    before = _judge(app, tmp_path, line)
    after = _judge(app, tmp_path, line, more=("--set", f"safety.policy={policy}"))
    rules = {reason["rule"] for reason in before[0]["reasons"]}
    assert rules == {reason["rule"] for reason in after[0]["reasons"]}
    with pytest.raises(SafetyPolicyError):
        _judge(app, tmp_path, line, more=("--set", f"safety.policy={tmp_path / 'gone.yaml'}"))


@pytest.mark.parametrize(
    "line",
    [
        ["not", "an object"],
        {"question": "no id"},
        {"id": True, "question": "an id that is no id"},
        {"id": 1, "question": 7},
        {"id": 1, "question": "secret words", "response": 3},
        {"id": 1, "question": "secret words", "response": "x", "confidence": 1.2},
    ],
)
def test_a_line_that_cannot_be_used_is_named_by_number_and_never_by_its_text(
    app: typer.Typer, tmp_path: Path, line: Any
) -> None:
    with pytest.raises(DataFormatError, match="line 2") as caught:
        _judge(app, tmp_path, {"id": 0, "question": "What is asthma?"}, line)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_missing_or_empty_file_is_refused(app: typer.Typer, tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError):
        _judge(app, tmp_path)
    command = ["guard", "--input", str(tmp_path / "gone.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(DataNotFoundError):
        CliRunner().invoke(app, command, catch_exceptions=False)
