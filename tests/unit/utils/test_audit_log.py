"""What an audit log takes, what a hospital refuses, and who can be fooled when."""

from __future__ import annotations

import json
import stat
import time

import pytest

from fedmed.errors import AuditBrokenError, AuditLogError, AuditUnprovenError
from fedmed.utils.audit_events import KINDS, event, reason
from fedmed.utils.audit_log import KEY_VARIABLE, NAME, AuditLog, owners_key
from fedmed.utils.audit_verify import verify_log
from fedmed.utils.hash_chain import NOTHING, Tip, made_after, make_line
from fedmed.utils.signing import Identity
from fedmed.utils.witness import Witness, read_witness

pytestmark = pytest.mark.unit
pytest.importorskip("cryptography")

OWNER, STRANGER = Identity(b"\1" * 32), Identity(b"\2" * 32)
TEXT = "Mr Miller, born 3 May 1951, has a tumour of the left lung"


@pytest.fixture
def log(tmp_path):
    return AuditLog.open(tmp_path / NAME, OWNER, "run")


def begun(round=1, attempt=0):
    return event("round", round=round, attempt=attempt, hospitals=["A"], min_replies=1, digest="ab" * 32)


def test_a_line_has_the_fields_of_its_kind_and_no_others(log):
    with pytest.raises(AuditLogError, match="no lines of kind 'note'"):
        event("note", text="x")
    with pytest.raises(AuditLogError, match="other fields \\(prompt\\)"):
        event("end", rounds=1, prompt="x")
    with pytest.raises(AuditLogError, match="other fields \\(rounds\\)"):
        event("end")
    assert set(KINDS) >= {"plan", "approval", "manifest", "charge", "payload", "refusal", "decision", "adapter",
                          "evaluation", "release", "signature"}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("manifest", "digest", TEXT),
        ("manifest", "digest", "ab"),
        ("manifest", "hospital", TEXT * 4),
        ("manifest", "hospital", "two\nlines"),
        ("refusal", "reason", TEXT * 10),
        ("payload", "weight", True),
        ("payload", "weight", -1),
        ("decision", "numbers", {"loss": float("nan")}),
        ("decision", "numbers", {"loss": TEXT}),
        ("decision", "hospitals", TEXT),
        ("round", "hospitals", [TEXT * 4]),
    ],
)
def test_what_is_no_digest_name_count_number_or_reason_is_refused_without_repeating_it(kind, field, value):
    fields = {
        "digest": "ab" * 32, "hospital": "A", "round": 1, "attempt": 0, "reason": "none", "weight": 3, "numbers": {},
        "hospitals": [], "decision": "ask", "min_replies": 1,
    }  # fmt: skip
    good = {name: fields[name] for name in KINDS[kind]}
    event(kind, **good)
    with pytest.raises(AuditLogError, match=f"'{field}'") as caught:
        event(kind, **good | {field: value})
    assert TEXT not in str(caught.value)


def test_a_reason_becomes_one_short_line():
    assert reason("two\nlines\tand a bell\a") == "two lines and a bell"
    assert len(reason("x" * 1000)) == 300
    assert reason("\n") == "none given"


def test_a_log_goes_on_in_the_same_chain_and_only_for_its_run_and_key(log, tmp_path):
    log.append(begun())
    again = AuditLog.open(tmp_path / NAME, OWNER, "run")
    assert again.head == log.head
    assert [line["kind"] for line in again.found] == ["open", "round"]
    with pytest.raises(AuditLogError, match="of run 'run', not of 'other'"):
        AuditLog.open(tmp_path / NAME, OWNER, "other")
    with pytest.raises(AuditLogError, match="signed by key"):
        AuditLog.open(tmp_path / NAME, STRANGER, "run")
    raw = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(raw.replace(b'"min_replies":1', b'"min_replies":2'))
    with pytest.raises(AuditLogError, match="line 2 of the audit log"):
        AuditLog.open(tmp_path / NAME, OWNER, "run")


def test_two_that_add_to_one_log_lose_nothing(log, tmp_path):
    other = AuditLog.open(tmp_path / NAME, OWNER)
    log.append(begun(1))
    other.append(begun(2))
    log.append(begun(3))
    assert [line["round"] for line in AuditLog.open(tmp_path / NAME, OWNER).found[1:]] == [1, 2, 3]


def test_a_hospital_refuses_a_log_that_got_shorter_or_another_one(log, tmp_path):
    witness = Witness(tmp_path / "A.jsonl", "A")
    first = log.append(begun())
    second = log.append(begun(2))
    witness.receive(second, 1)
    witness.receive(second, 1)  # told twice, written once
    assert len(read_witness(tmp_path / "A.jsonl").heads) == 1
    for reopened in (witness, Witness(tmp_path / "A.jsonl", "A")):
        with pytest.raises(AuditLogError, match="has 2 lines and had 3 before"):
            reopened.receive(first, 2)
    forked = AuditLog.open(tmp_path / "fork" / NAME, OWNER, "run")
    forked.append(begun(7))
    with pytest.raises(AuditLogError, match="another line 3"):
        witness.receive(forked.append(begun(8)), 2)
    with pytest.raises(AuditLogError, match="is about 'A', run 'run'"):
        witness.receive(AuditLog.open(tmp_path / "new" / NAME, STRANGER, "run").append(begun(), begun(2)), 2)
    with pytest.raises(AuditLogError, match="is about 'A'"):
        Witness(tmp_path / "A.jsonl", "B").receive(second, 2)


