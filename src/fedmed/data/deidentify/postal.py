"""Postal codes that need no place before them; those behind a town or a street are found with it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.scanning import holds, matches_at
from fedmed.data.deidentify.words import Words

_LABELLED = re.compile(
    r"(?i)\b(?:zip(?:\s?code)?|postal(?:\s?code)?|postcode)\b[\"']?\s*(?:\+\s?4)?\s*(?:is|was|:|=|of|\(|-)?\s*[\"']?"
    r"(\d{5}(?:[-\s]\d{4})?|\d{3}(?:\*\*|xx)|[A-Z]\d[A-Z]\s?\d[A-Z]\d|[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}"
    r"|\d{4}\s?[A-Z]{2}|\d{3,6})\b"
)
_FIVE = re.compile(r"\d(?<!\w\d)\d{4}(?!\w)")
_FOUR = re.compile(r"(?<![\w#-])\d{5}-\d{4}(?![\w-])")
_BARE = re.compile(r"(?<![\w.,#$-])\d{5}(?![\w%-]|[.,]\d)")
_BARE_BEFORE = re.compile(
    r"(?i)\b(?:in|near|from|area|zip code|area code|live[sd]?|resid\w+|moved|within|neighborhood|zip)\b[^.\d]{0,18}$"
)
_POSTCODE = re.compile(
    r"(?<![\w-])(?:[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2}"
    r"|[ABCEGHJ-NPRSTVXY]\d[A-Z]\s\d[A-Z]\d)(?![\w-])"
)
_POSTCODE_SMALL = re.compile(r"(?<![\w-])[a-z]{1,2}\d[a-z\d]?\s\d[a-z]{2}(?![\w-])")
_PLACE_BEFORE = re.compile(
    r"(?:(?i:\b(?:catchment|postal|mailing|address|area|district|neighbou?rhood|resid\w+|lives?|living|lived"
    r"|(?:patients|comes|came|drives|travels)\s+from)\b)"
    r"[^.\d\n]{0,24}(?:\d{5}(?:-\d{4})?\s*(?:,|and|or|to|&)\s*)?"
    r"|(?i:\b(?:home|in|of|near|at)) (?:[A-ZÀ-Þ][\w'’.-]+ ){1,3})$"
)


def find(view: Words, assigned: frozenset[str]) -> Iterator[Finding]:
    """Postal codes; ``assigned`` are the ZIP codes that there are."""
    text, folded = view.text, view.folded
    for match in _LABELLED.finditer(text) if holds(folded, ("zip", "postal", "postcode")) else ():
        yield Finding(*match.span(1), "ZIP", 0.96, "zip.label", "a postal code after its label")
    fives = [match.start() for match in _FIVE.finditer(text)]
    for match in matches_at(_FOUR, text, fives):
        yield Finding(*match.span(), "ZIP", 0.8, "zip.four", "a ZIP code with four more digits")
    for match in matches_at(_BARE, text, fives):
        begin = max(0, match.start() - 40)
        near = match.group() in assigned and _BARE_BEFORE.search(text, begin, match.start())
        if near or _PLACE_BEFORE.search(text, begin, match.start()) or _alone(text, match):
            yield Finding(*match.span(), "ZIP", 0.65, "zip.bare", "a ZIP code where a place is spoken of")
    for pattern in (_POSTCODE, _POSTCODE_SMALL):
        for match in matches_at(pattern, text, view.codes):
            yield Finding(*match.span(), "ZIP", 0.6, "zip.abroad", "built as a postal code")


def _alone(text: str, match: re.Match[str]) -> bool:
    """Whether a number is all that stands between two bars."""
    before, after = text[: match.start()].rstrip(' \t"'), text[match.end() : match.end() + 3].lstrip(' \t"')
    return before[-1:] == "|" and after[:1] in ("|", "\n", "")
