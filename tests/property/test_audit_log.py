"""An audit log that was touched is found out, wherever and by whomever, and the place is named."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.utils.audit_events import KINDS, event
from fedmed.utils.audit_log import NAME, AuditLog, signed_part
from fedmed.utils.audit_verify import Audit, verify_log
from fedmed.utils.hash_chain import NOTHING, make_line
from fedmed.utils.signing import Identity
from fedmed.utils.witness import Witness, WitnessFile, read_witness

pytestmark = pytest.mark.property
pytest.importorskip("cryptography")

OWNER = Identity(b"\1" * 32)
STRANGER = Identity(b"\2" * 32)
HOSPITALS = ("hospital_A", "hospital_B")


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


def bodies(lines: list[bytes]) -> list[dict[str, Any]]:
    taken = ("seq", "previous", "sha256")
    return [{key: one for key, one in json.loads(line).items() if key not in taken} for line in lines]


def chained(contents: list[dict[str, Any]], owner: Identity = OWNER) -> bytes:
    """A whole log of these lines, as its owner can write it at any time: numbers, digests and signatures fit."""
    raw, previous = [], NOTHING
    for seq, content in enumerate(contents):
        body = dict(content)
        if body["kind"] in ("open", "signature"):
            body["key"] = owner.public.hex()
        if body["kind"] == "signature":
            body.pop("signature")
            body["signature"] = owner.sign(signed_part({"seq": seq, "previous": previous, **body})).hex()
        raw.append(make_line(body, seq, previous))
        previous = json.loads(raw[-1])["sha256"]
    return b"".join(raw)


def altered(content: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """The same line saying something else."""
    changed = dict(content)
    key = draw.choice([key for key in content if key not in ("kind", "key", "signature")])
    old = content[key]
    if key == "at":
        changed[key] = f"2031-01-01T00:00:{draw.randrange(60):02}.{draw.randrange(1000):03}Z"
    elif isinstance(old, bool) or old is None:
        changed[key] = not old if isinstance(old, bool) else 1.0
    elif isinstance(old, int | float):
        changed[key] = old + 1
    elif isinstance(old, str):
        changed[key] = digest(draw.random()) if len(old) == 64 else f"{old}x"
    else:
        changed[key] = [*old, "hospital_Z"]
    return changed


# Each edit returns the file and the lines, from 1, at one of which, or beside, it must be found.
Edit = Callable[[list[bytes], random.Random], tuple[bytes, Collection[int]]]


def around(index: int, more: int = 1) -> range:
    return range(max(1, index), index + more + 2)


def a_byte(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    raw = b"".join(lines)
    place = draw.randrange(len(raw))
    changed = bytes([raw[place] ^ draw.randrange(1, 256)])
    return raw[:place] + changed + raw[place + 1 :], around(raw[:place].count(b"\n"))


def a_line_with_its_digest(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    index = draw.randrange(len(lines))
    values = json.loads(lines[index])
    body = altered(bodies(lines)[index], draw)
    new = make_line(body, values["seq"], values["previous"])
    return b"".join([*lines[:index], new, *lines[index + 1 :]]), around(index)


def lines_out(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    index = draw.randrange(len(lines) - 1)
    count = draw.randint(1, min(3, len(lines) - 1 - index))
    return b"".join(lines[:index] + lines[index + count :]), around(index)


def a_copy_in(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    source, index = draw.randrange(len(lines)), draw.randrange(len(lines) + 1)
    return b"".join([*lines[:index], lines[source], *lines[index:]]), {index + 1, source + 1, source + 2}


def a_forged_line_in(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    index = draw.randrange(1, len(lines) + 1)
    before = json.loads(lines[index - 1])
    body = altered(bodies(lines)[draw.randrange(1, len(lines) - 1)], draw)
    new = make_line(body, before["seq"] + 1, before["sha256"])
    return b"".join([*lines[:index], new, *lines[index:]]), around(index)


def rubbish_in(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    index = draw.randrange(len(lines) + 1)
    new = draw.choice([b"\n", b"{}\n", b"null\n", b" " + lines[0], b"\xff\n", b'{"seq":3}\n', b"[" * 99_999 + b"\n"])
    return b"".join([*lines[:index], new, *lines[index:]]), around(index)


def moved(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    one, other = sorted(draw.sample(range(len(lines)), 2))
    if draw.random() < 0.5:
        order = [*range(one), other, *range(one + 1, other), one, *range(other + 1, len(lines))]
    else:
        order = [*range(one), *range(one + 1, other + 1), one, *range(other + 1, len(lines))]
    return b"".join(lines[index] for index in order), range(one + 1, other + 2)


def cut_at_a_byte(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    raw = b"".join(lines)
    place = draw.randrange(len(raw))
    return raw[:place], around(raw[:place].count(b"\n"))


def cut_at_a_line(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    left = draw.randrange(len(lines))
    return b"".join(lines[:left]), around(left)


def anew(lines: list[bytes], draw: random.Random, owner: Identity = OWNER) -> tuple[bytes, Collection[int]]:
    """The owner's own edit: another history, whole and signed."""
    contents = bodies(lines)
    index = draw.randrange(1, len(contents) - 1)
    what = draw.choice(("alter", "take", "add", "swap", "cut", "many"))
    if what == "alter":
        contents[index] = altered(contents[index], draw)
    elif what == "take":
        del contents[index]
    elif what == "add":
        contents.insert(index, altered(contents[draw.randrange(1, len(contents) - 1)], draw))
    elif what == "swap" and index + 1 < len(contents) - 1:
        contents[index], contents[index + 1] = contents[index + 1], contents[index]
    elif what == "cut":
        del contents[index:-1]
    else:
        contents = [contents[0], *(altered(one, draw) for one in contents[1:-1]), contents[-1]]
        index = 1
    # A shorter log shows at its end, where nothing that was given covers what was touched.
    return chained(contents, owner), range(1, (len(lines) if len(contents) < len(lines) else index) + 2)


