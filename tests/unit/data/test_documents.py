"""Files, tables of notes and FHIR exports become documents; patients and consent come along."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from fedmed.data.documents import Document, digest, documents, source_files
from fedmed.data.load_dataset import load_with_report
from fedmed.errors import DataFormatError

pytestmark = pytest.mark.unit


def read(path: Path, columns: dict[str, str] | None = None) -> list[Document]:
    return [one for file in source_files(path, columns) for one in documents(file)]


def write(folder: Path, name: str, *rows: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_a_text_file_is_a_note_unless_it_begins_with_a_question(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "Progress note", "He is well.")
    write(tmp_path, "b.txt", "Question: Why?", "Answer: So.")
    note, pair = read(tmp_path)
    assert (note.is_note, note.raw.answer, note.raw.kind) == (True, "Progress note\nHe is well.", "note")
    assert (pair.is_note, pair.raw.question) == (False, "Why?")


def test_a_table_of_notes_is_told_by_its_column(tmp_path: Path) -> None:
    path = write(tmp_path, "noteevents.csv", "ROW_ID,SUBJECT_ID,CATEGORY,TEXT", '7,12,Nursing,"He is\nwell."')
    (note,) = read(path)
    assert note.is_note
    raw = note.raw
    assert (raw.answer, raw.id, raw.patient, raw.kind) == ("He is\nwell.", "7", "12", "Nursing")


def test_a_mapped_note_column_wins_over_question_and_answer(tmp_path: Path) -> None:
    path = write(tmp_path, "x.jsonl", {"question": "Q", "answer": "A", "body": "The note."})
    (note,) = read(path, {"note": "body"})
    assert (note.is_note, note.raw.answer) == (True, "The note.")


def test_the_patient_column_of_a_dialogue_is_no_patient_id(tmp_path: Path) -> None:
    path = write(tmp_path, "x.jsonl", {"Patient": "It hurts.", "Doctor": "Where?", "patient_id": 5})
    (pair,) = read(path)
    assert (pair.raw.question, pair.raw.patient) == ("It hurts.", "5")


@pytest.mark.parametrize(
    ("said", "meant"),
    [(True, "yes"), (0, "no"), ("Granted", "yes"), ("withdrawn", "no"), (None, "unknown"), ("", "unknown")],
)
def test_consent_is_yes_no_or_unknown(tmp_path: Path, said: object, meant: str) -> None:
    (pair,) = read(write(tmp_path, "x.jsonl", {"question": "Q", "answer": "A", "consent": said}))
    assert pair.raw.consent == meant


def test_a_consent_that_says_neither_names_its_line_and_not_its_text(tmp_path: Path) -> None:
    path = write(tmp_path, "x.jsonl", {"question": "Q", "answer": "A", "consent": "SECRET"})
    with pytest.raises(DataFormatError, match=r"x\.jsonl line 1: 'consent' says neither yes nor no") as caught:
        read(path)
    assert "SECRET" not in str(caught.value)


def test_other_resources_are_passed_over_and_counted(tmp_path: Path) -> None:
    data = base64.b64encode(b"Seen.").decode()
    note = {
        "resourceType": "DocumentReference",
        "content": [{"attachment": {"contentType": "text/plain", "data": data}}],
    }
    path = write(tmp_path, "x.ndjson", {"resourceType": "Patient"}, note)
    (file,) = source_files(path)
    assert (file.documents, file.passed_over) == (1, 1)
    assert [one.raw.answer for one in documents(file)] == ["Seen."]


def test_a_broken_attachment_names_file_and_line(tmp_path: Path) -> None:
    bad = {"resourceType": "DocumentReference", "content": [{"attachment": {"data": "SECRET!"}}]}
    path = write(tmp_path, "x.ndjson", {"resourceType": "Patient"}, bad)
    with pytest.raises(DataFormatError, match=r"x\.ndjson line 2: an attachment's data is not base64"):
        read(path)


def test_loading_a_folder_of_notes_gives_passages_that_stay_together(tmp_path: Path) -> None:
    long = "\n\n".join(f"Part {n}. " + "It goes on. " * 60 for n in range(4))
    write(tmp_path, "n.jsonl", {"text": long, "group": "n1"}, {"text": "Short.", "group": "n2"})
    dataset, report = load_with_report(str(tmp_path))
    assert report.kept == len(dataset) > 2
    assert set(dataset["kind"]) == {"note"}
    assert len({(row["group"], row["split"]) for row in dataset}) == 2


def test_a_file_name_of_a_note_is_in_no_count(tmp_path: Path) -> None:
    write(tmp_path, "ward/SECRET_4711.txt", "A note.")
    write(tmp_path, "ward/other.txt", "Another.")
    _, report = load_with_report(str(tmp_path))
    assert list(report.files) == ["ward/*.txt"]
    assert report.files["ward/*.txt"].read == 2


def test_the_digest_follows_content_and_not_names(tmp_path: Path) -> None:
    one, two = write(tmp_path, "a/x.jsonl", {"a": 1}), write(tmp_path, "b/y.jsonl", {"a": 1})
    assert digest(one) == digest(two.parent)
    two.write_text("{}\n")
    assert digest(one) != digest(two)
