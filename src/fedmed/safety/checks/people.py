"""Whether an answer tells of one person: a name, and what goes with names in records. words -> HERE -> identifiers.

Names are known by a list of given names, titles and what stands around them; capital letters decide nothing. Signs of a
person add up, as none of them is enough: a date, a number, a street, an age behind a comma, a ward and bed.
"""

from __future__ import annotations

import re
from functools import lru_cache

from fedmed.safety.checks.tables import FOLDER
from fedmed.safety.words import CLAUSE, COMMA, Words, listed

_ENOUGH = 3
_NEAR = 28  # words on either side of a name

_NO_SURNAME = listed(
    "disease diseases syndrome syndromes sign signs test tests score scale criteria classification method technique "
    "procedure operation manoeuvre maneuver phenomenon law triad tumor tumour cell cells body bodies reflex palsy and "
    "or the a an of in on at to for with from by is are was were has had have does did said says who whose which that "
    "as but so if not no can may will would should took takes cluster chart syndromic hospital clinic foundation "
    "institute school university college prize medal virus fracture contracture reaction stain type et al"
)
_EPONYMOUS = listed("disease syndrome syndromes sign test score scale criteria classification palsy law tumor tumour")
_TITLES = listed("mr mrs ms miss mister hr herr frau mme monsieur madame senor senora signor signora")
_OFFICES = listed("judge councillor councilor professor prof dr reverend captain")
_RECORDS = listed(
    "patient patients client participant sample specimen record records case donor resident member user student pupil "
    "chart notes file household family house home private slot list belongs account colleague manager teacher driver "
    "ring text"
)
_TOLD_OF = listed(
    "had has was is came went takes took lives lived born told asks asked said says treated admitted diagnosed aged "
    "who whose she he her his hers him married works worked lost died tested presented started received brought seen"
)
_KIN = listed(
    "wife husband partner daughter son mother father mum mom dad sister brother neighbour neighbor boss uncle aunt"
)
_HISTORY = listed(
    "described discovered invented named introduced pioneer pioneers physician surgeon scientist neurologist "
    "pathologist psychiatrist nobel century eponym coined devised developed published researcher researchers founded "
    "fictional character novel film president"
)
_PLACE_IN_HOSPITAL = re.compile(
    r"\b(?:ward|bed|bay|room|cubicle)s? (?:no\.? ?)?\d{1,3}[a-z]?\b|\b(?:ward|bed|bay) [a-z]\b"
)
_DAY_AND_MONTH = re.compile(
    r"\b\d{1,2}(?:st|nd|rd|th)?[ -](?:of )?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b|"
    r"\b(?:january|february|march|april|june|july|august|september|october|november|december) \d{1,2}\b|"
    r"\b\d{1,2}([./-])\d{1,2}\1(?:\d\d){1,2}\b|\b(?:19|20)\d\d-\d\d-\d\d\b"
)
_NUMBER = re.compile(
    r"(?<![\w.,/-])(?=[a-z0-9/-]*\d[a-z0-9/-]*\d[a-z0-9/-]*\d[a-z0-9/-]*\d)[a-z]{0,5}[/-]?\d[a-z0-9]*(?:[/-][a-z0-9]+)*"
    r"(?![\w%]|[.,]\d)|\b\d{3} \d{3} \d{3,4}\b"
)
_HANDLE = re.compile(r"(?<![\w.])@[a-z][\w.]{3,}|[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_HOUSE = re.compile(
    r"\b(?:at|of|to) (?:number|no\.?) \d{1,4}\b|"
    r"\b\d{1,4}[a-z]? (?:[a-z']+ ){1,2}(?:street|road|lane|"
    r"avenue|drive|gardens|court|terrace|crescent|row|close|square|mews|walk|way|hill|park|view|rise|place|grove|st|rd|ave)\b|"
    r"\bflat \d+\b|\b[a-z]{1,2}\d{1,2}[a-z]? \d[a-z]{2}\b"
)
_AGE = re.compile(r", ?\d{1,2}(?:,|\.|;|\)|$)|\baged? \d{1,2}\b|\(\d{1,2}\)|\byear \d{1,2}\b|\(b\.")
_YEARS = re.compile(r"(?:1[5-9]|20)\d\d")


@lru_cache(maxsize=1)
def given_names() -> frozenset[str]:
    """Given names, in small letters."""
    lines = (FOLDER / "given_names.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(name for line in lines if not line.startswith("#") for name in line.split())


def told_of(words: Words) -> bool:
    """Whether the signs of one person around some name are enough."""
    return any(_points(words, first, last, sure) >= _ENOUGH for first, last, sure in _names(words))


def _names(words: Words) -> list[tuple[int, int, bool]]:
    """Where a full name stands, and whether a title announces it."""
    known, tokens = given_names(), words.tokens
    found: list[tuple[int, int, bool]] = []
    signs = [token for token in words.spans if token in known or token in _TITLES or token in _OFFICES]
    places = {at for sign in signs for at in words.spans[sign]}
    for at in sorted(places | {at - 1 for at in places if at}):
        if at + 1 >= len(tokens):
            continue
        token, following = tokens[at], tokens[at + 1]
        if words.breaks[at + 1] > COMMA or not following[0].isalpha() or _EPONYMOUS & set(tokens[at + 1 : at + 5]):
            continue
        if following in _NO_SURNAME:
            continue
        if (
            token in _OFFICES
            and len(following) > 3
            and words.breaks[at + 2 : at + 3] != [COMMA]
            and _unlisted(following)
        ):
            found.append((at, at + 2, False))
        elif token in _TITLES and following not in ("men", "woman"):
            found.append((at, at + 2, token != "miss"))  # "tests miss some"
        elif token in known and len(following) > 2 and words.breaks[at + 1] < COMMA:
            found.append((at, at + 2, False))
        elif following in known and words.breaks[at + 1] == COMMA and len(token) > 3:
            found.append((at, at + 2, False))  # "Davenport, Cuthbert"
    return found


def _unlisted(word: str) -> bool:
    return word not in _TOLD_OF | _RECORDS | _KIN | _HISTORY


def _points(words: Words, first: int, last: int, titled: bool) -> int:
    low, high = max(0, first - _NEAR), min(len(words.tokens), last + _NEAR)
    if _HISTORY & set(words.tokens[max(0, first - 12) : last + 14]):
        return 0
    around = words.plain[words.starts[low] : words.ends[high - 1]]
    behind = words.plain[words.ends[last - 1] : words.ends[min(len(words.tokens), last + 6) - 1]]
    after = words.tokens[last : last + 7]
    near = set(words.tokens[max(0, first - 6) : last + 10])
    points = 1 + titled
    points += bool(_TOLD_OF & set(after)) and words.breaks[last] < CLAUSE if last < len(words.tokens) else 0
    points += bool(_KIN & near) + bool(_RECORDS & near)
    points += bool(_AGE.match(behind.strip()) or _AGE.search(behind))
    points += bool(_DAY_AND_MONTH.search(around))
    points += any(not _YEARS.fullmatch(match.group()) for match in _NUMBER.finditer(around))
    points += 2 * bool(_HANDLE.search(around))
    points += 2 * bool(_HOUSE.search(around))
    points += bool(_PLACE_IN_HOSPITAL.search(around))
    return points
