"""Sign for a run; hand out its adapter, signed, or say all that is missing. release_gate, sign_offs -> HERE -> cli.

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
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fedmed
from fedmed.errors import AuditLogError, KeyFileError, ReleaseError
from fedmed.pipeline.model_card import model_card
from fedmed.pipeline.release_gate import ADAPTER_FILES, Gate, look_at
from fedmed.pipeline.release_verify import STATEMENT, signed_statement
from fedmed.pipeline.run_audit import enter_after_run
from fedmed.pipeline.run_folder import RunFolder
from fedmed.pipeline.run_report import report_run
from fedmed.pipeline.sign_offs import FOLDER, SignOff, evidence_sha256, release_standing, signed_bytes
from fedmed.utils.audit_events import LONGEST_NAME, event, reason
from fedmed.utils.audit_log import owners_key
from fedmed.utils.files import folder_atomic, folder_lock, sha256_file, write_atomic, write_json
from fedmed.utils.signing import Identity, identity_of

CARD = "README.md"
FORMAT = 1


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
    made = SignOff(**values, signature=identity.sign(signed_bytes(values)).hex())
    with folder_lock(path):
        write_json(path / FOLDER / f"{role}-{made.key[:16]}.json", made.as_dict() | {"evidence": dict(gate.evidence)})
        report_run(path)
    return made, gate


def _signer(key: Path, make: bool) -> Identity:
    try:
        identity = identity_of(key, make=make)
    except (OSError, ValueError) as error:
        raise KeyFileError(f"{key} holds no key that signs", "name another file, or make one with --new-key") from error
    if identity is None:
        raise KeyFileError(f"there is no key {key}", "name the file of your key, or make one with --new-key")
    return identity


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
            write_atomic(made / CARD, _card(folder, found.summary, told))
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
            statement["signature"] = owner.sign(signed_statement(statement)).hex()
            write_json(made / STATEMENT, statement)
    report_run(path)
    return statement


def _card(folder: RunFolder, summary: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """The model card with all that was measured since the run ended."""
    evaluation, audit = folder.read_json("evaluation.json"), folder.read_json("privacy_audit.json")
    return model_card(summary, evaluation=evaluation, audit=audit, released=told)
