"""Named people's signatures for a run's release: read, and held against what the run shows. release_gate -> HERE.

    sign_offs/<role>-<first digits of the key>.json
    {"name": "Dr A", "role": "clinician", "at": "…Z", "evidence_sha256": "…", "key": "…", "signature": "…",
     "evidence": {…}}

The signature is about everything but itself and the evidence, which its digest stands for: the adapter, the files that
tell what was measured, and the limits. Whatever of these changes makes it void. One key signs for one role.

Not covered: whose key it is, unless ``safety.release.signers`` names it; keys under a passphrase.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.pipeline.release_gate import Check, Gate, look_at
from fedmed.utils.hash_chain import canonical
from fedmed.utils.signing import is_signed

FOLDER = "sign_offs"
_DOMAIN = b"fedmed sign-off 1\n"
_SIGNED = ("name", "role", "at", "evidence_sha256", "key")


@dataclass(frozen=True, slots=True)
class SignOff:
    """One person's word, as it lies in a file."""

    name: str
    role: str
    at: str
    key: str
    evidence_sha256: str
    signature: str

    def holds(self) -> bool:
        """Whether the key signed it."""
        try:
            return is_signed(bytes.fromhex(self.key), bytes.fromhex(self.signature), signed_bytes(self.as_dict()))
        except ValueError:
            return False

    def as_dict(self) -> dict[str, str]:
        return {**{key: getattr(self, key) for key in _SIGNED}, "signature": self.signature}


@dataclass(frozen=True, slots=True)
class Standing:
    """All that was looked at for a release."""

    checks: tuple[Check, ...]
    evidence: Mapping[str, Any]
    sign_offs: tuple[SignOff, ...]
    summary: Mapping[str, Any]

    @property
    def missing(self) -> list[str]:
        return [check.missing for check in self.checks if not check.kept]


def read_sign_off(values: Any) -> SignOff | None:
    """A sign-off from JSON; None: it is none."""
    fields = (*_SIGNED, "signature")
    if not isinstance(values, dict) or not all(isinstance(values.get(key), str) for key in fields):
        return None
    return SignOff(**{key: values[key] for key in fields})


def evidence_sha256(evidence: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(evidence)).hexdigest()


def signed_bytes(values: Mapping[str, Any]) -> bytes:
    return _DOMAIN + canonical({key: values[key] for key in _SIGNED})


def release_standing(path: Path, overrides: Sequence[str] = ()) -> Standing:
    """What a run shows and who signed for it. Changes nothing; raises as ``look_at``."""
    gate = look_at(path, overrides)
    checks, signed = _standing(path, gate)
    return Standing((*gate.checks, *checks), gate.evidence, tuple(signed), gate.summary)


def _standing(path: Path, gate: Gate) -> tuple[list[Check], list[SignOff]]:
    """Who has signed for a run as it is now.

    Args:
        path: the run's folder.
        gate: what it shows.

    Returns:
        One check a role, and the sign-offs that count.
    """
    found = [(file.name, _load(file)) for file in sorted((path / FOLDER).glob("*.json"))]
    checks: list[Check] = []
    counted: list[SignOff] = []
    used: set[str] = set()
    for role in gate.roles:
        told = f"nobody has signed: 'fedmed release sign {path} --role {role} --name … --key …'"
        good = None
        for file, values in found:
            one = read_sign_off(values)
            if one is None or one.role != role:
                continue
            why = _void(one, values, gate)
            if why is None and one.key in used:
                why = "its key signed for another role already"
            if why is None:
                good = one
                break
            told = f"{file} by {one.name} does not count: {why}"
        if good:
            used.add(good.key)
            counted.append(good)
        checks.append(Check(f"sign-off by {role}", good is not None, f"{good.name}, {good.at}" if good else told))
    return checks, counted


def _load(file: Path) -> dict[str, Any]:
    """What a file says; nothing where it is damaged."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _void(one: SignOff, values: Mapping[str, Any], gate: Gate) -> str | None:
    """Why a sign-off does not count; None: it does."""
    allowed = [key.lower() for key in gate.signers.get(one.role, ())]
    if not one.holds():
        return "its signature does not hold"
    if allowed and one.key not in allowed:
        return "its key may not sign for this role"
    if one.evidence_sha256 != evidence_sha256(gate.evidence):
        return f"{_changed(values.get('evidence'), gate.evidence)} changed since; sign again"
    return None


def _changed(before: Any, now: Mapping[str, Any]) -> str:
    """What differs between what was signed and what there is."""
    if not isinstance(before, dict):
        return "what was signed"
    known = before.get("files")
    files: dict[str, Any] = known if isinstance(known, dict) else {}
    names = [name for name in {**files, **now["files"]} if files.get(name) != now["files"].get(name)]
    names += [key for key in now if key != "files" and before.get(key) != now[key]]
    return ", ".join(names) or "what was signed"
