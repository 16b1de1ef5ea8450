"""A run's audit log: what was planned, sent, refused, decided, handed out, in one chain. federated -> HERE -> verify.

``output-models/<run>/audit.jsonl`` is a chained file (``utils.hash_chain``) of the lines in ``utils.audit_events``.
Each round its head, the digest of its newest line, is given to every hospital, which keeps it (``utils.witness``); so
its owner, who can write the file anew with all digests and sign it, cannot do so unseen. At the end of a run, and after
whatever is entered later, the last line is a signature by the owner's key over all that lies before.

The owner's key is in the file that ``FEDMED_AUDIT_KEY`` names, else in ``output-models/audit.key``, which the first run
makes.

Not covered: whether what was entered was true when it was entered; see docs/audit-log.md for who can be fooled when.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fedmed
from fedmed.errors import AuditLogError
from fedmed.utils.audit_events import FORMAT, event
from fedmed.utils.hash_chain import Chain, ChainFile, Tip, Values, canonical, made_after
from fedmed.utils.runs import DEFAULT_ROOT
from fedmed.utils.signing import Identity, identity_of, is_signed

NAME = "audit.jsonl"
KEY_VARIABLE = "FEDMED_AUDIT_KEY"
_DOMAIN = b"fedmed audit log 1\n"


@dataclass(frozen=True, slots=True)
class Head:
    """What a hospital is given: it fixes every line of the log up to here."""

    run: str
    key: str  # the log's public key, hexadecimal
    lines: int  # in the log
    head: str  # SHA-256 of the newest of them


def chain_file(path: Path) -> ChainFile:
    """The log as a chained file; errors are AuditLogErrors."""
    return ChainFile(path, "audit log", AuditLogError, "so what happened is not known")


def owners_key(*, make: bool = False) -> Identity | None:
    """The key that signs the audit logs of this machine's runs; None: there is none, and none was to be made.

    Raises:
        AuditLogError: the file is no key. OutputNotWritableError, DiskFullError.
    """
    file = key_file()
    try:
        return identity_of(file, make=make)
    except (OSError, ValueError) as error:
        raise AuditLogError(
            f"{file} holds no key for audit logs", f"put the key back, or name its file with {KEY_VARIABLE}"
        ) from error


def key_file() -> Path:
    """Where the owner's key is."""
    chosen = os.environ.get(KEY_VARIABLE)
    return Path(chosen).expanduser() if chosen else DEFAULT_ROOT / "audit.key"


class AuditLog:
    """An audit log to add to. Lines are checked once, when it is opened.

    Use ``AuditLog.open``.
    """

    def __init__(self, file: ChainFile, owner: Identity, chain: Chain) -> None:
        self._file, self._owner = file, owner
        self._tip = chain.tip
        self._run: str = chain.lines[0]["run"]
        self.found = chain.lines
        """The lines that were there when it was opened."""

    @classmethod
    def open(cls, path: Path, owner: Identity, run: str | None = None) -> AuditLog:
        """A log to go on with, its last lines finished if a crash cut them; made if it is not there and a run is named.

        Args:
            path: the file.
            owner: whose key signs it.
            run: whose log it is; None: of any run, and there already.

        Raises:
            AuditLogError: damaged (names the line), of another run or key, or of a newer format.
            OutputNotWritableError, DiskFullError.
        """
        file, key = chain_file(path), owner.public.hex()
        with file.locked():
            if run is not None and not file.exists():
                file.create(stamped(event("open", format=FORMAT, run=run, key=key, fedmed=fedmed.__version__)))
            chain = file.refresh()
        first = chain.lines[0]
        if first["kind"] != "open" or first.get("format") != FORMAT:
            raise AuditLogError(f"{path} is no audit log that this version reads", "update FED-MED")
        if run is not None and first["run"] != run:
            raise AuditLogError(f"{path} is the audit log of run '{first['run']}', not of '{run}'", "put back the own")
        if first["key"] != key:
            raise AuditLogError(
                f"{path} is signed by key {first['key'][:16]}…, not by {key[:16]}…",
                f"name the file of the key that began it with {KEY_VARIABLE}",
            )
        return cls(file, owner, chain)

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def head(self) -> Head:
        """Of the newest line."""
        return Head(self._run, self._owner.public.hex(), self._tip.lines, self._tip.head)

    def append(self, *events: Mapping[str, Any]) -> Head:
        """Add lines made by ``event``, all or none; on return they are on the disk.

        Returns:
            The new head.

        Raises:
            AuditLogError: somebody damaged the file meanwhile. OutputNotWritableError, DiskFullError.
        """
        if events:
            with self._current() as tip:
                self._tip = self._file.append([stamped(one) for one in events], tip)
        return self.head

    def sign(self, *events: Mapping[str, Any]) -> Head:
        """Add lines made by ``event`` and a signature over all, together or not at all; more may follow all the same.

        Returns:
            The head that covers the signature, to be given to hospitals.

        Raises:
            as ``append``.
        """
        with self._current() as tip:
            bodies = [stamped(one) for one in events]
            _, before = made_after(bodies, tip)
            body = {"kind": "signature", "at": _now(), "key": self._owner.public.hex()}
            signed = signed_part({"seq": before.lines, "previous": before.head, **body})
            bodies.append(body | {"signature": self._owner.sign(signed).hex()})
            self._tip = self._file.append(bodies, tip)
        return self.head

    @contextmanager
    def _current(self) -> Iterator[Tip]:
        """Where the file ends now; another process may have added to it."""
        with self._file.locked():
            size = self._file.path.stat().st_size if self._file.path.exists() else -1
            yield self._tip if size == self._tip.size and not self._file.intent.exists() else self._file.refresh().tip


def stamped(body: Mapping[str, Any]) -> dict[str, Any]:
    """With the time."""
    return {"kind": body["kind"], "at": _now(), **{key: value for key, value in body.items() if key != "kind"}}


def signed_part(values: Mapping[str, Any]) -> bytes:
    """The bytes that the signature of a line of kind ``signature`` is about: it and, by ``previous``, all before it."""
    return _DOMAIN + canonical({key: one for key, one in values.items() if key not in ("signature", "sha256")})


def signature_holds(values: Values, key: str) -> bool:
    """Whether a line is a signature by this key, in hexadecimal."""
    try:
        signature, public = bytes.fromhex(values["signature"]), bytes.fromhex(key)
        return values["key"] == key and is_signed(public, signature, signed_part(values))
    except (KeyError, TypeError, ValueError):
        return False


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
