"""A run's audit log: begun or gone on with, added to after the run, verified with its files. run folder -> HERE -> cli.

Not covered: see docs/audit-log.md, "Who can be fooled when".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmed.config.load import config_digest
from fedmed.config.schema import FedMedConfig
from fedmed.errors import AuditLogError
from fedmed.federated.audit_trail import AuditTrail
from fedmed.federated.runner import FederationState
from fedmed.pipeline.run_folder import RunFolder
from fedmed.privacy.ledger import Ledger
from fedmed.types import AdapterState
from fedmed.utils.audit_breaks import Finding
from fedmed.utils.audit_events import event
from fedmed.utils.audit_log import NAME, AuditLog, Head, chain_file, owners_key
from fedmed.utils.audit_verify import Audit, verify_log
from fedmed.utils.digests import arrays_sha256
from fedmed.utils.files import sha256_file
from fedmed.utils.hash_chain import canonical, read_line
from fedmed.utils.witness import FOLDER, Witness, read_witness


def open_trail(
    folder: RunFolder,
    config: FedMedConfig,
    start: FederationState,
    manifest: Mapping[str, Any],
    ledgers: Mapping[str, Ledger],
) -> AuditTrail:
    """The trail of a simulated run: begun with its plan, or gone on with after a look at all of it.

    Args:
        folder: of the run.
        config: its settings.
        start: where it begins or goes on.
        manifest: as ``write_split`` gives it.
        ledgers: as ``open_ledgers`` gives them.

    Raises:
        AuditLogError: the log is gone, damaged, signed by another key, or does not know the checkpoint.
        AuditBrokenError: it is not the one whose heads the hospitals were given.
        OutputNotWritableError, DiskFullError.
    """
    path, hospitals = folder.path / NAME, list(manifest["hospitals"])
    if start.round and not chain_file(path).exists():
        raise AuditLogError(
            f"{path} is gone, and round {start.round} was trained already", "put it back, or start a new run"
        )
    owner = owners_key(make=True)
    assert owner is not None
    log = AuditLog.open(path, owner, folder.name)
    found = verify_log(path.read_bytes(), [read_witness(file) for file in _witness_files(folder.path)])
    if found.findings:
        found.check()
    witnesses = [Witness.in_folder(folder.path / FOLDER, name) for name in hospitals]

    def give(head: Head, round: int, attempt: int, end: bool) -> None:
        for witness in witnesses:
            witness.receive(head, round, attempt, end=end)

    trail = AuditTrail(log, give, ledgers)
    if not trail.new:
        trail.resumed(start)
        return trail
    plan = {
        "digest": config_digest(config), "algorithm": config.federated.algorithm,
        "rounds": config.federated.rounds, "hospitals": hospitals,
        "digest_of_start": arrays_sha256(start.global_state), "secure_sum": config.privacy.secure_sum,
        "example_epsilon": config.privacy.example.epsilon, "hospital_epsilon": config.privacy.hospital.epsilon,
    }  # fmt: skip
    digests = {
        name: hashlib.sha256(canonical({"hospital": name, "share": share})).hexdigest()
        for name, share in manifest["hospitals"].items()
    }
    trail.planned(plan, digests, how="simulated")
    return trail


def enter_results(
    trail: AuditTrail,
    folder: RunFolder,
    adapters: Mapping[Path, AdapterState],
    losses: Mapping[str, float | None],
) -> None:
    """Enter what a run hands out and what was measured.

    Args:
        trail: of the run.
        folder: of the run.
        adapters: file -> the adapter in it.
        losses: file in the run's folder -> held-out loss it tells.
    """
    for file, state in adapters.items():
        trail.enter(
            event(
                "adapter", hospital=None if file.parent == folder.adapter else file.parent.parent.name,
                digest=arrays_sha256(state), file=file.relative_to(folder.path).as_posix(),
                file_sha256=sha256_file(file),
            )
        )  # fmt: skip
    for name, loss in losses.items():
        if (folder.path / name).is_file():
            trail.enter(evaluation(folder, name.removesuffix(".json"), name, {"loss": loss}))


def evaluation(folder: RunFolder, what: str, file: str, numbers: Mapping[str, float | None]) -> dict[str, Any]:
    """The line about a measurement whose file lies in the run's folder."""
    return event("evaluation", what=what, file=file, file_sha256=sha256_file(folder.path / file), numbers=dict(numbers))


