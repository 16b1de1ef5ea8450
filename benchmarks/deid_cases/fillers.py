"""What a template's ``{key}`` stands for: a text, and the type of its span where it is an identifier."""

from __future__ import annotations

import random
from typing import Final

from deid_cases.clinical import CLINICAL, ONES
from deid_cases.dates import written_date
from deid_cases.identifiers import IDENTIFIERS
from deid_cases.people import People, Person, about, written
from deid_cases.places import COUNTIES, COUNTRIES, Places

TYPES: Final = (
    "NAME", "LOCATION", "ZIP", "DATE", "AGE_OVER_89", "PHONE", "FAX", "EMAIL", "SSN", "MRN", "HEALTH_PLAN", "ACCOUNT",
    "LICENSE", "VEHICLE", "DEVICE", "URL", "IP", "BIOMETRIC", "PHOTO", "UNIQUE_CODE",
)  # fmt: skip
ROLES: Final = frozenset("pdnr")  # patient, doctor, other staff, relative; a digit tells two of a role apart


class Fillers:
    """Draws every value of one run from one seed."""

    def __init__(self, seed: str) -> None:
        self.rng = random.Random(seed)
        self.people = People(self.rng)
        self.places = Places(self.rng)
        self.cast: dict[str, Person] = {}

    def new_record(self) -> None:
        """Forget the persons of the record before."""
        self.cast = {}

    def fill(self, key: str) -> tuple[str, str | None]:
        """The text for a key, and its type or None.

        Raises:
            KeyError: no such key.
        """
        head, _, form = key.partition(".")
        if head[0] in ROLES and head[1:] in ("", "2", "3"):
            person = self._person(head)
            word = about(person, form)
            return (written(person, form or "any", self.rng), "NAME") if word is None else (word, None)
        if key in IDENTIFIERS:
            kind, draw = IDENTIFIERS[key]
            return draw(self.rng), kind
        if key in CLINICAL:
            return CLINICAL[key](self.rng), None
        if head == "date":
            return written_date(form or "any", self.rng), "DATE"
        return self._place_or_age(key, head, form)

    def _place_or_age(self, key: str, head: str, form: str) -> tuple[str, str | None]:
        places, rng = self.places, self.rng
        if head in ("email", "url"):  # of the person that the form names
            person = self._person(form or "p")
            if head == "url":
                return places.url(person.last), "URL"
            return places.email(person.first, person.last), "EMAIL"
        match key:
            case "street":
                return places.street(), "LOCATION"
            case "street.uk":
                return places.street_uk(), "LOCATION"
            case "city":
                return places.city(), "LOCATION"
            case "city.uk":
                return places.city_uk(), "LOCATION"
            case "city.any":
                return places.city_any(), "LOCATION"
            case "county":
                return rng.choice(COUNTIES), "LOCATION"
            case "hospital":
                return places.facility(), "LOCATION"
            case "zip":
                return places.zip(), "ZIP"
            case "zip.uk":
                return places.zip_uk(), "ZIP"
            case "state":
                return places.state(), None
            case "st":
                return places.state_abbr(), None
            case "country":
                return rng.choice(COUNTRIES), None
            case "age90":
                return str(rng.choice((rng.randint(90, 99), rng.randint(90, 99), rng.randint(100, 108)))), "AGE_OVER_89"
            case "age90w":
                return rng.choice(("ninety", *(f"ninety-{one}" for one in ONES), "one hundred and two")), "AGE_OVER_89"
        raise KeyError(key)

    def _person(self, head: str) -> Person:
        if head not in self.cast:
            family = self._person("p") if head[0] == "r" else None
            self.cast[head] = self.people.person(head[0], family)
        return self.cast[head]


def is_identifier(key: str) -> bool:
    """Whether a key makes a span; asks no random stream."""
    head, _, form = key.partition(".")
    if head[0] in ROLES and head[1:] in ("", "2", "3"):
        return about(Person("A", "B", "C", "M", ""), form) is None
    return key not in CLINICAL and key not in ("state", "st", "country")
