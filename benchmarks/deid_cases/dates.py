"""Dates as notes write them."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, timedelta

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
SHORT = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sept", "Oct", "Nov", "Dec")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
HOLIDAYS = (
    "Christmas", "Thanksgiving", "Easter", "New Year's Eve", "Labor Day", "Boxing Day", "Halloween", "Memorial Day",
    "Christmas Eve", "Good Friday", "Valentine's Day", "Diwali", "Eid", "Independence Day",
)  # fmt: skip
ORDINAL_WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def ordinal(day: int) -> str:
    """``3`` -> ``3rd``."""
    return f"{day}{'th' if 10 < day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def _us(when: date, rng: random.Random) -> str:
    year, month, day = when.year, when.month, when.day
    return rng.choice((f"{month}/{day}/{year}", f"{month:02}/{day:02}/{year}", f"{month}/{day}/{year % 100:02}",
                       f"{month:02}-{day:02}-{year}", f"{month:02}/{day:02}/{year % 100:02}"))  # fmt: skip


def _iso(when: date, rng: random.Random) -> str:
    return rng.choice((when.isoformat(), when.isoformat(), when.isoformat().replace("-", "/")))


def _uk(when: date, rng: random.Random) -> str:
    year, month, day = when.year, when.month, when.day
    return rng.choice((f"{day:02}/{month:02}/{year}", f"{day}/{month}/{year % 100:02}", f"{day:02}.{month:02}.{year}",
                       f"{day}.{month}.{year % 100:02}", f"{day:02}-{SHORT[month - 1][:3]}-{year}",
                       f"{day:02}{SHORT[month - 1][:3].upper()}{year}"))  # fmt: skip


def _words(when: date, rng: random.Random) -> str:
    name, short, day, year = MONTHS[when.month - 1], SHORT[when.month - 1], when.day, when.year
    forms = [f"{name} {day}, {year}", f"{day} {name} {year}", f"{ordinal(day)} {name} {year}", f"{short} {day}, {year}",
             f"{name} {ordinal(day)}", f"{day} {short} {year}", f"{name} {day}", f"{short} {day}", f"{day} {name}",
             f"{ordinal(day)} of {name}, {year}", f"the {ordinal(day)} of {name}", f"{day} {short} '{year % 100:02}",
             f"{name} {ordinal(day)}, {year}", f"{short}. {day}, {year}"]  # fmt: skip
    if day <= len(ORDINAL_WORDS):
        forms.append(f"the {ORDINAL_WORDS[day - 1]} of {name}")
    return rng.choice(forms)


def _short(when: date, rng: random.Random) -> str:
    return rng.choice((f"{when.month:02}/{when.day:02}", f"{when.month}/{when.day}", f"{when.day}/{when.month}"))


def _weekday(when: date, rng: random.Random) -> str:
    name, month = WEEKDAYS[when.weekday()], MONTHS[when.month - 1]
    return rng.choice((f"{name} {when.day} {month} {when.year}", f"{name}, {month} {when.day}, {when.year}",
                       f"{name[:3]} {when.day:02}/{when.month:02}", f"{name} the {ordinal(when.day)} of {month}",
                       f"{name} {month} {ordinal(when.day)}",
                       f"{name[:3]}, {when.day} {month[:3]} {when.year}"))  # fmt: skip


def _month(when: date, rng: random.Random) -> str:
    name, short = MONTHS[when.month - 1], SHORT[when.month - 1]
    return rng.choice((f"{name} {when.year}", f"{short} {when.year}", f"{name} {when.year}", f"{name} of {when.year}",
                       f"{when.month:02}/{when.year}", f"{short} '{when.year % 100:02}"))  # fmt: skip


def _bare_month(when: date, rng: random.Random) -> str:
    return MONTHS[when.month - 1]


def _holiday(when: date, rng: random.Random) -> str:
    name = rng.choice(HOLIDAYS)
    return rng.choice((f"{name} {when.year}", f"{name} {when.year}", f"{name} of {when.year}", name))


def _hl7(when: date, rng: random.Random) -> str:
    day, clock = when.strftime("%Y%m%d"), f"{rng.randrange(24):02}{rng.randrange(60):02}"
    return rng.choice((f"{day}{clock}", f"{day}{clock}{rng.randrange(60):02}", f"{day}{clock}00-0500"))


def _compact(when: date, rng: random.Random) -> str:
    return when.strftime("%Y%m%d")


def _stamp(when: date, rng: random.Random) -> str:
    clock = f"{rng.randrange(24):02}:{rng.randrange(60):02}"
    return rng.choice((f"{when.isoformat()}T{clock}", f"{when.isoformat()}T{clock}:{rng.randrange(60):02}Z"))


def _span(when: date, rng: random.Random) -> str:
    until = when + timedelta(days=rng.randint(2, 9))
    month = MONTHS[when.month - 1]
    if until.month != when.month:
        return f"{when.month}/{when.day}-{until.month}/{until.day}/{until.year}"
    return rng.choice((f"{when.day}-{until.day} {month} {when.year}", f"{month} {when.day}-{until.day}, {when.year}",
                       f"{when.month}/{when.day}-{until.month}/{until.day}/{when.year}"))  # fmt: skip


FORMS: dict[str, Callable[[date, random.Random], str]] = {
    "us": _us, "iso": _iso, "uk": _uk, "words": _words, "short": _short, "weekday": _weekday, "month": _month,
    "baremonth": _bare_month, "holiday": _holiday, "hl7": _hl7, "compact": _compact, "stamp": _stamp, "span": _span,
}  # fmt: skip


def written_date(form: str, rng: random.Random) -> str:
    """A date in one form; ``any`` draws one that reads after "on", ``num`` one in digits, ``dob`` one of a birth."""
    if form == "any":
        form = rng.choices(("us", "iso", "uk", "words", "weekday", "short"), (24, 12, 20, 30, 8, 6))[0]
    first, last = (date(1931, 1, 1), date(2012, 12, 28)) if form == "dob" else (date(2008, 1, 1), date(2026, 6, 30))
    if form == "dob":
        form = rng.choices(("us", "iso", "uk"), (40, 25, 35))[0]
    if form == "num":
        form = rng.choice(("us", "iso", "uk"))
    return FORMS[form](first + timedelta(days=rng.randrange((last - first).days)), rng)
