"""One process's part of a file: some lines in, the same lines de-identified out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from dataclasses import field as default
from pathlib import Path
from typing import Any

from fedmed import __version__
from fedmed.data.deidentify import lexicon
from fedmed.data.deidentify.engine import Deidentifier
from fedmed.data.deidentify.policy import Policy
from fedmed.errors import DataFormatError, FieldNotFoundError


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with a file."""

    source: Path
    out: Path
    report: Path
    field: str = "text"
    patient_field: str | None = None  # its value ties a patient's records together, for surrogates
    policy: Policy = default(default_factory=Policy)
    workers: int = 1

    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it goes on with; no key is in it."""
        policy = self.policy
        stat = self.source.stat()
        return {
            "input": [stat.st_size, stat.st_mtime_ns], "field": self.field, "patient_field": self.patient_field,
            "operator": policy.operator.value, "min_score": policy.min_score, "ner_model": str(policy.ner_model or ""),
            "keep_zip3": policy.keep_zip3, "keep_year": policy.keep_year, "year": policy.year, "version": __version__,
            "key": hashlib.sha256(b"fedmed\x1f" + policy.key).hexdigest() if policy.key else "",
            "sources": lexicon.sources(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk's output, and what was counted in it."""

    raw: bytes
    records: int
    with_findings: int
    types: dict[str, int]
    rules: dict[str, int]


class Worker:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.engine = Deidentifier(job.policy)

    def __call__(self, number: int, lines: list[bytes]) -> Chunk:
        """De-identify some lines; ``number`` is that of the line before the first."""
        made: list[bytes] = []
        types: Counter[str] = Counter()
        rules: Counter[str] = Counter()
        found_in = 0
        for place, line in enumerate(lines, start=number + 1):
            if not line.strip():
                continue
            values = self._parse(line, place)
            raw = values.pop(self.job.field)
            patient = str(values.get(self.job.patient_field, "")) if self.job.patient_field else ""
            findings = self.engine.find(raw)
            found_in += bool(findings)
            types.update(found.type for found in findings)
            rules.update(found.rule for found in findings)
            values["text"] = self.engine.apply(raw, findings, patient=patient, record=str(place))
            values["findings"] = [
                {
                    "type": found.type, "start": found.start, "end": found.end,
                    "value_sha256": self.engine.value_hash(raw[found.start : found.end]),
                    "rule": found.rule, "score": round(found.score, 3),
                }
                for found in findings
            ]  # fmt: skip
            made.append(json.dumps(values, ensure_ascii=False).encode() + b"\n")
        return Chunk(b"".join(made), len(made), found_in, dict(types), dict(rules))

    def _parse(self, line: bytes, place: int) -> dict[str, Any]:
        where = f"{self.job.source} line {place}"
        try:
            values = json.loads(line.decode("utf-8-sig" if place == 1 else "utf-8"))
        except UnicodeDecodeError:
            # "from None": the error underneath holds the line.
            raise DataFormatError(f"{where} is not UTF-8 text", "convert the file to UTF-8") from None
        except (json.JSONDecodeError, RecursionError):
            hint = (
                "correct or remove this line"
                if line.endswith(b"\n")
                else "the file looks half-written; copy or export it again"
            )
            raise DataFormatError(f"{where} is not JSON", hint) from None
        name = self.job.field
        if not isinstance(values, dict):
            raise DataFormatError(f"{where} is not a record", f'each line must be an object such as {{"{name}": …}}')
        if name not in values:
            raise FieldNotFoundError(
                f"{where} has no field '{name}'", "name the field that holds the text with --field"
            )
        if not isinstance(values[name], str):
            kind = type(values[name]).__name__
            raise DataFormatError(
                f"{where}: the field '{name}' is {kind}, not text", "name the field that holds the text with --field"
            )
        if name != "text" and "text" in values:
            raise DataFormatError(
                f"{where} has a field 'text' beside '{name}', which the result would replace", "rename it"
            )
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataFormatError(
                f"{where} holds half a surrogate pair, which is no character", "correct or remove this line"
            ) from None
        return values


_worker: Worker | None = None


def start_worker(job: Job) -> None:
    global _worker
    _worker = Worker(job)


def run_chunk(number: int, lines: list[bytes]) -> Chunk:
    assert _worker is not None
    return _worker(number, lines)
