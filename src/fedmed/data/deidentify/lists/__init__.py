"""Word lists, written for the engine by hand from general knowledge: one file a list, ``#`` begins a comment."""

from __future__ import annotations

import functools
from importlib import resources


@functools.cache
def words_of(name: str) -> frozenset[str]:
    """The words of ``NAME.txt``, parted by white space."""
    return frozenset(word for line in _lines(name) for word in line.split())


@functools.cache
def phrases_of(name: str) -> dict[str, tuple[str, ...]]:
    """Section -> phrases of ``NAME.txt``: ``[SECTION]`` begins one, phrases are parted by ``|`` or a line end."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in _lines(name):
        if line.startswith("["):
            section = line.strip("[] ")
        else:
            found.setdefault(section, []).extend(phrase.strip() for phrase in line.split("|") if phrase.strip())
    return {section: tuple(phrases) for section, phrases in found.items()}


def _lines(name: str) -> list[str]:
    text = resources.files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
