"""The audit log of a simulated run: what is in it, what never is, and that touching it or its run shows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmed.cli.app import main
from fedmed.config.load import config_digest, load_config
from fedmed.errors import AuditBrokenError, AuditLogError, QuorumError
from fedmed.federated.checkpoint import load_latest, save_round
from fedmed.federated.simulation import SimulationTransport
from fedmed.pipeline.federation import resume_federation, run_federation
from fedmed.pipeline.privacy_audit import audit_run
from fedmed.pipeline.run_audit import enter_after_run, verify_run
from fedmed.pipeline.run_folder import RunFolder
from fedmed.privacy.ledger import Ledger
from fedmed.utils.audit_events import KINDS, event
from fedmed.utils.audit_log import owners_key, signed_part
from fedmed.utils.files import sha256_file
from fedmed.utils.hash_chain import NOTHING, make_line
from fedmed.utils.witness import read_witness

pytestmark = pytest.mark.integration
pytest.importorskip("dp_accounting")
pytest.importorskip("cryptography")

PHRASE = "Zebrafinch-4711"
TINY = [
    "model.name=builtin:tiny-llama", "model.generation.max_new_tokens=4", "training.dataset.name=records.jsonl",
    "training.dataset.test_fraction=0.5", "training.max_steps=1", "training.batch_size=4", "training.threads=1",
    "training.gradient_accumulation_steps=1", "training.learning_rate=0.01",
    "training.evaluation.max_records_per_hospital=3", "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=0", "training.evaluation.few_shot=0",
    "training.evaluation.sample_answers=0", "training.dataset.gate.unscanned=true",
    "federated.num_clients=2", "federated.rounds=3",
]  # fmt: skip
NOISE = ("privacy.example.epsilon=8.0", "federated.min_replies=1")


class Killed(BaseException):
    pass


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with records, each of which says a phrase that nothing else says."""
    monkeypatch.chdir(tmp_path)
    lines = [
        {"question": f"What is {PHRASE} {i}?", "answer": f"{PHRASE} is sign {i} of the lung.", "group": f"patient {i}"}
        for i in range(60)
    ]
    Path("records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return tmp_path


@pytest.fixture
def finished(place):
    """A finished run without noise."""
    run_federation(settings(), out=Path("out"))
    return Path("out")


def settings(*more):
    return load_config(None, (), [*TINY, *more])


def lines(run="out", kind=None):
    read = [json.loads(line) for line in Path(run, "audit.jsonl").read_text().splitlines()]
    return [line for line in read if kind in (None, line["kind"])]


def rewritten(run, change):
    """The log as its owner can write it at any time, with all digests and its signature."""
    owner, previous, raw = owners_key(), NOTHING, b""
    for seq, line in enumerate(lines(run)):
        body = {key: one for key, one in line.items() if key not in ("seq", "previous", "sha256")}
        change(body)
        if body["kind"] == "signature":
            del body["signature"]
            body["signature"] = owner.sign(signed_part({"seq": seq, "previous": previous, **body})).hex()
        added = make_line(body, seq, previous)
        raw, previous = raw + added, json.loads(added)["sha256"]
    Path(run, "audit.jsonl").write_bytes(raw)


def die_in_round_2(patch, error):
    real = SimulationTransport.commit

    def commit(self, report):
        if report.round == 2:
            raise error
        return real(self, report)

    patch.setattr(SimulationTransport, "commit", commit)


@pytest.mark.slow
def test_a_run_that_was_stopped_and_went_on_verifies_and_each_kind_of_event_is_there(place, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        train = SimulationTransport._train

        def without_b_in_round_1(self, plan, *rest):
            yield from (got for got in train(self, plan, *rest) if plan.round > 1 or got.hospital != "hospital_B")

        patch.setattr(SimulationTransport, "_train", without_b_in_round_1)
        die_in_round_2(patch, Killed())
        with pytest.raises(Killed):
            run_federation(settings(*NOISE), out=Path("out"))
    assert verify_run(Path("out")).verdict == "unproven"
    assert main(["audit", "verify", "out"]) == 122
    outcome = resume_federation(Path("out"))
    adapter = outcome.summary["adapter_sha256"]
    enter_after_run(
        RunFolder(Path("out")),
        event("release", decision="released", adapter=adapter, signed_off_by=["Dr A"], reason="within all limits"),
    )
    assert {line["kind"] for line in lines()} == set(KINDS)
    found = verify_run(Path("out"))
    assert (found.verdict, found.findings, found.unproven) == ("intact", (), ())
    assert outcome.summary["audit_log"]["key"] == found.key == owners_key().public.hex()
    rounds = [(line["round"], line["attempt"]) for line in lines(kind="round")]
    assert rounds == [(1, 0), (2, 0), (2, 1), (3, 0)]
    assert [note for note in found.notes if "again" in note] == [
        f"line {lines(kind='round')[2]['seq'] + 1}: round 2 was begun again, attempt 1 after the first"
    ]
    assert [(line["after_round"], line["again"]) for line in lines(kind="resume")] == [(1, 1)]
    assert [line["reason"] for line in lines(kind="stopped")] == ["Killed"]
    (refusal,) = lines(kind="refusal")
    assert (refusal["round"], refusal["hospital"], refusal["reason"]) == (1, "hospital_B", "'hospital_B' did not reply")
    charged = {(line["hospital"], line["round"], line["attempt"], line["head"]) for line in lines(kind="charge")}
    for name in ("hospital_A", "hospital_B"):
        ledger = Ledger.read(Path(f"out/ledgers/{name}.jsonl"))
        own = {(name, one.round, one.attempt, ledger.digests()[one.seq]) for one in ledger.entries()}
        assert own == {one for one in charged if one[0] == name}
        assert len(own) == 4
        heads = read_witness(Path(f"out/witness/{name}.jsonl")).heads
        assert [(one.round, one.attempt, one.end) for one in heads] == [
            *((number, attempt, False) for number, attempt in rounds), *[(3, 0, True)] * 2
        ]  # fmt: skip
        assert all(lines()[one.lines - 1]["sha256"] == one.head for one in heads)
    assert lines(kind="adapter")[-1]["digest"] == adapter
    capsys.readouterr()
    assert main(["audit", "verify", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "intact"
    for file in [Path("out/audit.jsonl"), *Path("out/witness").iterdir()]:
        text = file.read_text()
        assert PHRASE not in text
        assert PHRASE.lower()[:10] not in text.lower()


def test_a_run_that_was_killed_goes_on_in_the_same_chain(place):
    words = [word for setting in [*TINY, "federated.rounds=5"] for word in ("--set", setting)]
    child = subprocess.Popen(
        [sys.executable, "-m", "fedmed", "run", *words, "--out", "out"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not Path("out/rounds/0002").exists():
        assert child.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    before = Path("out/audit.jsonl").read_bytes()
    resume_federation(Path("out"))
    assert Path("out/audit.jsonl").read_bytes().startswith(before)
    found = verify_run(Path("out"))
    assert (found.verdict, found.findings) == ("intact", ())
    applied = {(line["round"], line["attempt"]) for line in lines(kind="applied")}
    assert {number for number, _ in applied} == {1, 2, 3, 4, 5}
    (resumed,) = lines(kind="resume")
    again = {line["round"] for line in lines(kind="round") if line["attempt"]}
    assert again == set(range(resumed["after_round"] + 1, resumed["after_round"] + 1 + resumed["again"]))


def test_what_its_owner_writes_anew_is_found_and_the_lines_are_named(finished, capsys):
    assert main(["audit", "verify", "out"]) == 0
    capsys.readouterr()

    def kinder(body):
        if body["kind"] == "payload" and body["round"] == 2:
            body["weight"] = 1

    rewritten("out", kinder)
    changed = lines(kind="payload")[2]["seq"] + 1
    assert main(["audit", "verify", "out", "--json"]) == 121
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["verdict"] == "broken"
    (finding,) = found["findings"]
    assert finding["kind"] == "re-chained"
    assert finding["line"] <= changed
    assert finding["means"]
    assert "error: the audit log of run 'out' is re-chained" in shown.err
    assert main(["audit", "verify", "out"]) == 121
    text = capsys.readouterr().out
    assert f"line {finding['line']}" in text
    assert text.splitlines()[-1] == "broken"


def test_a_hospitals_own_copy_of_its_witness_file_finds_what_the_run_folders_do_not_show(finished, tmp_path, capsys):
    shutil.copy("out/witness/hospital_A.jsonl", tmp_path / "kept.jsonl")
    rewritten("out", lambda body: body.update(update_norm=0.0) if body["kind"] == "applied" else None)
    shutil.rmtree("out/witness")
    assert main(["audit", "verify", "out", "--key", owners_key().public.hex()]) == 122
    assert "no witness" in capsys.readouterr().out
    assert main(["audit", "verify", "out", "--witness", str(tmp_path / "kept.jsonl")]) == 121
    assert main(["audit", "verify", "out", "--witness", "nowhere"]) == 120
    assert main(["audit", "verify", "out", "--key", "zz"]) == 2
    assert main(["audit", "verify", "records"]) != 0


def test_the_key_that_is_shown_is_the_one_to_pin(finished, tmp_path, capsys):
    assert main(["audit", "key"]) == 0
    key = capsys.readouterr().out
    (tmp_path / "owner.pub").write_text(key)
    assert main(["audit", "verify", "out", "--key", key.strip()]) == 0
    assert main(["audit", "verify", "out", "--key", str(tmp_path / "owner.pub")]) == 0
    assert main(["audit", "verify", "out", "--key", "ab" * 32]) == 121


def test_files_that_the_log_names_cannot_be_exchanged_unseen(finished):
    weights = Path("out/adapter/adapter_model.safetensors")
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    Path("out/baseline.json").unlink()
    found = verify_run(Path("out")).findings
    assert [finding.kind for finding in found] == ["file", "file"]
    assert "adapter_model" in found[0].what
    assert "baseline" in found[1].what


def test_a_cut_end_is_found_also_where_a_run_calls_itself_unfinished(finished):
    raw = Path("out/audit.jsonl").read_bytes().splitlines(keepends=True)
    Path("out/audit.jsonl").write_bytes(b"".join(raw[:-1]))
    assert "truncated" in {one.kind for one in verify_run(Path("out")).findings}
    shutil.rmtree("out/witness")
    assert [one.kind for one in verify_run(Path("out")).findings] == ["truncated"]  # summary.json says finished


def test_a_false_intent_beside_a_log_is_found(finished):
    Path("out/.audit.jsonl.intent").write_bytes(Path("out/audit.jsonl").read_bytes()[:100])
    assert [one.kind for one in verify_run(Path("out")).findings] == ["added"]


@pytest.mark.parametrize("what", ["gone", "cut", "rewritten"])
def test_a_run_does_not_go_on_from_a_log_that_is_not_its_own(place, monkeypatch, what):
    with monkeypatch.context() as patch:
        die_in_round_2(patch, Killed())
        with pytest.raises(Killed):
            run_federation(settings(), out=Path("out"))
    log = Path("out/audit.jsonl")
    if what == "gone":
        log.unlink()
        with pytest.raises(AuditLogError, match="is gone, and round 1 was trained"):
            resume_federation(Path("out"))
        return
    if what == "cut":
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-3]))
    else:
        rewritten("out", lambda body: body.update(weight=1) if body["kind"] == "payload" else None)
    with pytest.raises((AuditBrokenError, AuditLogError)):
        resume_federation(Path("out"))


def test_a_checkpoint_that_the_log_does_not_know_is_not_gone_on_from(place, monkeypatch):
    with monkeypatch.context() as patch:
        die_in_round_2(patch, Killed())
        with pytest.raises(Killed):
            run_federation(settings(), out=Path("out"))
    state = load_latest(Path("out"))
    other = {name: array + np.float32(1) for name, array in state.global_state.items()}
    save_round(Path("out"), replace(state, global_state=other), config_digest=config_digest(settings()), keep=1)
    with pytest.raises(AuditLogError, match="does not know the state after round 1"):
        resume_federation(Path("out"))


def test_a_round_without_quorum_leaves_its_refusals_in_the_log(place):
    with pytest.raises(QuorumError):
        run_federation(settings("federated.max_reply_norm=1.0e-9"), out=Path("out"))
    assert {line["hospital"] for line in lines(kind="refusal")} == {"hospital_A", "hospital_B"}
    assert all("above federated.max_reply_norm" in line["reason"] for line in lines(kind="refusal"))
    assert [line["reason"] for line in lines(kind="stopped")] == ["QuorumError"]


def test_under_masks_the_log_has_no_digest_of_one_hospitals_update(place):
    run_federation(settings("privacy.secure_sum=true", "federated.rounds=1"), out=Path("out"))
    assert [line["digest"] for line in lines(kind="payload")] == [None, None]
    assert verify_run(Path("out")).verdict == "intact"


def test_an_attack_on_a_run_is_entered_by_who_has_the_owners_key_and_by_nobody_else(finished, monkeypatch, caplog):
    audit_run(Path("out"))
    assert lines(kind="evaluation")[-1]["file_sha256"] == sha256_file(Path("out/privacy_audit.json"))
    assert verify_run(Path("out")).verdict == "intact"
    monkeypatch.setenv("FEDMED_AUDIT_KEY", "nowhere.key")
    before = Path("out/audit.jsonl").read_bytes()
    audit_run(Path("out"))
    assert Path("out/audit.jsonl").read_bytes() == before
    assert "owner's key is not here" in caplog.text
