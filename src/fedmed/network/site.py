"""A hospital's folder: what lies where, joining a federation, and whom it trusts. invitation -> HERE -> worker, node.

    site.json      whose federation, where to dial, where the records are
    ca.pem         the only authority this hospital trusts
    node.key node.pub          Flower's; prove to the server who dials
    identity.key   signs what leaves; only the worker needs it
    request.json   public; for the coordinator
    roster.json    name -> SHA-256 of another hospital's identity: the pins of the secure sum
    policy.yaml    what is accepted here, policy.py
    approvals/     plans that wait for a person, approvals.py
    ledger/ state/ outbox/ worker.sock     the worker's own

Keys never leave this folder and are made in it. Pins are only what a person gave: a coordinator that could add a pin
could add a hospital of its own to a secure sum and unmask with it.

Not covered: telling the other hospitals of a new identity (each pins again); records, which are never copied here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import RootModel, ValidationError

from fedmed.errors import JoinError, RosterError, SiteFolderError
from fedmed.network.authority import read_certificate
from fedmed.network.federation_folder import check_free
from fedmed.network.joining import Invitation, JoinRequest, joint_fingerprint, make_request, parse_request
from fedmed.network.key_files import new_identity, new_node_key, openssh_public, read_ec_key, read_identity
from fedmed.network.policy import PACKAGED
from fedmed.network.records import (
    Hex16,
    Hex32,
    Host,
    Name,
    Port,
    Record,
    check_name,
    problems_of,
    read_file,
    read_record,
    write_record,
)
from fedmed.privacy.secure_sum.keys import Identity, fingerprint
from fedmed.utils.files import folder_atomic, folder_lock, write_atomic, write_json

_RESTORE = "restore it from its backup, or join again in a new folder"


class _SiteFile(Record):
    format: Literal[1] = 1
    name: Name
    federation_id: Hex16
    host: Host
    port: Port
    coordinator_public: Hex32
    data: str | None = None


class _Pins(RootModel[dict[Name, Hex32]]):
    """A hospital's roster.json: name -> SHA-256 of its public identity key."""


