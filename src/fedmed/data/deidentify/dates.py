"""Dates, all but the year alone, and ages over 89.

Safe Harbor: "all elements of dates (except year) … and all ages over 89 and all elements of dates (including year)
indicative of such age" (45 CFR 164.514(b)(2)(i)(C)).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fedmed.data.deidentify import ages
from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.scanning import holds, matches_at, words_before
from fedmed.data.deidentify.words import Words

_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)"
)
_MONTH_ANY = (
    rf"(?:{_MONTH}|MAR(?:CH)?|MAY|(?i:january|february|march(?=\s+(?:the\s+)?\d)"
    rf"|may(?=\s+(?:the\s+)?\d{{1,2}}(?:st|nd|rd|th|,|\s+\d{{4}}))"
    r"|april|june|july|august|september|october|november|december|jan|feb|apr|jun|jul|aug|sept?|oct|nov|dec))"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_ORDINAL = r"(?i:st|nd|rd|th)"
_YEAR = r"(?:(?:1[89]|20)\d\d|['’]\d\d)"
_CLOCK = (
    r"(?:(?:,?\s*(?:at|@)?\s*|T)(?:[01]?\d"
    r"|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?:\s?[AaPp]\.?[Mm]\b\.?)?(?:Z|[+-]\d\d:?\d\d)?)?"
)
_WEEKDAY = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?"
_SHORT_WEEKDAY = r"(?:Mon|Tue|Tues|Wed|Thu|Thur|Thurs|Fri|Sat|Sun)\.?"
_SPELLED = (
    r"(?:(?:twenty|thirty)[- ])?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)|tenth|eleventh"
    r"|twelfth|thirteenth|"
    r"fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth"
)

_WRITTEN = re.compile(
    rf"\b(?:(?i:{_WEEKDAY}|{_SHORT_WEEKDAY}),?\s+)?(?:"
    rf"{_MONTH_ANY}\.?[\s\-]*(?i:the\s+)?{_DAY}{_ORDINAL}?\b(?:\s*(?:-|–|to|through|and"
    rf"|&)\s*(?:{_MONTH_ANY}\.?\s*)?{_DAY}{_ORDINAL}?\b)?(?:[\s,\-]*(?i:of\s+)?{_YEAR}\b)?"
    rf"|{_MONTH_ANY}\.?\s+(?i:the\s+)?(?i:{_SPELLED})\b(?:[\s,]*{_YEAR}\b)?"
    rf"|(?i:the\s+)?{_DAY}{_ORDINAL}?(?:\s*(?:-|–|to|and|&)\s*{_DAY}{_ORDINAL}?)?(?:\s+(?i:day\s+)?(?i:of\s+)?"
    rf"|[\s\-./]+){_MONTH_ANY}\b\.?(?:[\s,\-./]*(?i:of\s+)?(?:{_YEAR}|\d\d)\b)?"
    rf"|(?i:the\s+)?(?i:{_SPELLED})\s+(?i:day\s+)?(?i:of\s+)?{_MONTH}\b(?:[\s,]*{_YEAR}\b)?"
    rf"|(?i:(?:early|mid|late)[\s\-]+)?{_MONTH_ANY}\.?[\s,\-/]*(?i:of\s+)?{_YEAR}\b"
    rf"){_CLOCK}"
)  # fmt: skip
_COMPACT = re.compile(
    r"(?i)(?<!\w)\d{1,2}(?:jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)[a-z]*(?:19|20)?\d\d(?!\w)"
)
_SENTENCE_MAY = re.compile(r"\d{1,2}\.\s+(?:May|March)$")
_VERB_AFTER = re.compile(r"\s+[a-z]")
_MONTH_NEAR = re.compile(r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)(?<![a-z]...)")
"""Of the text in small letters."""
_START = re.compile(r"[adefjlmnostwADEFJLMNOSTW\d](?<!\w.)")
"""What a written date begins with: a month, a day, a weekday, "the", "early" …"""
_NUMERIC = re.compile(
    rf"(?<![\w./\-])(?:"
    rf"(?:1[89]|20)\d\d([-/.])(?:0?[1-9]|1[0-2])\1{_DAY}(?!\d){_CLOCK}"
    rf"|{_DAY}([-/.]){_DAY}\2(?:(?:1[89]|20)\d\d|\d\d)(?!\d){_CLOCK}"
    rf"|(?:1[89]|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:T?\d{{4,6}})?(?:[+-]\d{{4}})?"
    rf"|(?:0?[1-9]|1[0-2])/(?:1[89]|20)\d\d"
    rf"|(?:1[89]|20)\d\d[-/](?:0[1-9]|1[0-2])"
    rf")(?![\w/]|[-.]\d)"
)  # fmt: skip
_SHORT = re.compile(rf"(?<![\w./\-+±])({_DAY})/({_DAY})(?![\w/%]|[-.]\d)")
_SHORT_RANGE = re.compile(
    rf"(?<![\w./\-]){_DAY}/{_DAY}(?:\s?(?:-|–|to)\s?){_DAY}/{_DAY}(?:/(?:(?:19|20)\d\d|\d\d))?(?![\w/%]|[-.]\d)"
)
_MEASURE_BEFORE = re.compile(
    r"(?i)(?:\b(?:pain|bp|va|vision|acuity|snellen|o[dsu]|grade|strength|power|reflex\w*|scores?|scale|gcs"
    r"|apgars?|ratio|murmur|mmse|moca|nrs|vas|"
    r"epworth|phq\S*|gad\S*|iop|barthel|tinetti|for|x|in|of|at rest|moving|[lr]|right|left|ees|hcg|steps?|nodes?"
    r"|ln|cores?|sets?|doses?|items?|criteria|points?|e/a)|[=:])\s*(?:is|was|of|=|:)?\s*$"
)
_SPAN_BEFORE = re.compile(
    r"(?i)\b(?:last|past|next|for|in|every|x|after|of)\s+(?:the\s+)?(?:last\s+|past\s+|next\s+)?$"
)
_WEEKDAY_SHORT = re.compile(rf"\b(?i:{_WEEKDAY}|{_SHORT_WEEKDAY}),?\s+{_DAY}/{_DAY}(?![\w/])")
_SHORT_BEFORE = re.compile(
    r"(?i)(?:\b(?:on|dated?|since|until|till|from|by|dob|born|seen|visit|admitted|discharged|admission|discharge"
    r"|surgery|due|last|next|before|after|"
    r"started|stopped|day|days|change|changed|cx|cultures?|log|labs|window|repeat|recheck|sent|back|review"
    r"|clinic|written|done|seen|call(?:ed)?|given|taken|removed|placed|insert\w*|scan|mri|ct|us|xr|x-ray|fall"
    r"|fell|injury|foosh|leaving|returning|arriving|appointment|appt|f/u|follow[- ]?up|drawn|collected|signed"
    r"|between|through|thru|to|and|week of|as of)\b[:,]?)\s*$"
)
_NOT_A_DATE_AFTER = re.compile(
    r"(?i)\s*(?:mm ?hg|strength|pain|on the|out of|power|scale|murmur|points?|stars?|of|systolic|pulses|reflex"
    r"|edema|mg|ml|cm|mm|score)"
)
_MONTH_ALONE = re.compile(
    rf"\b((?i:in|since|last|this|next|until|till|by|early|late|mid|mid-|of|during|from|through|to|before|after"
    rf"|every|between|around|"
    rf"beginning|end|start|and|or|past|previous|for|on)[\s\-]+)({_MONTH}|(?i:january|february|april|june|july"
    rf"|august|september|october|november|december))\b\.?(?!\s+(?:\d|[A-Z][a-z]|van\b|von\b|de\b|be\b|have\b"
    rf"|not\b|cause\b|include\b))"
)
_MONTH_SURE = re.compile(
    r"\b(?:January|February|April|June|July|August|September|October|November|December)\b(?!\s+[A-Z][a-z])"
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DAY_ALONE = re.compile(rf"\b(?:(?i:last|next|this)\s+)?(?:{_WEEKDAY})\b")
_DAY_OF_MONTH = re.compile(
    rf"(?i)\bon the ({_DAY}{_ORDINAL})\b(?!\s+(?:day|postop|hospital|of\s+(?:life|admission)|attempt|week|visit))"
)
_HOLIDAY = re.compile(
    r"\b(?:Christmas(?:\s+(?:Eve|Day))?|Thanksgiving(?:\s+Day)?|New\s+Year['’]?s?(?:\s+(?:Eve|Day))"
    r"|Easter(?:\s+(?:Sunday|Monday))?|Halloween|"
    r"Labor\s+Day|Memorial\s+Day|Independence\s+Day|Fourth\s+of\s+July|4th\s+of\s+July|Valentine['’]?s\s+Day"
    r"|Mother['’]?s\s+Day|"
    r"Father['’]?s\s+Day|Veterans\s+Day|Columbus\s+Day|Presidents['’]?\s+Day|St\.?\s+Patrick['’]?s\s+Day"
    r"|Boxing\s+Day|Diwali|Eid(?:\s+al-\w+)?|Ramadan|Hanukkah|Chanukah|Yom\s+Kippur|Rosh\s+Hashanah|Passover"
    r"|Lunar\s+New\s+Year|Chinese\s+New\s+Year|Tết?|Bastille\s+Day|Cinco\s+de\s+Mayo|Juneteenth|Mardi\s+Gras"
    r"|Ash\s+Wednesday|Epiphany|Holi|Kwanzaa|Bank\s+Holiday|Canada\s+Day|Australia\s+Day|Groundhog\s+Day"
    r"|Good\s+Friday)(?:[,\s]+(?:of\s+)?(?:19|20)\d\d)?\b"
    r"(?!\s+(?:disease|factor))"
)
_HOLIDAY_START = re.compile(
    "Christmas|Thanksgiving|New|Easter|Halloween|Labor|Memorial|Independence|Fourth|4th|Valentine|Mother|Father|Veterans"
    "|Columbus|Presidents|St|Boxing|Diwali|Eid|Ramadan|Hanukkah|Chanukah|Yom|Rosh|Passover|Lunar|Chinese|Tế|Bastille"
    "|Cinco|Juneteenth|Mardi|Ash|Epiphany|Holi|Kwanzaa|Bank|Canada|Australia|Groundhog|Good"
)


def find(view: Words, year: int | None = None) -> Iterator[Finding]:
    """All dates and high ages; ``year`` is the present one (``ages.find``)."""
    text, small, numbers = view.text, view.folded, view.numbers
    months = [match.start() for match in _MONTH_NEAR.finditer(small)]
    yield from ages.find(view, year)
    yield from _written(text, months)
    for match in matches_at(_NUMERIC, text, numbers):
        yield Finding(*match.span(), "DATE", 0.94, "date.numeric", "numbers written as a date")
    yield from _short(text, [at for at in numbers if "/" in text[at + 1 : at + 3]])
    for match in matches_at(_DAY_OF_MONTH, text, [at - 7 for at in numbers if small[max(0, at - 7) : at] == "on the "]):
        yield Finding(*match.span(1), "DATE", 0.7, "date.day", "a day of the month after 'on the'")
    yield from _with_month(text, months)
    for match in _DAY_ALONE.finditer(text) if holds(text, _DAYS) else ():
        yield Finding(*match.span(), "DATE", 0.6, "date.weekday", "a day of the week")
    for match in matches_at(_HOLIDAY, text, (start.start() for start in _HOLIDAY_START.finditer(text))):
        yield Finding(*match.span(), "DATE", 0.65, "date.holiday", "a day of the year by its name")


def _with_month(text: str, months: list[int]) -> Iterator[Finding]:
    """Months without a day, and days that no space parts from their month."""
    for match in matches_at(_COMPACT, text, (at for month in months for at in (month - 2, month - 1) if at >= 0)):
        yield Finding(*match.span(), "DATE", 0.95, "date.written", "a day, a month and a year without a space")
    for match in matches_at(_MONTH_ALONE, text, (at for month in months for at in words_before(text, month, 1, "-"))):
        yield Finding(*match.span(2), "DATE", 0.75, "date.month", "a month after a word of time")
    for match in matches_at(_MONTH_SURE, text, months):
        yield Finding(*match.span(), "DATE", 0.6, "date.month", "the name of a month")


def _short(text: str, slashes: list[int]) -> Iterator[Finding]:
    """Days and months without a year; ``slashes`` are numbers with a slash behind them."""
    for match in matches_at(_SHORT, text, slashes):
        if _is_short_date(text, match):
            yield Finding(*match.span(), "DATE", 0.75, "date.short", "month and day where a date is said to follow")
    days = (at for slash in slashes for at in words_before(text, slash, 1, ".,"))
    for match in matches_at(_WEEKDAY_SHORT, text, days):
        yield Finding(*match.span(), "DATE", 0.9, "date.short", "a weekday, day and month")
    for match in matches_at(_SHORT_RANGE, text, slashes):
        yield Finding(*match.span(), "DATE", 0.8, "date.range", "two dates without years")


def _is_short_date(text: str, match: re.Match[str]) -> bool:
    """Whether two small numbers are day and month: "25/5" and "07/11"; "8/10" only after a word of time."""
    first, second = int(match.group(1)), int(match.group(2))
    padded = match.group(1).startswith("0") or match.group(2).startswith("0")
    if second in (7, 12, 52) and not padded and _SPAN_BEFORE.search(text, max(0, match.start() - 16), match.start()):
        return False  # "in 6/12", "for 5/7": months, days
    if min(first, second) > 12 or _NOT_A_DATE_AFTER.match(text, match.end()):
        return False
    start = max(0, match.start() - 20)
    if _SHORT_BEFORE.search(text, start, match.start()):
        return True
    if _MEASURE_BEFORE.search(text, start, match.start()):
        return False
    return padded or (max(first, second) > 12 and second not in (15, 20, 24, 25, 30))


def _written(text: str, months: list[int]) -> Iterator[Finding]:
    """Dates with a month's name; the long pattern is tried at the few words before one."""
    last = 0
    for month in months:
        if month + 3 <= last:
            continue
        end = min(len(text), month + 63)
        starts = (start.start() for start in _START.finditer(text, max(last, month - 36), month + 1))
        match = next((found for start in starts if (found := _WRITTEN.match(text, start, end))), None)
        if match is not None and match.end() > month:
            if _SENTENCE_MAY.match(text, match.start(), match.end()) and _VERB_AFTER.match(text, match.end()):
                continue
            last = match.end()
            yield Finding(*match.span(), "DATE", 0.97, "date.written", "a month with a day or a year")
