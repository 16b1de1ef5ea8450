"""One plain form of a text, so that case, spacing, accents and invisible characters cannot change a verdict.

Not covered: letters of another alphabet that look alike (a Cyrillic a for a Latin one), and words split by spaces.
"""

from __future__ import annotations

import unicodedata

_DROPPED = frozenset("'\"`´‘’‚‛“”„‟ʹʺʻʼʽˈ′″*_~")  # don't = dont; markdown stars are only decoration
_INVISIBLE = ("Cf", "Cc", "Mn", "Me")  # zero-width and direction marks, control characters, accents once split off


def _keep(character: str) -> str:
    if character.isspace():
        return " "
    if character in _DROPPED:
        return ""
    category = unicodedata.category(character)
    if category in _INVISIBLE:
        return ""
    return "-" if category == "Pd" else character


def normalise(text: str) -> str:
    """Fold ``text`` to lower case without accents, apostrophes, quotation marks or invisible characters.

    Args:
        text: any Unicode text.

    Returns:
        Text on one line, words apart by single spaces, every dash a hyphen. Patterns of a policy are matched on this.
    """
    if not text.isascii():
        # Upper case first: some letters (dotless i, long s) have one capital but several small forms.
        text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).upper().casefold())
    return " ".join("".join(map(_keep, text.casefold())).split())
