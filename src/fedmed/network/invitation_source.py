"""Where a hospital gets its invitation from: a coordinator's folder, a file, or an https address it was given.

An address is asked only when a person typed it, once, and what comes back counts only with the fingerprint that the
coordinator told that person another way: the federation's own authority is not trusted yet, and a web server's is no
reason to trust a coordinator.

Not covered: a proxy that wants a password; any other scheme than https.
"""

from __future__ import annotations

import urllib.request
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

from fedmed.errors import JoinError
from fedmed.network.joining import Invitation, parse_invitation, same_fingerprint
from fedmed.network.records import LONGEST, read_file

FILE_NAME = "invitation.json"
_SECONDS = 20


def find_invitation(where: str, fingerprint: str | None = None) -> Invitation:
    """Read an invitation and check its fingerprint where one is given; an address needs one.

    Args:
        where: a coordinator's folder, an invitation file, or an https address of one.
        fingerprint: as the coordinator told it; None: not compared here.

    Raises:
        JoinError: not there, damaged, another fingerprint, or an address without one.
    """
    if "://" in where:
        if fingerprint is None:
            raise JoinError(
                f"an invitation from {where} could be anybody's", "ask the coordinator for it and give --fingerprint"
            )
        raw = _fetch(where)
    else:
        path = Path(where) / FILE_NAME if Path(where).is_dir() else Path(where)
        raw = read_file(
            path, "invitation", JoinError, "give a coordinator's folder, its invitation.json, or an https address of it"
        )
    invitation = parse_invitation(raw, f"the invitation {where}")
    if fingerprint is not None and not same_fingerprint(fingerprint, invitation.fingerprint):
        raise JoinError(
            f"the invitation {where} has the fingerprint {invitation.fingerprint}, not the one that is expected",
            "do not join; ask the coordinator for the right one",
        )
    return invitation


def _fetch(address: str) -> bytes:
    hint = "fetch the file another way and give its path"
    try:
        parts = urlsplit(address)
        if parts.scheme != "https" or not parts.hostname:
            raise JoinError(f"{address} is no https address", "give one that begins with https://, or a path")
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:  # the scheme was checked just above
            if urlsplit(answer.geturl()).scheme != "https":
                raise JoinError(f"{address} leads to an address without encryption", hint)
            raw: bytes = answer.read(LONGEST + 1)
    except (OSError, ValueError) as error:  # URLError is an OSError; ValueError: an address that cannot be one
        reason = error.reason if isinstance(error, URLError) else error
        raise JoinError(f"{address} cannot be fetched ({reason})", hint) from error
    return raw
