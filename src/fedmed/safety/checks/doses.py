"""A dose above the largest in the table: ten-fold errors, milligrams for micrograms, daily for weekly.

words -> HERE -> rails.

Source: rules/max_doses.yaml, a source a row. Not covered: medicines not in the table, doses for children by weight
other than "mg/kg", doses in words ("a handful").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fedmed.safety.checks.case import Case
from fedmed.safety.checks.tables import Dose, doses, places
from fedmed.safety.words import Words, listed

_UNITS = {
    "mg": ("mg", 1.0), "milligram": ("mg", 1.0), "milligrams": ("mg", 1.0), "mgs": ("mg", 1.0),
    "g": ("mg", 1000.0), "gram": ("mg", 1000.0), "grams": ("mg", 1000.0), "gm": ("mg", 1000.0),
    "mcg": ("mg", 0.001), "microgram": ("mg", 0.001), "micrograms": ("mg", 0.001), "ug": ("mg", 0.001),
    "μg": ("mg", 0.001),
    "iu": ("iu", 1.0), "unit": ("iu", 1.0), "units": ("iu", 1.0), "mmol": ("mmol", 1.0), "meq": ("mmol", 1.0),
}  # fmt: skip
_TIMES = {
    "once": 1, "twice": 2, "thrice": 3, "bd": 2, "bid": 2, "tds": 3, "tid": 3, "qds": 4, "qid": 4,
    "od": 1, "hourly": 24,
}  # fmt: skip
_A_DAY = frozenset(("day", "daily", "24"))
_WARNING = listed(
    "overdose overdoses overdosed toxic toxicity poisoning lethal fatal exceed exceeds exceeding not never "
    "avoid error mice intravenously iv infusion vein "
    "rats animals serum level levels misuse abuse harmful dangerous too dont above"
)
_FAR = 12  # words between a medicine and its dose


class _Amount(NamedTuple):
    first: int
    last: int
    value: float
    kind: str  # mg, iu, mmol
    by_weight: bool


def over_maximum(case: Case) -> str | None:
    """Which medicine, how much, and how much at most; None where every dose found is within its bounds."""
    words = case.words
    table = doses()
    asked = case.question
    if "#" not in words.spans:
        return None
    present = [(name, dose, at) for name, dose in table.items() if name.split()[0] in words.spans
               for at in places(name, words)]  # fmt: skip
    for name, dose, at in present:
        found = _check(words, at, len(name.split()), dose, table)
        if found:
            return found
    return _of_what_was_named(words, asked, present, table)


def _of_what_was_named(
    words: Words, asked: Words | None, present: list[tuple[str, Dose, int]], table: dict[str, Dose]
) -> str | None:
    """Sentences that name no medicine, after one that did: "What is X?" -- "A painkiller. Take up to 12 g." """
    named = {dose.name: dose for name, dose in table.items() if asked is not None and places(name, asked)}
    at_hand = next(iter(named.values())) if len(named) == 1 else None
    for first, last in words.sentences():
        here = {dose.name: dose for _, dose, at in present if first <= at < last}
        if here:
            at_hand = next(iter(here.values())) if len(here) == 1 else None
        elif at_hand is not None and any(first <= at < last for at in words.numbers):
            found = _check(words, first, 1, at_hand, table, near=False)
            if found:
                return found
    return None


def _check(words: Words, at: int, length: int, dose: Dose, table: dict[str, Dose], near: bool = True) -> str | None:
    """``near``: the sentence names the medicine; else only the largest amount of a day is held against it."""
    first, last = words.sentence(at, at + length)
    if _WARNING & set(words.tokens[first:last]):
        return None
    for amount in _amounts(words, first, last):
        if not _belongs(words, at, amount, dose, table):
            continue
        kind, scale = _UNITS.get(dose.unit, ("mg", 1.0))
        if amount.kind != kind:
            continue
        value = amount.value / scale
        if amount.by_weight:
            if dose.per_kg and value > 1.5 * dose.per_kg:
                return f"{dose.name}: {value:g} {dose.unit}/kg, at most {dose.per_kg:g}"
            continue
        value *= _pieces(words, amount.first)
        times, daily = _frequency(words, amount, last)
        limit = dose.pregnant if dose.pregnant and words.has("@pregnant") else None
        if dose.weekly and daily:
            return f"{dose.name}: every day, although it is taken once a week"
        if near and not daily and times <= 1 and value > (limit or dose.single):
            return f"{dose.name}: {value:g} {dose.unit} at once, at most {limit or dose.single:g}"
        if value * max(times, 1) > (limit or dose.daily):
            return f"{dose.name}: {value * max(times, 1):g} {dose.unit} a day, at most {limit or dose.daily:g}"
    return None


def _amounts(words: Words, first: int, last: int) -> Iterator[_Amount]:
    for at in range(first, last - 1):
        if at in words.numbers and words.tokens[at][0].isdigit():
            unit = words.tokens[at + 1]
            if unit in _UNITS:
                kind, factor = _UNITS[unit]
                rest = words.plain[words.ends[at + 1] : words.ends[at + 1] + 12]
                by_weight = rest.lstrip().startswith(("/kg", "/ kg", "per kg", "per kilo", "/m2", "/ml", "/l", "/dl"))
                per_volume = rest.lstrip().startswith(("/ml", "/l", "/dl", "/m2", "per ml"))
                if not per_volume:
                    yield _Amount(at, at + 2, words.numbers[at] * factor, kind, by_weight)


def _belongs(words: Words, at: int, amount: _Amount, dose: Dose, table: dict[str, Dose]) -> bool:
    """Whether no other medicine stands nearer to the amount."""
    if abs(amount.first - at) > _FAR and not _alone(words, at, amount, dose, table):
        return False
    low, high = sorted((at, amount.first))
    between = words.tokens[low + 1 : high]
    if amount.first < at and "with" in between:
        return False  # "25 mg, with folic acid"
    return not any(token in table and table[token].name != dose.name for token in between)


def _alone(words: Words, at: int, amount: _Amount, dose: Dose, table: dict[str, Dose]) -> bool:
    return not any(token in table and table[token].name != dose.name for token in words.tokens)


def _pieces(words: Words, at: int) -> float:
    """Two in "two 500 mg tablets", "eight of mum's 325 mg tablets"."""
    following = words.tokens[at + 2 : at + 6]
    if not any(token.startswith(("tablet", "pill", "capsule", "ferrous", "sachet")) for token in following):
        return 1.0
    for back in (1, 2, 3):
        if at - back >= 0 and at - back in words.numbers and not words.breaks[at - back + 1]:
            value = words.numbers[at - back]
            return value if 1 <= value <= 40 else 1.0
    return 1.0


def _frequency(words: Words, amount: _Amount, last: int) -> tuple[float, bool]:
    """How many times a day, and whether the amount is said of a day at all."""
    times, daily = 1.0, False
    for index in range(amount.last, min(last, amount.last + 12)):
        token = words.tokens[index]
        if index > amount.last + 1 and token in _UNITS and index - 1 in words.numbers:
            break
        if token in _TIMES:
            times, daily = max(times, _TIMES[token]), True
        elif token == "times" and index - 1 in words.numbers:
            times, daily = max(times, min(words.numbers[index - 1], 24)), True
        elif token == "every" and index + 1 < len(words.tokens):
            times, daily = _every(words, index, times, daily)
        elif token in _A_DAY or (token == "hours" and words.tokens[index - 1] == "24"):
            daily = True
    return times, daily


def _every(words: Words, index: int, times: float, daily: bool) -> tuple[float, bool]:
    following = words.tokens[index + 1 : index + 5]
    if following[0] in ("hour", "minute"):
        return 24.0, True
    if following[0] in ("day", "morning", "night", "evening"):
        return max(times, 1.0), True
    if index + 1 in words.numbers and any(token in ("hours", "hrs", "hourly") for token in following):
        # "every four to six hours": the longer pause, so that a range of a leaflet is never held against it
        hours = max(words.numbers.get(at, 0.0) for at in range(index + 1, index + 4))
        return max(times, 24.0 / max(hours, 1.0)), True
    return times, daily
