"""A run's report together with what stands between it and a release. sign_offs -> HERE -> evaluation.report.

Whatever changes a run writes its report again through here.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedmed.errors import FedMedError
from fedmed.evaluation.report import write_report
from fedmed.pipeline.sign_offs import FOLDER, evidence_sha256, release_standing


def report_run(path: Path) -> Path:
    """Write ``report.html`` of a run.

    Raises:
        as ``write_report``.
    """
    return write_report(path, gate_of(path))


def gate_of(path: Path) -> dict[str, Any]:
    """What a release of the run would find, under the limits of its newest signature; empty where it cannot be told."""
    overrides = _overrides(path)
    try:
        found = release_standing(path, overrides)
    except FedMedError:  # settings of another version, for one: the report is about what can be read
        return {}
    statement = _read(path / "release" / "release.json")
    digest = evidence_sha256(found.evidence)
    return {
        "checks": [asdict(check) for check in found.checks],
        "adapter": found.evidence["adapter_sha256"],
        "evidence_sha256": digest,
        "overridden": overrides,
        "released": statement.get("at") if statement.get("evidence_sha256") == digest else None,
    }


def _overrides(path: Path) -> list[str]:
    """Limits that were given on the command line when somebody signed last."""
    signed = [_read(file) for file in (path / FOLDER).glob("*.json")]
    newest = max(signed, key=lambda values: str(values.get("at")), default={})
    evidence = newest.get("evidence")
    found = evidence.get("overridden") if isinstance(evidence, dict) else None
    return [str(one) for one in found] if isinstance(found, list) else []


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
