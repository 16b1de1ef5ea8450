"""Numbers, codes and addresses of machines: what a pattern alone can tell, or a label in front of it.

A label decides the type ("MRN 123-45-6789" is a record number, whatever its shape); then a shape does; then whatever
still looks like a code is a UNIQUE_CODE. Values are found first and labels are looked for before them, because a text
has few values and many places where a label could begin.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from fedmed.data.deidentify.code_signs import is_phone, is_value, looks_like_code, may_follow, widened
from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.identifier_shapes import (
    CARD,
    GROUPED,
    GS1,
    HIBC,
    IBAN,
    ICD,
    LABELLED_PLATE,
    MEASURE,
    PLACEHOLDER_DIGITS,
    PLATE,
    RETYPED,
    TRAILING_LETTER,
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
_LAST_FOUR = re.compile(
    r"(?i)\blast\s+(?:four|4)(?:\s+(?:of\s+)?(?:the\s+|his\s+|her\s+)?(?:digits|ssn|social))*(?:\s+(?:is|are|was))?\s*[:#=]?\s*(\d{4})(?![\w/-]|\.\d)"
)
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
            if kind == "PHONE" and not is_phone(match.group(), label):
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
    for match in _last_four(view):
        if not _within(*match.span(1), taken):
            taken.append(match.span(1))
            yield Finding(*match.span(1), "SSN", 0.8, "ssn.last_four", "the last four digits, as offices ask for them")
    for match in _plates(view):
        span = match.span("plate")
        plate = match.group("plate")
        if (
            any(map(str.isdigit, plate))
            and not _within(*span, taken)
            and not MEASURE.match(plate)
            and not ICD.match(plate)
            and len(plate) > 4
            and not (len(first := re.split(r"[- \d]", plate)[0].lower()) > 1 and first in words_of("function_words"))
        ):
            taken.append(span)
            yield Finding(
                *span, "VEHICLE", 0.85, "vehicle.plate", "built as a number plate, and a vehicle is spoken of"
            )
    yield from _codes(view, taken)


def _last_four(view: Words) -> Iterator[re.Match[str]]:
    return _LAST_FOUR.finditer(view.text) if "last" in view.present else iter(())


def _plates(view: Words) -> Iterator[re.Match[str]]:
    """What may be a number plate: in capitals near a word for vehicles, in any letters behind a label."""
    if not VEHICLES.isdisjoint(view.present):
        yield from LABELLED_PLATE.finditer(view.text)
        yield from PLATE.finditer(view.text)


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
        told = label_before(text, start) if is_value(value, digits, text, end) else None
        label = told[0] if told else None
        if told and label and may_follow(label, told[1], value, digits, text, start):
            start, end = widened(text, start, end)
            if (label == "MRN" or (label == "UNIQUE_CODE" and digits == len(value))) and (
                letter := TRAILING_LETTER.match(text, end)
            ):
                end = letter.end()
            taken.append((start, end))
            yield Finding(start, end, label, 0.95, f"{label.lower()}.label", "a number or code after its label")
        elif looks_like_code(value, digits, match.group().startswith("#"), text, start, end):
            start, end = widened(text, start, end)
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
