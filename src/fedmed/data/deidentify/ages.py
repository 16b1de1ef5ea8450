"""Ages over 89, in digits and in words, and birth years that tell one; a part of ``dates``."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.scanning import holds, matches_at, words_before
from fedmed.data.deidentify.words import Words

_TENS = r"(?i:ninety|one[\s-]hundred(?:[\s-]and)?|a[\s-]hundred(?:[\s-]and)?)"
_ONES = r"(?i:[\s-](?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve))?"
_OLD = r"(?:9\d|1[0-3]\d)"
_AGE_UNIT = (
    r"(?i:[\s-]*(?:years?|yrs?\.?|y\.?)(?:[\s-]*(?:old|o\b\.?|of[\s-]age))?|\s*/?\s*y\s*/?\s*o\b|\s?yo\b|\s?y/o\b"
    r"|(?:th|st|nd|rd)[\s-]+birthday\b)"
)
_OLD_NEAR = re.compile(r"[19](?<!\d[19])(?:(?<=9)\d|(?<=1)[0-3]\d)(?!\d)")
_AGE_WITH_UNIT = re.compile(rf"(?<![\w.,/$-])({_OLD}){_AGE_UNIT}(?![a-z])")
_AGE_OF = re.compile(
    rf"(?<![\w.,/$-])({_OLD})(?=\s?[MF]\b|[\s-]+(?i:male|female|man|woman|gentleman|lady|nonagenarian|centenarian)\b)"
)
_AGES_AFTER = (
    re.compile(rf"(?i:\b(?:aged?|age of|age is|age was|age at [a-z]+|turn(?:ed|ing|s)|age)\b\s*[:=(]?\s*(?:of\s+"
        rf"|is\s+|was\s+)?)({_OLD})(?![\w%/]|\.\d|-\d)"),
    re.compile(rf"(?i:\b(?:he|she|patient|pt|who|mother|father|grandmother|grandfather)\s*(?:is|was|'s|’s"
        rf"|,)\s*(?:now\s+|already\s+)?)({_OLD})(?=[\s.,;)]|$)(?!\s*(?:%|kg|mg|lb|cm|bpm|mm|in\b|percent|pounds"
        rf"|units|and\s+\d))"),
    re.compile(rf"\b[Aa]t ({_OLD})(?=,? (?:the|she|he|they|her|his|you|a|it|one|we)\b)"),
)  # fmt: skip
"""They begin with a word, at most five words before the age."""
_AGE_IN_BRACKETS = re.compile(rf"[A-Za-zÀ-ÿ]\.? \(({_OLD})\)")
_AGE_IN_COMMAS = re.compile(rf"[A-ZÀ-Þ][a-zà-ÿ]+, ({_OLD})(?=,)")
_TENS_OF_YEARS = re.compile(rf"\b({_TENS}{_ONES})[\s-]*(?:years?|yrs?)[\s-]*(?:old|of age)?\b")
_AGES_IN_WORDS = (
    (_TENS_OF_YEARS, ("ninet", "hundred")),
    (re.compile(rf"(?i:\b(?:aged?|age of|turn(?:ed|ing|s))\s+)({_TENS}{_ONES})\b"), ("ninet", "hundred")),
    (re.compile(r"\b(?i:in (?:his|her|their)\s+(?:(?:early|mid|late)[\s-]+)?)((?i:nineties)|90['’]?s|100s)\b"),
        ("nineties", "90s", "90's", "90’s", "100s")),
    (re.compile(r"\b((?i:nonagenarian|centenarian|supercentenarian))\b"), ("genarian", "centenar")),
    (re.compile(r"\b((?i:ninety)[- ](?i:one|two|three|four|five|six|seven|eight|nine)"
        r"|(?i:one hundred and)(?i: (?:one|two|three|four|five|six|seven|eight|nine|ten|eleven"
        r"|twelve)))\b(?!\s*(?i:percent|per cent|mg|ml|days|minutes|units|%|patients|hours))"), ("ninet", "hundred")),
)  # fmt: skip
"""And what the text in small letters must hold for each."""
_BIRTH_YEAR = re.compile(
    r"(?i:\b(?:born(?:\s+in)?|birth year|year of birth|yob|b\.|birthdate|dob)\b\s*[:=]?\s*(?:in\s+|is\s+"
    r"|was\s+)?)((?:18|19|20)\d\d)\b(?![-/.]\d)"
)
_BIRTH_NEAR = ("born", "birth", "yob", "dob", "b.1", "b.2", "b.i", "b.w")
_RANGE = re.compile(
    r"(?i)(?:between|from|ages?|to|[-–>≥<≤]|over|under|above|below|than|up to|older|percent|\d\s*(?:-|–|to|or"
    r"|and))\s*$"
)
_TOLD_BEFORE = re.compile(
    r"\b(?:(?:great[- ])?(?:grand)?(?:father|mother|dad|mum|mom|ma|pa)|aunt|uncle|sister|brother|wife|husband|spouse"
    r"|gran|granny|grandma|grandpa|(?:lived|lives|survived|living|live)\s+(?:on\s+)?(?:to|until|till|past)(?:\s+be)?"
    r"|(?:died|dies|dead|death|deceased|passed(?:\s+away)?|passing|alive(?:\s+and\s+well)?|living|widowed|well)"
    r"(?:\s+(?:at|aged))?|d\.|made\s+it\s+to|reached|now\s+aged)\s*[(,:]?\s*$"
)
_IS_BEFORE = re.compile(r"\b([^\W\d_]+)\s+(?:is|was|'s|’s)\s+(?:now\s+|already\s+|nearly\s+|almost\s+)?$")
_IS_AFTER = re.compile(
    r"\s+(?:and|but)\s+(?:she|he|has|lives|still|very|is|was|frail|his|her|they|we|i|in|can|does|not|quite|fit|on\s+no)\b"
    r"|,?\s+(?:next|this)\s+(?:month|week|year|birthday)\b"
)
_COMMA_BEFORE = re.compile(r"[a-zà-ÿ]\.?,\s+(?:now\s+|aged\s+)?$")
_COMMA_AFTER = re.compile(
    r"[,;]\s+(?:an?\s|passed|died|lives|living|lived|was|who|is|has|had|admitted|present|brought|came|retired|widow"
    r"|fell|fall|collapse|of\s|from\s|known|seen|independent|frail)"
)
_NO_AGE_AFTER = re.compile(
    r"\s*(?:%|/|°|-\d|\.\d|(?:mg|mcg|kg|g|lbs?|ml|l|cm|mm|m|bpm|units?|u|percent|pounds|degrees|beats|on\s+(?:air|room|ra|\d)"
    r"|hours?|hrs?|days?|weeks?|months?|minutes?|mins?|times|points?|patients?|steps?|feet|miles)\b)"
)
_MEASURED = frozenset(
    [
        "sat", "sats", "saturation", "saturations", "spo", "oxygen", "pulse", "rate", "hr", "bp", "systolic", "temp",
        "temperature", "weight", "height", "glucose", "sugar", "bm", "hemoglobin", "haemoglobin", "sodium", "chloride",
        "level", "score", "total", "count", "iq", "map", "ldl", "hdl", "cholesterol", "mcv", "dose", "value", "result",
        "pressure", "platelets", "creatinine", "interval", "number", "it", "that", "which", "range", "median", "mean",
    ]
)  # fmt: skip
"""Before "is 97" they tell of no age."""
_WORDS_TOLD = re.compile(
    rf"\b(?:is|was|at|be|to|reached|died|alive|past|almost|nearly)\s+({_TENS}{_ONES})\b|\(({_TENS}{_ONES})\)|,\s({_TENS}{_ONES}),"
)
_NO_AGE_WORD_AFTER = re.compile(
    r"[\s-]*(?:percent|per\s+cent|m[cgl]|mcg|g\b|days?|minutes?|mins?|units?|%|patients?|hours?|degrees?|seconds?|times"
    r"|dollars|pounds|to\b|or\b|feet|metres|meters|beats|steps|first|second|third|people|cases|weeks|months|meetings)"
)
OVER = 89


def find(view: Words, year: int | None = None) -> Iterator[Finding]:
    """Ages over 89, and birth years that tell one.

    Args:
        year: the present year, for birth years; None: by the clock.
    """
    text, small = view.text, view.folded
    year = year or datetime.date.today().year
    for start, end in (*_ages_in_digits(text, small), *_ages_in_words(text, small)):
        yield Finding(start, end, "AGE_OVER_89", 0.95, "age.over_89", "an age over 89")
    for match in _BIRTH_YEAR.finditer(text) if holds(small, _BIRTH_NEAR) else ():
        if int(match.group(1)) < year - OVER:
            yield Finding(
                *match.span(1), "AGE_OVER_89", 0.9, "age.birth_year", "a birth year that tells an age over 89"
            )


def _ages_in_digits(text: str, small: str) -> Iterator[tuple[int, int]]:
    for near in _OLD_NEAR.finditer(text):
        at = near.start()
        if (match := _AGE_WITH_UNIT.match(text, at)) and not _in_range(text, at):
            yield match.span(1)
        if match := _AGE_OF.match(text, at):
            yield match.span(1)
        if _is_told(small, at, near.end()):
            yield near.span()
        if text[at - 1 : at] == "(":
            yield from (match.span(1) for match in matches_at(_AGE_IN_BRACKETS, text, (max(0, at - 4), max(0, at - 3))))
        for start in words_before(text, at, 5, "'’,:=("):
            for pattern in _AGES_AFTER:
                if match := pattern.match(text, start):
                    yield match.span(1)
            if match := _AGE_IN_COMMAS.search(text, start, near.end() + 1):
                yield match.span(1)


def _ages_in_words(text: str, small: str) -> Iterator[tuple[int, int]]:
    for pattern, near in _AGES_IN_WORDS:
        for match in pattern.finditer(text) if holds(small, near) else ():
            if pattern is not _TENS_OF_YEARS or not _in_range(text, match.start()):
                yield match.span(1)
    for match in _WORDS_TOLD.finditer(text) if holds(small, ("ninet", "hundred")) else ():
        span = match.span(match.lastindex or 0)
        if not _NO_AGE_WORD_AFTER.match(small, span[1]):
            yield span


def _is_told(small: str, start: int, end: int) -> bool:
    """Whether what stands around a number, in small letters, makes it an age: "lived to 97", "mom is 93 and she"."""
    if _NO_AGE_AFTER.match(small, end) or small[start - 1 : start] not in (" ", "(", "\n", ":", ","):
        return False
    begin = max(0, start - 36)
    before = small[begin:start]
    if _TOLD_BEFORE.search(before):
        return True
    if _COMMA_BEFORE.search(before) and _COMMA_AFTER.match(small, end):
        return True
    told = _IS_BEFORE.search(before)
    return told is not None and told.group(1) not in _MEASURED and _IS_AFTER.match(small, end) is not None


def _in_range(text: str, start: int) -> bool:
    """Whether a number before, or a word, makes an age one end of a range: "80 to 95 years"."""
    return _RANGE.search(text[max(0, start - 14) : start]) is not None
