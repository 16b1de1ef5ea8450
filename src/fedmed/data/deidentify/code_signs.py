"""What speaks for a value being a code, and what against it: its own form, and what stands beside it."""

from __future__ import annotations

import re

from fedmed.data.deidentify.identifier_shapes import (
    ICD,
    MEASURE,
    NEUTRAL,
    PUBLIC_BEFORE,
    QUANTITY_BEFORE,
    UNIT_AFTER,
)


def widened(text: str, start: int, end: int) -> tuple[int, int]:
    """A code with the letters in front of it that a space or sign parts from its digits: "AB 12-3456"."""
    if match := re.search(r"(?<![^\s(:#])(?:[A-Z]{1,4}[ .]|[A-Za-z]{2}:)$", text[max(0, start - 5) : start]):
        word = match.group().strip(" .:").upper()
        if word not in (
            "MRN",
            "SSN",
            "ID",
            "NO",
            "DL",
            "SN",
            "VIN",
            "IS",
            "DEA",
            "NPI",
            "DOB",
            "FAX",
            "TEL",
            "LIC",
            "REF",
            "UDI",
            "PIN",
            "LOT",
        ):
            start -= len(match.group())
    return start, end


def is_value(value: str, digits: int, text: str, end: int) -> bool:
    """Whether a label can announce this: it is no measure, year, date or number that is public."""
    if _YEAR.fullmatch(value) or (digits < 4 and MEASURE.match(value) and text[end : end + 1] != "-"):
        return False
    if NEUTRAL.match(value) or _date_like(value):
        return False
    return UNIT_AFTER.match(text, end) is None or re.search(r"[A-Za-z]", value) is not None


def may_follow(label: str, weak: bool, value: str, digits: int, text: str, start: int) -> bool:
    """Whether a value can be what its label announces; weak labels ask for more."""
    letters = len(value) - digits
    if label == "UNIQUE_CODE" and PUBLIC_BEFORE.search(text, max(0, start - 40), start):
        return False
    if weak and digits < 5 and not (letters and digits >= 3):
        return False
    if label in ("MRN", "SSN", "FAX", "VEHICLE", "BIOMETRIC"):
        return digits >= 3
    if label in ("HEALTH_PLAN", "LICENSE", "ACCOUNT", "DEVICE", "PHOTO"):
        return digits >= 4 or (digits >= 2 and letters >= 2 and any(sign in value for sign in "-_/"))
    if label == "PHONE":
        if "/" in value or ":" in value:
            return False
        return digits >= 4 and digits == len(re.sub(r"[^\w]", "", value)) and "." not in value
    return digits >= 4 or (digits >= 3 and any(character.isalpha() for character in value) and ICD.match(value) is None)


def _date_like(value: str) -> bool:
    return _DATE_SHAPE.fullmatch(value) is not None


_PAIRS = re.compile(r"\d\d(?:-\d\d){3}|\d{3}-\d\d-\d\d")
"""00-15-99-02, as record numbers are written; not 138-108-22, which are blood salts."""
_YEAR = re.compile(r"(?:19|20)\d\d")
_DATE_SHAPE = re.compile(
    r"(?:19|20)\d\d([-/.])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])|(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]"
    r"|[12]\d|3[01])\2(?:\d\d|(?:19|20)\d\d)"
    r"|\d{1,2}/\d{1,4}"
)


def looks_like_code(value: str, digits: int, sharp: bool, text: str, start: int, end: int) -> bool:
    """Whether a value is built as a code, and what stands around it does not speak against it."""
    if not _built_as_code(value, digits, sharp) or NEUTRAL.match(value) or _date_like(value):
        return False
    if UNIT_AFTER.match(text, end) or PUBLIC_BEFORE.search(text, max(0, start - 40), start):
        return False
    if digits < len(value):
        return True
    if text[start - 1 : start] in ("$", "€", "£", ".", ",") or text[end : end + 2].lstrip(",.")[:1].isdigit():
        return False
    return QUANTITY_BEFORE.search(text[max(0, start - 30) : start]) is None


def _built_as_code(value: str, digits: int, sharp: bool) -> bool:
    if digits == len(value):
        return digits >= 6 or (sharp and digits >= 3)
    letters = sum(map(str.isalpha, value))
    if _PAIRS.fullmatch(value):
        return True
    if digits < 3 or MEASURE.match(value) or ICD.match(value):
        return False
    if not letters:
        return digits >= 7 and "-" in value and not re.fullmatch(r"(?:19|20)\d\d[-/](?:19|20)\d\d", value)
    if "-" in value or "_" in value:
        return digits >= 4 and not re.fullmatch(r"[A-Za-z-]{4,}-?(?:19|20)\d\d", value)
    return (
        digits >= 5
        or (digits >= 4 and letters >= 2 and value.upper() == value)
        or (len(value) >= 10 and digits >= 3 and re.fullmatch(r"[0-9a-f]+", value) is not None)
    )


def is_phone(value: str, label: str | None) -> bool:
    digits = sum(map(str.isdigit, value))
    if re.fullmatch(r"\d{3}[-.]\d{4}", value):  # a local number: also a range or a code, so it needs a label
        return label is not None
    return digits >= 7
