"""Is an audit log what was written, and if not, where was it touched? log, witnesses, pinned keys -> HERE -> people.

    changed     a line is not as its own digest, or the next line, says
    missing     numbers of lines are not there
    added       a line stands where the log has no room for one
    reordered   a line stands before one that was written earlier
    truncated   the end is gone: lines that a hospital was given the head of, or the signature of a finished run
    re-chained  the chain is whole, and not the one whose heads hospitals were given, or of another key than was pinned
    forged      a signature does not hold
    foreign     a line holds what no line of its kind may hold
    witness     a hospital's own file of heads is damaged

The first four and the cut of a line show in the file alone. Not covered: docs/audit-log.md, "Who can be fooled when".
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fedmed.errors import AuditBrokenError, AuditLogError, AuditUnprovenError
from fedmed.utils.audit_events import event
from fedmed.utils.audit_log import signature_holds
from fedmed.utils.hash_chain import NOTHING, Values, read_line
from fedmed.utils.witness import Testimony

MEANS = {
    "changed": "somebody edited it after it was written",
    "missing": "somebody took lines out",
    "added": "somebody put in a line that the log never had",
    "reordered": "somebody moved lines",
    "truncated": "somebody cut the end off",
    "re-chained": "somebody who can write all of it wrote it anew, with digests that fit",
    "forged": "whoever closed the log does not hold its key",
    "foreign": "it was not written by FED-MED, or holds what must not be in a log",
    "witness": "ask that hospital for its own copy; without it, it vouches for nothing",
    "file": "the file was exchanged after it was entered, or never was the one that was entered",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    line: int  # of the log, from 1; where lines are missing, the place where they would be
    what: str

    @property
    def means(self) -> str:
        return MEANS[self.kind]


@dataclass(frozen=True, slots=True)
class Audit:
    """What a verification found."""

    run: str | None
    lines: int
    key: str | None  # that the log says signs it
    signed: bool  # its last line is a signature that holds
    witnesses: Mapping[str, int]  # hospital -> heads of it that are in this log
    findings: tuple[Finding, ...]
    unproven: tuple[str, ...]  # why it may be false although nothing was found
    notes: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> Literal["intact", "unproven", "broken"]:
        return "broken" if self.findings else "unproven" if self.unproven else "intact"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = [asdict(finding) | {"means": finding.means} for finding in self.findings]
        return {"verdict": self.verdict} | asdict(self) | {"findings": found}

    def check(self) -> None:
        """Raises AuditBrokenError or AuditUnprovenError unless it is intact."""
        if self.findings:
            first = self.findings[0]
            more = f" and {len(self.findings) - 1} more" if len(self.findings) > 1 else ""
            raise AuditBrokenError(
                f"the audit log of run '{self.run}' is {first.kind} at line {first.line}{more}",
                "trust nothing that rests on it; compare it with the copies of others",
            )
        if self.unproven:
            raise AuditUnprovenError(
                f"the audit log of run '{self.run}' is whole, but {'; '.join(self.unproven)}",
                "finish the run, and give the hospitals' witness files with --witness and the key with --key",
            )


Placed = tuple[int, Values]
"""A line: its place in the file, from 1, and what it says."""


def verify_log(raw: bytes, witnesses: Sequence[Testimony] = (), keys: Collection[str] = ()) -> Audit:
    """Check a log against itself, the heads that hospitals wrote down, and keys.

    Args:
        raw: the file.
        witnesses: what hospitals wrote down; each one's key counts as pinned.
        keys: public keys, hexadecimal, one of which must sign it; none: those of the witnesses.

    Returns:
        What was found, by line. Nothing raises, whatever the file holds.
    """
    findings, lines = _chain_findings(raw)
    newest = lines[max(lines)] if lines else None
    opening = lines[0][1] if 0 in lines and lines[0][1]["kind"] == "open" else {}
    key, run = _text(opening.get("key")), _text(opening.get("run"))
    count = raw.count(b"\n") + (not raw.endswith(b"\n") and bool(raw))
    if not opening and not any(finding.line == 1 for finding in findings):
        findings.append(Finding("missing", 1, "the first line does not open an audit log"))
    signatures = [placed for placed in lines.values() if placed[1]["kind"] == "signature"]
    for number, values in signatures:
        if key is None or not signature_holds(values, key):
            findings.append(Finding("forged", number, "its signature is not by the key that line 1 names"))
    ended = any(given.end for witness in witnesses for given in witness.heads)
    signed = bool(newest and newest[1]["kind"] == "signature" and newest[0] == count)
    unproven = []
    if not signed and not ended:
        unproven.append("its end is not signed: the run is not finished, or its end was cut off")
    agreed, found = _against_witnesses(lines, witnesses, run, key)
    findings += found
    if not signed and ended and not any(finding.kind == "truncated" for finding in findings):
        findings.append(
            Finding("truncated", count + 1, "hospitals were told that the run is finished; nothing signs it")
        )
    pinned = {one.lower() for one in keys} or {witness.key for witness in witnesses}
    if keys and key not in pinned:
        findings.append(Finding("re-chained", 1, f"it names the key {key}, which is not the one that was pinned"))
    if not pinned:
        unproven.append("no key was pinned, by --key or by a witness")
    if not witnesses:
        unproven.append("there is no witness: its owner can have written it anew")
    order = sorted(findings, key=lambda finding: (finding.line, finding.kind))
    return Audit(run, count, key, signed, agreed, tuple(order), tuple(unproven), tuple(_notes(lines, witnesses)))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _chain_findings(raw: bytes) -> tuple[list[Finding], dict[int, Placed]]:
    """What is wrong with the chain by itself, and each line that may be one of the log's by its number from 0."""
    *texts, rest = raw.split(b"\n")
    read: list[Placed] = []
    unread: list[int] = []
    for number, text in enumerate(texts, 1):
        values = read_line(text)
        unread.append(number) if values is None else read.append((number, values))
    findings = [Finding("truncated", len(texts) + 1, "the last line ends in the middle")] if rest else []
    findings += _foreign(read)
    lines, doubled = _one_for_each_number(read)
    findings += doubled
    findings += _misplaced(lines)
    findings += _gaps(lines, unread)
    for seq, (number, values) in lines.items():
        before = lines.get(seq - 1)
        if before and values["previous"] != before[1]["sha256"]:
            what = f"line {number} goes on from another line than this one: one of the two was rewritten"
            findings.append(Finding("changed", before[0], what))
    if 0 in lines and lines[0][1]["previous"] != NOTHING:
        findings.append(Finding("changed", lines[0][0], "the first line names a line before it"))
    return findings, lines


