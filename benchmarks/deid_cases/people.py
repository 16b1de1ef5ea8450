"""Persons of many origins and the ways a note writes their names."""

from __future__ import annotations

import random
import unicodedata
from dataclasses import dataclass

from faker import Faker

# What Faker is asked for, and how often: mostly English names, as in the notes the engine will meet.
LOCALES = {
    "en_US": 30, "en_GB": 12, "en_IN": 8, "es_MX": 6, "es_ES": 3, "de_DE": 4, "fr_FR": 4, "vi_VN": 5, "pl_PL": 4,
    "tr_TR": 4, "it_IT": 2, "nl_NL": 3, "pt_BR": 3, "sv_SE": 1, "zh_CN": 5, "ja_JP": 2,
}  # fmt: skip
ARABIC_MALE = ("Mohammed", "Ahmad", "Youssef", "Omar", "Abdul Rahman", "Khalid", "Tariq", "Hassan", "Bilal", "Abdullah")
ARABIC_FEMALE = ("Fatima", "Aisha", "Layla", "Noor", "Zainab", "Maryam", "Huda", "Salma", "Rania", "Khadija")
ARABIC_LAST = ("al-Masri", "Al Hashimi", "bin Said", "Haddad", "El-Sayed", "Mansour", "ibn Yusuf", "Nasser", "Abu Bakr")
PARTICLE_LAST = (
    "van der Berg", "van den Heuvel", "O'Brien", "O’Connell", "O'Shaughnessy", "McAllister", "MacDougall", "de la Cruz",
    "von Richter", "D'Angelo", "St. Clair", "St John", "ter Horst", "dos Santos", "Le Blanc", "Fitz-Gerald",
)  # fmt: skip
# Names that are ordinary words, months, places or eponyms elsewhere: only the context tells.
WORD_FIRST_FEMALE = ("April", "May", "June", "Grace", "Hope", "Faith", "Rose", "Joy", "Iris", "Virginia", "Dawn")
WORD_FIRST_MALE = ("Will", "Mark", "Bill", "Grant", "Chase", "Drew", "Rob", "Jack", "Guy", "Dean", "Miles", "Pat")
WORD_LAST = (
    "May", "March", "Young", "Long", "Short", "Brown", "White", "Bright", "Hill", "Rivers", "Cook", "Baker",
    "Parkinson", "Wilson", "Graves", "Bell", "Down", "Addison", "Cushing", "Kerr", "Glasgow", "Boston", "Pain",
    "Rash", "Case", "Ward", "Price", "Day", "Weeks", "Church", "Stone", "Love", "Sharp", "Foley", "Hodgkin", "Best",
    "Moody", "Small", "Little",
)  # fmt: skip
NICKNAMES = {
    "William": "Bill", "Robert": "Bob", "Elizabeth": "Betty", "Margaret": "Peggy", "Michael": "Mike", "James": "Jim",
    "Richard": "Dick", "Katherine": "Kate", "Patricia": "Trish", "Christopher": "Chris", "Jennifer": "Jen",
    "Alexander": "Sasha", "Susan": "Sue", "Joseph": "Joey", "Thomas": "Tommy", "Daniel": "Danny",
}  # fmt: skip
NICKNAMES_ELSE = ("Buddy", "Nana", "Skip", "Tinny", "Bunny", "Ace", "Mimi", "Pepe", "Lolo", "Gigi", "Chuy", "Lala")
UNFOLDED = str.maketrans({"đ": "d", "Đ": "D", "ł": "l", "Ł": "L", "ı": "i", "ß": "ss", "ø": "o", "Ø": "O", "æ": "ae"})


@dataclass(frozen=True)
class Person:
    """One person of a record; every mention is a form of the same name."""

    first: str
    last: str
    middle: str
    sex: str
    title: str
    family_first: bool = False

    @property
    def full(self) -> str:
        return f"{self.last} {self.first}" if self.family_first else f"{self.first} {self.last}"

    @property
    def nick(self) -> str:
        return NICKNAMES.get(self.first, NICKNAMES_ELSE[(len(self.first) * 5 + len(self.last)) % len(NICKNAMES_ELSE)])


