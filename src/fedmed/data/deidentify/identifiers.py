"""Numbers, codes and addresses of machines: what a pattern alone can tell, or a label in front of it.

A label decides the type ("MRN 123-45-6789" is a record number, whatever its shape); then a shape does; then whatever
still looks like a code is a UNIQUE_CODE. Values are found first and labels are looked for before them, because a text
has few values and many places where a label could begin.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.identifier_shapes import (
    CARD,
    GROUPED,
    GS1,
    HIBC,
    IBAN,
    ICD,
    MEASURE,
    NEUTRAL,
    PLACEHOLDER_DIGITS,
    PLATE,
    PUBLIC_BEFORE,
    QUANTITY_BEFORE,
    RETYPED,
    TRAILING_LETTER,
    UNIT_AFTER,
    UUID,
    VEHICLES,
    possible,
)
from fedmed.data.deidentify.labels import label_before
from fedmed.data.deidentify.lists import words_of
from fedmed.data.deidentify.scanning import matches_at
from fedmed.data.deidentify.words import Words

_BEFORE_CARDS = (GS1, UUID, HIBC)
_EIGHT_DIGITS = re.compile(r"\d(?<!\d\d)(?:[ -]?\d){7}")
_IBAN_START = re.compile(r"\d(?<=[A-Za-z]{2}\d)\d ?[A-Za-z0-9]{4}")
_RUN = re.compile(r"[A-Za-z0-9]+")
_TIED = frozenset(string.ascii_letters + "-_/")


def find(view: Words) -> Iterator[Finding]:
    """All identifiers that are numbers, codes or addresses of machines."""
    text = view.text
    taken: list[tuple[int, int]] = []
    can = possible(view)
    if _EIGHT_DIGITS.search(text) or _IBAN_START.search(text):
        for shape in can:
            if shape.pattern in _BEFORE_CARDS:  # they hold runs of digits that may pass for a card's
                for match in shape.matches(view):
                    taken.append(match.span())
                    yield Finding(*match.span(), shape.kind, shape.score, shape.rule, shape.why)
        yield from _cards(view, taken)
    for shape in can:
        kind = shape.kind
        for match in shape.matches(view):
            start, end = match.start(), match.end()
            if kind == "URL":
                end -= len(match.group()) - len(match.group().rstrip(".,;:!?)'"))
            if _within(start, end, taken):
                continue
            label = _told(text, start) if kind in RETYPED else None
            if kind == "PHONE" and not _is_phone(match.group(), label):
                continue
            if (
                kind == "IP"
                and label is None
                and re.search(r"(?i)(?:version|v|release|section)\.?\s*$", text[:start][-12:])
            ):
                continue
            taken.append((start, end))
            if label is not None and label != kind and not (kind == "PHOTO" and label == "UNIQUE_CODE"):
                yield Finding(start, end, label, 0.96, f"{label.lower()}.label", "a number or code after its label")
            else:
                yield Finding(start, end, kind, shape.score, shape.rule, shape.why)
    if not view.numbers and not view.codes:
        return
    for match in PLATE.finditer(text) if not VEHICLES.isdisjoint(view.present) else ():
        span = match.span("plate")
        plate = match.group("plate")
        if (
            any(map(str.isdigit, plate))
            and not _within(*span, taken)
            and not MEASURE.match(plate)
            and not ICD.match(plate)
            and len(plate) > 4
            and re.split(r"[- \d]", plate)[0].lower() not in words_of("function_words")
        ):
            taken.append(span)
            yield Finding(
                *span, "VEHICLE", 0.85, "vehicle.plate", "built as a number plate, and a vehicle is spoken of"
            )
    yield from _codes(view, taken)


def _cards(view: Words, taken: list[tuple[int, int]]) -> Iterator[Finding]:
    text = view.text
    for match in matches_at(IBAN, text, view.codes):
        if not _within(*match.span(), taken) and sum(map(str.isdigit, match.group())) >= 8:
            taken.append(match.span())
            yield Finding(
                *match.span(), "ACCOUNT", 0.88, "account.iban", "built as an international bank account number"
            )
    for match in CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if (
            not _within(*match.span(), taken)
            and _luhn(digits)
            and _told(text, match.start()) in (None, "ACCOUNT", "UNIQUE_CODE")
        ):
            taken.append(match.span())
            yield Finding(
                *match.span(), "ACCOUNT", 0.9, "account.card", "as long as a card number, with its check digit"
            )


def _codes(view: Words, taken: list[tuple[int, int]]) -> Iterator[Finding]:
    """Values that only a label tells, and codes that nothing tells apart from other codes."""
    text = view.text
    for match in GROUPED.finditer(text):
        label = _told(text, match.start())
        if label is None or _within(*match.span(), taken):
            continue
        digits = sum(map(str.isdigit, match.group()))
        if digits >= 6:
            taken.append(match.span())
            yield Finding(*match.span(), label, 0.9, f"{label.lower()}.label", "groups of digits after their label")
    for match in matches_at(PLACEHOLDER_DIGITS, text, _value_starts(view)):
        start, end = match.span()
        value = match.group().lstrip("#")
        digits = sum(map(str.isdigit, value))
        if digits < 2 or (digits == 2 and not any(sign in value for sign in "-_/")) or _within(start, end, taken):
            continue  # neither a label nor a shape makes an identifier of so few digits
        told = label_before(text, start) if _is_value(value, digits, text, end) else None
        label = told[0] if told else None
        if told and label and _may_follow(label, told[1], value, digits, text, start):
            start, end = _widened(text, start, end)
            if label == "MRN" and (letter := TRAILING_LETTER.match(text, end)):
                end = letter.end()
            taken.append((start, end))
            yield Finding(start, end, label, 0.95, f"{label.lower()}.label", "a number or code after its label")
        elif _looks_like_code(value, digits, match.group().startswith("#"), text, start, end):
            start, end = _widened(text, start, end)
            if digits == len(value) and (letter := TRAILING_LETTER.match(text, end)):
                end = letter.end()
            taken.append((start, end))
            yield Finding(start, end, "UNIQUE_CODE", 0.6, "code.shape", "built as a code, and no label says of what")


def _value_starts(view: Words) -> Iterator[int]:
    """Where a value can begin: at a number or a code, and at words and signs that are written together with it."""
    text = view.text
    for start in sorted(view.numbers + view.codes):
        begin = start
        while begin and text[begin - 1] in _TIED:
            begin -= 1
        for first in (*(run.start() for run in _RUN.finditer(text, begin, start)), start):
            if text[first - 1 : first] == "#":
                yield first - 1
            yield first


def _widened(text: str, start: int, end: int) -> tuple[int, int]:
    """A code with the letters in front of it that a space or sign parts from its digits: "AB 12-3456"."""
    if match := re.search(r"(?<![^\s(:#])[A-Z]{1,4}[ .]$", text[max(0, start - 5) : start]):
        word = match.group().strip(" .")
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


def _is_value(value: str, digits: int, text: str, end: int) -> bool:
    """Whether a label can announce this: it is no measure, year, date or number that is public."""
    if _YEAR.fullmatch(value) or (digits < 4 and MEASURE.match(value) and text[end : end + 1] != "-"):
        return False
    if NEUTRAL.match(value) or _date_like(value):
        return False
    return UNIT_AFTER.match(text, end) is None or re.search(r"[A-Za-z]", value) is not None


def _may_follow(label: str, weak: bool, value: str, digits: int, text: str, start: int) -> bool:
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


_YEAR = re.compile(r"(?:19|20)\d\d")
_DATE_SHAPE = re.compile(
    r"(?:19|20)\d\d([-/.])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])|(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]"
    r"|[12]\d|3[01])\2(?:\d\d|(?:19|20)\d\d)"
    r"|\d{1,2}/\d{1,4}"
)


def _looks_like_code(value: str, digits: int, sharp: bool, text: str, start: int, end: int) -> bool:
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
    if digits < 3 or MEASURE.match(value) or ICD.match(value):
        return False
    letters = sum(map(str.isalpha, value))
    if not letters:
        return digits >= 7 and "-" in value and not re.fullmatch(r"(?:19|20)\d\d[-/](?:19|20)\d\d", value)
    if "-" in value or "_" in value:
        return digits >= 4 and not re.fullmatch(r"[A-Za-z-]{4,}-?(?:19|20)\d\d", value)
    return (
        digits >= 5
        or (digits >= 4 and letters >= 2 and value.upper() == value)
        or (len(value) >= 10 and digits >= 3 and re.fullmatch(r"[0-9a-f]+", value) is not None)
    )


def _is_phone(value: str, label: str | None) -> bool:
    digits = sum(map(str.isdigit, value))
    if re.fullmatch(r"\d{3}[-.]\d{4}", value):  # a local number: also a range or a code, so it needs a label
        return label is not None
    return digits >= 7


def _told(text: str, start: int) -> str | None:
    label = label_before(text, start)
    return label[0] if label else None


def _within(start: int, end: int, taken: list[tuple[int, int]]) -> bool:
    return any(start < other_end and other_start < end for other_start, other_end in taken)


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
