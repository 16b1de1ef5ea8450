"""What is forgotten goes from sets and splits, whatever else is damaged there, and nobody else's goes with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedmed.data.gate import drop
from fedmed.data.gate.drop import Problems, drop_from_sets, drop_from_split, rows_with
from fedmed.data.gate.forgotten import add_tombstones, following, marks, patient_of
from fedmed.data.gate.keys import HospitalKey
from fedmed.data.gate.lineage import note_seen, notes, read_note
from fedmed.data.gate.sets import LAYOUT, read_set
from fedmed.data.records import to_dataset
from fedmed.data.split_folder import read_manifest, read_split, write_split
from fedmed.errors import DataError, DataFormatError
from fedmed.types import QARecord
from fedmed.utils.files import sha256_file

pytestmark = pytest.mark.unit

KEY = HospitalKey(b"k" * 32)
ANNA, BERT = KEY.patient("Anna"), KEY.patient("Bert")


def row(number: int, patient: str, words: str = "", passage: str = "", **more: Any) -> dict[str, Any]:
    words = words or f"WORDS{number} of {patient}"
    return {
        "id": KEY.record(str(number)) + passage, "group": patient, "content": KEY.content(words), "answer": words,
    } | more  # fmt: skip


def made(gate: Path, name: str, records: list[dict[str, Any]], aside: list[dict[str, Any]]) -> Path:
    folder = gate / "sets" / name
    folder.mkdir(parents=True)
    for file, rows in (("records.jsonl", records), ("quarantine.jsonl", aside)):
        (folder / file).write_text("".join(json.dumps(one) + "\n" for one in rows))
    kept = sum(not one["id"].endswith(".2") for one in records)
    described = {
        "layout": LAYOUT, "documents": kept + len(aside) + 3, "kept": kept, "records": len(records),
        "quarantined": len(aside), "refused": {"forgotten": 1, "no_consent": 1},
        "left_out": {"empty": 1, "overlong": 0, "no_note": 9}, "findings": {"NAME": 5},
        "quarantine_signs": {"suspected": len(aside)}, "records_sha256": sha256_file(folder / "records.jsonl"),
    }  # fmt: skip
    (folder / "gate.json").write_text(json.dumps(described))
    return folder


@pytest.fixture
def one_set(tmp_path: Path) -> Path:
    """Anna: a note of two passages, a row, and one aside. Bert: the same row number and the same words."""
    records = [row(1, ANNA, passage=".1"), row(1, ANNA, passage=".2"), row(2, ANNA, "same"), row(2, BERT, "same")]
    aside = [row(n, p, signs={"suspected": 1}) for n, p in ((3, ANNA), (3, BERT))]
    return made(tmp_path, "a", records, aside)


def test_dropping_counts_documents_anew_and_leaves_a_whole_set(one_set: Path, tmp_path: Path) -> None:
    problems: Problems = []
    assert drop_from_sets(tmp_path, {ANNA}, problems) == 4
    gate = read_set(one_set).gate
    assert (gate["records"], gate["kept"], gate["quarantined"]) == (1, 1, 1)
    assert gate["quarantine_signs"] == {"suspected": 1}
    assert gate["refused"] == {"forgotten": 1 + 3, "no_consent": 1}  # a note, a row, one that was set aside
    assert gate["changed_by_forget"] is True
    assert gate["findings"] == {"NAME": 5}
    assert problems == []
    assert sorted(file.name for file in one_set.iterdir()) == ["gate.json", "quarantine.jsonl", "records.jsonl"]
    assert all(file.stat().st_mode & 0o077 == 0 for file in one_set.glob("*.jsonl"))


def test_a_set_without_them_is_left_to_the_byte(one_set: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in one_set.iterdir()}
    assert drop_from_sets(tmp_path, {KEY.patient("Clara")}, []) == 0
    assert {file: file.read_bytes() for file in one_set.iterdir()} == before


@pytest.mark.parametrize("stop_in", ["records.jsonl", "quarantine.jsonl", "gate.json"])
def test_a_call_that_was_killed_between_two_files_is_repeated_to_the_same_end(
    one_set: Path, tmp_path: Path, stop_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = drop._filter, drop.write_json

    def filtering(file: Path, names: Any) -> Any:
        if file.name == stop_in:
            raise KeyboardInterrupt
        return read(file, names)

    def writing(file: Path, value: Any, **how: Any) -> None:
        if file.name == stop_in:
            raise KeyboardInterrupt
        write(file, value, **how)

    with monkeypatch.context() as patch:
        patch.setattr(drop, "_filter", filtering)
        patch.setattr(drop, "write_json", writing)
        with pytest.raises(KeyboardInterrupt):
            drop_from_sets(tmp_path, {ANNA}, [])
    if stop_in != "records.jsonl":
        with pytest.raises(DataFormatError):
            read_set(one_set)
    problems: Problems = []
    drop_from_sets(tmp_path, {ANNA}, problems)
    gate = read_set(one_set).gate
    assert problems == []
    assert (gate["records"], gate["kept"], gate["quarantined"], gate["refused"]["forgotten"]) == (1, 1, 1, 4)
    assert ANNA not in "".join(file.read_text() for file in one_set.iterdir())


@pytest.mark.parametrize("damage", ["gate.json", "quarantine.jsonl", "records.jsonl", "line"])
def test_a_damaged_set_is_told_and_stops_neither_its_other_file_nor_other_sets(
    one_set: Path, tmp_path: Path, damage: str
) -> None:
    other = made(tmp_path, "b", [row(5, ANNA), row(6, BERT)], [])
    if damage == "line":
        with (one_set / "records.jsonl").open("a") as file:
            file.write('{"id": "half\n')
    else:
        (one_set / damage).unlink()
    problems: Problems = []
    rows_with(tmp_path, {ANNA}, problems)
    drop_from_sets(tmp_path, {ANNA}, problems)
    assert problems
    assert all(str(one_set) in str(one) for one in problems)
    assert ANNA not in "".join(file.read_text() for file in one_set.iterdir())
    assert read_set(other).gate["records"] == 1
    with pytest.raises(DataFormatError):  # nobody trains on it
        read_set(one_set)


def test_what_follows_reaches_the_same_patient_and_nobody_named_but_no_other_patient() -> None:
    number, words = KEY.record("7"), KEY.content("Rest.")
    gone = {ANNA} | following(number, ANNA, words)
    assert marks(KEY.record("8"), ANNA) & gone
    assert marks(number, "") & gone
    assert marks(number + ".3", KEY.group("ward")) & gone
    assert marks(KEY.record("9"), "", words) & gone
    assert not marks(number, BERT, words) & gone


def test_a_record_that_was_asked_for_goes_from_every_patient_and_its_words_from_its_own_alone() -> None:
    number, words = KEY.record("7"), KEY.content("Rest.")
    gone = {number} | following(number, ANNA, words)
    assert marks(number, BERT) & gone
    assert marks(KEY.record("8"), ANNA, words) & gone
    assert not marks(KEY.record("8"), ANNA, KEY.content("Walk.")) & gone
    assert not marks(KEY.record("8"), BERT, words) & gone


def test_only_a_keyed_patient_is_a_patient() -> None:
    assert [patient_of(group) for group in (ANNA, KEY.group("x"), KEY.record("x"), "p-1", "q-1", "")] == [
        ANNA, "", "", "", "", "",
    ]  # fmt: skip


def split(folder: Path, gate: dict[str, Any] | None) -> None:
    pairs = [("1.1", ANNA), ("1.2", ANNA), ("2", BERT), ("3", BERT)]
    records = [
        QARecord(id=KEY.record(name[0]) + name[1:], question=f"q{name}", answer="a", group=group, split="train")
        for name, group in pairs
    ]
    write_split({"hospital_A": to_dataset(records)}, folder, strategy="iid", alpha=None, seed=1, gate=gate)


def test_a_split_and_the_counts_in_its_manifest_are_lowered(tmp_path: Path) -> None:
    stated = {"status": "scanned", "records": 4, "kept": 3, "quarantined": 5, "refused": {"forgotten": 0}}
    split(tmp_path / "s", stated)
    assert drop_from_split(tmp_path / "s", {ANNA}) == 2
    gate = read_manifest(tmp_path / "s")["gate"]
    assert (gate["records"], gate["kept"], gate["quarantined"]) == (2, 2, 5)
    assert gate["refused"] == {"forgotten": 1}
    assert len(read_split(tmp_path / "s")["hospital_A"]) == 2
    assert drop_from_split(tmp_path / "s", {ANNA}) == 0


@pytest.mark.parametrize("gate", [None, {"status": "unscanned", "refused": {"forgotten": 2}}])
def test_a_split_whose_gate_counts_nothing_keeps_its_gate(tmp_path: Path, gate: dict[str, Any] | None) -> None:
    split(tmp_path / "s", gate)
    assert drop_from_split(tmp_path / "s", {ANNA}) == 2
    assert read_manifest(tmp_path / "s").get("gate") == gate


def noted(gate: Path, folder: Path) -> None:
    rows = [{"id": KEY.record("1") + f".{n}", "group": ANNA, "split": "train"} for n in (1, 2)]
    note_seen(gate, {folder: "run", folder / "share": "split"}, "x.jsonl", [*rows, row(2, BERT) | {"split": "test"}])


def test_passages_of_one_note_are_one_record_in_the_lineage(tmp_path: Path) -> None:
    noted(tmp_path, tmp_path / "run")
    seen = [read_note(file) for file in notes(tmp_path)]
    assert sorted(one.kind for one in seen) == ["run", "split"]
    assert seen[0].touches({ANNA, BERT}) == {"train": 1, "test": 1}
    assert seen[0].pairs_with({ANNA}) == {(KEY.record("1"), ANNA)}


def test_nothing_is_noted_of_records_that_were_forgotten_while_they_were_read(tmp_path: Path) -> None:
    add_tombstones(tmp_path, {ANNA})
    with pytest.raises(DataError, match=r"1 records of x\.jsonl were forgotten while they were read: start again"):
        noted(tmp_path, tmp_path / "run")
    assert notes(tmp_path) == []