def anew_by_a_stranger(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    return anew(lines, draw, STRANGER)


def anew_and_unsigned(lines: list[bytes], draw: random.Random) -> tuple[bytes, Collection[int]]:
    contents = bodies(lines)[:-1]
    index = draw.randrange(1, len(contents))
    contents[index] = altered(contents[index], draw)
    return chained(contents), range(1, len(lines) + 1)


EDITS: tuple[Edit, ...] = (
    a_byte, a_line_with_its_digest, lines_out, a_copy_in, a_forged_line_in, rubbish_in, moved, cut_at_a_byte,
    cut_at_a_line, anew, anew_by_a_stranger, anew_and_unsigned,
)  # fmt: skip
WANTED = {
    a_line_with_its_digest: {"changed", "forged"}, lines_out: {"missing"}, a_copy_in: {"added"},
    a_forged_line_in: {"added"},
    moved: {"reordered"}, cut_at_a_byte: {"truncated"}, cut_at_a_line: {"truncated"},
    anew: {"re-chained", "truncated"}, anew_and_unsigned: {"re-chained", "truncated"},
    anew_by_a_stranger: {"re-chained"},
}  # fmt: skip


def test_an_untouched_log_is_intact(log):
    audit = log.verify(log.raw)
    assert (audit.verdict, audit.findings, audit.signed) == ("intact", (), True)
    assert audit.witnesses == dict.fromkeys(HOSPITALS, 4)


def test_ten_thousand_edits_cuts_and_logs_written_anew_by_their_owner_are_all_found(log):
    draw, lines = random.Random(17), log.lines
    number = 0
    for edit in itertools.cycle(EDITS):
        raw, places = edit(lines, draw)
        if raw == log.raw:  # nothing was edited
            continue
        number += 1
        audit = log.verify(raw)
        said = f"edit {number}, {edit.__name__}: {audit.findings}"
        assert audit.verdict == "broken", said
        assert {finding.kind for finding in audit.findings} & WANTED.get(
            edit, {finding.kind for finding in audit.findings}
        ), said
        assert any(finding.line in places for finding in audit.findings), f"{said} not in {places}"
        assert len(audit.findings) < 12, said
        if number == 10_000:
            break


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_what_shows_in_the_file_alone_needs_no_witness_and_what_the_owner_does_needs_one(log, edit):
    draw, own = random.Random(3), edit in (anew, anew_and_unsigned)
    for _ in range(40):
        raw, _ = edit(log.lines, draw)
        verdict = verify_log(raw, (), {OWNER.public.hex()}).verdict
        if own or (edit is cut_at_a_line and raw):
            assert verdict == "unproven"  # never "intact": it says that a witness is missing
        elif raw != log.raw:
            assert verdict == "broken"


def test_one_witness_is_enough(log):
    draw = random.Random(5)
    for witness in log.witnesses:
        for _ in range(50):
            assert verify_log(anew(log.lines, draw)[0], [witness]).verdict == "broken"


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
