"""The shapes of numbers, codes and addresses of machines, as patterns, and where in a text each can stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fedmed.data.deidentify.scanning import holds, matches_at, matches_in_chunks
from fedmed.data.deidentify.words import Words

_UNITS = (
    r"(?:mg|mcg|µg|μg|ug|g|kg|lbs?|ml|mL|dl|l|cc|mm|cm|m|iu|IU|units?|u|mEq|mmol|µmol|umol|nmol|pmol|pg|ng|mmHg"
    r"|bpm|hz|%|"
    r"percent|cells?|copies|years?|yrs?|months?|weeks?|days?|hours?|hrs?|minutes?|mins?|seconds?|patients?"
    r"|people|cases|"
    r"participants|subjects|women|men|children|adults|persons|steps|calories|kcal|times|per|x\s*10|K\b|k\b"
    r"|million|dollars|"
    r"euros|births|individuals|genes|bp|kb|Da|kDa|platelets|colony|CFU|cfu|mOsm|mol|mU|ms|msec|rpm|lux)"
)
UNIT_AFTER = re.compile(rf"\s?-?{_UNITS}(?![A-Za-z])|\s*[x×]\s*10|\s*/\s*(?:[µuμ]|mm|ml|mL|dl|L|h|day|min|cu)")
QUANTITY_BEFORE = re.compile(
    r"(?:count|wbc|rbc|platelets?|plt|ferritin|bnp|pro-?bnp|ck|cpk|ldh|titer|titre|load|level|dose|dosage|total of|"
    r"about|approximately|over|under|than|nearly|of|n\s*=|[$€£<>≥≤~±=])\s*(?:is|was|of|:)?\s*$",
    re.IGNORECASE,
)

_EMAIL = re.compile(r"[A-Za-z0-9À-ÿ._%+\-']+\s?(?:@|\(at\)|\[at\]|＠)\s?(?:[A-Za-z0-9À-ÿ\-]+\.)+[A-Za-z]{2,24}\b")
_URL = re.compile(
    r"(?:\b(?:https?|ftp|sftp|file)://|\bwww\.)[^\s<>\"'\[\]{}|\\^`]+"
    r"|(?<![@\w.\-])(?:[a-z0-9](?:[a-z0-9\-]*[a-z0-9])?\.)+(?:com|org|net|edu|gov|mil|io|info|biz|health|care"
    r"|clinic|co\.uk|ac\.uk|"
    r"nhs\.uk|us|uk|de|fr|ca|au|app|dev|me|tv|example|test|local)(?![\w.]*@)(?:\b|$)(?:[/?#][^\s<>\"'\[\]{}|\\^`]*)?",
    re.IGNORECASE,
)
_IPV4 = re.compile(
    r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d"
    r"|1?\d?\d)(?:/\d{1,2})?(?::\d{2,5})?(?![\w]|\.\d)"
)
_IPV6 = re.compile(
    r"(?<![\w:])(?:(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}"
    r"|(?:[0-9a-f]{1,4}:){1,7}:(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,6})?"
    r"|::(?:[0-9a-f]{1,4}:){0,6}[0-9a-f]{1,4})(?:%\w+)?(?:/\d{1,3})?(?![\w:])",
    re.IGNORECASE,
)
_MAC = re.compile(r"(?<![\w:-])[0-9a-f]{2}(?:([:-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}(?![\w:-])", re.IGNORECASE)
UUID = re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE)
_SSN = re.compile(r"(?<![\w-])(?:\d{3}|[Xx*]{3})([-‐‑– .])(?:\d{2}|[Xx*]{2})\1\d{4}(?![\w-])")
_MBI = re.compile(
    r"\b[1-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d-?[AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d-?[AC-HJKMNP-RT-Y]{2}\d{2}\b"
)
_VIN = re.compile(r"\b(?=[A-HJ-NPR-Z]*\d)(?=\d*[A-HJ-NPR-Z])[A-HJ-NPR-Z0-9]{17}\b")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", re.IGNORECASE)
CARD = re.compile(r"\d(?<![\w.-]\d)(?:[ -]?\d){11,18}(?![\w-]|\.\d)")
_PHONE = re.compile(
    r"(?<![\w.#-])(?:"
    r"(?:\+|00)\d{1,3}[\s.\-]?(?:\(0?\d{0,4}\)[\s.\-]?)?\d{1,5}(?:[\s.\-/]?\d{2,5}){1,5}"
    r"|(?:1[\s.\-])?\(\d{2,5}\)\s?[\d]{2,4}(?:[\s.\-]\d{2,4}){1,3}"
    r"|(?:1[\s.\-])?\d{3}([\s.\-‐‑–])\d{3}[\s.\-‐‑–]\d{4}"
    r"|1-\d{3}-[A-Z0-9]{3}-?[A-Z0-9]{4}"
    r"|0\d{2,4}[\s\-]\d{2,4}[\s\-]\d{2,4}(?:[\s\-]\d{2,4})?"
    r"|0\d(?:[\s.\-]\d{2}){4}"
    r"|0\d{4} \d{6}"
    r"|\d{4,6}[ ]?\d{4,7}(?=\s?(?:x|ext\.?|extension)\s?\d)"
    r"|\d{3}[\-.]\d{4}(?=[\s,;).]|$)"
    r")(?:\s?(?:x|ext\.?|extension)\s?\d{1,6})?(?!\w|-\d|\.\d)",
    re.IGNORECASE,
)
_IMAGE = re.compile(
    r"(?<![\w/])[\w\-]+(?:[./\\][\w\-]+)*\.(?:jpe?g|png|gif|tiff?|bmp|heic|webp|dcm|raw|svg|mp4|mov)\b", re.IGNORECASE
)
PLATE = re.compile(
    r"(?i)\b(?:plates?|reg(?:istration)?|car|van|vehicle|truck|tag|motorcycle|lorry|bus|taxi|rta|mvc|driving"
    r"|parked|driver|rig|scooter|minivan|suv|sedan|motorbike|registered)\b\W{0,3}(?:\w+\W{1,2}){0,4}?"
    r"(?-i:(?P<plate>(?:[A-Z]{1,3}[- ]?\d{1,4}[- ]?[A-Z]{1,3}|[A-Z]{2,3}[- ]?\d{2,4}|(?<=reg )[a-z]{2,3} \d{2,4}"
    r"|(?<=plate )[a-z]{2,3} \d{2,4}|[A-Z]-[A-Z]{1,2} ?\d{2,4}|\d{1,3}[- ]?[A-Z]{2,3}[- ]?\d{0,4}"
    r"|\d[A-Z]{3}\d{3})))(?![\w-])"
)
LABELLED_PLATE = re.compile(
    r"(?i)\b(?:plates?|registration|reg|tags?|rig)(?:\s+(?:no\.?|number|is|was))*\s*:?\s+"
    r"(?P<plate>[a-z]{1,3}[- ]?\d{1,4}[- ]?[a-z]{0,3}|\d{1,3}[- ]?[a-z]{2,3}[- ]?\d{0,4}|\d[a-z]{3}\d{3}"
    r"|[a-z]-[a-z]{1,2} ?\d{2,4})(?![\w-])"
)
_UK_PLATE = re.compile(r"\b[A-Z]{2}\d{2} [A-Z]{3}\b")
_UK_LICENCE = re.compile(r"\b[A-Z9]{5}\s?\d{6}\s?[A-Z9]{1,2}\d{1,2}[A-Z]{2}\b")
GS1 = re.compile(r"\(01\)\d{14}(?:\(\d{2}\)[A-Za-z0-9]{4,20})*")
HIBC = re.compile(r"\+[A-Z]\d{3}[A-Z0-9]{2,18}(?:/\$?\$?[A-Z0-9+]{2,30})?")
BED = re.compile(
    r"\b(?:N?ICU|[CMSP]ICU|CCU|[AMS]AU|AMU|HDU|ITU|ED|ER|[A-Z]?\d{1,2}[A-Z]?|[A-Z]\d)-\d{2}[A-Z]\b|(?:(?<=\bin )"
    r"|(?<=\bfrom )|(?<=\bto )|(?<=\bbed ))\d{1,2}[A-Z]-\d{2}\b|\b(?:N?ICU"
    r"|[CMSP]ICU|CCU|[AMS]AU|AMU|HDU|ITU)-\d{1,3}[A-Z]?\b"
    r"|(?i:(?<=\bward )|(?<=\bbed ))(?i:[A-Z]?\d{1,2}[A-Z]?-\d{1,3}[A-Z]?|[a-z]{2,4}-\d{1,3}[a-z]?)\b"
)
_SUBJECT = re.compile(r"(?<![\w-])[A-Z]{2,5}-[A-Z]{1,4}-\d{2,4}(?![\w-])")
TRAILING_LETTER = re.compile(r" [A-Z](?=\s*(?:[\n,;.)|]|$)|  | [-–] )")
_HANDLE = re.compile(r"@(?<![\w@./]@)[A-Za-z_][\w.]{2,29}\b")
PLACEHOLDER_DIGITS = re.compile(r"(?<![\w])#?(?=[A-Za-z\-_/]*\d)[A-Za-z0-9]+(?:[-_/:.][A-Za-z0-9]+)*")
GROUPED = re.compile(r"\d(?<![\w.,/-]\d)\d{1,5}(?: \d{2,6}){1,5}(?![\w,/-]|\.\d)")

_AT = re.compile(r"[@＠(\[](?:(?<=[@＠])|at[)\]])")
_DOT = re.compile(r"\.(?<=[A-Za-z0-9]\.)[A-Za-z]{2}|://")
_EXTENSIONS = (
    ".jp", ".png", ".gif", ".tif", ".bmp", ".heic", ".webp", ".dcm", ".raw", ".svg", ".mp4", ".mov"
)  # fmt: skip
_HEX_PAIRS = re.compile(r"[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-]")
_HEX_GROUPS = re.compile(r":[0-9A-Fa-f]{0,4}:")
_HEX_FOURS = re.compile(r"-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-")
_LICENCE = re.compile(r"\d\d{5}\s?[A-Z9]{1,2}\d{1,2}[A-Z]{2}")
_LONG_CODE = re.compile(r"[A-HJ-NPR-Z0-9](?<!\w.)[A-HJ-NPR-Z0-9]{16}(?!\w)")
_DASHES = re.compile(r"-[A-Z]{1,4}-\d\d")
_DASH_DIGIT = re.compile(r"-(?<=[A-Za-z0-9]-)\d")
_MASKED = re.compile(r"[Xx*](?<![\w-][Xx*])(?=[Xx*]{2})")
_BRACKET_DIGIT = re.compile(r"[+(]\d")

Matches = Iterator[re.Match[str]]


@dataclass(frozen=True, slots=True)
class Shape:
    """A pattern that alone tells a type."""

    kind: str
    pattern: re.Pattern[str]
    score: float
    rule: str
    why: str
    sought: Callable[[re.Pattern[str], Words], Matches]  # gives all matches, and looks only where one can be
    digits: int = 0  # so many digits at least stand in a text that holds one

    def matches(self, view: Words) -> Matches:
        """All that ``pattern.finditer`` finds."""
        return self.sought(self.pattern, view)


def _at_numbers(pattern: re.Pattern[str], view: Words) -> Matches:
    return matches_at(pattern, view.text, view.numbers)


def _at_codes(pattern: re.Pattern[str], view: Words) -> Matches:
    return matches_at(pattern, view.text, view.codes)


def _beside(near: re.Pattern[str]) -> Callable[[re.Pattern[str], Words], Matches]:
    """Anywhere, in a text that holds something else."""
    return lambda pattern, view: pattern.finditer(view.text) if near.search(view.text) else iter(())


def _emails(pattern: re.Pattern[str], view: Words) -> Matches:
    """In the chunk of an at sign; a single space may stand before the sign."""
    text = view.text
    end = done = 0
    for at in _AT.finditer(text):
        if at.start() >= end:
            start, end = text.rfind(" ", 0, max(0, at.start() - 1)) + 1, text.find(" ", at.end())
            end = len(text) if end < 0 else end
            for match in pattern.finditer(text, max(start, done), end):
                done = match.end()
                yield match


def _handles(pattern: re.Pattern[str], view: Words) -> Matches:
    return pattern.finditer(view.text) if _AT.search(view.text) else iter(())


def _urls(pattern: re.Pattern[str], view: Words) -> Matches:
    return matches_in_chunks(pattern, view.text, (dot.start() for dot in _DOT.finditer(view.text)))


def _images(pattern: re.Pattern[str], view: Words) -> Matches:
    found = _DOT.search(view.text) and holds(view.folded, _EXTENSIONS)
    return pattern.finditer(view.text) if found else iter(())


def _beds(pattern: re.Pattern[str], view: Words) -> Matches:
    """At the letters and digits in front of a dash and a digit."""
    text = view.text
    starts = []
    for dash in _DASH_DIGIT.finditer(text):
        start = dash.start()
        while start and text[start - 1].isalnum():
            start -= 1
        starts.append(start)
    return matches_at(pattern, text, starts)


def _social(pattern: re.Pattern[str], view: Words) -> Matches:
    masked = [match.start() for match in _MASKED.finditer(view.text)]
    return matches_at(pattern, view.text, sorted(view.numbers + masked))


def _phones(pattern: re.Pattern[str], view: Words) -> Matches:
    signs = [match.start() for match in _BRACKET_DIGIT.finditer(view.text)]
    return matches_at(pattern, view.text, sorted(view.numbers + signs))


def _anywhere(pattern: re.Pattern[str], view: Words) -> Matches:
    return pattern.finditer(view.text)


SHAPES = (
    Shape("EMAIL", _EMAIL, 0.99, "email.address", "written as an e-mail address", _emails),
    Shape("URL", _URL, 0.95, "url.address", "written as a web address", _urls),
    Shape("DEVICE", _MAC, 0.95, "device.mac", "written as a network card's address", _beside(_HEX_PAIRS), 3),
    Shape("IP", _IPV4, 0.93, "ip.v4", "four numbers as in an internet address", _at_numbers, 3),
    Shape("IP", _IPV6, 0.93, "ip.v6", "written as an internet address of version 6", _beside(_HEX_GROUPS), 3),
    Shape("UNIQUE_CODE", UUID, 0.95, "code.uuid", "written as a UUID", _beside(_HEX_FOURS), 3),
    Shape("PHOTO", _IMAGE, 0.92, "photo.file", "the name of an image file", _images),
    Shape("HEALTH_PLAN", _MBI, 0.9, "plan.mbi", "built as a Medicare beneficiary number", _at_numbers, 5),
    Shape(
        "VEHICLE", _VIN, 0.85, "vehicle.vin", "seventeen characters as in a vehicle's number", _beside(_LONG_CODE), 5
    ),
    Shape("DEVICE", GS1, 0.95, "device.udi", "built as a device's unique identification", _anywhere, 3),
    Shape("DEVICE", HIBC, 0.9, "device.udi", "built as a device's unique identification", _anywhere, 3),
    Shape("LICENSE", _UK_LICENCE, 0.88, "license.uk", "built as a British driving licence", _beside(_LICENCE), 5),
    Shape("VEHICLE", _UK_PLATE, 0.7, "vehicle.plate", "built as a number plate", _at_codes, 3),
    Shape("UNIQUE_CODE", BED, 0.7, "code.bed", "a ward and a bed", _beds, 1),
    Shape("UNIQUE_CODE", _SUBJECT, 0.7, "code.subject", "built as a subject's number in a study", _beside(_DASHES), 3),
    Shape("SSN", _SSN, 0.86, "ssn.shape", "three, two and four digits", _social, 5),
    Shape("PHONE", _PHONE, 0.82, "phone.shape", "grouped as a telephone number", _phones, 7),
    Shape("UNIQUE_CODE", _HANDLE, 0.7, "code.handle", "a name after an at sign", _handles),
)

VEHICLES = frozenset(
    [
        "plate", "plates", "reg", "registration", "car", "van", "vehicle", "truck", "tag", "motorcycle", "lorry", "bus",
        "taxi", "rta", "mvc", "driving", "parked", "driver", "rig", "scooter", "minivan", "suv", "sedan", "motorbike",
        "registered", "tags",
    ]
)  # fmt: skip
"""With one of them PLATE begins."""


def possible(view: Words) -> list[Shape]:
    """The shapes that a text can hold by the number of its digits: most texts hold few."""
    digits = sum(map(view.text.count, "0123456789"))
    return [shape for shape in SHAPES if digits >= shape.digits]


RETYPED = ("SSN", "PHONE", "IP", "PHOTO", "HEALTH_PLAN", "VEHICLE")

NEUTRAL = re.compile(
    r"(?:(?i:nct|pmid:?|pmc|doi:?|isrctn|icd|cpt|loinc|snomed|hp:|omim:?|mondo:|orpha:?|grade|phase|stage|type"
    r"|chapter|version|covid|sars)[-:]?|rs)\d[\d.\-]*$"
    r"|(?i:h\d{1,2}n\d{1,2})$|p\d{2,3}$"
)
PUBLIC_BEFORE = re.compile(
    r"(?i)(?:loinc|snomed(?:[ -]ct)?|cpt|icd(?:-?10)?|pmid|doi|omim|see code|nct)\b(?:\s*(?:no\.?|code|id|ref"
    r"|[:#]))*(?:\s*[\w.-]+,)*\s*$"
)
ICD = re.compile(r"[A-TV-Z]\d[0-9AB](?:\.[0-9A-Z]{1,4})?$")
MEASURE = re.compile(r"(?i)\d+(?:[.,]\d+)?(?:[-/x×]\d+(?:\.\d+)?)*-?(?:mg|mcg|ug|g|kg|lb|lbs|ml|dl|l|cc|mm|cm|m"
    r"|iu|u|units?|h|hr|hrs|d|wk|y|yo|yrs?|"
                      r"year|years|old|th|st|nd|rd|s|k|x|gy|cgy|kcal|hz|khz|mhz|french|fr|ga|gauge|am|pm|day"
                      r"|days|week|weeks|month|months|hour|hours|min|fold|bit)?"
                      r"(?:[-/](?:mg|mcg|g|kg|ml|dl|l|hr|h|day|d|week|min|m2|year|old|year-old|hour|month"
                      r"|day-old))*$")  # fmt: skip
