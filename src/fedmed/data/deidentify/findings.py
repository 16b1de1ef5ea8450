"""What the engine says about a text: which stretch identifies somebody, of which kind, by which rule, and why.

A finding never holds the text it points at, so that findings can be logged, reported and raised in errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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


def resolve(findings: Iterable[Finding], text: str) -> tuple[Finding, ...]:
    """Findings in order and without overlap, that together cover all that was found.

    The surer finding keeps its span, the longer one among equals; what another covers beyond it stays a finding if it
    holds a letter or a digit.
    """
    kept: list[Finding] = []
    for finding in sorted(findings, key=lambda found: (-found.score, found.start - found.end, found)):
        for start, end in _uncovered(finding.start, finding.end, kept):
            piece = _trimmed(text, start, end)
            if piece is not None:
                whole = piece == (finding.start, finding.end)
                kept.append(finding if whole else _cut(finding, *piece))
    return tuple(sorted(kept))


def _cut(finding: Finding, start: int, end: int) -> Finding:
    return Finding(start, end, finding.type, finding.score, finding.rule, finding.why)


def _uncovered(start: int, end: int, kept: list[Finding]) -> Iterator[tuple[int, int]]:
    for other in sorted(found for found in kept if found.start < end and start < found.end):
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
