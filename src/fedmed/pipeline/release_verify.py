"""Is a folder a release as it was signed? A stranger's folder, pinned keys -> HERE -> people.

Needs nothing but the folder; whatever its files hold, a verdict comes out.

Not covered: whose the keys are; whether the release was taken back.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fedmed.errors import ReleaseBrokenError, ReleaseUnprovenError
from fedmed.pipeline.release_gate import ADAPTER_FILES
from fedmed.pipeline.sign_offs import evidence_sha256, read_sign_off
from fedmed.utils.files import sha256_file
from fedmed.utils.hash_chain import canonical
from fedmed.utils.signing import is_signed

STATEMENT = "release.json"
_DOMAIN = b"fedmed release 1\n"


def signed_statement(statement: Mapping[str, Any]) -> bytes:
    """The bytes that a release's signature is about."""
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
        good = is_signed(key, signature, signed_statement(statement))
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
