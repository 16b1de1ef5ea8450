from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fedmed.cli import report
from fedmed.errors import RunNotFoundError

pytestmark = pytest.mark.unit


@pytest.fixture
def app() -> typer.Typer:
    built = typer.Typer()
    built.callback()(lambda: None)  # with one command alone, typer would drop its name
    report.register(built)
    return built


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_summary: dict[str, Any]) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("run-1", "run-2"):
        folder = Path("output-models") / name
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({**full_summary, "run_id": name}))
    Path("output-models/latest.json").write_text('{"run": "run-2"}')
    return tmp_path


def test_report_writes_the_page_of_the_named_run_and_prints_its_path(app: typer.Typer, runs: Path) -> None:
    result = CliRunner().invoke(app, ["report", "run-1"])
    assert result.exit_code == 0
    assert result.stdout.strip() == "output-models/run-1/report.html"
    assert "<h1>run-1</h1>" in (runs / "output-models/run-1/report.html").read_text()
    assert not (runs / "output-models/run-2/report.html").exists()


def test_report_without_a_name_takes_the_latest_run_and_speaks_json_on_request(app: typer.Typer, runs: Path) -> None:
    result = CliRunner().invoke(app, ["report", "--json"])
    assert json.loads(result.stdout) == {"report": "output-models/run-2/report.html"}


def test_report_of_a_run_that_is_not_there_is_an_error_of_its_own(app: typer.Typer, runs: Path) -> None:
    result = CliRunner().invoke(app, ["report", "run-9"])
    assert isinstance(result.exception, RunNotFoundError)
