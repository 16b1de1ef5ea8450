"""Addresses: streets with and without a house number, boxes, postal codes, coordinates."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fedmed.data.deidentify.scanning import holds, matches_at
from fedmed.data.deidentify.vocabulary import LIKELY, SURE, UNKNOWN, WORD, Vocabulary
from fedmed.data.deidentify.words import Words

_STREETS = (
    r"(?:Street|St|Avenue|Ave|Av|Road|Rd|Boulevard|Blvd|Drive|Dr(?!\.?\s+[A-Z])|Lane|Ln|Court|Ct|Circle|Cir"
    r"|Place|Pl|Terrace"
    r"|Ter|Parkway|Pkwy|Highway|Hwy|"
    r"Way|Trail|Trl|Square|Sq|Loop|Alley|Aly|Crescent|Cres|Close|Row|Mews|Turnpike|Expressway|Plaza|Route|Rte"
    r"|Path|Pike|Grove|Gardens|Walk|"
    r"Crossing|Ridge|Run|Point|Hill|View|Bend|Cove|Hollow|Heights)"
)  # fmt: skip
_UNIT = (
    r"(?:(?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|Room|Rm|Bldg|Building|Lot|Flat|Studio)\b\.?\s*#?\s*"
    r"|#\s?)[A-Za-z]?-?\d{0,5}[A-Za-z]?"
)
_NUMBER = r"(?<![\w.,/$:#-])(?!0)\d{1,6}[A-Ca-c]?(?:-\d{1,5})?,?"
_CAPITAL = r"[A-ZÀ-Þ][\w'’.\-]*"
_UNDOTTED = r"[A-ZÀ-Þ](?:[\w'’\-]+|\w{0,2}\.)"
_STREET = re.compile(
    rf"{_NUMBER} +(?:[NSEW]{{1,2}}\.? +)?(?:(?:{_CAPITAL}|\d{{1,3}}(?:st|nd|rd|th)|de|la|del|los|las|of|the|van"
    rf"|von|der) +){{1,4}}"
    rf"{_STREETS}\b\.?(?:\s+[NSEW]{{1,2}}\b\.?)?(?:,?\s+{_UNIT}(?!\w))?"
)  # fmt: skip
_PLAIN_CAPITAL = rf"(?!(?:Apt|Apartment|Suite|Ste|Unit|Floor|Room|Flat|Studio)\b){_UNDOTTED}"
_ANY_STREET = re.compile(
    rf"{_NUMBER} +(?:[NSEW]\.? +)?({_PLAIN_CAPITAL}(?: {_PLAIN_CAPITAL}){{1,3}})(,?\s+{_UNIT}(?!\w))?"
)
"""A house number and capital words: a street where something beside it says so."""
_ANY_BEFORE = re.compile(
    r"(?i)(?:address|lives|living|resid\w+|home|house|stay\w*|at|to|from|on|near|opposite|moved|line|\^|\|"
    r"|\n)\W{0,5}$"
)
_ANY_AFTER = re.compile(
    rf",?\s*(?:\^|\n|,\s*{_CAPITAL}|[A-Z]{{2}}\s+\d{{5}}|\d{{5}}|[A-Z]{{1,2}}\d[A-Z\d]?\s?\d[A-Z]{{2}})"
)
_STRONG_AFTER = re.compile(
    rf",?\s+(?:{_CAPITAL}[,\s]+){{0,3}}?(?:[A-Z]{{2}}\s+\d{{5}}|\d{{5}}|[A-Z]{{1,2}}\d[A-Z\d]?\s?\d[A-Z]{{2}})(?!\w)"
)
_WITH_UNIT = re.compile(
    r"(?<![\w.,/$-])\d{1,6}(?: [^\s,]+){1,5},?\s+(?i:apt|suite|ste|unit)\.? [A-Z]?\d{1,5}(?!\w)"
    r"(?:(?:[\s,]+[^\W\d_][^\n,\d]{1,30}){1,4}?[\s,]+\d{4,6}(?!\w))?"
)
"""A house number, words, an apartment, and the lines after it up to a postal code."""
_UNIT_FIRST = re.compile(
    rf"\b(?:Flat|Studio|Apt|Apartment)\b\.?\s*#?\s*\w{{1,5}},\s+({_UNDOTTED} {_UNDOTTED})(?! \w+ed\b)"
)
_MILITARY = re.compile(
    r"\b(?:PSC|Unit|USNS|USS|CMR)\s[\w ]{2,20}?,?\s?(?:Box\s\d+)?\s*(?:APO|FPO|DPO)\s+A[AEP]\s+\d{5}"
)
_SMALL = re.compile(
    r"(?<![\w.,/$-])\d{1,6}\s+(?:[nsew]\.?\s+)?(?:[a-z0-9]+\s+){1,3}(?:street|avenue|ave|road|rd|boulevard|blvd"
    r"|lane|ln|parkway|pkwy|highway|"
    r"terrace|crescent|drive|court|circle|place|square|way|st)\b\.?(?:,?\s+(?:apt|suite|ste|unit)\.?\s*#?\w+)?"
)  # fmt: skip
_SHOUTED = re.compile(
    r"(?<![\w.,/$-])\d{1,6}\s+(?:[NSEW]\.?\s+)?(?:[A-Z0-9]+\s+){1,3}(?:STREET|AVENUE|AVE|ROAD|RD|BOULEVARD|BLVD"
    r"|LANE|LN|PARKWAY|HIGHWAY|TERRACE|ROW|TRAIL|LOOP|CRESCENT|GROVE|PLAZA|"
    r"DRIVE|COURT|CIRCLE|PLACE|SQUARE|WAY|ST)\b\.?(?:,?\s+(?:APT|SUITE|STE|UNIT)\.?\s*#?\w+)?"
)  # fmt: skip
_NAMED = re.compile(
    r"(?<!\w)(?:(?:North|South|East|West|N\.|S\.|E\.|W\.|Old|New|Upper|Lower)\s+)?(?:[A-ZÀ-Þ][\w'’\-]+"
    r"|\d{1,3}(?:st|nd|rd|th))"
    r"(?: [A-ZÀ-Þ][\w'’\-]+){0,2} (?:Street|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Parkway|Highway|Drive|Terrace"
    r"|Crescent|Turnpike)\b\.?"
)  # fmt: skip
_ABROAD = re.compile(
    r"(?<!\w)(?:(?:Rue|Via|Calle|Avenida|Rua|Plaza|Piazza|Viale|Corso|Avenue|Ulica|ul\.|Carrera|Paseo|Strada"
    r"|Place)\s+"
    r"(?:(?:de|del|della|delle|dei|di|da|do|du|des|la|le|los|las"
    r"|l['’])\s*)*[A-ZÀ-Þ][\w'’\-]+(?:\s+[A-ZÀ-Þ][\w'’\-]+){0,2},?\s+\d{1,5}[A-Za-z]?"
    r"|[A-ZÀ-Þ][\w\-]*(?:straße|strasse|str\.|gatan|gata|vägen|gade|vej|veien|katu|tie|laan|straat|weg|platz"
    r"|allee|utca|ulica)\.?\s+\d{1,5}[A-Za-z]?)"
)  # fmt: skip
_ABROAD_STARTS = (
    "Rue", "Via", "Calle", "Avenida", "Rua", "Plaza", "Piazza", "Viale", "Corso", "Avenue", "Ulica", "ul.", "Carrera",
    "Paseo", "Strada", "Place",
)  # fmt: skip
_ABROAD_ENDS = (
    "straße", "strasse", "str", "gatan", "gata", "vägen", "gade", "vej", "veien", "katu", "tie", "laan", "straat",
    "weg", "platz", "allee", "utca", "ulica",
)  # fmt: skip
_BOX = re.compile(
    r"(?i)\bP\.?\s?O\.?\s?Box\s*#?\s*\w*\d+\w*|\bpost office box\s*\d+|\b(?:R\.?R\.?"
    r"|rural route)\s*#?\d+,?\s*box\s*\d+"
)
_ALONE = re.compile(
    r"\b(?:Apt|Apartment|Suite|Ste|Flat|Studio)\b\.?\s*#?\s*(?:\d{1,5}[A-Za-z]?|[A-Z]-?\d{1,4})\b(?!\s*(?:mg|ml"
    r"|units?|/))"
)
_COORDINATES = re.compile(r"[-+]?\d{1,2}\.\d{4,}°?\s*[NS]?\s*,\s*[-+]?\d{1,3}\.\d{4,}°?\s*[EW]?")
_TOWN_AFTER = re.compile(rf"(?:,?\s+{_UNIT}(?!\w))?(?:,\s*|\s*\n\s*|\s+in\s+|\^+)({_CAPITAL}(?:\s{_CAPITAL}){{0,2}})")
_TOWN_ENDS = re.compile(r"[,.;)]?\s*(?:$|\n|\^|[A-Z]{2}\b|\d{5}|[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}|\()|[.;)]")
STATE_AFTER = re.compile(r"(,?\s+|,|\^)([A-Z]{2}|[A-Z]\.[A-Z]\.)(?![\w’'])(?:(?:,?\s+|\^)(\d{5}(?:-\d{4})?)(?!\d))?")
_SMALL_STATE = re.compile(r"(,\s+)([a-z]{2})(?:,?\s+(\d{5}(?:-\d{4})?)(?!\d))")
_REGION_AFTER = re.compile(r",\s+([A-Z][a-z]+(?:\s[A-Z][a-z]+)?)(?:,?\s+(\d{5}(?:-\d{4})?)(?!\d))?")
_CODE_AFTER = re.compile(
    r"[,\s^]{1,3}(\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}"
    r"|[A-Z]\d[A-Z]\s?\d[A-Z]\d)(?![\w-])(?!\s*(?:mg|ml|units|patients))"
)
_LOSSY_CODES = frozenset({"MD", "PA", "MA", "OR", "IN", "ME", "HI", "OK", "AL", "ID", "LA", "MS", "DC", "CO", "MI"})
"""State codes that are also degrees or words."""

_HOUSE = re.compile(r"\d(?<![\w.,/$-]\d)\d{0,5}(?:[A-Ca-c]?(?:-\d{1,5})?,? |\s)")
"""A number that may be a house's, and the space behind it."""
_UNITS = frozenset(["apt", "apartment", "suite", "ste", "unit", "flat", "studio"])
_NAMED_ENDS = (
    " Street", " Ave", " Road", " Rd", " Boulevard", " Blvd", " Lane", " Parkway", " Highway", " Drive", " Terrace",
    " Crescent", " Turnpike",
)  # fmt: skip
_LONG_FRACTION = re.compile(r"\.\d{4}")
_STREET_WORDS = frozenset(
    [
        "street", "avenue", "ave", "road", "rd", "boulevard", "blvd", "lane", "ln", "parkway", "highway", "terrace",
        "crescent", "drive", "court", "circle", "place", "square", "way", "st", "row", "trail", "loop", "grove",
        "plaza",
    ]
)  # fmt: skip
_STREET_NEAR = re.compile(
    r"\d [^.\n]{1,40}\b(?:street|avenue|ave|road|rd|boulevard|blvd|lane|ln|parkway|highway|terrace|crescent"
    r"|drive|court|circle|place|square|way|st|row|trail|loop|grove|plaza)\b"
)
_NUMBER_BEFORE = re.compile(r"(?<![\w.,/$:#-])(\d{1,6})[ ]+$")
_LINES = re.compile(
    rf"(?:[ ,]*\n[ >?]*{_CAPITAL}(?: {_CAPITAL}){{0,2}}){{0,2}}?"
    rf"[ ,]*\n[ >?]*({_CAPITAL}(?: {_CAPITAL}){{0,2}})(?=\s|[,.?]|$)"
)
_CORNER = re.compile(
    r"(?i:the corner of) [\w '’.-]{2,40}? and (?:[A-ZÀ-Þ][\w'’.-]*(?: [A-ZÀ-Þ][\w'’.-]*){0,2}|[a-z]+ [a-z]+)"
)
_IN_TOWNS = frozenset(["new", "north", "south", "east", "west", "old"])
Span = tuple[int, int, float, str, str]


