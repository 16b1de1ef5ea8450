"""The tables behind checks: doses, combinations, conditions; YAML beside the policy. HERE -> doses, pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from fedmed.safety.normalise import normalise
from fedmed.safety.words import Words, split

FOLDER = Path(__file__).parents[1] / "rules"


@dataclass(frozen=True, slots=True)
class Dose:
    """The largest doses of one medicine, in ``unit``."""

    name: str
    unit: str
    single: float
    daily: float
    per_kg: float | None
    weekly: bool
    pregnant: float | None
    source: str


@dataclass(frozen=True, slots=True)
class Forbidden:
    """What must not be recommended where the question names one of ``when``; unless ``anyway``, as an allergy."""

    when: tuple[str, ...]
    never: tuple[str, ...]
    anyway: bool


def _load(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def plain(name: str) -> str:
    """A name in the tokens that texts are made of: "co-trimoxazole" -> "co trimoxazole"."""
    return " ".join(split(normalise(name)).tokens)


@lru_cache(maxsize=1)
def doses() -> dict[str, Dose]:
    """Name -> largest doses."""
    return {
        plain(name): Dose(
            row["names"][0],
            row.get("unit", "mg"),
            float(row["single"]),
            float(row["daily"]),
            row.get("per_kg"),
            bool(row.get("weekly")),
            row.get("pregnant"),
            row["source"],
        )
        for row in _load("max_doses.yaml")
        for name in row["names"]
    }


@lru_cache(maxsize=1)
def groups() -> dict[str, tuple[str, ...]]:
    """Group of medicines -> names."""
    return {
        group: tuple(plain(name) for name in names.split(",")) for group, names in _load("pairs.yaml")["groups"].items()
    }


@lru_cache(maxsize=1)
def pairs() -> tuple[tuple[str, str], ...]:
    """Groups that must not be combined."""
    return tuple((first, second) for first, second in _load("pairs.yaml")["pairs"])


@lru_cache(maxsize=1)
def forbidden() -> tuple[Forbidden, ...]:
    """Conditions and allergies with what they forbid."""
    return tuple(
        Forbidden(tuple(map(plain, row["when"])), tuple(map(plain, row["never"])), bool(row.get("any")))
        for row in _load("pairs.yaml")["forbids"]
    )


def places(name: str, words: Words) -> list[int]:
    """Where a name of one or several tokens begins."""
    first, *rest = name.split()
    at = words.spans.get(first, {})
    return [start for start in at if words.tokens[start + 1 : start + 1 + len(rest)] == rest]
