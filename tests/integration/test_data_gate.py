"""A hospital prepares, trains, forgets and prepares again: what is gone is gone, and whoever saw it is named."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fedmed.cli.app import main
from fedmed.config.load import load_config
from fedmed.data.gate.keys import open_key
from fedmed.errors import DataError
from fedmed.pipeline.run_records import note_run, run_records
from fedmed.utils.files import folder_lock

pytestmark = pytest.mark.integration

GONE = "patient-0003"
WORDS = "zygomatic-3"  # stands in this patient's records alone, and no rule takes it for an identifier


def row(n: int) -> dict[str, Any]:
    return {
        "id": f"rec-{n:04}", "patient_id": f"patient-{n // 4:04}", "question": f"SECRET{n} asks: why case {n}?",
        "answer": f"Because of zygomatic-{n // 4}, {n}." + (" MAYBE1 MAYBE2 MAYBE3." if n % 8 == 5 else ""),
    }  # fmt: skip


def note(patient: str, text: str) -> dict[str, Any]:
    data = base64.b64encode(text.encode()).decode()
    return {
        "resourceType": "DocumentReference", "id": f"doc-{patient}", "subject": {"reference": f"Patient/{patient}"},
        "content": [{"attachment": {"contentType": "text/plain", "data": data}}],
    }  # fmt: skip


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked_scanner: object) -> Path:
    """A working folder; the exports lie beside it, as they are the hospital's own."""
    exports, work = tmp_path / "exports", tmp_path / "work"
    exports.mkdir()
    work.mkdir()
    write(exports / "table.jsonl", [row(n) for n in range(80)])
    write(exports / "notes.ndjson", [note(f"patient-{n:04}", f"Seen for zygomatic-{n}. " * 90) for n in range(12)])
    monkeypatch.chdir(work)
    monkeypatch.setenv("FEDMED_CACHE", str(work / "cache"))
    return work


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


def prepare(export: str, out: str) -> dict[str, Any]:
    words = ["data", "prepare", f"../exports/{export}", "--out", out, "--workers", "1"]
    assert main([*words, "--set", "federated.num_clients=2"]) == 0
    return json.loads(Path(out, "manifest.json").read_text())


def trained_without_training(name: str) -> Path:
    """A run folder as a finished run leaves it, with a sample answer, checkpoints and its lineage."""
    config = load_config(overrides=["training.dataset.name=../exports/table.jsonl", "federated.num_clients=2"])
    found = run_records(config)
    folder = Path("output-models") / name
    (folder / "adapter").mkdir(parents=True)
    (folder / "rounds/0001/hospitals").mkdir(parents=True)
    (folder / "rounds/0001/hospitals/hospital_A.safetensors").write_bytes(b"state")
    sample = {"question": f"Why {WORDS}?", "answer": "So.", "allowed": True, "reasons": [], "confidence": 0.5}
    (folder / "summary.json").write_text(json.dumps({"run_id": name, "status": "finished", "samples": [sample]}))
    (folder / "report.html").write_text(f"<p>Why {WORDS}?</p>")
    note_run(config, found.gate, folder, found.own, splits=[Path("data/processed")])
    return folder


