"""JSON records of a federation, read strictly: invitation, request, roster, site. a file -> HERE -> their modules.

A record comes from outside, so it is bounded in size, has no unknown key, and every value is in the one spelling that
its type allows: no two texts of different meaning pass for one, and every refusal is one of our errors.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedmed.config.problems import describe
from fedmed.errors import NetworkError
from fedmed.utils.files import write_json

LONGEST = 64 * 1024  # bytes of a record; an invitation has about 2,000
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


class Record(BaseModel):
    """What all records share: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


R = TypeVar("R", bound=Record)


def check_name(name: str) -> str:
    """A hospital's name, fit for a file name, a certificate and a log. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name, re.ASCII):
        raise ValueError("a hospital's name has 1 to 64 letters, digits, - or _, and begins with a letter or digit")
    return name


def check_host(host: str) -> str:
    """A host name in lower case, or an IP address in its short spelling. Raises ValueError."""
    try:
        plain = str(ipaddress.ip_address(host))
    except ValueError:
        labels = host.split(".")
        plain = host
        # A last label of digits alone is a mistyped address, never a name.
        if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
            raise ValueError(f"{host[:80]!r} is neither a host name in lower case nor an IP address") from None
    if plain != host:
        raise ValueError(f"write this address as {plain}")
    return host


def _lower_hex(length: int) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(r"[0-9a-f]*", text, re.ASCII) or len(text) != 2 * length:
            raise ValueError(f"must be {length} bytes as {2 * length} digits 0-9a-f")
        return text

    return AfterValidator(check)


Name = Annotated[str, AfterValidator(check_name)]
Host = Annotated[str, AfterValidator(check_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Hex16 = Annotated[str, _lower_hex(16)]
Hex32 = Annotated[str, _lower_hex(32)]
Hex64 = Annotated[str, _lower_hex(64)]
Hex96 = Annotated[str, _lower_hex(96)]
ShortText = Annotated[str, Field(min_length=1, max_length=100)]


def parse_record(raw: bytes, record: type[R], what: str, error: type[NetworkError], hint: str) -> R:
    """Read a record from JSON.

    Args:
        raw: from a file or from outside.
        record: which one.
        what: names it in the error, e.g. its path.
        error: raised for all that is wrong, with ``hint``.
    """
    if len(raw) > LONGEST:
        raise error(f"{what} is longer than {LONGEST} bytes", hint)
    try:
        return record.model_validate_json(raw)
    except ValidationError as invalid:
        raise error(f"{what} cannot be used ({problems_of(invalid)})", hint) from invalid


def problems_of(invalid: ValidationError) -> str:
    """All problems in one line, each with its key."""
    found = []
    for detail in invalid.errors(include_url=False):
        key = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "json_invalid":
            found.append(f"not JSON: {detail['msg'].removeprefix('Invalid JSON: ')}")
        elif detail["type"] in ("missing", "extra_forbidden"):
            found.append(f"{key[:80]!r} is {'missing' if detail['type'] == 'missing' else 'unknown'}")
        else:
            found.append(f"{key[:80]}: {describe(detail)}")
    return "; ".join(found[:8]) + ("; and more" if len(found) > 8 else "")


def read_file(path: Path, what: str, error: type[NetworkError], hint: str, limit: int = LONGEST) -> bytes:
    """The bytes of a file, or ``error`` that says what ``path`` should have been."""
    try:
        with open(path, "rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError as missing:
        raise error(f"there is no {what} {path}", hint) from missing
    except OSError as failed:
        raise error(f"the {what} {path} cannot be read ({failed.strerror or failed})", hint) from failed
    if len(raw) > limit:
        raise error(f"the {what} {path} is longer than {limit} bytes", hint)
    return raw


def read_record(path: Path, record: type[R], what: str, error: type[NetworkError], hint: str) -> R:
    """``read_file`` and ``parse_record``."""
    return parse_record(read_file(path, what, error, hint), record, f"the {what} {path}", error, hint)


def write_record(path: Path, record: Record) -> None:
    """Whole or absent."""
    write_json(path, record.model_dump(mode="json"))