def _one_for_each_number(read: Sequence[Placed]) -> tuple[dict[int, Placed], list[Finding]]:
    lines: dict[int, Placed] = {}
    findings = []
    named = {(values["seq"] - 1, values["previous"]) for _, values in read}
    for placed in read:
        seq = placed[1]["seq"]
        if seq not in lines:
            lines[seq] = placed
            continue
        first = lines[seq]
        # The next line names which of two it goes on from; where it names both or none, the first one stays.
        stays = [(seq, one[1]["sha256"]) in named for one in (first, placed)]
        kept, extra = (placed, first) if stays == [False, True] else (first, placed)
        lines[seq] = kept
        same = "a copy of it" if kept[1] == extra[1] else "another one"
        findings.append(Finding("added", extra[0], f"line {kept[0]} has its number {seq}, and is {same}"))
    return dict(sorted(lines.items())), findings


def _misplaced(lines: Mapping[int, Placed]) -> list[Finding]:
    """The fewest lines that, moved, put the others in order: those outside a longest rising run."""
    places = [placed[0] for placed in lines.values()]  # by number; in order they rise
    if all(one < other for one, other in itertools.pairwise(places)):
        return []
    ends: list[int] = []  # the last place of the best rising run of each length
    lengths = []
    for place in places:
        at = bisect.bisect_left(ends, place)
        ends[at : at + 1] = [place]
        lengths.append(at + 1)
    length, in_order = len(ends), set()
    bound = max(places) + 1
    for place, reached in zip(reversed(places), reversed(lengths), strict=True):
        if reached == length and place < bound:
            in_order.add(place)
            length, bound = length - 1, place
    return [
        Finding("reordered", number, f"it is line {seq + 1} of the log by its number")
        for seq, (number, _) in lines.items()
        if number not in in_order
    ]