def enter_after_run(folder: RunFolder, *events: Mapping[str, Any]) -> Head:
    """Add lines to the log of a run that ended, sign it again, and give simulated hospitals the new head.

    Returns:
        That head.

    Raises:
        AuditLogError: no log, no key of its owner on this machine, or damage. OutputNotWritableError, DiskFullError.
    """
    path, owner = folder.path / NAME, owners_key()
    if owner is None or not path.is_file():
        what = "has no audit log" if owner else "has an audit log, and its owner's key is not here"
        raise AuditLogError(f"{folder.path} {what}", "enter it where the run was made")
    log = AuditLog.open(path, owner)
    head = log.sign(*events)
    rounds = max((line["rounds"] for line in log.found if line["kind"] == "end"), default=0)
    for file in _witness_files(folder.path):
        Witness(file, read_witness(file).hospital).receive(head, rounds, end=True)
    return head


def verify_run(path: Path, witnesses: Sequence[Path] = (), keys: Collection[str] = ()) -> Audit:
    """Verify a run's audit log, and the files that it names by digest. Changes nothing.

    Args:
        path: the run's folder.
        witnesses: files, or folders of files, that hospitals kept; those in the run's folder count besides.
        keys: pinned public keys, hexadecimal.

    Raises:
        AuditLogError: there is no log, or a witness that was named is not there.
    """
    log = path / NAME
    if not log.is_file():
        raise AuditLogError(f"{path} has no audit log", "name the folder of a run")
    extra: list[Finding] = []
    try:
        raw, unreadable = chain_file(log).look().raw, ""
    except AuditLogError as error:  # damage is found again below, line by line; what is left is a false intent
        raw, unreadable = log.read_bytes(), error.what
    testimonies = []
    for place in _all_witnesses(path, witnesses):
        try:
            testimonies.append(read_witness(place))
        except AuditLogError as error:
            extra.append(Finding("witness", 1, error.what))
    audit = verify_log(raw, testimonies, keys)
    if not audit.findings and unreadable:
        extra.append(Finding("added", audit.lines + 1, unreadable))
    summary = RunFolder(path).read_json("summary.json") or {}
    if not audit.findings and not audit.signed and summary.get("status") == "finished":
        extra.append(
            Finding("truncated", audit.lines + 1, "summary.json calls the run finished; nothing signs its end")
        )
    extra += _wrong_files(path, raw)
    return replace(audit, findings=tuple(sorted((*audit.findings, *extra), key=lambda one: one.line)))


def _all_witnesses(path: Path, named: Sequence[Path]) -> Iterator[Path]:
    yield from _witness_files(path)
    for place in named:
        if not place.exists():
            raise AuditLogError(f"there is no witness file {place}", "name a file, or a folder of files")
        yield from sorted(place.glob("*.jsonl")) if place.is_dir() else [place]


def _witness_files(path: Path) -> list[Path]:
    return sorted((path / FOLDER).glob("*.jsonl"))


def _wrong_files(path: Path, raw: bytes) -> Iterator[Finding]:
    """Files of the run that are not, any more, those whose digests were entered last."""
    entered: dict[str, tuple[int, str]] = {}
    for number, text in enumerate(raw.split(b"\n"), 1):
        values = read_line(text) if b'"file_sha256"' in text else None
        if values and isinstance(values.get("file"), str):
            entered[values["file"]] = number, str(values["file_sha256"])
    for name, (number, digest) in entered.items():
        file = path / name
        if not file.resolve().is_relative_to(path.resolve()) or not file.is_file():
            yield Finding("file", number, f"{json.dumps(name)} is not in the run's folder")
        elif sha256_file(file) != digest:
            yield Finding("file", number, f"{json.dumps(name)} is not the file whose digest was entered")
