"""One document through the gate: find what identifies somebody, replace it, set the document aside if much may be left.

Pure but for the scanner; runs in worker processes, so all here can be pickled.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedmed.data.gate.admission import Admitted
from fedmed.data.gate.risk import residual_risk
from fedmed.data.notes import MAX_NOTE

if TYPE_CHECKING:
    from fedmed.data.deidentify import Finding

SUSPECTED = 0.15
"""Findings below the policy's score and above this one are not replaced, but count as residual risk."""
_LABELS = ("kind", "specialty", "source")
_FIELDS = ("id", "question", "answer", "kind", "specialty", "source", "group", "split")


class Scanner(Protocol):
    """What the gate needs of ``deidentify.Deidentifier``."""

    def find(self, text: str) -> tuple[Finding, ...]: ...
    def apply(self, text: str, findings: Sequence[Finding], *, patient: str = "", record: str = "") -> str: ...


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """How documents are scanned; ``key`` is secret."""

    operator: str
    min_score: float
    max_risk: float
    ner_model: Path | None
    key: bytes = field(repr=False)


OpenScanner = Callable[[ScanSettings], Scanner]


def open_scanner(settings: ScanSettings) -> Scanner:
    """The rules of ``data.deidentify``, and the hospital's own model where there is one; takes seconds.

    Raises:
        MissingExtraError: the extra ``privacy`` is not installed. ModelNotFoundError: the model cannot be loaded.
    """
    from fedmed.data.deidentify import Deidentifier, Operator, Policy

    low = min(SUSPECTED, settings.min_score)
    return Deidentifier(Policy(Operator(settings.operator), low, settings.key, settings.ner_model))


@dataclass
class Outcome:
    """What became of some documents: lines for the two files, and counts."""

    records: bytes = b""
    quarantine: bytes = b""
    counts: Counter[str] = field(default_factory=Counter)  # kept, records, quarantined, with_findings, empty, overlong
    types: Counter[str] = field(default_factory=Counter)  # identifiers found
    reasons: Counter[str] = field(default_factory=Counter)  # documents in quarantine with such a sign

    def add(self, other: Outcome) -> None:
        """Take in the counts of another; its lines are written elsewhere."""
        self.counts += other.counts
        self.types += other.types
        self.reasons += other.reasons


class DocumentScan:
    """Scans documents with one scanner.

    Args:
        settings: what is replaced and how much risk passes.
        scanner: finds and replaces.
    """

    def __init__(self, settings: ScanSettings, scanner: Scanner) -> None:
        self.settings = settings
        self.scanner = scanner
        self._label = functools.lru_cache(maxsize=4096)(self._clean_label)

    def scan(self, documents: Sequence[Admitted]) -> Outcome:
        """Scan documents in their order."""
        done = Outcome()
        records: list[bytes] = []
        quarantine: list[bytes] = []
        for admitted in documents:
            raw, is_note = admitted.document.raw, admitted.document.is_note
            if not raw.answer or not (raw.question or is_note):
                done.counts["empty"] += 1
            elif len(raw.question) + len(raw.answer) > MAX_NOTE:
                done.counts["overlong"] += 1
            else:
                self._one(admitted, done, records, quarantine)
        done.records, done.quarantine = b"".join(records), b"".join(quarantine)
        return done

    def _one(self, admitted: Admitted, done: Outcome, records: list[bytes], quarantine: list[bytes]) -> None:
        raw = admitted.document.raw
        patient = raw.group if raw.group.startswith("p-") else ""
        clean: dict[str, str] = {}
        replaced: list[tuple[str, str]] = []
        suspected: list[float] = []
        for name in ("question", "answer"):
            text: str = getattr(raw, name)
            found = self.scanner.find(text) if text else ()
            sure = [finding for finding in found if finding.score >= self.settings.min_score]
            suspected += [finding.score for finding in found if finding.score < self.settings.min_score]
            replaced += [(finding.type, text[finding.start : finding.end]) for finding in sure]
            clean[name] = self.scanner.apply(text, sure, patient=patient, record=raw.id)
        residual = residual_risk(clean.values(), replaced, suspected)
        done.types.update(kind for kind, _ in replaced)
        done.counts["with_findings"] += bool(replaced)
        if residual.risk > self.settings.max_risk:
            done.counts["quarantined"] += 1
            done.reasons.update(residual.reasons.keys())
            about = {"place": admitted.document.place, "risk": residual.risk, "signs": dict(residual.reasons)}
            quarantine.append(_line(_row(admitted, raw.question, raw.answer) | about))
            return
        done.counts["kept"] += 1
        labels = {name: self._label(getattr(raw, name)) for name in _LABELS}
        for record in replace(admitted.document, raw=replace(raw, **clean, **labels)).records():
            done.counts["records"] += 1
            records.append(_line({name: getattr(record, name) for name in _FIELDS} | {"content": admitted.content}))

    def _clean_label(self, text: str) -> str:
        found = [finding for finding in self.scanner.find(text) if finding.score >= self.settings.min_score]
        return self.scanner.apply(text, found, record=text)


def _row(admitted: Admitted, question: str, answer: str) -> dict[str, Any]:
    raw = admitted.document.raw
    return {"id": raw.id, "group": raw.group, "content": admitted.content, "question": question, "answer": answer}


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