def _gaps(lines: Mapping[int, Placed], unread: Sequence[int]) -> Iterator[Finding]:
    """Numbers that are not there, set against lines that cannot be read in their place."""
    seqs, seen = [-1, *lines], set[int]()
    for seq, after in itertools.pairwise(seqs):
        place, end = (lines[seq][0] if seq >= 0 else 0), lines[after][0]
        between = unread[bisect.bisect_right(unread, place) : bisect.bisect_left(unread, end)]
        between = [number for number in between if number not in seen]
        seen.update(between)
        wanted = after - seq - 1
        for number in between[:wanted]:
            yield Finding("changed", number, "it is not as its own digest says, or no line at all")
        for number in between[wanted:]:
            yield Finding("added", number, "it cannot be read, and no line is missing here")
        if wanted > len(between):
            shown = f"line {after} is" if wanted == 1 else f"lines {seq + 2} to {after} are"
            rest = f", but for {len(between)} that cannot be read" if between else ""
            yield Finding("missing", end, f"before it, {shown} not there{rest}")
    for number in unread:  # after the last line that can be read, or beside lines that were moved
        if number not in seen:
            yield Finding("changed", number, "it is not as its own digest says, or no line at all")


def _foreign(read: Sequence[Placed]) -> Iterator[Finding]:
    own = ("seq", "previous", "kind", "at", "sha256")
    for number, values in read:
        try:
            event(values["kind"], **{name: value for name, value in values.items() if name not in own})
            if not isinstance(values.get("at"), str) or len(values["at"]) > 40:
                yield Finding("foreign", number, "it does not say when it was written")
        except (AuditLogError, TypeError):
            yield Finding("foreign", number, "its kind or its fields are none that a log has")


def _against_witnesses(
    lines: Mapping[int, Placed], witnesses: Sequence[Testimony], run: str | None, key: str | None
) -> tuple[dict[str, int], list[Finding]]:
    """How many heads of each hospital are in the log, and from where on it is another one."""
    agreed = {witness.hospital: 0 for witness in witnesses}
    agreeing, findings = {0}, []
    differing: dict[int, set[str]] = {}  # lines of the log at a head that is not in it -> hospitals that have it
    beyond: dict[int, set[str]] = {}
    last = max(lines, default=-1)
    for witness in witnesses:
        if witness.run != run or witness.key != key:
            what = f"'{witness.hospital}' was given heads of run '{witness.run}' and key {witness.key}"
            findings.append(Finding("re-chained", 1, what))
        for given in witness.heads:
            placed = lines.get(given.lines - 1)
            if given.lines - 1 > last:
                beyond.setdefault(given.lines, set()).add(witness.hospital)
            elif placed and placed[1]["sha256"] == given.head:
                agreed[witness.hospital] += 1
                agreeing.add(given.lines)
            elif placed:
                differing.setdefault(given.lines, set()).add(witness.hospital)
    if differing:
        first = min(differing)
        since = max(known for known in agreeing if known < first)
        what = (
            f"lines {since + 1} to {first} are not those whose head was given to {', '.join(sorted(differing[first]))}"
        )
        findings.append(Finding("re-chained", since + 1, what))
    if beyond:
        most = max(beyond)
        what = f"{', '.join(sorted(beyond[most]))} was given the head of {most} lines, and the log ends with {last + 1}"
        findings.append(Finding("truncated", last + 2, what))
    return agreed, findings


def _notes(lines: Mapping[int, Placed], witnesses: Sequence[Testimony]) -> Iterator[str]:
    """What is right and worth knowing."""
    for number, values in lines.values():
        if values["kind"] == "round" and type(values.get("attempt")) is int and values["attempt"] > 0:
            again = f"round {values.get('round')} was begun again, attempt {values['attempt']} after the first"
            yield f"line {number}: {again}"
        if values["kind"] == "plan" and isinstance(values.get("hospitals"), list) and witnesses:
            heard = {witness.hospital for witness in witnesses}
            if silent := [str(one) for one in values["hospitals"] if one not in heard]:
                yield f"no witness file of {', '.join(silent)}"
    newest = max((given.lines for witness in witnesses for given in witness.heads), default=0)
    if witnesses and len(lines) > newest:
        yield f"lines {newest + 1} to {len(lines)} came after the last head that was given: a signature alone has them"
