"""What a check in code is given."""

from __future__ import annotations

from dataclasses import dataclass

from fedmed.safety.words import Words


@dataclass(frozen=True, slots=True)
class Case:
    """One text to judge, and the question it answers."""

    raw: str  # as it was written; case and marks may be looked at, but must not decide
    words: Words
    question: Words | None  # None: not known, or the text is itself the question
    max_repeats: int