class People:
    """Draws persons from Faker instances of its own."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.fakers: dict[str, Faker] = {}
        for locale in LOCALES:
            self.fakers[locale] = Faker(locale)
            self.fakers[locale].seed_instance(rng.getrandbits(32))

    def person(self, role: str, family: Person | None = None) -> Person:
        """A person of a role: ``p`` patient, ``d`` doctor, ``n`` other staff, ``r`` relative of ``family``."""
        rng = self.rng
        sex = rng.choice("MF")
        family_first = False
        draw = rng.random()
        if draw < 0.10:
            first = rng.choice(WORD_FIRST_MALE if sex == "M" else WORD_FIRST_FEMALE)
            last = rng.choice(WORD_LAST) if rng.random() < 0.5 else self.fakers["en_US"].last_name()
        elif draw < 0.18:
            first, last = self._first("en_US", sex), rng.choice(WORD_LAST)
        elif draw < 0.26:
            first, last = self._first(rng.choice(("en_US", "en_GB", "nl_NL")), sex), rng.choice(PARTICLE_LAST)
        elif draw < 0.34:
            first, last = rng.choice(ARABIC_MALE if sex == "M" else ARABIC_FEMALE), rng.choice(ARABIC_LAST)
        else:
            locale = rng.choices(list(LOCALES), list(LOCALES.values()))[0]
            first, last = self._first(locale, sex), self._last(locale, sex)
            family_first = locale in ("vi_VN", "zh_CN") and rng.random() < 0.6
        if rng.random() < 0.06:
            last = f"{last}-{self.fakers['en_US'].last_name()}"
        if family is not None and rng.random() < 0.6:
            last, family_first = family.last, family.family_first
        if rng.random() < 0.35:
            first, last = fold(first), fold(last)
        middle = rng.choice("ABCDEFGHJKLMNPRSTVW")
        return Person(first, last, middle, sex, self._title(role, sex), family_first)

    def _first(self, locale: str, sex: str) -> str:
        fake = self.fakers[locale]
        if locale in ("zh_CN", "ja_JP"):
            return str(fake.first_romanized_name()).capitalize()
        return str(fake.first_name_male() if sex == "M" else fake.first_name_female())

    def _last(self, locale: str, sex: str) -> str:
        fake = self.fakers[locale]
        if locale in ("zh_CN", "ja_JP"):
            return str(fake.last_romanized_name()).capitalize()
        if locale == "pl_PL":
            return str(fake.last_name_male() if sex == "M" else fake.last_name_female())
        return str(fake.last_name()).removeprefix("auch ")  # Faker's German lists hold "auch X", "also X"

    def _title(self, role: str, sex: str) -> str:
        if role == "d":
            return self.rng.choice(("Dr", "Dr.", "Dr", "Dr.", "Prof.", "Doctor"))
        return self.rng.choice(("Mr", "Mr.") if sex == "M" else ("Mrs", "Mrs.", "Ms", "Ms.", "Miss"))


def fold(name: str) -> str:
    """The name as a keyboard without accents writes it."""
    plain = unicodedata.normalize("NFKD", name.translate(UNFOLDED))
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def written(person: Person, form: str, rng: random.Random) -> str:
    """The person's name in one form; ``any`` draws one."""
    first, last, middle = person.first, person.last, person.middle
    if form == "any":
        form = rng.choices(
            ("full", "mid", "lastfirst", "caps", "lower", "initial", "lastfirstcaps"), (50, 14, 14, 8, 4, 7, 3)
        )[0]
    if form == "sig":
        form = rng.choices(("full", "initial", "initials", "mid", "last", "lower"), (40, 25, 12, 13, 6, 4))[0]
    forms = {
        "full": person.full,
        "first": first,
        "last": last,
        "nick": person.nick,
        "mid": f"{first} {middle}. {last}",
        "middle": middle,
        "lastfirst": rng.choice((f"{last}, {first}", f"{last}, {first} {middle}.", f"{last.upper()}, {first}")),
        "lastfirstcaps": f"{last}, {first} {middle}".upper(),
        "caps": person.full.upper(),
        "lastcaps": last.upper(),
        "firstcaps": first.upper(),
        "lower": person.full.lower(),
        "initial": rng.choice((f"{first[0]}. {last}", f"{first[0]} {last}", f"{first[0]}.{middle}. {last}")),
        "initials": rng.choice((first[0] + last[0], f"{first[0]}.{last[0]}.", first[0] + middle + last[0])).upper(),
    }
    return forms[form]


def about(person: Person, word: str) -> str | None:
    """A word that goes with the person and is no identifier; None: no such word."""
    male = person.sex == "M"
    words = {
        "title": person.title,
        "sex": person.sex,
        "he": "he" if male else "she",
        "He": "He" if male else "She",
        "him": "him" if male else "her",
        "his": "his" if male else "her",
        "His": "His" if male else "Her",
        "man": "man" if male else "woman",
        "male": "male" if male else "female",
        "child": "son" if male else "daughter",
        "spouse": "husband" if male else "wife",
        "parent": "father" if male else "mother",
        "sib": "brother" if male else "sister",
    }
    return words.get(word)
