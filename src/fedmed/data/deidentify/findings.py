"""What the engine says about a text: which stretch identifies somebody, of which kind, by which rule, and why.

A finding never holds the text it points at, so that findings can be logged, reported and raised in errors.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter

TYPES = (
    "NAME", "LOCATION", "ZIP", "DATE", "AGE_OVER_89", "PHONE", "FAX", "EMAIL", "SSN", "MRN", "HEALTH_PLAN", "ACCOUNT",
    "LICENSE", "VEHICLE", "DEVICE", "URL", "IP", "BIOMETRIC", "PHOTO", "UNIQUE_CODE",
)  # fmt: skip
"""The eighteen identifiers of 45 CFR 164.514(b)(2); geography is LOCATION and ZIP, dates are DATE and AGE_OVER_89."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """``text[start:end]`` identifies somebody."""

    start: int
    end: int
    type: str  # one of TYPES
    score: float  # 0 to 1: how sure the rule is, not a probability
    rule: str  # e.g. "name.title"
    why: str  # one clause for people; never the text itself


BY_PLACE = attrgetter("start")
"""Sorts findings that do not overlap; comparing them whole takes much longer."""
_END = attrgetter("end")


def resolve(findings: Iterable[Finding], text: str) -> tuple[Finding, ...]:
    """Findings in order and without overlap, that together cover all that was found.

    The surer finding keeps its span, the longer one among equals; what another covers beyond it stays a finding if it
    holds a letter or a digit.
    """
    kept: list[Finding] = []  # in order of place, which is that of their ends too
    for finding in sorted(findings, key=lambda found: (-found.score, found.start - found.end, found)):
        overlapped = kept[bisect_right(kept, finding.start, key=_END) : bisect_left(kept, finding.end, key=BY_PLACE)]
        for start, end in _uncovered(finding.start, finding.end, overlapped):
            piece = _trimmed(text, start, end)
            if piece is not None:
                whole = piece == (finding.start, finding.end)
                insort(kept, finding if whole else _cut(finding, *piece), key=BY_PLACE)
    return tuple(kept)


def _cut(finding: Finding, start: int, end: int) -> Finding:
    return Finding(start, end, finding.type, finding.score, finding.rule, finding.why)


def _uncovered(start: int, end: int, overlapped: list[Finding]) -> Iterator[tuple[int, int]]:
    for other in overlapped:
        if other.start > start:
            yield start, other.start
        start = max(start, other.end)
    if start < end:
        yield start, end


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Without what is neither letter nor digit at both ends; None where nothing is left."""
    while start < end and not text[start].isalnum():
        start += 1
    while start < end and not text[end - 1].isalnum():
        end -= 1
    return (start, end) if start < end else None
