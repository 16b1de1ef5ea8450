"""Numbers, codes and addresses of machines: what a pattern alone can tell, or a label in front of it.

A label decides the type ("MRN 123-45-6789" is a record number, whatever its shape); then a shape does; then whatever
still looks like a code is a UNIQUE_CODE. Values are found first and labels are looked for behind them, because a text has
few values and many places where a label could begin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.labels import label_before

_UNITS = (
    r"(?:mg|mcg|µg|μg|ug|g|kg|lbs?|ml|mL|dl|l|cc|mm|cm|m|iu|IU|units?|u|mEq|mmol|µmol|umol|nmol|pmol|pg|ng|mmHg|bpm|hz|%|"
    r"percent|cells?|copies|years?|yrs?|months?|weeks?|days?|hours?|hrs?|minutes?|mins?|seconds?|patients?|people|cases|"
    r"participants|subjects|women|men|children|adults|persons|steps|calories|kcal|times|per|x\s*10|K\b|k\b|million|dollars|"
    r"euros|births|individuals|genes|bp|kb|Da|kDa|platelets|colony|CFU|cfu|mOsm|mol|mU|ms|msec|rpm|lux|/)"
)
_UNIT_AFTER = re.compile(rf"\s?-?{_UNITS}(?![A-Za-z])|\s*[x×]\s*10|\s*/\s*(?:[µuμ]|mm|ml|mL|dl|L|h|day|min|cu)")
_QUANTITY_BEFORE = re.compile(
    r"(?:count|wbc|rbc|platelets?|plt|ferritin|bnp|pro-?bnp|ck|cpk|ldh|titer|titre|load|level|dose|dosage|total of|"
    r"about|approximately|over|under|than|nearly|of|n\s*=|[$€£<>≥≤~±=])\s*(?:is|was|of|:)?\s*$",
    re.IGNORECASE,
)

_EMAIL = re.compile(r"[A-Za-z0-9À-ÿ._%+\-']+\s?(?:@|\(at\)|\[at\]|＠)\s?(?:[A-Za-z0-9À-ÿ\-]+\.)+[A-Za-z]{2,24}\b")
_EMAIL_SPELLED = re.compile(
    r"\b[a-z0-9._\-]+ (?:at|AT) [a-z0-9\-]+ (?:dot|DOT) (?:com|org|net|edu|gov|io|co)\b", re.IGNORECASE
)
_URL = re.compile(
    r"(?:\b(?:https?|ftp|sftp|file)://|\bwww\.)[^\s<>\"'\[\]{}|\\^`]+"
    r"|(?<![@\w.\-])(?:[a-z0-9](?:[a-z0-9\-]*[a-z0-9])?\.)+(?:com|org|net|edu|gov|mil|io|info|biz|health|care|clinic|co\.uk|ac\.uk|"
    r"nhs\.uk|us|uk|de|fr|ca|au|app|dev|me|tv|example|test|local)(?![\w.]*@)(?:\b|$)(?:[/?#][^\s<>\"'\[\]{}|\\^`]*)?",
    re.IGNORECASE,
)
_IPV4 = re.compile(
    r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:/\d{1,2})?(?::\d{2,5})?(?![\w]|\.\d)"
)
_IPV6 = re.compile(
    r"(?<![\w:])(?:(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|(?:[0-9a-f]{1,4}:){1,7}:(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,6})?"
    r"|::(?:[0-9a-f]{1,4}:){0,6}[0-9a-f]{1,4})(?:%\w+)?(?:/\d{1,3})?(?![\w:])",
    re.IGNORECASE,
)
_MAC = re.compile(r"(?<![\w:-])[0-9a-f]{2}(?:([:-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}(?![\w:-])", re.IGNORECASE)
_UUID = re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE)
_SSN = re.compile(r"(?<![\w-])(?:\d{3}|[Xx*]{3})([-‐‑– .])(?:\d{2}|[Xx*]{2})\1\d{4}(?![\w-])")
_MBI = re.compile(
    r"\b[1-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d-?[AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d-?[AC-HJKMNP-RT-Y]{2}\d{2}\b"
)
_VIN = re.compile(r"\b(?=[A-HJ-NPR-Z]*\d)(?=\d*[A-HJ-NPR-Z])[A-HJ-NPR-Z0-9]{17}\b")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", re.IGNORECASE)
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){11,18}(?![\w-]|\.\d)")
_PHONE = re.compile(
    r"(?<![\w.#-])(?:"
    r"(?:\+|00)\d{1,3}[\s.\-]?(?:\(0?\d{0,4}\)[\s.\-]?)?\d{1,5}(?:[\s.\-/]?\d{2,5}){1,5}"
    r"|(?:1[\s.\-])?\(\d{2,5}\)\s?[\d]{2,4}(?:[\s.\-]\d{2,4}){1,3}"
    r"|(?:1[\s.\-])?\d{3}([\s.\-‐‑–])\d{3}[\s.\-‐‑–]\d{4}"
    r"|1-\d{3}-[A-Z0-9]{3}-?[A-Z0-9]{4}"
    r"|0\d{2,4}[\s\-]\d{2,4}[\s\-]\d{2,4}(?:[\s\-]\d{2,4})?"
    r"|0\d(?:[\s.\-]\d{2}){4}"
    r"|\d{4,6}[ ]?\d{4,7}(?=\s?(?:x|ext\.?|extension)\s?\d)"
    r"|\d{3}[\-.]\d{4}(?=[\s,;).]|$)"
    r")(?:\s?(?:x|ext\.?|extension)\s?\d{1,6})?(?!\w|-\d|\.\d)",
    re.IGNORECASE,
)
_IMAGE = re.compile(
    r"(?<![\w/])[\w\-]+(?:[./\\][\w\-]+)*\.(?:jpe?g|png|gif|tiff?|bmp|heic|webp|dcm|raw|svg|mp4|mov)\b", re.IGNORECASE
)
_PLATE = re.compile(
    r"(?i)\b(?:plates?|reg(?:istration)?|car|van|vehicle|truck|tag|motorcycle|lorry|bus|taxi|rta|mvc|driving|parked|driver)\b\W{0,3}(?:\w+\W{1,2}){0,4}?"
    r"(?-i:(?P<plate>(?:[A-Z]{1,3}[- ]?\d{1,4}[- ]?[A-Z]{1,3}|[A-Z]{2,3}[- ]?\d{2,4}|(?<=reg )[a-z]{2,3} \d{2,4}|(?<=plate )[a-z]{2,3} \d{2,4}|[A-Z]-[A-Z]{1,2} ?\d{2,4}|\d{1,3}[- ]?[A-Z]{2,3}[- ]?\d{0,4}|\d[A-Z]{3}\d{3})))(?![\w-])"
)
_UK_PLATE = re.compile(r"\b[A-Z]{2}\d{2} [A-Z]{3}\b")
_UK_LICENCE = re.compile(r"\b[A-Z9]{5}\s?\d{6}\s?[A-Z9]{1,2}\d{1,2}[A-Z]{2}\b")
_GS1 = re.compile(r"\(01\)\d{14}(?:\(\d{2}\)[A-Za-z0-9]{4,20})*")
_HIBC = re.compile(r"\+[A-Z]\d{3}[A-Z0-9]{2,18}(?:/\$?\$?[A-Z0-9+]{2,30})?")
_BED = re.compile(r"\b(?:N?ICU|[CMSP]ICU|CCU|[AMS]AU|AMU|HDU|ITU|ED|ER|[A-Z]?\d{1,2}[A-Z]?|[A-Z]\d)-\d{2}[A-Z]\b|\b(?:N?ICU|[CMSP]ICU|CCU|[AMS]AU|AMU|HDU|ITU)-\d{1,3}[A-Z]?\b")
_SUBJECT = re.compile(r"(?<![\w-])[A-Z]{2,5}-[A-Z]{1,4}-\d{2,4}(?![\w-])")
_TRAILING_LETTER = re.compile(r" [A-Z](?=\s*(?:[\n,;.)]|$)|  )")
_HANDLE = re.compile(r"(?<![\w@./])@[A-Za-z_][\w.]{2,29}\b")
_PLACEHOLDER_DIGITS = re.compile(r"(?<![\w])#?(?=[A-Za-z\-_/]*\d)[A-Za-z0-9]+(?:[-_/:.][A-Za-z0-9]+)*")
_GROUPED = re.compile(r"(?<![\w.,/-])\d{2,6}(?: \d{2,6}){1,5}(?![\w,/-]|\.\d)")

_SHAPES: tuple[tuple[str, re.Pattern[str], float, str, str], ...] = (  # each with what must be in a text for it
    ("EMAIL", _EMAIL, 0.99, "email.address", "written as an e-mail address"),
    ("URL", _URL, 0.95, "url.address", "written as a web address"),
    ("DEVICE", _MAC, 0.95, "device.mac", "written as a network card's address"),
    ("IP", _IPV4, 0.93, "ip.v4", "four numbers as in an internet address"),
    ("IP", _IPV6, 0.93, "ip.v6", "written as an internet address of version 6"),
    ("UNIQUE_CODE", _UUID, 0.95, "code.uuid", "written as a UUID"),
    ("PHOTO", _IMAGE, 0.92, "photo.file", "the name of an image file"),
    ("HEALTH_PLAN", _MBI, 0.9, "plan.mbi", "built as a Medicare beneficiary number"),
    ("VEHICLE", _VIN, 0.85, "vehicle.vin", "seventeen characters as in a vehicle's number"),
    ("DEVICE", _GS1, 0.95, "device.udi", "built as a device's unique identification"),
    ("DEVICE", _HIBC, 0.9, "device.udi", "built as a device's unique identification"),
    ("LICENSE", _UK_LICENCE, 0.88, "license.uk", "built as a British driving licence"),
    ("VEHICLE", _UK_PLATE, 0.7, "vehicle.plate", "built as a number plate"),
    ("UNIQUE_CODE", _BED, 0.7, "code.bed", "a ward and a bed"),
    ("UNIQUE_CODE", _SUBJECT, 0.7, "code.subject", "built as a subject's number in a study"),
    ("SSN", _SSN, 0.86, "ssn.shape", "three, two and four digits"),
    ("PHONE", _PHONE, 0.82, "phone.shape", "grouped as a telephone number"),
    ("UNIQUE_CODE", _HANDLE, 0.7, "code.handle", "a name after an at sign"),
)

_RETYPED = ("SSN", "PHONE", "IP", "PHOTO", "HEALTH_PLAN", "VEHICLE")

_NEUTRAL = re.compile(
    r"(?:(?i:nct|pmid:?|pmc|doi:?|isrctn|icd|cpt|loinc|snomed|hp:|omim:?|mondo:|orpha:?|grade|phase|stage|type|chapter|version|covid|sars)[-:]?|rs)\d[\d.\-]*$"
    r"|(?i:h\d{1,2}n\d{1,2})$|p\d{2,3}$"
)
_PUBLIC_BEFORE = re.compile(r"(?i)(?:loinc|snomed(?:[ -]ct)?|cpt|icd(?:-?10)?|pmid|doi|omim|see code|nct)\b(?:\s*(?:no\.?|code|id|ref|[:#]))*(?:\s*[\w.-]+,)*\s*$")
_ICD = re.compile(r"[A-TV-Z]\d[0-9AB](?:\.[0-9A-Z]{1,4})?$")
_MEASURE = re.compile(r"(?i)\d+(?:[.,]\d+)?(?:[-/x×]\d+(?:\.\d+)?)*-?(?:mg|mcg|ug|g|kg|lb|lbs|ml|dl|l|cc|mm|cm|m|iu|u|units?|h|hr|hrs|d|wk|y|yo|yrs?|"
                      r"year|years|old|th|st|nd|rd|s|k|x|gy|cgy|kcal|hz|khz|mhz|french|fr|ga|gauge|am|pm|day|days|week|weeks|month|months|hour|hours|min|fold|bit)?"
                      r"(?:[-/](?:mg|mcg|g|kg|ml|dl|l|hr|h|day|d|week|min|m2|year|old|year-old|hour|month|day-old))*$")  # fmt: skip


def find(text: str) -> Iterator[Finding]:
    """All identifiers that are numbers, codes or addresses of machines."""
    if not any(character.isdigit() for character in text) and "@" not in text and "." not in text:
        return
    taken: list[tuple[int, int]] = []
    for kind, pattern, score, rule, why in _SHAPES:
        for match in pattern.finditer(text):
            start, end = match.start(), match.end()
            if kind == "URL":
                end -= len(match.group()) - len(match.group().rstrip(".,;:!?)'"))
            if _within(start, end, taken):
                continue
            told = label_before(text, start) if kind in _RETYPED else None
            label = told[0] if told else None
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
                yield Finding(start, end, kind, score, rule, why)
    for match in _PLATE.finditer(text):
        span = match.span("plate")
        plate = match.group("plate")
        if any(map(str.isdigit, plate)) and not _within(*span, taken) and not _MEASURE.match(plate) and not _ICD.match(plate) and plate.upper() not in ("C1", "C2"):
            if len(plate) > 4:
                taken.append(span)
                yield Finding(*span, "VEHICLE", 0.85, "vehicle.plate", "built as a number plate, and a vehicle is spoken of")
    yield from _cards(text, taken)
    yield from _codes(text, taken)


def _cards(text: str, taken: list[tuple[int, int]]) -> Iterator[Finding]:
    for match in _CARD.finditer(text):
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
    for match in _IBAN.finditer(text):
        if not _within(*match.span(), taken) and sum(map(str.isdigit, match.group())) >= 8:
            taken.append(match.span())
            yield Finding(
                *match.span(), "ACCOUNT", 0.88, "account.iban", "built as an international bank account number"
            )


def _codes(text: str, taken: list[tuple[int, int]]) -> Iterator[Finding]:
    """Values that only a label tells, and codes that nothing tells apart from other codes."""
    for match in _GROUPED.finditer(text):
        label = _told(text, match.start())
        if label is None or _within(*match.span(), taken):
            continue
        digits = sum(map(str.isdigit, match.group()))
        if digits >= 6:
            taken.append(match.span())
            yield Finding(*match.span(), label, 0.9, f"{label.lower()}.label", "groups of digits after their label")
    for match in _PLACEHOLDER_DIGITS.finditer(text):
        start, end = match.span()
        if _within(start, end, taken):
            continue
        value = match.group().lstrip("#")
        digits = sum(map(str.isdigit, value))
        told = label_before(text, start)
        label = told[0] if told else None
        if told and label and _may_follow(label, told[1], value, digits, text, start, end):
            start, end = _widened(text, start, end)
            if label == "MRN" and (letter := _TRAILING_LETTER.match(text, end)):
                end = letter.end()
            taken.append((start, end))
            yield Finding(start, end, label, 0.95, f"{label.lower()}.label", "a number or code after its label")
        elif _looks_like_code(value, digits, match.group().startswith("#"), text, start, end):
            start, end = _widened(text, start, end)
            taken.append((start, end))
            yield Finding(start, end, "UNIQUE_CODE", 0.6, "code.shape", "built as a code, and no label says of what")


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


def _may_follow(label: str, weak: bool, value: str, digits: int, text: str, start: int, end: int) -> bool:
    """Whether a value can be what its label announces; weak labels ask for more."""
    if not digits or (_MEASURE.match(value) and digits < 4 and not text[end : end + 1] == "-"):
        return False
    if _UNIT_AFTER.match(text, end) and not re.search(r"[A-Za-z]", value):
        return False
    letters = len(value) - digits
    if label == "UNIQUE_CODE" and _PUBLIC_BEFORE.search(text, max(0, start - 40), start):
        return False
    if re.fullmatch(r"(?:19|20)\d\d", value) or _NEUTRAL.match(value) or _date_like(value):
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
    return digits >= 4 or (
        digits >= 3 and any(character.isalpha() for character in value) and _ICD.match(value) is None
    )


def _date_like(value: str) -> bool:
    return _DATE_SHAPE.fullmatch(value) is not None


_DATE_SHAPE = re.compile(
    r"(?:19|20)\d\d([-/.])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])|(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]|[12]\d|3[01])\2(?:\d\d|(?:19|20)\d\d)"
    r"|\d{1,2}/\d{1,4}"
)


def _looks_like_code(value: str, digits: int, sharp: bool, text: str, start: int, end: int) -> bool:
    if _NEUTRAL.match(value) or _date_like(value) or _UNIT_AFTER.match(text, end):
        return False
    if _PUBLIC_BEFORE.search(text, max(0, start - 40), start):
        return False
    if digits == len(value):
        if text[start - 1 : start] in ("$", "€", "£", ".", ",") or text[end : end + 2].lstrip(",.")[:1].isdigit():
            return False
        return (digits >= 6 or (sharp and digits >= 3)) and _QUANTITY_BEFORE.search(
            text[max(0, start - 30) : start]
        ) is None
    if _MEASURE.match(value) or _ICD.match(value):
        return False
    letters = sum(map(str.isalpha, value))
    if not letters:
        return digits >= 7 and "-" in value and not re.fullmatch(r"(?:19|20)\d\d[-/](?:19|20)\d\d", value)
    if "-" in value or "_" in value:
        return digits >= 4 and not re.fullmatch(r"[A-Za-z-]{4,}-?(?:19|20)\d\d", value)
    return digits >= 5 or (digits >= 4 and letters >= 2 and value.upper() == value) or (len(value) >= 10 and digits >= 3 and re.fullmatch(r"[0-9a-f]+", value) is not None)


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
