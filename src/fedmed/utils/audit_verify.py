"""Is an audit log what was written, and if not, where was it touched? log, witnesses, pinned keys -> HERE -> people.

Beside what ``audit_breaks`` finds in the file alone:

    truncated   the end is gone: lines that a hospital was given the head of, or the signature of a finished run
    re-chained  the chain is whole, and not the one whose heads hospitals were given, or of another key than was pinned
    forged      a signature does not hold
    added       a line stands after the last signature, and no process that went on wrote it
    witness     a hospital's own file of heads is damaged
    file        a file of the run is not the one that was entered

Not covered: docs/audit-log.md, "Who can be fooled when".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fedmed.errors import AuditBrokenError, AuditUnprovenError
from fedmed.utils.audit_breaks import Finding, Placed, chain_findings
from fedmed.utils.audit_log import signature_holds
from fedmed.utils.witness import WitnessFile


@dataclass(frozen=True, slots=True)
class Audit:
    """What a verification found."""

    run: str | None
    lines: int
    key: str | None  # that the log says signs it
    signed: bool  # its last line is a signature
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


def verify_log(raw: bytes, witnesses: Sequence[WitnessFile] = (), keys: Collection[str] = ()) -> Audit:
    """Check a log against itself, the heads that hospitals wrote down, and keys.

    Args:
        raw: the file.
        witnesses: what hospitals wrote down; each one's key counts as pinned.
        keys: public keys, hexadecimal, one of which must sign it; none: those of the witnesses.

    Returns:
        What was found, by line. Nothing raises, whatever the file holds.
    """
    findings, lines = chain_findings(raw)
    opening = lines[0][1] if 0 in lines and lines[0][1]["kind"] == "open" else {}
    key, run = _text(opening.get("key")), _text(opening.get("run"))
    count = raw.count(b"\n") + (not raw.endswith(b"\n") and bool(raw))
    if not opening and not any(finding.line == 1 for finding in findings):
        findings.append(Finding("missing", 1, "the first line does not open an audit log"))
    agreed, found = _against_witnesses(lines, witnesses, run, key)
    signed, found_at_end, unproven = _end(lines, witnesses, key)
    findings += found + found_at_end
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


def _end(
    lines: Mapping[int, Placed], witnesses: Sequence[WitnessFile], key: str | None
) -> tuple[bool, list[Finding], list[str]]:
    """Whether the last line signs all before it, what is wrong with that, and what may be."""
    findings, last = [], -1
    for seq, (number, values) in lines.items():
        if values["kind"] != "signature":
            continue
        if key is None or not signature_holds(values, key):
            findings.append(Finding("forged", number, "its signature is not by the key that line 1 names"))
        last = seq
    if last >= 0 and last == max(lines):
        return True, findings, []
    after = lines.get(last + 1)
    if last >= 0 and after and after[1]["kind"] != "resume":
        findings.append(Finding("added", after[0], "it stands after a signature, and none follows"))
    if last < 0 and any(given.end for witness in witnesses for given in witness.heads):
        end = max((placed[0] for placed in lines.values()), default=0) + 1
        findings.append(Finding("truncated", end, "hospitals were told that the run is finished, and nothing signs it"))
    return False, findings, ["its end is not signed: the run is not finished, or its end was cut off"]


def _against_witnesses(
    lines: Mapping[int, Placed], witnesses: Sequence[WitnessFile], run: str | None, key: str | None
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
        who = ", ".join(sorted(beyond[most]))
        what = (
            f"{who} was given the head of {most} lines; here are {last + 1}, {max(agreeing)} of them under a head given"
        )
        findings.append(Finding("truncated", last + 2, what))
    return agreed, findings


def _notes(lines: Mapping[int, Placed], witnesses: Sequence[WitnessFile]) -> Iterator[str]:
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
