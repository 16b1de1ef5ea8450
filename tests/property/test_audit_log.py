"""An audit log that was touched is found out, wherever and by whomever, and the place is named."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.utils.audit_events import KINDS, event
from fedmed.utils.audit_log import NAME, AuditLog
from fedmed.utils.audit_verify import Audit, verify_log
from fedmed.utils.signing import Identity
from fedmed.utils.witness import Witness, WitnessFile, read_witness

pytestmark = pytest.mark.property
pytest.importorskip("cryptography")

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from audit_edits import anew, edits_by, tried

OWNER = Identity(b"\1" * 32)
STRANGER = Identity(b"\2" * 32)
HOSPITALS = ("hospital_A", "hospital_B")
EDITS = edits_by(OWNER, STRANGER)


@dataclass(frozen=True)
class Finished:
    """A log as a run of three rounds leaves it, and what its hospitals wrote down."""

    raw: bytes
    witnesses: tuple[WitnessFile, ...]

    @property
    def lines(self) -> list[bytes]:
        return self.raw.splitlines(keepends=True)

    def verify(self, raw: bytes, **how: Any) -> Audit:
        return verify_log(raw, self.witnesses, **how)


def digest(*names: object) -> str:
    return random.Random(repr(names)).randbytes(32).hex()


def finished(folder: Path, rounds: int = 3, hospitals: tuple[str, ...] = HOSPITALS) -> Finished:
    log = AuditLog.open(folder / NAME, OWNER, "run")
    witnesses = [Witness.in_folder(folder / "witness", name) for name in hospitals]
    plan = {
        "digest": digest("plan"), "algorithm": "fedavg", "rounds": rounds, "hospitals": list(hospitals),
        "digest_of_start": digest("start"), "secure_sum": False, "example_epsilon": None, "hospital_epsilon": None,
    }  # fmt: skip
    log.append(event("plan", **plan), *(event("manifest", hospital=name, digest=digest(name)) for name in hospitals))
    for number in range(1, rounds + 1):
        at = {"round": number, "attempt": 0}
        begun = event("round", **at, hospitals=list(hospitals), min_replies=1, digest=digest("before", number))
        head = log.append(begun)
        for witness in witnesses:
            witness.receive(head, number)
        sent = [
            event("payload", **at, hospital=name, digest=digest(name, number), weight=10 + number) for name in hospitals
        ]
        done = event("applied", **at, admitted=list(hospitals), digest=digest("after", number), update_norm=0.5)
        log.append(*sent, done)
    log.append(event("end", rounds=rounds))
    head = log.sign()
    for witness in witnesses:
        witness.receive(head, rounds, end=True)
    files = sorted((folder / "witness").glob("*.jsonl"))
    return Finished(log.path.read_bytes(), tuple(read_witness(file) for file in files))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished(tmp_path_factory.mktemp("log"))


def test_an_untouched_log_is_intact(log):
    audit = log.verify(log.raw)
    assert (audit.verdict, audit.findings, audit.signed) == ("intact", (), True)
    assert audit.witnesses == dict.fromkeys(HOSPITALS, 4)


def test_ten_thousand_edits_cuts_and_logs_written_anew_by_their_owner_are_all_found(log):
    number = 0
    for number, one in enumerate(tried(log.raw, log.verify, EDITS, random.Random(17), 10_000), 1):
        said = f"edit {number}, {one.edit}: {one.findings}"
        assert one.found, said
        assert one.named, said
        assert one.placed, said
        assert len(one.findings) < 12, said
    assert number == 10_000


@pytest.mark.parametrize("name", EDITS)
def test_what_shows_in_the_file_alone_needs_no_witness_and_what_the_owner_does_needs_one(log, name):
    draw, own = random.Random(3), name in ("anew", "anew_and_unsigned")
    for _ in range(40):
        raw, _ = EDITS[name](log.lines, draw)
        verdict = verify_log(raw, (), {OWNER.public.hex()}).verdict
        if own or (name == "cut_at_a_line" and raw):
            assert verdict == "unproven"  # never "intact": it says that a witness is missing
        elif raw != log.raw:
            assert verdict == "broken"


def test_one_witness_is_enough(log):
    draw = random.Random(5)
    for witness in log.witnesses:
        for _ in range(50):
            assert verify_log(anew(log.lines, draw, OWNER)[0], [witness]).verdict == "broken"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_edit_of_bytes_goes_unseen(log, data):
    start = data.draw(st.integers(0, len(log.raw)))
    end = data.draw(st.integers(start, min(len(log.raw), start + 400)))
    raw = log.raw[:start] + data.draw(st.binary(max_size=40)) + log.raw[end:]
    if raw != log.raw:
        assert log.verify(raw).verdict == "broken"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300) | st.lists(st.sampled_from([b'{"seq":0', b'"previous":', b"\n", b"}"])).map(b"".join))
def test_verifying_never_raises_whatever_the_file_holds(log, raw):
    assert log.verify(raw).verdict == "broken"


REASONS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Co", "Cn", "Cf")), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(
    decisions=st.lists(
        st.tuples(st.integers(0, 2**40), REASONS, st.floats(allow_nan=False, allow_infinity=False)), max_size=6
    ),
    place=st.floats(0, 1, exclude_max=True),
    flip=st.integers(1, 255),
)  # fmt: skip
def test_whatever_was_decided_a_log_of_it_verifies_until_a_byte_changes(tmp_path_factory, decisions, place, flip):
    folder = tmp_path_factory.mktemp("log")
    log, witness = AuditLog.open(folder / NAME, OWNER, "run"), Witness(folder / "A.jsonl", "A")
    for number, why, value in decisions:
        printable = "".join(one for one in why if one.isprintable()) or "none"
        log.append(
            event("decision", round=number, decision="ask", hospitals=[], reason=printable, numbers={"by": value})
        )
    witness.receive(log.sign(), 0, end=True)
    known, raw = [read_witness(folder / "A.jsonl")], log.path.read_bytes()
    assert verify_log(raw, known).verdict == "intact"
    at = int(place * len(raw))
    assert verify_log(raw[:at] + bytes([raw[at] ^ flip]) + raw[at + 1 :], known).verdict == "broken"


def test_cut_at_every_byte_of_an_append_of_several_lines_the_next_to_open_it_finishes_them(tmp_path):
    path = tmp_path / NAME
    log = AuditLog.open(path, OWNER, "run")
    log.append(event("stopped", reason="KeyboardInterrupt"))
    before = path.read_bytes()
    log.append(event("end", rounds=1), event("end", rounds=2), event("end", rounds=3))
    added = path.read_bytes()[len(before) :]
    intent = tmp_path / f".{NAME}.intent"
    for cut in range(0, len(added) + 1, 3):
        path.write_bytes(before + added[:cut])
        intent.write_bytes(added)
        again = AuditLog.open(path, OWNER, "run")
        assert path.read_bytes() == before + added
        assert again.head.lines == 5
        assert not intent.exists()


def test_every_kind_of_line_can_be_changed_by_the_edits(log):
    """Else the ten thousand would leave some unedited."""
    assert {json.loads(line)["kind"] for line in log.lines} <= KINDS.keys()
    assert len({json.loads(line)["kind"] for line in log.lines}) > 6
