"""A source goes through the gate: whole or absent, resumable, with nothing original in what may be trained on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmed.config.schema import DatasetSection, FederatedSection, GateSection
from fedmed.data.gate import build
from fedmed.data.gate.build import build_set
from fedmed.data.gate.forgotten import add_tombstones
from fedmed.data.gate.keys import open_key
from fedmed.data.gate.sets import GateSet
from fedmed.data.gate.source import load_gated
from fedmed.data.prepare import prepare_split
from fedmed.errors import DataFormatError, EmptyDataError, MissingExtraError, UnscannedError

pytestmark = pytest.mark.unit


def rows(count: int = 200) -> list[dict[str, Any]]:
    return [
        {
            "id": f"SECRETID{n}", "patient_id": f"SECRETPT{n // 2}", "consent": n % 50 != 7,
            "question": f"SECRET{n} asks why {n}?" if n % 2 else f"Why {n}?",
            "answer": f"MAYBE{n} MAYBEB{n} MAYBEC{n} so." if n % 20 == 5 else f"As SECRETDR said, {n}.",
            "specialty": "SECRETWARD" if n % 3 else "cardiology",
        }
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "export.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    return path


def made(source: Path, scanner: Any, **more: Any) -> GateSet:
    gate = GateSection()
    return build_set(source, {}, gate, open_key(Path(gate.folder)), workers=1, scanner=scanner, **more)


@pytest.fixture
def opened(marked_scanner: Callable[[], Any]) -> Callable[..., Any]:
    return lambda settings: marked_scanner()


def test_what_passes_holds_nothing_original_and_what_does_not_is_set_aside(source: Path, opened: Any) -> None:
    found = made(source, opened)
    text = found.records.read_text()
    assert "SECRET" not in text
    assert "MAYBE" not in text
    gate = json.loads((found.folder / "gate.json").read_text())
    assert (gate["documents"], gate["refused"]["no_consent"]) == (200, 4)
    assert gate["quarantined"] == 10
    assert gate["kept"] == gate["records"] == len(text.splitlines()) == 200 - 4 - 10
    assert gate["quarantine_signs"] == {"suspected": 10}
    assert gate["findings"]["NAME"] > 100
    assert "SECRET" not in json.dumps(found.described())
    aside = [json.loads(line) for line in found.quarantine.read_text().splitlines()]
    assert all(row["answer"].startswith("MAYBE") and "line" in row["place"] for row in aside)
    assert "SECRETPT" not in found.quarantine.read_text()
    for file in found.folder.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


def test_patients_keep_together_and_ids_are_keyed(source: Path, opened: Any) -> None:
    lines = [json.loads(line) for line in made(source, opened).records.read_text().splitlines()]
    key = open_key(Path("data/gate"))
    assert {row["group"] for row in lines} <= {key.patient(f"SECRETPT{n}") for n in range(100)}
    assert lines[0]["id"] == key.record("SECRETID0")


def test_a_second_call_finds_the_set_and_scans_nothing(source: Path, opened: Any) -> None:
    first = made(source, opened)

    def refuse(settings: Any) -> Any:
        raise AssertionError("scanned again")

    assert made(source, refuse).folder == first.folder


def test_a_changed_export_is_scanned_anew_and_its_old_set_goes(source: Path, opened: Any) -> None:
    first = made(source, opened)
    source.write_text("".join(json.dumps(row) + "\n" for row in rows(50)))
    second = made(source, opened)
    assert second.folder != first.folder
    assert not first.folder.exists()


@pytest.mark.parametrize("stop", [1, 40, 130])
def test_a_stopped_scan_goes_on_to_the_same_set(source: Path, opened: Any, stop: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(build, "CHUNK", 8)
    monkeypatch.setattr(build, "_MARKS_EVERY", 2)
    whole = made(source, opened)
    expected = {file.name: file.read_bytes() for file in whole.folder.iterdir()}
    for file in whole.folder.iterdir():
        file.unlink()
    whole.folder.rmdir()
    seen = 0

    def breaks(settings: Any) -> Any:
        scanner = opened(settings)
        find = scanner.find

        def counting(text: str) -> Any:
            nonlocal seen
            seen += 1
            if seen == stop * 2:
                raise KeyboardInterrupt
            return find(text)

        scanner.find = counting
        return scanner

    with pytest.raises(KeyboardInterrupt):
        made(source, breaks)
    assert not whole.folder.exists()
    again = made(source, opened)
    assert {file.name: file.read_bytes() for file in again.folder.iterdir()} == expected


def test_a_forgotten_patient_is_refused(source: Path, opened: Any) -> None:
    key = open_key(Path("data/gate"))
    add_tombstones(Path("data/gate"), [key.patient("SECRETPT3")])
    gate = made(source, opened).gate
    assert gate["refused"] == {"forgotten": 2, "no_consent": 3}  # one of its two records had no consent either


def test_an_error_names_file_and_line_and_no_text(source: Path, opened: Any, caplog: Any, capsys: Any) -> None:
    with source.open("a") as file:
        file.write('{"question": "SECRET", "answer": 3}\n')
    with caplog.at_level(logging.DEBUG), pytest.raises(DataFormatError, match=r"export\.jsonl line 201") as caught:
        made(source, opened)
    assert "SECRET" not in str(caught.value)
    assert "SECRET" not in caplog.text
    assert "SECRET" not in "".join(capsys.readouterr())


def section(source: Path, **gate: Any) -> DatasetSection:
    return DatasetSection(name=str(source), gate=GateSection(**gate))


def test_records_that_nobody_scanned_are_refused_unless_a_setting_allows_it(source: Path, marked_scanner: Any) -> None:
    with pytest.raises(UnscannedError, match="has not been through the data gate"):
        load_gated(section(source), 1)
    taken = load_gated(section(source, unscanned=True), 1)
    assert taken.gate == {"status": "unscanned", "refused": {"forgotten": 0, "no_consent": 4}}
    assert len(taken.dataset) == 196
    load_gated(section(source), 1, build=True, workers=1)
    scanned = load_gated(section(source), 1)
    assert scanned.gate["status"] == "scanned"
    assert (scanned.report.name, scanned.report.kept) == (str(source), 186)
    with pytest.raises(UnscannedError):
        load_gated(section(source, max_risk=0.9), 1)


def test_public_records_are_as_they_were() -> None:
    assert load_gated(DatasetSection(name="hpo", max_samples=50), 1).gate == {"status": "public"}


def test_a_gate_that_lets_nothing_pass_says_where_to_look(source: Path, marked_scanner: Any) -> None:
    source.write_text(json.dumps({"question": "MAYBE1 MAYBE2", "answer": "MAYBE3 MAYBE4"}) + "\n")
    with pytest.raises(EmptyDataError, match=r"1 set aside.*quarantine\.jsonl"):
        load_gated(section(source), 1, build=True, workers=1)


def test_a_tombstone_that_is_newer_than_the_scanned_set_counts(source: Path, marked_scanner: Any) -> None:
    load_gated(section(source), 1, build=True, workers=1)
    add_tombstones(Path("data/gate"), [open_key(Path("data/gate")).patient("SECRETPT30")])
    again = load_gated(section(source), 1)
    assert again.report.kept == 184
    assert again.gate["refused"]["now_forgotten"] == 2


def test_asking_for_records_that_were_never_scanned_makes_no_key(source: Path) -> None:
    with pytest.raises(UnscannedError):
        load_gated(section(source), 1)
    assert not Path("data/gate").exists()


def test_a_source_that_changes_while_it_is_scanned_gives_no_set(source: Path, opened: Any) -> None:
    def grows(settings: Any) -> Any:
        with source.open("a") as file:
            file.write(json.dumps(rows(1)[0]) + "\n")
        return opened(settings)

    with pytest.raises(DataFormatError, match="changed while it was scanned"):
        made(source, grows)
    assert list(Path("data/gate/sets").glob("[!.]*")) == []


def test_what_is_left_of_a_stopped_scan_goes_once_its_export_changed(source: Path, opened: Any) -> None:
    def stops(settings: Any) -> Any:
        raise KeyboardInterrupt

    other = source.with_name("other.jsonl")
    other.write_text(json.dumps(rows(1)[0]) + "\n")
    for path in (source, other):
        with pytest.raises(KeyboardInterrupt):
            made(path, stops)
    assert len(list(Path("data/gate/sets").glob(".*.partial"))) == 2
    source.write_text("".join(json.dumps(row) + "\n" for row in rows(50)))
    made(source, opened)
    (kept,) = Path("data/gate/sets").glob(".*.partial")
    assert json.loads((kept / "progress.json").read_text())["source"] == str(other)


def no_rules(settings: Any) -> Any:
    raise MissingExtraError("presidio_analyzer", "privacy")


def test_a_scanner_that_cannot_be_opened_says_so_from_a_process_of_its_own_too(source: Path) -> None:
    gate = GateSection()
    with pytest.raises(MissingExtraError, match="privacy"):
        build_set(source, {}, gate, open_key(Path(gate.folder)), workers=2, scanner=no_rules)


def test_records_keep_the_file_they_come_from_as_their_source(tmp_path: Path, monkeypatch: Any, opened: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("north", "south"):
        Path("exports").mkdir(exist_ok=True)
        Path("exports", f"{name}.jsonl").write_text(json.dumps({"question": f"{name}?", "answer": "So."}) + "\n")
    lines = made(Path("exports"), opened).records.read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["north.jsonl", "south.jsonl"]


def test_a_split_of_unscanned_records_needs_the_setting_and_holds_no_file_of_somebody_else(
    source: Path, marked_scanner: Any
) -> None:
    federated = FederatedSection(num_clients=2)
    prepare_split(section(source, unscanned=True), federated, Path("share"))
    with pytest.raises(UnscannedError, match="shared out from records that nobody scanned"):
        load_gated(section(Path("share")), 1)
    assert load_gated(section(Path("share"), unscanned=True), 1).gate["status"] == "unscanned"
    prepare_split(section(source), federated, Path("clean"), workers=1)
    assert load_gated(section(Path("clean")), 1).gate["status"] == "scanned"
    Path("clean/hospital_A/more.jsonl").write_text(json.dumps(rows(1)[0]) + "\n")
    with pytest.raises(DataFormatError, match="no part of the split"):
        load_gated(section(Path("clean")), 1)


def test_a_folder_with_a_manifest_of_another_program_is_a_source_like_any_other(source: Path, opened: Any) -> None:
    folder = source.with_name("bulk")
    folder.mkdir()
    source.rename(folder / "export.ndjson")
    (folder / "manifest.json").write_text(json.dumps({"transactionTime": "2026-01-01", "output": []}))
    assert load_gated(section(folder), 1, build=True, workers=1, scanner=opened).gate["status"] == "scanned"
