"""What a scan finds in records, told without telling it: counts by type, and masked examples. inspect, prepare -> HERE.

A masked example keeps its punctuation and the number of its digits: ``Dr. Jane Roe`` is ``••. ••• •••``, a telephone
number ``(###) ###-####``. Public sets are reported on this way and never rewritten.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedmed.data.gate.scan import Scanner

EXAMPLES = 4
_LETTERS = re.compile(r"[^\W\d_]+")
_DIGIT = re.compile(r"\d")
_LONGEST = 40


@dataclass(frozen=True, slots=True)
class TypeFound:
    """Identifiers of one type."""

    found: int
    records: int  # records with at least one
    examples: tuple[tuple[str, int], ...]  # masked form and how often, the most frequent first


@dataclass(frozen=True, slots=True)
class PhiReport:
    """What a scan of some records found."""

    scanned: int
    records: int  # there are; more than scanned: a sample
    with_findings: int
    types: dict[str, TypeFound]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def mask(value: str) -> str:
    """The shape of an identifier: no letter and no digit of it."""
    shape = _DIGIT.sub("#", _LETTERS.sub("•••", " ".join(value.split())))
    return shape if len(shape) <= _LONGEST else shape[: _LONGEST - 1] + "…"


def phi_report(
    texts: Iterable[Sequence[str]], scanner: Scanner, *, records: int, min_score: float, on_record: Any = None
) -> PhiReport:
    """Scan records and count.

    Args:
        texts: the texts of each record to scan.
        scanner: finds identifiers.
        records: how many there are in all.
        min_score: findings below it do not count.
        on_record: called after each.
    """
    found: Counter[str] = Counter()
    within: Counter[str] = Counter()
    shapes: dict[str, Counter[str]] = defaultdict(Counter)
    scanned = with_findings = 0
    for one in texts:
        kinds = set()
        for text in one:
            for finding in scanner.find(text):
                if finding.score >= min_score:
                    found[finding.type] += 1
                    kinds.add(finding.type)
                    shapes[finding.type][mask(text[finding.start : finding.end])] += 1
        within.update(kinds)
        scanned += 1
        with_findings += bool(kinds)
        if on_record is not None:
            on_record()
    types = {
        kind: TypeFound(count, within[kind], tuple(shapes[kind].most_common(EXAMPLES)))
        for kind, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))
    }
    return PhiReport(scanned, records, with_findings, types)
