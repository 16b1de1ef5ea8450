"""One call from a dataset's name to shares on disk; one call from a dataset to its counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedmed.config.schema import DatasetSection, FederatedSection
from fedmed.data.inspect import inspect_dataset
from fedmed.data.load_dataset import load_with_report
from fedmed.data.prepare import prepare_split
from fedmed.data.split_folder import read_split
from fedmed.errors import SplitError

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def rules(marked_scanner: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real rules' vocabularies are not needed; the gate's folder is made where the test runs."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    rows = [{"question": f"SECRET {n}?", "answer": "x" * n, "specialty": f"s{n % 3}"} for n in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_prepare_writes_what_the_settings_ask_for(notes: Path, tmp_path: Path) -> None:
    dataset = DatasetSection(name=str(notes), max_samples=40, test_fraction=0.2)
    prepared = prepare_split(dataset, FederatedSection(num_clients=3, split="by_specialty", seed=5), tmp_path / "out")
    shares = read_split(tmp_path / "out")
    assert list(shares) == ["hospital_A", "hospital_B", "hospital_C"]
    assert sum(len(share) for share in shares.values()) == prepared.report.kept == 40
    assert [set(share[:]["specialty"]) for share in shares.values()] != [{"s0", "s1", "s2"}] * 3
    assert json.loads(json.dumps(prepared.as_dict()))["split"]["gate"]["left_out"]["empty"] == 1
    assert "SECRET" not in json.dumps(prepared.as_dict())


def test_an_impossible_split_writes_nothing(notes: Path, tmp_path: Path) -> None:
    federated = FederatedSection(num_clients=4, split="by_specialty")
    with pytest.raises(SplitError):
        prepare_split(DatasetSection(name=str(notes)), federated, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.jsonl", "work"]


def test_an_inspection_counts_and_shows_no_text(notes: Path) -> None:
    inspection = inspect_dataset(*load_with_report(str(notes)))
    assert (inspection.records, inspection.groups, inspection.sources) == (49, 49, 1)
    assert inspection.by_specialty == {"s1": 17, "s0": 16, "s2": 16}
    assert list(inspection.by_specialty) == ["s1", "s0", "s2"]
    assert (inspection.answer_characters.median, inspection.answer_characters.max) == (25, 49)
    assert inspection.report.empty == 1
    assert "SECRET" not in json.dumps(inspection.as_dict())