def holding(folder: Path, *words: str) -> Iterator[str]:
    """Files below a folder that hold one of the words, byte by byte, and inside Parquet pages."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            held = file.read_bytes()
            if file.suffix == ".parquet":
                held += json.dumps(pq.read_table(file).to_pylist()).encode()
            if any(word.encode() in held for word in words):
                yield str(file.relative_to(folder))


def test_a_forgotten_patient_is_nowhere_comes_back_refused_and_the_lineage_names_the_run(
    hospital: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("table.jsonl", "data/processed")
    prepare("notes.ndjson", "data/notes")
    run = trained_without_training("first")
    tokens = hospital / "cache" / "tokens" / "x.safetensors"
    tokens.parent.mkdir(parents=True)
    tokens.write_bytes(b"\x01\x02")
    held = list(holding(hospital, WORDS + ",", WORDS + ".", f"Why {WORDS}"))
    assert {Path(file).suffix for file in held} == {".jsonl", ".parquet", ".json", ".html"}
    assert any("quarantine" in file for file in held)

    capsys.readouterr()
    assert main(["data", "forget", "--patient", GONE, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["known_records"] == 5  # four rows and a note
    assert told["token_files"] == 1
    assert told["checkpoints"] == 1
    (saw,) = told["saw_them"]
    assert saw["folder"] == str(run.resolve())
    assert saw["train"] + saw["test"] == 3  # one of the four was set aside
    assert saw["adapters"] == [str(run.resolve() / "adapter")]
    assert GONE not in json.dumps(told)

    words = (f"{WORDS},", f"{WORDS}.", f"{WORDS}?", GONE, "SECRET12", "rec-0012")
    assert list(holding(hospital, *words)) == []
    assert list(holding(hospital, "zygomatic-4,")) != []  # the others are still there
    assert not tokens.exists()
    assert json.loads((run / "summary.json").read_text())["forgotten_records"] == {
        side: saw[side] for side in ("train", "test")
    }

    manifest = prepare("table.jsonl", "data/processed")
    assert manifest["records"] == manifest["gate"]["records"] == manifest["gate"]["kept"] == 70 - 3
    assert (manifest["gate"]["quarantined"], manifest["gate"]["refused"]["forgotten"]) == (9, 4)
    write(hospital.parent / "exports/new.jsonl", [row(n) | {"question": f"Newly put {n}?"} for n in range(8, 40)])
    assert prepare("new.jsonl", "data/new")["gate"]["refused"]["forgotten"] == 4
    anonymous = [{key: value for key, value in row(n).items() if key not in ("id", "patient_id")} for n in range(40)]
    write(hospital.parent / "exports/anonymous.jsonl", anonymous)
    assert prepare("anonymous.jsonl", "data/anonymous")["gate"]["refused"]["forgotten"] == 4  # told by their words
    assert list(holding(hospital, *words)) == []


def test_forgetting_can_be_repeated_and_an_unknown_patient_is_refused_in_future(
    hospital: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "forget", "--patient", "patient-0000"]) == 0
    assert "there was no data gate at" in capsys.readouterr().out
    assert main(["data", "forget", "--patient", "Patient/patient-0000"]) == 0
    assert "there was no data gate at" not in capsys.readouterr().out
    assert prepare("table.jsonl", "data/processed")["gate"]["refused"]["forgotten"] == 4
    assert main(["data", "forget", "--patient", "patient-0001"]) == 0
    assert main(["data", "forget", "--patient", "patient-0001"]) == 0


def test_one_record_is_forgotten_by_its_own_or_its_keyed_id(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = prepare("table.jsonl", "data/processed")["records"]
    assert main(["data", "forget", "--record", "rec-0000"]) == 0
    keyed = open_key(Path("data/gate")).record("rec-0001")
    assert main(["data", "forget", "--record", keyed]) == 0
    assert prepare("table.jsonl", "data/processed")["records"] == before - 2
    assert main(["data", "forget"]) == 10
    assert main(["data", "forget", "--record", "a", "--patient", "b"]) == 10


def test_a_split_is_as_good_as_its_source_and_forgets_too(hospital: Path) -> None:
    prepare("table.jsonl", "data/processed")
    config = load_config(overrides=["training.dataset.name=data/processed", "federated.num_clients=2"])
    assert run_records(config).gate["status"] == "scanned"
    assert main(["data", "forget", "--patient", GONE]) == 0
    left = [one for own in run_records(config).own.values() for one in own]
    assert len(left) == 67
    assert not any(WORDS in one["answer"] for one in left)


def test_an_unscanned_run_is_in_the_lineage_too(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(
        overrides=["training.dataset.name=../exports/table.jsonl", "training.dataset.gate.unscanned=true"]
    )
    found = run_records(config)
    assert found.gate["status"] == "unscanned"
    note_run(config, found.gate, Path("output-models/raw"), found.own, splits=[])
    capsys.readouterr()
    assert main(["data", "forget", "--patient", GONE, "--json"]) == 0
    (saw,) = json.loads(capsys.readouterr().out)["saw_them"]
    assert saw["train"] + saw["test"] == 4
    assert not any(WORDS in one["answer"] for own in run_records(config).own.values() for one in own)


def test_row_numbers_and_words_that_others_have_too_take_no_other_patient_along(hospital: Path) -> None:
    for ward in "ab":
        rows = [row(n) | {"id": n, "patient_id": f"{ward}{n}", "question": f"Ward {ward}, {n}?"} for n in range(30)]
        rows[7] |= {"question": "Any complaints?", "answer": "None."}
        write(hospital.parent / f"exports/{ward}.jsonl", rows)
    left = {ward: prepare(f"{ward}.jsonl", f"data/{ward}")["records"] for ward in "ab"}
    assert main(["data", "forget", "--patient", "a7"]) == 0
    assert prepare("a.jsonl", "data/a")["records"] == left["a"] - 1
    assert prepare("b.jsonl", "data/b")["records"] == left["b"]
    assert main(["data", "forget", "--record", "8"]) == 0  # of every table
    assert prepare("b.jsonl", "data/b")["records"] == left["b"] - 1


def test_words_of_a_forgotten_patient_go_from_a_split_whose_rows_name_nobody(hospital: Path) -> None:
    write(hospital.parent / "exports/bare.jsonl", [row(n) | {"patient_id": None, "id": f"x{n}"} for n in range(40)])
    prepare("bare.jsonl", "data/bare")
    prepare("table.jsonl", "data/processed")
    assert main(["data", "forget", "--patient", GONE]) == 0
    assert list(holding(hospital, f"{WORDS},", f"{WORDS}.")) == []


def test_a_passage_is_forgotten_with_its_note(hospital: Path) -> None:
    (hospital.parent / "exports/notes").mkdir()
    for n in range(6):
        (hospital.parent / f"exports/notes/{n}.txt").write_text(f"Seen for zygomatic-{n}. " * 90)
    prepare("notes", "data/notes")
    (records,) = Path("data/gate/sets").glob("*/records.jsonl")
    passage = next(json.loads(line)["id"] for line in records.read_text().splitlines() if WORDS in line)
    assert main(["data", "forget", "--record", passage]) == 0
    assert list(holding(hospital, f"{WORDS}.")) == []
    assert len({json.loads(line)["id"].partition(".")[0] for line in records.read_text().splitlines()}) == 5


def test_what_is_damaged_stops_nothing_else_and_is_told_at_the_end(
    hospital: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("notes.ndjson", "data/broken")
    next(Path("data/broken").rglob("train.parquet")).unlink()
    prepare("table.jsonl", "data/processed")
    broken, whole = trained_without_training("broken"), trained_without_training("whole")
    (broken / "summary.json").write_text('{"samples": [')
    Path("data/gate/lineage/0.json").write_text("[]")
    capsys.readouterr()
    assert main(["data", "forget", "--patient", GONE, "--json"]) == 20
    told = capsys.readouterr()
    assert len(json.loads(told.out)["saw_them"]) == 2
    (line,) = told.err.splitlines()
    for part in ("not everywhere", "lineage/0.json", "train.parquet is missing", "broken/summary.json is damaged"):
        assert part in line
    assert not (broken / "report.html").exists()
    assert not list(Path("output-models").glob("*/rounds"))
    held = {Path(file).parts[:2] for file in holding(hospital, f"{WORDS},", f"{WORDS}.", f"Why {WORDS}")}
    assert held <= {("data", "broken")}
    assert json.loads((whole / "summary.json").read_text())["samples"] == []


def test_a_run_that_goes_on_is_told_and_the_rest_is_done(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare("table.jsonl", "data/processed")
    run = trained_without_training("going-on")
    with folder_lock(run):
        assert main(["data", "forget", "--patient", GONE]) == 63
    assert f"{run.resolve()} is in use" in capsys.readouterr().err
    assert list(holding(hospital / "data", f"{WORDS},", f"{WORDS}.")) == []
    assert main(["data", "forget", "--patient", GONE]) == 0
    assert not (run / "rounds").exists()


def test_a_patient_who_is_forgotten_while_a_run_reads_is_not_trained_on(hospital: Path) -> None:
    prepare("table.jsonl", "data/processed")
    config = load_config(overrides=["training.dataset.name=../exports/table.jsonl", "federated.num_clients=2"])
    found = run_records(config)
    assert main(["data", "forget", "--patient", GONE]) == 0
    with pytest.raises(DataError, match=r"3 records of .*table\.jsonl were forgotten while they were read"):
        note_run(config, found.gate, Path("output-models/late"), found.own, splits=[])


NO_SOCKETS = """
import json, socket, sys
attempts = []
plain = socket.socket.__init__
def init(self, family=-1, type=-1, proto=-1, fileno=None):
    if fileno is None and family != socket.AF_UNIX:
        attempts.append(str(family))
        raise OSError(101, "Network is unreachable")
    plain(self, family, type, proto, fileno)
