"""Checks in code, for what words alone cannot say: each takes a case and says in a few words what it found, or None.

A policy names them under ``judge``. Adding one is a module here and a line in ``JUDGES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedmed.safety.checks.case import Case
from fedmed.safety.checks.contradiction import contradiction
from fedmed.safety.checks.degenerate import empty, gibberish, loop, no_words, unfinished
from fedmed.safety.checks.doses import over_maximum
from fedmed.safety.checks.identifiers import in_answer, in_question
from fedmed.safety.checks.language import other_language
from fedmed.safety.checks.pairs import dangerous_pair
from fedmed.safety.checks.subject import not_medical

Judge = Callable[[Case], str | None]

JUDGES: Mapping[str, Judge] = {
    "empty": empty,
    "no_words": no_words,
    "loop": loop,
    "gibberish": gibberish,
    "unfinished": unfinished,
    "other_language": other_language,
    "not_medical": not_medical,
    "over_maximum": over_maximum,
    "dangerous_pair": dangerous_pair,
    "contradiction": contradiction,
    "identifiers_in_question": in_question,
    "identifiers_in_answer": in_answer,
}

__all__ = ["JUDGES", "Case", "Judge"]
