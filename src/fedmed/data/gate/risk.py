"""How much may identify somebody after identifiers were replaced: a figure to sort by, not a probability.

It is computed as if these were independent chances that something is left:

- every finding whose score was too low to be replaced: its score
- every name or number that was replaced in one place and still stands in another ("echo"): ``ECHO``
- every identifier that was found: ``MISSED``, as where many were, one more is likely
- letters outside Latin and Greek, which the rules cannot read: their share among all letters, times ``UNREAD``

Not covered: what neither a rule nor the hospital's model suspects; see ``Deidentifier.blind_spots_of``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

ECHO = 0.6
MISSED = 0.01
UNREAD = 3.0
_PIECE = re.compile(r"\w[\w'’-]{2,}\w")
_NAMED = frozenset({"NAME"})
_WHOLE = frozenset({"EMAIL", "PHONE", "FAX", "SSN", "MRN", "HEALTH_PLAN", "ACCOUNT", "LICENSE", "VEHICLE", "DEVICE"})


@dataclass(frozen=True, slots=True)
class Residual:
    """The risk of one document, and what it is made of."""

    risk: float  # 0 to 1
    reasons: Counter[str]  # suspected, echo, unread, many


def residual_risk(clean: Iterable[str], replaced: Sequence[tuple[str, str]], suspected: Iterable[float]) -> Residual:
    """The residual risk of one document.

    Args:
        clean: its texts after replacement.
        replaced: type and value of every identifier that was replaced.
        suspected: scores of findings that were not.
    """
    texts, scores = list(clean), list(suspected)
    echoes = _echoes(texts, replaced)
    unread = min(1.0, UNREAD * _unread(texts))
    distinct = len({value.casefold() for _, value in replaced})
    left = prod(1 - score for score in scores) * (1 - ECHO) ** echoes * (1 - MISSED) ** distinct * (1 - unread)
    parts = {"suspected": len(scores), "echo": echoes, "unread": int(unread > 0.1), "many": int(distinct > 40)}
    return Residual(round(1 - left, 4), Counter({name: count for name, count in parts.items() if count}))


def _echoes(texts: Sequence[str], replaced: Sequence[tuple[str, str]]) -> int:
    """Replaced names, written with a capital as there, and numbers that stand in a clean text."""
    wanted = {piece for kind, value in replaced if kind in _NAMED for piece in _PIECE.findall(value) if piece.istitle()}
    words = {word for text in texts for word in _PIECE.findall(text)} if wanted else set()
    numbers = {value for kind, value in replaced if kind in _WHOLE and len(value) > 5}
    return len(wanted & words) + sum(any(number in text for text in texts) for number in numbers)


def _unread(texts: Iterable[str]) -> float:
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    return sum(map(_foreign, letters)) / len(letters) if letters else 0.0


def _foreign(letter: str) -> bool:
    """Beyond Latin and Greek, whose letters stand in formulas."""
    return letter > "\u03ff" and not "\u1e00" <= letter <= "\u1fff" and not "\u2100" <= letter <= "\u214f"