def test_two_logs_for_two_hospitals_are_found_as_soon_as_their_files_lie_side_by_side(tmp_path):
    for name in "AB":
        log = AuditLog.open(tmp_path / name / NAME, OWNER, "run")
        log.append(event("refusal", round=1, attempt=0, hospital=name, reason="its norm is above the limit"))
        Witness(tmp_path / f"{name}.jsonl", name).receive(log.sign(), 1, end=True)
    told = [read_witness(tmp_path / f"{name}.jsonl") for name in "AB"]
    raw = (tmp_path / "A" / NAME).read_bytes()
    assert verify_log(raw, told[:1]).verdict == "intact"  # each alone is fooled
    found = verify_log(raw, told)
    assert [finding.kind for finding in found.findings] == ["re-chained"]
    assert "given to B" in found.findings[0].what


def test_the_owner_and_all_hospitals_together_fool_everybody_and_no_fewer_do(tmp_path):
    """What docs/audit-log.md says that cannot be found is not found, and what it says that is, is."""
    for history in ("true", "false"):
        log = AuditLog.open(tmp_path / history / NAME, OWNER, "run")
        log.append(event("refusal", round=1, attempt=0, hospital="C", reason=f"a {history} reason"))
        for name in "AB":
            Witness(tmp_path / history / f"{name}.jsonl", name).receive(log.sign(), 1, end=name == "B")
    raw = (tmp_path / "false" / NAME).read_bytes()
    false = [read_witness(tmp_path / "false" / f"{name}.jsonl") for name in "AB"]
    true = [read_witness(tmp_path / "true" / f"{name}.jsonl") for name in "AB"]
    assert verify_log(raw, false, {OWNER.public.hex()}).verdict == "intact"
    assert verify_log(raw, [false[0], true[1]]).verdict == "broken"
    assert verify_log(raw, [], {OWNER.public.hex()}).verdict == "unproven"


def test_a_log_that_a_stranger_wrote_is_found_by_the_pinned_key(tmp_path):
    log = AuditLog.open(tmp_path / NAME, STRANGER, "run")
    log.sign()
    raw = (tmp_path / NAME).read_bytes()
    assert verify_log(raw, [], {OWNER.public.hex()}).verdict == "broken"
    # With the owner's key put into its first line, the signature gives it away.
    first = json.loads(raw.splitlines()[0])
    body = {key: one for key, one in first.items() if key not in ("seq", "previous", "sha256")}
    forged = make_line(body | {"key": OWNER.public.hex()}, 0, NOTHING)
    last = json.loads(raw.splitlines()[1])
    body = {key: one for key, one in last.items() if key not in ("seq", "previous", "sha256")}
    forged += make_line(body | {"key": OWNER.public.hex()}, 1, json.loads(forged)["sha256"])
    assert [one.kind for one in verify_log(forged, [], {OWNER.public.hex()}).findings] == ["forged"]


def test_lines_after_the_last_signature_are_a_run_that_went_on_or_were_put_in(log, tmp_path):
    witness = Witness(tmp_path / "A.jsonl", "A")
    witness.receive(log.sign(event("end", rounds=1)), 1, end=True)
    signed = (tmp_path / NAME).read_bytes()
    log.append(event("end", rounds=2))
    told = [read_witness(tmp_path / "A.jsonl")]
    assert [one.kind for one in verify_log((tmp_path / NAME).read_bytes(), told).findings] == ["added"]
    (tmp_path / NAME).write_bytes(signed)
    AuditLog.open(tmp_path / NAME, OWNER).append(event("resume", after_round=1, digest="ab" * 32, again=0))
    found = verify_log((tmp_path / NAME).read_bytes(), told)
    assert found.verdict == "unproven"
    with pytest.raises(AuditUnprovenError, match="its end is not signed"):
        found.check()


def test_an_error_names_the_first_line_that_is_wrong(log, tmp_path):
    log.append(begun(), begun(2))
    raw = (tmp_path / NAME).read_bytes().replace(b'"round":2', b'"round":5')
    with pytest.raises(AuditBrokenError, match="of run 'run' is changed at line 3"):
        verify_log(raw).check()


def test_a_damaged_witness_file_names_its_line(log, tmp_path):
    path = tmp_path / "A.jsonl"
    Witness(path, "A").receive(log.append(begun()), 1)
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":2'))
    with pytest.raises(AuditLogError, match="line 2 of the witness"):
        read_witness(path)
    with pytest.raises(AuditLogError, match="line 2 of the witness"):
        Witness(path, "A").receive(log.append(begun(2)), 2)


def test_the_owners_key_is_made_once_for_its_owner_alone(tmp_path, monkeypatch):
    file = tmp_path / "keys" / "audit.key"
    monkeypatch.setenv(KEY_VARIABLE, str(file))
    assert owners_key() is None
    made = owners_key(make=True)
    assert owners_key(make=True) == owners_key() == made
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in file.parent.iterdir()) == ["audit.key"]
    assert made.private.hex() not in repr(made)
    file.write_text("no key")
    with pytest.raises(AuditLogError, match="holds no key"):
        owners_key(make=True)


def test_a_hundred_thousand_lines_are_verified_in_seconds():
    opening = {"kind": "open", "at": "now", "format": 1, "run": "run", "key": OWNER.public.hex(), "fedmed": "0"}
    bodies = [opening, *({**begun(number), "at": "now"} for number in range(1, 100_000))]
    raw, _ = made_after(bodies, Tip(0, NOTHING, 0))
    started = time.process_time()
    found = verify_log(raw)
    assert time.process_time() - started < 20  # a few seconds where nothing else runs
    assert (found.verdict, found.lines) == ("unproven", 100_000)