@dataclass(frozen=True, slots=True)
class Site:
    """One hospital, as its own folder says."""

    path: Path
    name: str
    federation_id: str
    host: str
    port: int
    coordinator_public: bytes
    data: Path | None = None  # its records; None: given when it starts

    @property
    def ca_pem(self) -> Path:
        return self.path / "ca.pem"

    @property
    def node_key(self) -> Path:
        return self.path / "node.key"

    @property
    def node_pub(self) -> Path:
        return self.path / "node.pub"

    @property
    def identity_key(self) -> Path:
        return self.path / "identity.key"

    @property
    def request_path(self) -> Path:
        return self.path / "request.json"

    @property
    def pins_path(self) -> Path:
        return self.path / "roster.json"

    @property
    def policy_path(self) -> Path:
        return self.path / "policy.yaml"

    @property
    def approvals(self) -> Path:
        return self.path / "approvals"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def outbox(self) -> Path:
        return self.path / "outbox"

    @property
    def socket(self) -> Path:
        return self.path / "worker.sock"

    @classmethod
    def create(
        cls,
        path: Path,
        invitation: Invitation,
        name: str,
        *,
        data: Path | None = None,
        passphrase: bytes | None = None,
    ) -> Site:
        """Join: make this hospital's keys and its request. Whole, or nothing at all.

        Args:
            path: not there yet, or an empty folder.
            invitation: whose fingerprint was compared, or will be with the request's.
            name: that the others shall call it by.
            data: its records.
            passphrase: encrypts both private keys.

        Raises:
            SiteFolderError: something is in the way. JoinError: a name that cannot be used. KeyFileError.
        """
        path = path.absolute()
        check_free(path)
        try:
            check_name(name)
        except ValueError as error:
            raise JoinError(f"'{name[:80]}' cannot be a hospital's name", str(error)) from error
        where = None if data is None else str(data.absolute())
        file = _SiteFile(
            name=name, federation_id=invitation.federation_id, host=invitation.host, port=invitation.port,
            coordinator_public=invitation.coordinator_public, data=where,
        )  # fmt: skip
        with folder_atomic(path) as made:
            identity = new_identity(made / "identity.key", passphrase)
            public = new_node_key(made / "node.key", passphrase)
            node_key = read_ec_key(made / "node.key", passphrase)
            write_atomic(made / "node.pub", openssh_public(public))
            write_atomic(made / "ca.pem", invitation.ca_pem)
            write_record(made / "request.json", make_request(invitation, name, identity, node_key))
            write_json(made / "roster.json", {})
            write_atomic(made / "policy.yaml", PACKAGED.read_bytes())
            for private in ("roster.json", "policy.yaml"):  # the node's user has no business with them
                (made / private).chmod(0o600)
            write_record(made / "site.json", file)
            for inner in ("approvals", "ledger", "state", "outbox"):
                (made / inner).mkdir(mode=0o700)
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> Site:
        """Raises SiteFolderError: no hospital's folder, or a damaged one."""
        if not (path / "site.json").is_file():
            raise SiteFolderError(
                f"{path} is not a hospital's folder", "give it with --folder, or make one with 'fedmed federation join'"
            )
        file = read_record(path / "site.json", _SiteFile, "site file", SiteFolderError, _RESTORE)
        return cls(
            path, file.name, file.federation_id, file.host, file.port, bytes.fromhex(file.coordinator_public),
            None if file.data is None else Path(file.data),
        )  # fmt: skip

    def identity(self, passphrase: bytes | None = None) -> Identity:
        """The key that signs what leaves. Raises KeyFileError."""
        return read_identity(self.identity_key, passphrase)

    def request(self) -> JoinRequest:
        """What this hospital asks with. Raises JoinError."""
        return self.read_request(self.request_path)[0]

    def fingerprint(self) -> str:
        """What this hospital reads out to the coordinator."""
        return self.read_request(self.request_path)[1]

    def read_request(self, path: Path) -> tuple[JoinRequest, str]:
        """Any hospital's request file and its fingerprint as that hospital must read it out. Raises JoinError."""
        raw = read_file(path, "request", JoinError, "ask that hospital for its request.json")
        request = parse_request(raw, f"the request {path}", self.federation_id)
        return request, joint_fingerprint(self.coordinator_public, read_certificate(self.ca_pem).pem, request)

    def pins(self) -> Mapping[str, bytes]:
        """Name -> SHA-256 of the public identity key of every hospital that a person pinned, and of this one.

        Raises:
            RosterError: the file is damaged.
        """
        own = {self.name: fingerprint(bytes.fromhex(self.request().identity_public))}
        return {name: bytes.fromhex(pin) for name, pin in self._read_pins().items()} | own

    def pin(self, name: str, identity_fingerprint: bytes, *, replace: bool = False) -> None:
        """Trust that ``name`` has this identity.

        Args:
            name: of another hospital.
            identity_fingerprint: SHA-256 of its public identity key, 32 bytes.
            replace: whether it may take the place of another pin of that name.

        Raises:
            RosterError: it is pinned to another identity, the identity is another's, or the name is this hospital's.
        """
        pin = identity_fingerprint.hex()
        with folder_lock(self.approvals, wait=True):
            pins = self._read_pins()
            if name.lower() == self.name.lower():
                raise RosterError(f"'{name}' is this hospital itself", "pin the others")
            if pins.get(name, pin) != pin and not replace:
                raise RosterError(
                    f"'{name}' is pinned to another identity",
                    "ask that hospital whether it has new keys, then give --replace",
                )
            twins = [other for other, pinned in self.pins().items() if pinned.hex() == pin and other != name]
            if twins:
                raise RosterError(f"that identity is pinned as '{twins[0]}'", "every hospital has its own")
            try:
                checked = _Pins.model_validate({**pins, name: pin})
            except ValidationError as error:
                raise RosterError(
                    f"'{name[:80]}' cannot be pinned ({problems_of(error)})", "check its name and identity"
                ) from error
            write_json(self.pins_path, checked.root)
            self.pins_path.chmod(0o600)

    def _read_pins(self) -> dict[str, str]:
        raw = read_file(self.pins_path, "file of pins", RosterError, _RESTORE, 1024 * 1024)
        try:
            return dict(_Pins.model_validate_json(raw, strict=True).root)
        except ValidationError as error:
            raise RosterError(f"the pins {self.pins_path} cannot be used ({problems_of(error)})", _RESTORE) from error
