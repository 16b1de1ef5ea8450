"""Named people's signatures for a run's release. release_gate -> HERE -> release.

    sign_offs/<role>-<first digits of the key>.json
    {"name": "Dr A", "role": "clinician", "at": "…Z", "evidence_sha256": "…", "key": "…", "signature": "…",
     "evidence": {…}}

The signature is about everything but itself and the evidence, which its digest stands for: the adapter, the files that
tell what was measured, and the limits. Whatever of these changes makes it void. One key signs for one role.

Not covered: whose key it is, unless ``safety.release.signers`` names it; keys under a passphrase.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.errors import KeyFileError, ReleaseError
from fedmed.pipeline.release_gate import Check, Gate, look_at
from fedmed.utils.audit_events import LONGEST_NAME
from fedmed.utils.files import folder_lock, write_json
from fedmed.utils.hash_chain import canonical
from fedmed.utils.signing import Identity, identity_of, is_signed

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
            return is_signed(bytes.fromhex(self.key), bytes.fromhex(self.signature), _signed(self.as_dict()))
        except ValueError:
            return False

    def as_dict(self) -> dict[str, str]:
        return {**{key: getattr(self, key) for key in _SIGNED}, "signature": self.signature}


def read_sign_off(values: Any) -> SignOff | None:
    """A sign-off from JSON; None: it is none."""
    fields = (*_SIGNED, "signature")
    if not isinstance(values, dict) or not all(isinstance(values.get(key), str) for key in fields):
        return None
    return SignOff(**{key: values[key] for key in fields})


def evidence_sha256(evidence: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(evidence)).hexdigest()


def _signed(values: Mapping[str, Any]) -> bytes:
    return _DOMAIN + canonical({key: values[key] for key in _SIGNED})


def sign_off(
    path: Path, *, name: str, role: str, key: Path, make_key: bool = False, overrides: Sequence[str] = ()
) -> tuple[SignOff, Gate]:
    """Sign for a run that keeps its limits; an older signature of the same key for the role is replaced.

    Args:
        path: the run's folder.
        name: who signs, as others will read it.
        role: of ``safety.release.roles``.
        key: file of the signer's Ed25519 key.
        make_key: draw one where there is none.
        overrides: as given to the release.

    Returns:
        The sign-off, and what it is about.

    Raises:
        ReleaseError: a limit is not kept, or evidence is missing; lists all. KeyFileError: no key, or not one that may
        sign for the role. RunNotFoundError, RunBusyError, ConfigError, OutputNotWritableError, DiskFullError.
    """
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable() and name.strip() == name):
        raise ReleaseError("this name cannot be entered", f"give one line of at most {LONGEST_NAME} characters")
    gate = look_at(path, overrides)
    if role not in gate.roles:
        raise ReleaseError(f"this run asks for no sign-off by '{role}'", f"roles are {', '.join(gate.roles)}")
    if gate.missing:
        raise ReleaseError(
            f"{path} is not fit to be signed", "put these right first: a signature is void once one of them changes",
            missing=gate.missing,
        )  # fmt: skip
    identity = _signer(key, make_key)
    allowed = [one.lower() for one in gate.signers.get(role, ())]
    if allowed and identity.public.hex() not in allowed:
        raise KeyFileError(f"the key in {key} may not sign as {role}", "safety.release.signers names those that may")
    values = {
        "name": name, "role": role,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "evidence_sha256": evidence_sha256(gate.evidence), "key": identity.public.hex(),
    }  # fmt: skip
    made = SignOff(**values, signature=identity.sign(_signed(values)).hex())
    with folder_lock(path):
        write_json(path / FOLDER / f"{role}-{made.key[:16]}.json", made.as_dict() | {"evidence": dict(gate.evidence)})
    return made, gate


def _signer(key: Path, make: bool) -> Identity:
    try:
        identity = identity_of(key, make=make)
    except (OSError, ValueError) as error:
        raise KeyFileError(f"{key} holds no key that signs", "name another file, or make one with --new-key") from error
    if identity is None:
        raise KeyFileError(f"there is no key {key}", "name the file of your key, or make one with --new-key")
    return identity


def standing(path: Path, gate: Gate) -> tuple[list[Check], list[SignOff]]:
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
