"""Tables inside a text: rows parted by bars, tabs or commas under a header that says what stands in each column."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fedmed.data.deidentify.ages import OVER
from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.vocabulary import Vocabulary
from fedmed.data.deidentify.words import Words

_HEADERS = {
    "NAME": "name|patient|pt|patient name|full name|surname|last name|first name|given name|forename|consultant|doctor"
    "|dr|physician|provider|attending|nurse|rn|pcp|gp|clinician|referrer|carer|next of kin|nok|contact|seen by|author"
    "|surgeon|key worker|midwife|requested by|guardian|spouse|relative|reviewer|resident",
    "LOCATION": "city|town|address|street|county|hospital|facility|clinic|village|place of birth|site",
    "ZIP": "zip|zip code|postcode|postal code|zipcode",
    "MRN": "mrn|hospital no|hosp no|record|record no|chart|chart no|nhs no|nhs|patient id|id|unit no|medical record",
    "PHONE": "phone|tel|mobile|telephone|cell|contact no",
    "UNIQUE_CODE": "bed|room|specimen|accession|study id|sample|case no|visit",
    "AGE_OVER_89": "age|age (y)|age (yrs)|age/sex|years",
}
KINDS = frozenset(_HEADERS)
_KIND_OF = {header: kind for kind, headers in _HEADERS.items() for header in headers.split("|")}
_SIGNS = ("|", "\t", ",", ";")
_CELL = {sign: re.compile(rf'[ \t]*(?:"([^"\n]*)"|([^{re.escape(sign)}\n]*))') for sign in _SIGNS}
_AGE = re.compile(r"(\d{2,3})\s*[A-Za-z]?")
_EMPTY = frozenset(["", "-", "–", "n/a", "na", "none", "unknown", "nil", "?", "pending", "tbc", "vacant"])
_LONGEST_NAME = 5
"""A longer cell is prose."""


def find(view: Words, vocabulary: Vocabulary) -> Iterator[Finding]:
    """What stands under a header that names people, places, ages over 89 or numbers of theirs."""
    text = view.text
    if text.count("\n") == 0:
        return
    columns: list[str | None] = []
    sign, at = "", 0
    for line in text.split("\n"):
        cells = list(_cells(line, sign, at)) if sign else []
        if sign and len(cells) == len(columns):
            for kind, (start, end) in zip(columns, cells, strict=True):
                if kind is not None:
                    yield from _cell(text, start, end, kind, vocabulary)
        else:
            sign, columns = _header(line)
        at += len(line) + 1


def _header(line: str) -> tuple[str, list[str | None]]:
    """The sign that parts the cells of a header and the type of each column; no sign: the line is no header."""
    for sign in _SIGNS:
        if line.count(sign) > 1:
            names = [line[start:end].strip(" :*_").lower() for start, end in _cells(line, sign, 0)]
            kinds = [_KIND_OF.get(name) for name in names]
            if sum(kind is not None for kind in kinds) > 1 and 2 * sum(map(bool, kinds)) >= len(kinds) - 1:
                return sign, kinds
    return "", []


def _cells(line: str, sign: str, at: int) -> Iterator[tuple[int, int]]:
    """Where each cell of a line begins and ends, without quotes and space around it; ``at`` is the line's place."""
    place = 0
    while place <= len(line):
        match = _CELL[sign].match(line, place)
        if match is None:
            return
        start, end = match.span(1) if match.group(1) is not None else match.span(2)
        end = start + len(line[start:end].rstrip())
        yield at + start, at + end
        following = line.find(sign, match.end())
        if following < 0:
            return
        place = following + 1


def _cell(text: str, start: int, end: int, kind: str, vocabulary: Vocabulary) -> Iterator[Finding]:
    value = text[start:end]
    if value.lower() in _EMPTY:
        return
    if kind == "AGE_OVER_89":
        match = _AGE.match(value)
        if match is None or int(match.group(1)) <= OVER:
            return
        end = start + match.end(1)
    elif kind in ("NAME", "LOCATION"):
        words = [word.strip(".,()").lower() for word in value.split()]
        lexicon = vocabulary.lexicon
        plain = all(
            lexicon.known(word) and word not in lexicon.surnames and word not in lexicon.given for word in words
        )
        if not any(map(str.isalpha, value)) or (kind == "NAME" and (plain or len(words) > _LONGEST_NAME)):
            return
    elif not any(map(str.isdigit, value)):
        return
    yield Finding(start, end, kind, 0.83, "table.column", "stands under a header that says what it is")