socket.socket.__init__ = init
def refuse(*_, **__):
    attempts.append("look-up")
    raise OSError(101, "Network is unreachable")
socket.has_ipv6 = False  # or urllib3 asks the kernel, when imported, whether ::1 can be bound; it sends nothing
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, refuse)
from fedmed.cli.app import main
if __name__ == "__main__":
    codes = [main(words) for words in json.loads(sys.argv[1])]
    print(json.dumps({"codes": codes, "attempts": attempts}))
"""


def test_with_the_real_rules_nothing_original_gets_through_and_no_network_is_tried(tmp_path: Path) -> None:
    names = ("Margaret Thornbury", "617-555-0142", "04/17/1951", "m.thornbury@example.com")
    text = "Mrs. {} (tel. {}, born {}, {}) reports chest pain. Parkinson disease is stable.".format(*names)
    rows = [{"patient_id": f"P{n}", "question": f"Case {n}: {text}", "answer": f"Rest, {n}."} for n in range(24)]
    write(tmp_path / "table.jsonl", rows)
    (tmp_path / "gate.py").write_text(NO_SOCKETS)
    commands = [
        ["data", "inspect", "table.jsonl", "--html", "page.html", "--scan", "5"],
        ["data", "prepare", "table.jsonl", "--workers", "2", "--set", "federated.num_clients=2"],
        ["data", "forget", "--patient", "P3"],
    ]
    done = subprocess.run(
        [sys.executable, "gate.py", json.dumps(commands)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FEDMED_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"codes": [0, 0, 0], "attempts": []}, done.stderr
    assert "scanning" in done.stderr
    told = done.stdout + done.stderr + (tmp_path / "page.html").read_text()
    for name in (*names, "Thornbury"):
        assert name not in told
        assert [file for file in holding(tmp_path, name) if file != "table.jsonl"] == []
    assert list(holding(tmp_path / "data", "Parkinson disease is stable")) != []


@pytest.mark.parametrize(("unscanned", "words"), [(False, "scanned: identifiers in"), (True, "not scanned")])
def test_a_run_says_in_summary_manifest_and_card_what_its_records_went_through(
    hospital: Path, unscanned: bool, words: str
) -> None:
    prepare("table.jsonl", "data/processed")
    tiny = (
        "model.name=builtin:tiny-llama", "model.generation.max_new_tokens=4", "training.max_steps=1",
        "training.threads=1", "training.evaluation.max_records_per_hospital=2",
        "training.evaluation.multiple_choice_items=0", "training.evaluation.generated_answers=0",
        "training.evaluation.few_shot=0", "federated.rounds=1", "federated.num_clients=2",
        "training.dataset.name=../exports/table.jsonl", "training.dataset.test_fraction=0.3",
        f"training.dataset.gate.unscanned={str(unscanned).lower()}",
    )  # fmt: skip
    settings = [word for setting in tiny for word in ("--set", setting)]
    assert main(["run", *settings, "--out", "output-models/a"]) == 0
    folder = Path("output-models/a")
    status = "unscanned" if unscanned else "scanned"
    assert json.loads((folder / "summary.json").read_text())["data_gate"]["status"] == status
    assert json.loads((folder / "data_manifest.json").read_text())["gate"]["status"] == status
    assert json.loads(Path("data/processed/manifest.json").read_text())["gate"]["status"] == status
    assert words in (folder / "model_card.md").read_text()
    assert words in (folder / "adapter/README.md").read_text()