class AddressFinder:
    """Finds addresses, and what follows a place: its state and its postal code."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.lexicon = vocabulary.lexicon

    def spans(self, view: Words) -> Iterator[Span]:
        """Start, end, score, rule and reason of each street, box and unit, with the lines of an address around it."""
        for start, end, score, rule, why in self._parts(view):
            before = _NUMBER_BEFORE.search(view.text, max(0, start - 8), start) if rule == "place.street" else None
            yield (before.start(1) if before else start), self._lines(view.text, end), score, rule, why

    def _parts(self, view: Words) -> Iterator[Span]:
        text, folded = view.text, view.folded
        why = "a street and a house number"
        if view.numbers or view.codes:
            houses = [match.start() for match in _HOUSE.finditer(text)]
            for match in matches_at(_STREET, text, houses):
                yield match.start(), self._with_town(text, match.end()), 0.93, "place.street", why
            for match in matches_at(_ANY_STREET, text, houses):
                if self._is_street(text, match):
                    yield match.start(), self._with_town(text, match.end()), 0.84, "place.street", why
            unit = not _UNITS.isdisjoint(view.present)
            near = not _STREET_WORDS.isdisjoint(view.present) and _STREET_NEAR.search(folded) is not None
            for pattern in (*((_WITH_UNIT,) if unit else ()), *((_SMALL, _SHOUTED) if near else ())):
                for match in matches_at(pattern, text, houses):
                    yield *match.span(), 0.85, "place.street", why
            for pattern, may in ((_ABROAD, _abroad(view)), (_UNIT_FIRST, unit), (_MILITARY, "po " in folded)):
                for match in pattern.finditer(text) if may else ():
                    yield *match.span(), 0.85, "place.street", why
            for match in _ALONE.finditer(text) if unit else ():
                yield *match.span(), 0.6, "place.unit", "an apartment or a suite"
            for match in _BOX.finditer(text) if "box" in folded else ():
                yield *match.span(), 0.93, "place.box", "a post-office box"
            for match in _COORDINATES.finditer(text) if _LONG_FRACTION.search(text) else ():
                yield *match.span(), 0.85, "place.coordinates", "latitude and longitude"
        for match in _CORNER.finditer(text) if "corner of" in folded else ():
            yield *match.span(), 0.8, "place.corner", "the corner of two streets"
        for match in _NAMED.finditer(text) if holds(text, _NAMED_ENDS) else ():
            first = match.group().split()[0].lower()
            if not self.vocabulary.is_function_word(first) or first in ("north", "south", "east", "west"):
                yield match.start(), self._with_town(text, match.end()), 0.7, "place.street", "a street by its name"

    def _lines(self, text: str, end: int) -> int:
        """Take further lines of an address: at most three short ones, of which the last names a state or a country."""
        match = _LINES.match(text, end)
        if match is None:
            return end
        last = match.group(1).lower()
        return match.end(1) if last in self.lexicon.regions or last in self.lexicon.towns else end

    def _is_street(self, text: str, match: re.Match[str]) -> bool:
        words = [word.strip(".'’-").lower() for word in match.group(1).split()]
        if any(
            (self.vocabulary.is_form_word(word) and word not in _IN_TOWNS) or self.lexicon.drug(word) for word in words
        ):
            return False
        if match.group(2) or _STRONG_AFTER.match(text, match.end()):
            return True
        named = self.vocabulary.kind(words[0]) in (SURE, LIKELY, UNKNOWN) or not self.lexicon.medical(words[0])
        before = _ANY_BEFORE.search(text, max(0, match.start() - 14), match.start()) is not None
        after = _ANY_AFTER.match(text, match.end()) is not None
        return named and before and (after or not all(word in self.lexicon.clinical for word in words))

    def _with_town(self, text: str, end: int) -> int:
        """Take the town that follows a street into the address."""
        match = _TOWN_AFTER.match(text, end)
        if match is None:
            return end
        town = match.group(1).lower().rstrip(".")
        known = town in self.lexicon.towns or town in self.lexicon.regions
        plain = all(self.vocabulary.is_form_word(word) for word in town.split())
        if known or STATE_AFTER.match(text, match.end()) or (not plain and _TOWN_ENDS.match(text, match.end())):
            return match.end()
        return end

    def with_state(self, text: str, end: int) -> tuple[int, tuple[int, int] | None]:
        """Where a place ends with ", NY" or ", Texas" behind it, and its postal code, which is a finding of its own."""
        sign = text[end : end + 1]
        if sign not in (",", "^") and not sign.isspace():
            return end, None
        match = STATE_AFTER.match(text, end)
        if match is not None and match.group(2).replace(".", "") in self.lexicon.state_codes:
            return (match.end(2), match.span(3)) if match.group(3) else (match.end(2), None)
        match = _SMALL_STATE.match(text, end)
        if match is not None and match.group(2).upper() in self.lexicon.state_codes:
            return match.end(2), match.span(3)
        match = _REGION_AFTER.match(text, end)
        if match is not None:
            words = match.group(1).lower()
            for name in (words, words.split()[0]):
                if name in self.lexicon.regions or name in ("new york", "washington"):
                    code = match.span(2) if match.group(2) and name == words else None
                    return match.start(1) + len(name), code
        match = _CODE_AFTER.match(text, end)
        return end, match.span(1) if match else None

    def state_follows(self, text: str, end: int, word: str) -> bool:
        """ ", NY" or ", Texas" behind a capital word; ", MD" is a degree behind a name."""
        if word in self.lexicon.towns and _CODE_AFTER.match(text, end):
            return True
        if text[end : end + 1] != ",":
            return False
        small = _SMALL_STATE.match(text, end)
        if small is not None and small.group(2).upper() in self.lexicon.state_codes:
            return True
        match = STATE_AFTER.match(text, end)
        if match is not None and match.group(2).replace(".", "") in self.lexicon.state_codes:
            code = match.group(2).replace(".", "")
            plain = match.group(3) or code not in _LOSSY_CODES
            return bool(plain) or (word in self.lexicon.towns and word not in self.lexicon.sure_given)
        match = _REGION_AFTER.match(text, end)
        if match is None or word in self.lexicon.sure_given or word in self.lexicon.states:
            return False
        words = match.group(1).lower()
        return words in self.lexicon.states or words.split()[0] in self.lexicon.states

    def is_plain(self, word: str) -> bool:
        return self.vocabulary.kind(word) == WORD


def _abroad(view: Words) -> bool:
    """Whether a street may be written as abroad: its kind first, or its number last."""
    text = view.text
    return holds(text, _ABROAD_STARTS) or any(
        text[at - 1 : at].isspace() and text[:at].rstrip().rstrip(".").endswith(_ABROAD_ENDS) for at in view.numbers
    )
