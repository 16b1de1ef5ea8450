"""The coordinator's folder: what lies where, making one, taking in requests to join. init -> HERE -> server, status.

    ca.key ca.pem server.key server.pem   authority.py
    coordinator.key                       Ed25519; signs orders to hospitals
    invitation.json                       public; for every hospital
    roster.json  requests/NAME.json       who takes part, and who asks to
    runs/  server.log.jsonl               what was done

Only the keys are secret. To lose ``coordinator.key`` or ``ca.key`` is to set up a new federation: back up the folder.

Not covered: several coordinators; moving a federation to another address (its hospitals would dial the old one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fedmed.errors import CertificateError, JoinError, NetworkError, RosterError, SiteFolderError
from fedmed.network.authority import new_authority, read_certificate
from fedmed.network.invitation_source import FILE_NAME
from fedmed.network.joining import (
    Invitation,
    JoinRequest,
    federation_id_of,
    joint_fingerprint,
    make_invitation,
    parse_invitation,
    parse_request,
    same_fingerprint,
)
from fedmed.network.key_files import new_identity, read_identity
from fedmed.network.records import check_host, read_file, write_record
from fedmed.network.roster import Member, Roster, change_roster, now_and_who
from fedmed.privacy.secure_sum.keys import Identity
from fedmed.utils.files import folder_atomic

DEFAULT_PORT = 9443


@dataclass(frozen=True, slots=True)
class FederationFolder:
    """A coordinator's folder; its files are read when they are asked for."""

    path: Path

    @property
    def ca_pem(self) -> Path:
        return self.path / "ca.pem"

    @property
    def server_key(self) -> Path:
        return self.path / "server.key"

    @property
    def server_pem(self) -> Path:
        return self.path / "server.pem"

    @property
    def coordinator_key(self) -> Path:
        return self.path / "coordinator.key"

    @property
    def invitation_path(self) -> Path:
        return self.path / FILE_NAME

    @property
    def roster_path(self) -> Path:
        return self.path / "roster.json"

    @property
    def requests(self) -> Path:
        return self.path / "requests"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def log(self) -> Path:
        return self.path / "server.log.jsonl"

    @classmethod
    def create(
        cls,
        path: Path,
        hosts: Sequence[str],
        port: int = DEFAULT_PORT,
        passphrase: bytes | None = None,
        *,
        now: datetime | None = None,
    ) -> FederationFolder:
        """Make a federation: whole, or nothing at all.

        Args:
            path: not there yet, or an empty folder.
            hosts: what hospitals dial; the first is in the invitation, all are in the server's certificate.
            port: that the server listens on.
            passphrase: encrypts every private key.
            now: the certificates begin there; for tests.

        Raises:
            SiteFolderError: something is in the way. CertificateError: a host that is none. KeyFileError.
        """
        path = path.absolute()
        check_free(path)
        try:
            host = check_host(hosts[0])
        except ValueError as error:
            raise CertificateError(
                str(error), "give the name or address that hospitals dial, e.g. --host fl.example.org"
            ) from error
        with folder_atomic(path) as made:
            coordinator = new_identity(made / "coordinator.key", passphrase)
            new_authority(made, federation_id_of(coordinator.public), hosts, passphrase, now=now)
            ca_pem = (made / "ca.pem").read_text(encoding="ascii")
            write_record(made / FILE_NAME, make_invitation(coordinator, host, port, ca_pem))
            Roster().write(made / "roster.json")
            (made / "requests").mkdir()
            (made / "runs").mkdir()
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> FederationFolder:
        """Raises SiteFolderError where ``path`` is no coordinator's folder."""
        if not (path / FILE_NAME).is_file() or not (path / "roster.json").is_file():
            raise SiteFolderError(
                f"{path} is not a coordinator's folder",
                "give it with --folder, or make one with 'fedmed federation init'",
            )
        return cls(path)

    def invitation(self) -> Invitation:
        """What every hospital gets. Raises JoinError."""
        raw = read_file(self.invitation_path, "invitation", JoinError, "restore it from its backup")
        return parse_invitation(raw, f"the invitation {self.invitation_path}")

    def coordinator(self, passphrase: bytes | None = None) -> Identity:
        """The key that signs orders. Raises KeyFileError."""
        return read_identity(self.coordinator_key, passphrase)

    def roster(self) -> Roster:
        """Raises RosterError."""
        return Roster.read(self.roster_path)

    def read_request(self, path: Path) -> tuple[JoinRequest, str]:
        """A request file and the fingerprint to compare. Raises JoinError."""
        invitation = self.invitation()
        raw = read_file(path, "request", JoinError, "ask the hospital for its request.json")
        request = parse_request(raw, f"the request {path}", invitation.federation_id)
        ca_pem = read_certificate(self.ca_pem).pem
        return request, joint_fingerprint(bytes.fromhex(invitation.coordinator_public), ca_pem, request)

    def take_in(self, path: Path) -> Member:
        """Put one request on the roster as waiting. Raises JoinError, RosterError."""
        request, fingerprint = self.read_request(path)
        when, by = now_and_who()
        roster = change_roster(self.roster_path, lambda roster: roster.with_request(request, fingerprint, when, by))
        return roster.member(request.name)

    def take_in_requests(self) -> tuple[str, ...]:
        """Put every new file of requests/ on the roster as waiting.

        Returns:
            Why files were refused; one bad file keeps no other out.
        """
        known, refused = self.roster(), []
        for path in sorted(self.requests.glob("*.json")):
            try:
                request, _ = self.read_request(path)
                if request.name != path.stem:
                    raise JoinError(f"{path} is a request of '{request.name}'", f"call it {request.name}.json")
                if not known.knows(request):
                    self.take_in(path)
            except NetworkError as error:
                refused.append(str(error))
        return tuple(refused)

    def leave_request(self, request: JoinRequest) -> Path:
        """Put a hospital's request among the others, for a hospital that can write here.

        Raises:
            RosterError: the name is another hospital's. JoinError: another request of that name lies there.
        """
        self.check_name_free(request.name)
        path = self.requests / f"{request.name}.json"
        write_record(path, request)
        return path

    def check_name_free(self, name: str) -> None:
        """Raises RosterError or JoinError where a hospital cannot join under ``name``."""
        for other, member in self.roster().members.items():
            if other.lower() == name.lower() and (other != name or member.status != "revoked"):
                raise RosterError(f"there is a hospital called '{other}' already", "choose another name")
        path = self.requests / f"{name}.json"
        if path.exists() and not self._is_old(path):
            raise JoinError(
                f"there is a request of '{name}' already", f"choose another name, or let the coordinator remove {path}"
            )

    def _is_old(self, path: Path) -> bool:
        """Whether this request was taken in, and so may make way for the next of a revoked hospital."""
        try:
            return self.roster().knows(self.read_request(path)[0])
        except NetworkError:
            return False

    def approve(self, name: str, fingerprint: str) -> Member:
        """Let a waiting hospital take part.

        Args:
            name: of the hospital.
            fingerprint: that the hospital's person read out.

        Raises:
            RosterError: nobody waits under this name, or another fingerprint: somebody is between the two, or the
                request is not that hospital's.
        """
        when, by = now_and_who()

        def change(roster: Roster) -> Roster:
            # Under the lock, so that the entry compared is the one approved. The right one is not shown: it would be
            # copied and tried, and then nobody compared anything.
            if not same_fingerprint(fingerprint, roster.member(name).fingerprint):
                raise RosterError(
                    f"'{name}' has another fingerprint than {fingerprint[:40]}",
                    "do not approve it; compare again over a channel that you both trust",
                )
            return roster.approve(name, when, by)

        return change_roster(self.roster_path, change).member(name)

    def revoke(self, name: str) -> Member:
        """End a hospital's part, for good with its present keys. Raises RosterError."""
        when, by = now_and_who()
        return change_roster(self.roster_path, lambda roster: roster.revoke(name, when, by)).member(name)


def check_free(path: Path) -> None:
    """Raises SiteFolderError where something is in the way of a new folder."""
    try:
        in_the_way = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise SiteFolderError(f"{path} cannot be looked into ({error.strerror})", "choose another folder") from error
    if in_the_way:
        raise SiteFolderError(f"{path} is there already", "choose a folder that is not there yet")
