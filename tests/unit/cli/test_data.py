"""``fedmed data``: what a person and a machine get to see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedmed.cli.app import main

pytestmark = pytest.mark.unit

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def rules(marked_scanner: object) -> None:
    """No command here loads the vocabularies of the real rules."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{"question": f"SECRET {n}?", "answer": f"A{n}", "specialty": f"s{n % 3}"} for n in range(60)]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_prepare_writes_the_configured_dataset_to_data_processed(here: Path, capsys: Capture) -> None:
    assert main(["data", "prepare", "--set", "training.dataset.name=notes.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "hospital_D" in out
    assert "read 60, kept 60" in out
    assert sorted(path.name for path in (here / "data" / "processed").iterdir())[-1] == "manifest.json"
    assert "SECRET" not in out


def test_split_takes_its_settings_from_the_command_line(capsys: Capture) -> None:
    words = ["data", "split", "notes.jsonl", "--hospitals", "2", "--strategy", "dirichlet", "--alpha", "2.5"]
    assert main([*words, "--seed", "3", "--out", "out", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["folder"] == "out"
    assert list(shown["split"]["hospitals"]) == ["hospital_A", "hospital_B"]
    assert (shown["split"]["strategy"], shown["split"]["alpha"], shown["split"]["seed"]) == ("dirichlet", 2.5, 3)


def test_inspect_counts_a_file(capsys: Capture) -> None:
    assert main(["data", "inspect", "notes.jsonl", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["records"], shown["report"]["duplicate"]) == (60, 0)
    assert main(["data", "inspect", "notes.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "specialties" in out
    assert "SECRET" not in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["inspect", "gone.csv"], 21, "no file or folder gone.csv"),
        (["split", "notes.jsonl", "--hospitals", "61", "--out", "out"], 24, "61 hospitals cannot share"),
        (["split", "notes.jsonl", "--hospitals", "0"], 10, "num_clients"),
        (["split", "notes.jsonl", "--strategy", "random"], 10, "split"),
        (["prepare", "--set", "training.dataset.name=notes.jsonl", "--out", "notes.jsonl"], 61, "is a file"),
    ],
)
def test_an_error_is_one_line_with_its_own_exit_code(
    here: Path, capsys: Capture, words: list[str], code: int, message: str
) -> None:
    assert main(["data", *words]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert [message in line for line in shown.err.splitlines() if not line.startswith("scanning")] == [True]
    assert {path.name for path in here.iterdir()} <= {"notes.jsonl", "data"}  # what was scanned stays scanned
    assert not (here / "data" / "processed").exists()


@pytest.mark.parametrize("command", ["prepare", "split", "inspect", "forget"])
def test_every_command_shows_an_example(capsys: Capture, command: str) -> None:
    assert main(["data", command, "--help"]) == 0
    assert f"Example: fedmed data {command}" in capsys.readouterr().out
