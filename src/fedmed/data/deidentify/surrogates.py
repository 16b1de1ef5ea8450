"""Stand-ins that keep a record readable: the same person stays one person, dates keep their distances.

All are drawn from a key: a record's own for names and numbers, the patient's for the date offset, so that two notes of
one patient stay in order. Whoever has the key can make the same ones; without it nothing leads back.
"""

from __future__ import annotations

import datetime
import functools
import hmac
import re
from collections.abc import Sequence

from fedmed.data.deidentify import lexicon
from fedmed.data.deidentify.findings import Finding

_MAX_SHIFT = 365
_FORMATS = (
    "%Y-%m-%d", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y",
    "%m-%d-%Y", "%d-%m-%Y", "%m-%d-%y", "%d.%m.%Y", "%d.%m.%y", "%Y/%m/%d", "%Y%m%d",
    "%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y", "%B %d %Y", "%b %d %Y", "%d-%b-%Y", "%d%b%Y",
)  # fmt: skip
_TITLE = re.compile(r"(?i)^(?:dr|mr|mrs|ms|mx|miss|prof|professor|doctor|dra)\b\.?\s*")
_WORD = re.compile(r"[^\W\d_]+")


class Surrogates:
    """Stand-ins for one record.

    Args:
        key: secret.
        patient: whose record it is; dates of one patient move by one offset.
        record: tells records apart; with a patient, names stay the same over that patient's records.
        originals: every identifier of the record, which no stand-in may repeat.
    """

    def __init__(self, key: bytes, patient: str, record: str, originals: Sequence[str]) -> None:
        self._key = hmac.digest(key, f"record\x1f{patient or record}".encode(), "sha256")
        days = int.from_bytes(hmac.digest(key, f"dates\x1f{patient or record}".encode(), "sha256")[:4], "big")
        self.shift = days % _MAX_SHIFT + 1 if days & 1 << 31 else -(days % _MAX_SHIFT + 1)
        self._taken = {word.lower() for original in originals for word in _WORD.findall(original)}

    def replace(self, finding: Finding, value: str) -> str:
        """A stand-in of the finding's type."""
        kind = finding.type
        if kind == "NAME":
            return self._name(value)
        if kind == "LOCATION":
            return self._town(value)
        if kind == "DATE":
            return self._date(value)
        if kind == "AGE_OVER_89":
            return "90+"
        if kind == "EMAIL":
            return f"user{self._number(value, 10**6)}@example.org"
        if kind == "URL":
            return f"https://example.org/{self._number(value, 10**6)}"
        if kind == "IP":
            return (
                f"2001:db8::{self._number(value, 0xFFFF):x}"
                if ":" in value
                else f"192.0.2.{self._number(value, 254) + 1}"
            )
        return self._shaped(value)

    def _number(self, value: str, below: int, more: str = "") -> int:
        digest = hmac.digest(self._key, f"{value.lower()}\x1f{more}".encode(), "sha256")
        return int.from_bytes(digest[:8], "big") % below

    def _choose(self, value: str, among: Sequence[str]) -> str:
        for attempt in range(64):
            found = among[self._number(value, len(among), str(attempt))]
            if not self._taken & {word.lower() for word in _WORD.findall(found)}:
                return found
        return "Anon"

    def _name(self, value: str) -> str:
        """Word by word, so that "John Smith", "Mr. Smith" and "John" stay one person."""
        title = _TITLE.match(value)
        kept = title.group() if title else ""
        given, surnames = _stand_ins()

        def word(match: re.Match[str]) -> str:
            old = match.group()
            if len(old) == 1:
                return chr(ord("A") + self._number(old, 26, "initial"))
            among = given if old.lower() in lexicon.load().given else surnames
            new = self._choose(old, among)
            return new.upper() if old.isupper() else new.lower() if old.islower() else new

        return kept + _WORD.sub(word, value[len(kept) :])

    def _town(self, value: str) -> str:
        number = re.match(r"\d+", value)
        town = self._choose(value, _towns())
        return (
            f"{self._number(value, 899) + 100} {self._choose(value, _stand_ins()[1])} Street, {town}"
            if number
            else town
        )

    def _date(self, value: str) -> str:
        for form in _FORMATS:
            try:
                day = datetime.datetime.strptime(re.sub(r"(?<=\d)(st|nd|rd|th)\b", "", value), form)
            except ValueError:
                continue
            try:
                return (day + datetime.timedelta(days=self.shift)).strftime(form)
            except OverflowError:
                break
        # A date that is not whole cannot be moved by days: it becomes a year, or nothing at all.
        year = re.search(r"\b(1[89]\d\d|20\d\d)\b", value)
        return year.group() if year else "[DATE]"

    def _shaped(self, value: str) -> str:
        """Digits for digits and letters for letters; signs stay."""
        for attempt in range(16):
            made = []
            for place, character in enumerate(value):
                if character.isdigit():
                    made.append(str(self._number(value, 10, f"{attempt}.{place}")))
                elif character.isalpha():
                    letter = chr(ord("A") + self._number(value, 26, f"{attempt}.{place}"))
                    made.append(letter if character.isupper() else letter.lower())
                else:
                    made.append(character)
            if (new := "".join(made)) != value:
                return new
        return "0"


@functools.cache
def _stand_ins() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Given names and surnames to choose from: frequent ones, which point at nobody."""
    words = lexicon.load()
    given = tuple(sorted(word.title() for word in words.sure_given if 3 < len(word) < 9 and word.isascii()))[:2000]
    surnames = tuple(sorted(word.title() for word in words.common_surnames if len(word) > 3 and word.isascii()))
    return given, surnames


@functools.cache
def _towns() -> tuple[str, ...]:
    return tuple(sorted(town.title() for town in lexicon.load().big_towns if town.isascii() and " " not in town))
