"""What a hospital's person does: join, and pin the other hospitals. invitation_source, site -> HERE -> cli.

Not covered: carrying request.json to the coordinator where the hospital cannot write there: it is public.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from fedmed.errors import OutputNotWritableError, RosterError
from fedmed.network.federation_folder import FederationFolder
from fedmed.network.invitation_source import FILE_NAME, find_invitation
from fedmed.network.joining import same_fingerprint
from fedmed.network.site import Site
from fedmed.privacy.secure_sum.keys import fingerprint as identity_fingerprint


@dataclass(frozen=True, slots=True)
class Joined:
    """What ``join`` made."""

    site: Site
    delivered: Path | None  # where the coordinator finds the request; None: a person carries it


def join(
    where: str,
    name: str,
    folder: Path,
    *,
    fingerprint: str | None = None,
    data: Path | None = None,
    passphrase: bytes | None = None,
) -> Joined:
    """Make a hospital's folder, keys and request.

    Args:
        where: a coordinator's folder, an invitation file, or an https address of one.
        name: of the hospital.
        folder: to make.
        fingerprint: of the invitation, as the coordinator told it; an address needs one.
        data: the hospital's records.
        passphrase: encrypts the private keys.

    Raises:
        JoinError: the invitation or the name cannot be used. RosterError: the name is taken. SiteFolderError: something
        is in the way. KeyFileError.
    """
    invitation = find_invitation(where, fingerprint)
    beside = Path(where)
    coordinator = None
    if "://" not in where and beside.is_dir() and (beside / FILE_NAME).is_file():
        coordinator = FederationFolder.open(beside)
        coordinator.check_name_free(name)  # before keys are made
    site = Site.create(folder, invitation, name, data=data, passphrase=passphrase)
    delivered = None
    if coordinator:
        with contextlib.suppress(OutputNotWritableError):  # it may read there only: then a person carries the request
            delivered = coordinator.leave_request(site.request())
    return Joined(site, delivered)


def pin_request(site: Site, path: Path, fingerprint: str, *, replace: bool = False) -> str:
    """Pin the hospital whose request file this is.

    Args:
        site: that pins.
        path: the other hospital's request.json, from anybody.
        fingerprint: as that hospital read it out.
        replace: whether it may take the place of another pin of that name.

    Returns:
        Its name.

    Raises:
        JoinError: the file cannot be used. RosterError: another fingerprint, or another pin is there.
    """
    request, right = site.read_request(path)
    if not same_fingerprint(fingerprint, right):
        raise RosterError(
            f"the request {path} has another fingerprint than {fingerprint[:40]}",
            "do not pin it; compare again with that hospital itself",
        )
    site.pin(request.name, identity_fingerprint(bytes.fromhex(request.identity_public)), replace=replace)
    return request.name


def pin_text(site: Site, text: str, *, replace: bool = False) -> str:
    """Pin ``NAME=SHA256``, as another hospital's ``fedmed federation status`` shows it; returns the name."""
    name, equals, pin = text.partition("=")
    pin = pin.lower().replace("-", "").replace(" ", "")
    if not equals or not re.fullmatch(r"[0-9a-f]{64}", pin, re.ASCII):
        raise RosterError(
            f"'{text[:80]}' is no pin", "give a hospital's request.json, or NAME=IDENTITY as its 'status' shows it"
        )
    site.pin(name, bytes.fromhex(pin), replace=replace)
    return name
