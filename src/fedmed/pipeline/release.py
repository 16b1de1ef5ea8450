"""``fedmed release``: hand out a run's adapter, signed, or say all that is missing. release_gate, sign_offs -> HERE.

    release/   adapter_model.safetensors adapter_config.json base_model.json   as PEFT loads them
               README.md       the model card
               release.json    what was measured, the limits, who signed, digests of all files; signed itself

The folder is whole or absent, and can be given away by itself. It is signed by the key that signs the run's audit log,
which hospitals have pinned; the release is a line of that log. The line comes first: a crash between the two leaves a
line too many, never a release that the log does not know.

Not covered: taking a release back. Who has the folder keeps it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fedmed
from fedmed.errors import AuditLogError, ReleaseBrokenError, ReleaseError, ReleaseUnprovenError
from fedmed.pipeline.model_card import model_card
from fedmed.pipeline.release_gate import ADAPTER_FILES, Check, look_at
from fedmed.pipeline.run_audit import enter_after_run
from fedmed.pipeline.run_folder import RunFolder
from fedmed.pipeline.sign_offs import SignOff, evidence_sha256, read_sign_off, standing
from fedmed.utils.audit_events import event, reason
from fedmed.utils.audit_log import owners_key
from fedmed.utils.files import folder_atomic, folder_lock, sha256_file, write_atomic, write_json
from fedmed.utils.hash_chain import canonical
from fedmed.utils.signing import is_signed

STATEMENT = "release.json"
CARD = "README.md"
FORMAT = 1
_DOMAIN = b"fedmed release 1\n"


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


def release_standing(path: Path, overrides: Sequence[str] = ()) -> Standing:
    """What a run shows and who signed for it. Changes nothing; raises as ``look_at``."""
    gate = look_at(path, overrides)
    checks, signed = standing(path, gate)
    return Standing((*gate.checks, *checks), gate.evidence, tuple(signed), gate.summary)


def release_run(path: Path, *, out: Path | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Write the release of a run that keeps its limits and has all signatures; an older one is replaced whole.

    Args:
        path: the run's folder.
        out: the folder of the release; None: ``release`` in the run's.
        overrides: of ``safety.release`` and of ``privacy.audit``'s limits, as they were given to the signers.

    Returns:
        ``release.json``.

    Raises:
        ReleaseError: lists all that is missing; nothing was written. AuditLogError: its owner's key is not here.
        RunNotFoundError, RunBusyError, ConfigError, OutputNotWritableError, DiskFullError.
    """
    folder, place = RunFolder(path), out or path / "release"
    if place.exists() and not (place / STATEMENT).is_file():
        raise ReleaseError(f"{place} is there and holds no release", "choose another folder with --out")
    with folder_lock(path):
        found = release_standing(path, overrides)
        if found.missing:
            raise ReleaseError(
                f"{path} is not released", "see 'fedmed release --help', and docs/release.md", missing=found.missing
            )
        owner = owners_key()
        if owner is None:
            raise AuditLogError(
                f"{path} has an audit log, and its owner's key is not here", "release it where the run was made"
            )
        names = [one.name for one in found.sign_offs]
        with folder_atomic(place) as made:
            for name in ADAPTER_FILES:
                write_atomic(made / name, (folder.adapter / name).read_bytes())
            at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            told = {"at": at, "checks": [asdict(check) for check in found.checks]}
            write_atomic(made / CARD, model_card(found.summary, released=told))
            why = "within all limits; signed off by " + ", ".join(one.role for one in found.sign_offs)
            head = enter_after_run(
                folder,
                event(
                    "release", decision="released", adapter=found.evidence["adapter_sha256"], signed_off_by=names,
                    reason=reason(why),
                ),
            )  # fmt: skip
            statement: dict[str, Any] = {
                "format": FORMAT, "fedmed": fedmed.__version__, **told, "evidence": found.evidence,
                "evidence_sha256": evidence_sha256(found.evidence),
                "sign_offs": [one.as_dict() for one in found.sign_offs],
                "not_covered": list(found.summary["privacy"]["not_covered"]),
                "files": {file.name: sha256_file(file) for file in sorted(made.iterdir())},
                "audit_log": {"lines": head.lines, "head": head.head}, "key": owner.public.hex(),
            }  # fmt: skip
            statement["signature"] = owner.sign(_signed(statement)).hex()
            write_json(made / STATEMENT, statement)
    return statement


