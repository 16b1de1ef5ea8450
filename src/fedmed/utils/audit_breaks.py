"""Where the chain of an audit log is broken, by the file alone. bytes -> HERE -> audit_verify.

    changed     a line is not as its own digest, or the next line, says
    missing     numbers of lines are not there
    added       a line stands where the log has no room for one
    reordered   a line stands before one that was written earlier
    truncated   the last line ends in the middle
    foreign     a line holds what no line of its kind may hold

Lines are set in order by their numbers; what is then too many, too few or out of place is named by its place in the
file.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedmed.errors import AuditLogError
from fedmed.utils.audit_events import event
from fedmed.utils.hash_chain import NOTHING, Values, read_line

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


Placed = tuple[int, Values]
"""A line: its place in the file, from 1, and what it says."""


def chain_findings(raw: bytes) -> tuple[list[Finding], dict[int, Placed]]:
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
