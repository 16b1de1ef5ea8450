from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fedmed.cli import ask
from fedmed.errors import RunNotFoundError
from fedmed.safety import assistant
from fedmed.types import Answer
from fedmed.utils.runs import note_latest

pytestmark = pytest.mark.unit

DISCLAIMER = "Research use only."
SHOWN = Answer("A [thick] heart muscle.", True, ("text.cut_off: it stops early",), 0.61, DISCLAIMER, "tiny", "first")
WITHHELD = Answer("I would rather not.", False, ("diagnosis.stated: it diagnoses",), 0.4, DISCLAIMER, "tiny", None)


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    made.callback()(lambda: None)
    ask.register(made)
    return made


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Replaces the assistant; a question with 'me' in it is withheld."""
    seen: list[dict[str, Any]] = []

    def answer(question: str, run_folder: Path | None, **options: Any) -> Answer:
        seen.append({"question": question, "run": run_folder, **options})
        return WITHHELD if " me" in question else SHOWN

    monkeypatch.setattr(assistant, "ask_once", answer)
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (tmp_path / "output-models" / name).mkdir(parents=True)
    note_latest(tmp_path / "output-models" / "first")
    return seen


def test_json_has_exactly_these_keys_in_this_order(app: typer.Typer, calls: list[dict[str, Any]]) -> None:
    result = CliRunner().invoke(app, ["ask", "What is asthma?", "--json"])
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert list(data) == ["answer", "allowed", "reasons", "confidence", "disclaimer", "model", "run"]
    assert data["reasons"] == ["text.cut_off: it stops early"]


def test_text_shows_answer_confidence_rails_and_disclaimer_once(app: typer.Typer, calls: list[dict[str, Any]]) -> None:
    result = CliRunner().invoke(app, ["ask", "What is asthma?"])
    assert result.exit_code == 0
    for part in (SHOWN.answer, "0.61", "text.cut_off: it stops early", "tiny", "first"):
        assert part in result.stdout
    assert result.stdout.count(DISCLAIMER) == 1


def test_a_withheld_answer_is_no_failure(app: typer.Typer, calls: list[dict[str, Any]]) -> None:
    result = CliRunner().invoke(app, ["ask", "What is wrong with me?"])
    assert result.exit_code == 0
    assert "diagnosis.stated" in result.stdout


def test_the_latest_run_is_asked_unless_another_is_named(app: typer.Typer, calls: list[dict[str, Any]]) -> None:
    for words in ([], ["--run", "second"], ["--base"]):
        assert CliRunner().invoke(app, ["ask", "What is asthma?", *words]).exit_code == 0
    assert [call["run"] and call["run"].name for call in calls] == ["first", "second", None]


def test_options_reach_the_assistant(app: typer.Typer, calls: list[dict[str, Any]]) -> None:
    words = ["--show-withheld", "--set", "safety.min_confidence=0.1", "--set", "model.device=cpu"]
    assert CliRunner().invoke(app, ["ask", "What is asthma?", *words]).exit_code == 0
    assert calls[0]["show_withheld"] is True
    assert list(calls[0]["overrides"]) == ["safety.min_confidence=0.1", "model.device=cpu"]


def test_a_run_and_the_base_exclude_each_other(app: typer.Typer, calls: list[dict[str, Any]]) -> None:
    assert CliRunner().invoke(app, ["ask", "What is asthma?", "--run", "first", "--base"]).exit_code == 2
    assert calls == []


def test_without_any_run_the_error_says_how_to_make_one(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["ask", "What is asthma?"])
    assert isinstance(result.exception, RunNotFoundError)
    assert "fedmed run --recipe cpu_demo" in str(result.exception)


def test_help_has_an_example(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["ask", "--help"])
    assert "fedmed ask" in result.stdout
    assert "hypertrophic" in result.stdout


def test_an_emergency_is_answered_where_no_run_exists_yet(tmp_path, monkeypatch, capsys):
    from fedmed.cli.app import main

    monkeypatch.chdir(tmp_path)
    assert main(["ask", "I have crushing chest pain going down my left arm", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert not answer["allowed"]
    assert "emergency" in answer["answer"].lower()
    assert main(["ask", "What is hypertrophic cardiomyopathy?"]) == 67
