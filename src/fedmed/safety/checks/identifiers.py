"""What tells who a person is: found in questions, taken out of them, and not let out in answers.

normalise -> HERE -> rails.

A small set of its own for what people write into a question or a model might recite; names are found by the words
around them. Not covered: names without such words, descriptions that only one person fits.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from fedmed.safety.checks.case import Case
from fedmed.safety.checks.people import told_of
from fedmed.safety.literals import may_match
from fedmed.safety.normalise import normalise

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = (
    rf"(?:\d{{1,4}}[./ -]\d{{1,2}}[./ -]\d{{1,4}}|\d{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTH},? \d{{2,4}}|"
    rf"{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{2,4}}|(?:19|20)\d\d)"
)
_CODE = r"(?=[\w./ -]{0,12}\d)(?:[a-z]{1,4}[ .-]?)?[\w]*\d[\w./-]*(?: [\w-]*\d[\w-]*){0,4}"
_STREET = (
    r"(?:street|road|lane|avenue|ave|drive|gardens|court|terrace|boulevard|blvd|crescent|row|close|square|mews|"
    r"st\.?|rd\.?)"
)
_NO_NAME = (
    r"(?!(?:born|is|has|was|and|who|had|aged|lives|living|with|takes|asks|dob|mrn|ssn|passport|id|he|she|my|the|a|an|"
    r"of)\b)"
)
_NAME = rf"{_NO_NAME}[^\W\d_][\w.'’-]+(?: [^\W\d_]\.)?(?:,? {_NO_NAME}[^\W\d_][\w'’-]+){{1,2}}"

_BORN = r"(?:born|b\. ?|dob|d\.o\.b\.?|date of birth|birth ?date|birthday)[ :]{0,3}(?:is |on |in )?(?:the )?"
_NUMBERED = (
    r"(?:mrn|ssn|nhs|nhis|medicare|medicaid|cpf|rut|taj|cpr|nric|aadhaa?r|passport|codice fiscale|social security|"
    r"(?:patient|hospital|student|pupil|personal|identity|insurance|health|account|case|record|chart|file|reg(?:istration|\.)?|"
    r"licen[cs]e|membership|policy|sample|device|national|bed)(?: (?:plate|card|serial|holder))?)"
    r"(?: (?:id|no|nr|number|card|plate|serial|num))*[ .:#]{0,3}(?<!\w)"
)
_STRONG = {
    "a date of birth": rf"\b{_BORN}{_DATE}",
    "a record number": rf"\b{_NUMBERED}{_CODE}",
    "an identity number": (
        r"\b\d{3}-\d{2}-\d{4}\b|\b[a-z]{6}\d{2}[a-z]\d{2}[a-z]\d{3}[a-z]\b|\b\d{6}-\d{4,5}\b|"
        r"\b\d{3}\.\d{3}\.\d{3}-\d{2}\b|\b\d{1,2}\.\d{3}\.\d{3}-[\dk]\b"
    ),
}
_WEAK = {
    "an e-mail address": (
        r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b|\b(?:facebook|instagram|twitter|linkedin)[: ]+/?@?[\w.]{4,}"
    ),
    "a telephone number": (
        r"(?:\b(?:tel|phone|mob|mobile|cell|call|ring|whatsapp)\w*[ .:]{0,3})\+?\(?\d[\d ().-]{5,}\d|"
        r"(?<![\w.,/-])\+?\(?\d{2,5}\)?[ -]\d{3}[ -]?\d{3,4}(?:[ -]?\d{2,4})?(?![\w/-])|"
        r"(?<![\w.,/-])\d{3}-\d{4}(?![\w/-])|(?<![\w.,/-])\+\d{1,3}(?: \d{2,4}){3,5}(?![\w/-])|"
        r"(?<![\w.,/-])0\d{2,4} \d{3} ?\d{4}(?![\w/-])"
    ),
    "an address": (
        rf"\b\d{{1,4}}[a-z]? (?:[^\W\d_][\w'-]+ ){{1,3}}{_STREET}(?!\w)|"
        rf"\b[^\W\d_]+ {_STREET} \d{{1,4}}\b|\b[a-z]{{1,2}}\d{{1,2}} \d[a-z]{{2}}\b|"
        r"\b\w+(?:stra(?:ss|ß)e|str\.|gata|gade|gatan|vej|vagen|laan|straat) \d{1,4}\b|"
        r"\b(?:via|rue|calle) [\w ]{3,20} \d{1,4}\b|\b(?:living|lives|resides|live) (?:now )?at (?:the )?[\w ]{3,24}"
    ),
}
_FEWEST = {"a date of birth": 4, "a record number": 1, "an identity number": 9, "a telephone number": 7}  # digits
_PLACE = re.compile(
    r"street|road|\brd\b|lane|avenue|\bave\b|drive|garden|court|terrace|boulevard|blvd|crescent|row|close|square|mews|\bst\b|"
    r"str(?:\.|ass|aß|aat)|gat[ae]|vej|vag|laan|\bvia|\brue|calle|\bliv|resides|\d \d[a-z]{2}\b"
)
"""What some address begins or ends with: a cheap look before a dear search."""
_CUE = (
    r"(?:my name is|name is|full name|real name|name:?|named|file under|belongs to|account holder|implanted in|"
    r"(?:patient|pt|resident|client):?|biopsy of|mother of|father of|text for|au pair|our patient|case of|"
    r"family of|that of|"
    r"slot of|as given to|a lady in \w+,|(?:daughter|son|husband|wife|mother|father|grandma|"
    r"grandpa)(?= [a-z]+ [a-z]+(?:,| \()))"
)
_NAMED = {
    "a name": (
        rf"\b{_CUE}[ :]{{1,2}}{_NAME}|\b(?:mr|mrs|ms|miss|mister)\b\.? (?!men\b|woman\b){_NAME}|"
        r"\b(?:mr|mrs|ms|miss)\b\.? [^\W\d_][\w'’-]+"
    ),
}
_ALL = {
    kind: re.compile(pattern, re.IGNORECASE) for table in (_STRONG, _WEAK, _NAMED) for kind, pattern in table.items()
}
_TITLE_NAME = re.compile(r"\b(?:mr|mrs|ms|miss)\b\.? [^\W\d_]", re.IGNORECASE)
_CUED_NAME = re.compile(
    r"\b(?:my name is|full name|real name|our patient|file under|belongs to|account holder|implanted in|"
    r"name:?) [^\W\d_]",
    re.IGNORECASE,
)
_PERSON_NEAR = re.compile(
    r"\b(?:our patient|patients? (?:id|no|number)|aged? \d|was treated|who has it|she has|he has|his|her|"
    r"mother'?s|wife|husband|"
    r"daughter|next of kin|your donor|a lady|a man|in bed|mr|mrs|ms|now living|ring her|ring him|resident|"
    r"was born|takes|partner|in the case of|admitted|found by|family of|(?:for )?(?:example|instance)|formerly of|"
    r"[^\W\d_]+, \d{1,3}, (?:formerly )?(?:of|from)|thank you for seeing|girlfriend|boyfriend|colleague|carriers?)\b",
    re.IGNORECASE,
)
_OF_SOMEBODY = re.compile(
    r"^(?:passport|hospital|student|pupil|social security|ssn|mrn|nhs|insurance|personal|record|account|"
    r"file|licen[cs]e|member|"
    r"membership|policy|patient|medicare|medicaid)\b(?=.*\d)(?=(?:.*?\d){5})"
)
_INSTITUTION = re.compile(
    r"\b(?:foundation|institute|society|association|hotline|helpline|toll|free|center|centre|clearinghouse|information|"
    r"national|website|contact|visit|organi[sz]ation|clinic at|department|office|call|write|network|"
    r"support group|nih|cdc|agency)\b",
    re.IGNORECASE,
)


class Identifier(NamedTuple):
    """One identifier in a text: what it is and where it stands."""

    kind: str
    start: int
    end: int


def identifiers(text: str) -> list[Identifier]:
    """Everything in a text that may say who someone is, in order, without overlaps."""
    found = sorted(
        (
            Identifier(kind, match.start(), match.end())
            for kind, pattern in _ALL.items()
            for match in pattern.finditer(text)
        ),
        key=lambda item: (item.start, -item.end),
    )
    kept: list[Identifier] = []
    for item in found:
        if not kept or item.start >= kept[-1].end:
            kept.append(item)
    return kept


def in_question(case: Case) -> str | None:
    """Which kinds of identifier a question holds: a firm one, or a name that is announced as one."""
    found = [item.kind for item in identifiers(case.words.plain)]
    firm = [kind for kind in found if kind != "a name"]
    if firm or _TITLE_NAME.search(case.words.plain) or _CUED_NAME.search(case.words.plain):
        return ", ".join(dict.fromkeys(found))
    return None


def in_answer(case: Case) -> str | None:
    """Which kinds of identifier of a person an answer gives away; those of institutions may stand."""
    plain = case.words.plain
    digits = sum(map(len, re.findall(r"\d+", plain)))
    told: list[str] = []
    # Each on its own: a name that runs on into "date of birth" must not hide the date.
    found = (
        Identifier(kind, match.start(), match.end())
        for kind in (*_STRONG, *_WEAK)
        if digits >= _FEWEST.get(kind, 0)
        and may_match(_ALL[kind], plain)
        and (kind != "an address" or _PLACE.search(plain))
        for match in _ALL[kind].finditer(plain)
    )
    for item in found:
        around = plain[max(0, item.start - 120) : item.end + 120]
        institution = bool(_INSTITUTION.search(around))
        if item.kind == "a record number" and _OF_SOMEBODY.search(plain[item.start : item.end]) and not institution:
            told.append(item.kind)
        if (
            item.kind in _STRONG
            and (
                _PERSON_NEAR.search(around)
                or item.kind != "a record number"
                or re.search(r"\b(?:mrn|ssn|nhs no|patient)", around)
            )
        ) or (item.kind in _WEAK and _PERSON_NEAR.search(around) and not institution):
            told.append(item.kind)
    if not told and told_of(case.words):
        told.append("a name")
    return ", ".join(dict.fromkeys(told)) if told else None


def redact(text: str) -> str:
    """``text`` with every identifier replaced by what it was, e.g. ``[a date of birth]``."""
    # Hidden in look-alike letters, it is only found in the plain form, which then has to do.
    shown = text if identifiers(text) else normalise(text)
    for item in reversed(identifiers(shown)):
        shown = f"{shown[: item.start]}[{item.kind.removeprefix('a ').removeprefix('an ')}]{shown[item.end :]}"
    return shown
