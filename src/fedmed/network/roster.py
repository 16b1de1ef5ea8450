"""Who takes part: the coordinator's roster of hospitals and their public keys. requests -> HERE -> server, orders.

    waiting ──approve──► approved ──revoke──► revoked
        └────────────────revoke─────────────────┘

A key that was revoked never comes back, under any name. A name may come back with two new keys, as ``waiting`` like any
other; its old keys stay in ``former``. Two hospitals never share a name (capitals do not tell names apart) or a key.

A roster is a value; ``change_roster`` reads, changes and writes the file under a lock, so that two commands at once
cannot lose a revocation.

Not covered: telling hospitals who else takes part: each pins the others itself (site.py). Whoever may write the file
may approve anybody.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, RootModel, ValidationError

from fedmed.errors import RosterError
from fedmed.network.joining import JoinRequest
from fedmed.network.key_files import check_node_public
from fedmed.network.records import Hex32, Name, Record, ShortText, problems_of, read_file
from fedmed.utils.files import folder_lock, write_json

Status: TypeAlias = Literal["waiting", "approved", "revoked"]
_LONGEST = 16 * 1024 * 1024
_RESTORE = "restore it from its backup"


class FormerKeys(Record):
    """Keys that were revoked before their hospital joined again."""

    node_public_pem: Annotated[str, AfterValidator(check_node_public)]
    identity_public: Hex32
    revoked: ShortText


class Member(Record):
    """One hospital as the roster knows it. Times are UTC, ISO 8601."""

    status: Status
    node_public_pem: Annotated[str, AfterValidator(check_node_public)]
    identity_public: Hex32
    fingerprint: ShortText  # that was, or is to be, compared
    joined: ShortText
    changed: ShortText
    by: ShortText  # the account that changed it last
    former: tuple[FormerKeys, ...] = ()


class _File(RootModel[dict[Name, Member]]):
    """roster.json: name -> member."""


@dataclass(frozen=True, slots=True)
class Roster:
    """All hospitals that ever asked to join, by name."""

    members: Mapping[str, Member] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def read(cls, path: Path) -> Roster:
        """Raises RosterError: missing, damaged, or two hospitals in it share a name or key."""
        raw = read_file(path, "roster", RosterError, _RESTORE, _LONGEST)
        try:
            members = _File.model_validate_json(raw, strict=True).root
        except ValidationError as error:
            raise RosterError(f"the roster {path} cannot be used ({problems_of(error)})", _RESTORE) from error
        roster = cls()
        for name, member in members.items():  # one by one, so that a doubled name or key is found
            for pem, identity in _keys_of(member):
                roster._check_new(name, pem, identity)
            roster = roster._with(name, member)
        return roster

    def write(self, path: Path) -> None:
        """Whole or as it was; call it from ``change_roster``."""
        write_json(path, {name: member.model_dump(mode="json") for name, member in self.members.items()})

    def approved(self) -> tuple[str, ...]:
        """Names of the hospitals that take part, in the order they joined."""
        return tuple(name for name, member in self.members.items() if member.status == "approved")

    def member(self, name: str) -> Member:
        """Raises RosterError where nobody has this name."""
        if name not in self.members:
            known = ", ".join(self.members) or "nobody"
            raise RosterError(
                f"no hospital is called '{name}' here", f"the roster knows {known}; see 'fedmed federation status'"
            )
        return self.members[name]

    def knows(self, request: JoinRequest) -> bool:
        """Whether this very request was taken in before."""
        member = self.members.get(request.name)
        return member is not None and (request.node_public_pem, request.identity_public) in _keys_of(member)

    def with_request(self, request: JoinRequest, fingerprint: str, when: str, by: str) -> Roster:
        """Add a hospital as waiting; one that is there with these keys stays as it is.

        Raises:
            RosterError: its name or a key is another's, or a key was revoked.
        """
        old = self.members.get(request.name)
        current = old and (old.node_public_pem, old.identity_public)
        if old and current == (request.node_public_pem, request.identity_public) and old.status != "revoked":
            return self
        self._check_new(request.name, request.node_public_pem, request.identity_public)
        former = (*old.former, _former(old)) if old else ()
        added = Member(
            status="waiting", node_public_pem=request.node_public_pem, identity_public=request.identity_public,
            fingerprint=fingerprint, joined=when, changed=when, by=by, former=former,
        )  # fmt: skip
        return self._with(request.name, added)

    def approve(self, name: str, when: str, by: str) -> Roster:
        """Let a waiting hospital take part; an approved one stays as it is. Raises RosterError."""
        member = self.member(name)
        if member.status == "revoked":
            raise RosterError(
                f"'{name}' was revoked, and revoked keys do not come back", "it joins again with new keys"
            )
        return self if member.status == "approved" else self._changed(name, "approved", when, by)

    def revoke(self, name: str, when: str, by: str) -> Roster:
        """End a hospital's part, for good with these keys; a revoked one stays as it is. Raises RosterError."""
        return self if self.member(name).status == "revoked" else self._changed(name, "revoked", when, by)

    def _changed(self, name: str, status: Status, when: str, by: str) -> Roster:
        return self._with(name, self.members[name].model_copy(update={"status": status, "changed": when, "by": by}))

    def _with(self, name: str, member: Member) -> Roster:
        return replace(self, members=MappingProxyType({**self.members, name: member}))

    def _check_new(self, name: str, node_public_pem: str, identity_public: str) -> None:
        for other, member in self.members.items():
            for pem, identity in _keys_of(member):
                if node_public_pem == pem or identity_public == identity:
                    revoked = member.status == "revoked" or (pem, identity) != _current(member)
                    raise RosterError(
                        f"'{name}' asks to join with a key of '{other}'" + (", which was revoked" if revoked else ""),
                        "every hospital makes its own keys, and new ones after a revocation",
                    )
        for other, member in self.members.items():
            if other.lower() == name.lower() and (other != name or member.status != "revoked"):
                raise RosterError(
                    f"'{name}' asks to join, and there is a hospital called '{other}' already",
                    "choose another name, or revoke the one that is there",
                )


def change_roster(path: Path, change: Callable[[Roster], Roster]) -> Roster:
    """Read the roster, change it and write it, with no other command in between.

    Args:
        path: of roster.json, which must be there.
        change: from the roster that is there to the one that shall be.
    """
    # Its own lock, since a running server may hold that of the folder.
    with folder_lock(path.parent / "requests", wait=True):
        old = Roster.read(path)
        new = change(old)
        if new != old:
            new.write(path)
    return new


def now_and_who() -> tuple[str, str]:
    """The time and the account, for a change that a person makes."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError, ImportError):  # an account without a name, as in containers
        who = "unknown"
    return datetime.now(UTC).isoformat(timespec="seconds"), who[:100]


def _current(member: Member) -> tuple[str, str]:
    return member.node_public_pem, member.identity_public


def _keys_of(member: Member) -> Iterator[tuple[str, str]]:
    yield _current(member)
    for former in member.former:
        yield former.node_public_pem, former.identity_public


def _former(member: Member) -> FormerKeys:
    return FormerKeys(
        node_public_pem=member.node_public_pem, identity_public=member.identity_public, revoked=member.changed
    )
