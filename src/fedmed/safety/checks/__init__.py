"""Checks in code, for what words alone cannot say: each takes a case and says in a few words what it found, or None.

A policy names them under ``judge``. Adding one is a module here and a line in ``JUDGES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedmed.safety.checks.case import Case
from fedmed.safety.checks.degenerate import empty, gibberish, loop, no_words, unfinished

Judge = Callable[[Case], str | None]

JUDGES: Mapping[str, Judge] = {
    "empty": empty,
    "no_words": no_words,
    "loop": loop,
    "gibberish": gibberish,
    "unfinished": unfinished,
}

__all__ = ["JUDGES", "Case", "Judge"]
