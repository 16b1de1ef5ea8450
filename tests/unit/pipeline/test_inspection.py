"""An inspection warns of what should not be there; neither page nor JSON holds a record's text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fedmed.cli.app import main
from fedmed.config.load import load_config
from fedmed.data.inspect import Inspection
from fedmed.pipeline.inspection import inspect_source
from fedmed.pipeline.inspection_page import findings, render

pytestmark = pytest.mark.unit


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked_scanner: object) -> Inspection:
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "id": f"i{n}", "patient_id": f"SECRETPT{n % 8}", "consent": n % 2, "split": "test" if n >= 50 else "train",
            "question": f"What does SECRET{n % 50} have in case {n % 50}, if this is so and nothing else is known"
            f"{' now' * (n >= 50)}?",
            "answer": f"He has it, as <b>all</b> the others on ward {n % 50} do",
            "specialty": "rare" if n == 3 else "cardiology" if n % 2 else "neurology",
        }
        for n in range(60)
    ]  # fmt: skip
    Path("notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = load_config(overrides=["federated.num_clients=2", "federated.split=by_specialty"])
    return inspect_source(config, "notes.jsonl", scan=100)


def test_it_counts_people_consent_identifiers_and_records_near_training(made: Inspection) -> None:
    assert made.patients == {"patients": 8, "most_documents": 8}
    assert made.consent == {"yes": 30, "no": 30, "unknown": 0}
    assert made.identifiers is not None
    assert made.identifiers["types"]["NAME"]["found"] == 60
    assert made.near_duplicates.test_records_near_training == 10
    assert made.near_duplicates.clusters == 10
    assert list(made.hospitals) == ["hospital_A", "hospital_B"]
    assert [cell["name"] for cell in made.small_cells] == ["rare", "all"]


def test_what_to_look_at_first_is_said_in_words(made: Inspection) -> None:
    said = [what for warns, what, _ in findings(made) if warns]
    assert said[0] == "100 % of the records scanned hold what may identify people"
    assert "10 held-out records all but in training" in said
    assert "30 documents without consent" in said


def test_neither_page_nor_json_holds_text_or_anything_from_outside(made: Inspection) -> None:
    page = render(made)
    for shown in (page, json.dumps(made.as_dict())):
        assert "SECRET" not in shown
        assert "ward" not in shown
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!data:,")""", page) == []
    assert "<script" not in page
    assert render(made) == page


def test_without_the_rules_the_page_says_that_nobody_looked(
    made: Inspection, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "inspect", "notes.jsonl", "--scan", "0", "--html", "page.html"]) == 0
    assert "Not scanned for identifiers" in capsys.readouterr().out
    page = Path("page.html")
    assert "Not scanned: not asked for." in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600


def test_a_set_that_cannot_be_shared_out_is_inspected_all_the_same(made: Inspection) -> None:
    config = load_config(overrides=["federated.num_clients=50", "federated.split=by_specialty"])
    again = inspect_source(config, "notes.jsonl", scan=0)
    assert again.hospitals == {}
    assert again.hospitals_basis.startswith("cannot be shared out as configured")
    assert "Cannot be shared out" in render(again)
