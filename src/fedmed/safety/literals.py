"""What a text must hold for a regular expression to match at all: a cheap look before a dear search. HERE -> policy."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

_PARSER: Any = None
with contextlib.suppress(ImportError):  # how Python itself reads a pattern; without it rails are only slower
    _PARSER = importlib.import_module("re._parser")

_SHORTEST = 2  # letters; what is shorter stands in every text


def needed(pattern: re.Pattern[str]) -> frozenset[str]:
    """Small-letter pieces of text of which one must be in whatever the pattern matches; empty: nothing is known.

    Holds for ASCII texts in small letters.
    """
    if _PARSER is None:
        return frozenset()
    found = _of_sequence(_PARSER.parse(pattern.pattern, pattern.flags))
    return found or frozenset()


def _of_sequence(steps: Iterable[tuple[Any, Any]]) -> frozenset[str] | None:
    """The rarest of what the steps ask for."""
    choices: list[frozenset[str]] = []
    run = ""
    for kind, value in (*steps, ("END", None)):
        name = str(kind)
        if name == "LITERAL" and value < 128:
            run += chr(value).lower()
            continue
        if len(run) >= _SHORTEST:
            choices.append(frozenset((run,)))
        run = ""
        choice = _of_step(name, value)
        if choice:
            choices.append(choice)
    return min(choices, key=_commonness, default=None)


def _of_step(name: str, value: Any) -> frozenset[str] | None:
    if name == "SUBPATTERN":
        return _of_sequence(value[3])
    if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        return _of_sequence(value[2]) if value[0] >= 1 else None
    if name == "ATOMIC_GROUP":
        return _of_sequence(value)
    if name == "BRANCH":
        return _of_branches(value[1])
    return None


def _of_branches(branches: Iterable[Any]) -> frozenset[str] | None:
    together: set[str] = set()
    for branch in branches:
        one = _of_sequence(branch)
        if not one:
            return None
        together |= one
    # What holds a shorter piece is found by it.
    return frozenset(piece for piece in together if not any(other != piece and other in piece for other in together))


def _commonness(pieces: frozenset[str]) -> float:
    return sum(0.3 ** len(piece.replace(" ", "")) + 0.001 for piece in pieces)


_needed = lru_cache(maxsize=4096)(needed)


def may_match(pattern: re.Pattern[str], plain: str) -> bool:
    """Whether a search can find anything in a normalised text; True where it is not known."""
    pieces = _needed(pattern)
    return not pieces or any(piece in plain for piece in pieces) or not plain.isascii()