def _signed(statement: Mapping[str, Any]) -> bytes:
    return _DOMAIN + canonical({key: value for key, value in statement.items() if key != "signature"})


def verify_release(place: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """Whether a folder is a release as it was signed. Needs nothing but the folder.

    Args:
        place: the folder.
        keys: public keys, hexadecimal, one of which must have signed it; none: whoever signed it.

    Returns:
        ``release.json``.

    Raises:
        ReleaseBrokenError: names what is wrong. ReleaseUnprovenError: nothing is, and no key was given.
    """
    statement = _statement(place)
    problems = list(_problems(place, statement))
    if keys and str(statement.get("key")) not in {key.lower() for key in keys}:
        problems.append("it is signed by another key than was pinned")
    if problems:
        raise ReleaseBrokenError(
            f"{place} is not what was signed ({'; '.join(problems)})", "do not use it; get it from who released it"
        )
    if not keys:
        raise ReleaseUnprovenError(
            f"{place} is whole, and anybody can sign a folder",
            f"ask who released it for 'fedmed audit key' and give that with --key; this one says {statement['key']}",
        )
    return statement


def _statement(place: Path) -> dict[str, Any]:
    file = place / STATEMENT
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseBrokenError(
            f"{place} holds no {STATEMENT} that can be read", "name the folder of a release"
        ) from error
    needed = {"evidence": dict, "evidence_sha256": str, "sign_offs": list, "files": dict, "key": str, "signature": str}
    if not isinstance(values, dict) or any(not isinstance(values.get(key), kind) for key, kind in needed.items()):
        raise ReleaseBrokenError(f"{file} is no statement of a release", "name the folder of a release")
    return values


def _problems(place: Path, statement: Mapping[str, Any]) -> list[str]:
    problems = []
    try:
        key, signature = bytes.fromhex(statement["key"]), bytes.fromhex(statement["signature"])
        good = is_signed(key, signature, _signed(statement))
    except ValueError:
        good = False
    if not good:
        problems.append(f"the signature of {STATEMENT} does not hold")
    there = {file.relative_to(place).as_posix() for file in place.rglob("*") if not file.is_dir()} - {STATEMENT}
    for name in sorted(there | statement["files"].keys()):
        if name not in there:
            problems.append(f"{name} is missing")
        elif name not in statement["files"]:
            problems.append(f"{name} was added")
        elif sha256_file(place / name) != statement["files"][name]:
            problems.append(f"{name} was changed")
    problems += _problems_of_people(statement)
    for name in ADAPTER_FILES:
        if _under(statement, "evidence", "files").get(f"adapter/{name}") != statement["files"].get(name):
            problems.append(f"{name} is not the one people signed for")
    return problems


def _problems_of_people(statement: Mapping[str, Any]) -> list[str]:
    digest, problems = statement["evidence_sha256"], []
    if evidence_sha256(statement["evidence"]) != digest:
        problems.append("the evidence is not what people signed")
    signed = [read_sign_off(one) for one in statement["sign_offs"]]
    limits = _under(statement, "evidence", "limits", "release")
    signers = _under(limits, "signers")
    for one in signed:
        if one is None or one.evidence_sha256 != digest or not one.holds():
            problems.append(f"the sign-off of {one.name if one else 'somebody'} does not hold")
        elif signers.get(one.role) and one.key not in signers[one.role]:
            problems.append(f"{one.name} may not sign as {one.role}")
    if len({one.key for one in signed if one}) < len(signed):
        problems.append("one key signed for two roles")
    roles = limits.get("roles")
    if not isinstance(roles, list):
        problems.append("it does not say who had to sign")
    elif absent := [str(role) for role in roles if role not in {one.role for one in signed if one}]:
        problems.append(f"nobody signed as {', '.join(absent)}")
    return problems


def _under(values: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The mapping under ``keys``; an empty one where a stranger's file has something else there."""
    for key in keys:
        found = values.get(key)
        values = found if isinstance(found, dict) else {}
    return values
