"""One plain form of a text, so that case, spacing, accents, look-alike letters and invisible characters cannot change
a verdict. HERE -> words.

Not covered: words split by spaces or written in code; readings.py sees to those.
"""

from __future__ import annotations

import re
import unicodedata

from fedmed.safety.look_alikes import latin

_DROPPED = frozenset("'\"`´‘’‚‛“”„‟ʹʺʻʼʽˈ′″*_~«»")  # don't = dont; markdown stars are only decoration
_INVISIBLE = ("Cf", "Cc", "Mn", "Me")  # zero-width and direction marks, control characters, accents once split off
_SAME_MARK = re.compile(r"([.!?,;:])(?:[ .!?,;:]*[.!?,;:])?(?= |$)")  # "!!", "?!", "..." weigh no more than one


def _keep(character: str) -> str:
    if character.isspace():
        return " "
    if character in _DROPPED:
        return ""
    category = unicodedata.category(character)
    if category in _INVISIBLE:
        return ""
    return "-" if category == "Pd" else character


_ASCII = {code: _keep(chr(code)) for code in range(128)}
"""The same for ``str.translate``."""


def normalise(text: str) -> str:
    """Fold ``text`` to lower case without accents, apostrophes, quotation marks, look-alikes or invisible characters.

    Args:
        text: any Unicode text.

    Returns:
        Text on one line, words apart by single spaces, every dash a hyphen, marks of a row reduced to the first.
        Patterns of a policy are matched on this.
    """
    if not text.isascii():
        # Upper case first: some letters (dotless i, long s) have one capital but several small forms.
        text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).upper().casefold())
    plain = text.lower().translate(_ASCII) if text.isascii() else "".join(map(_keep, text.casefold()))
    if not plain.isascii():
        plain = re.sub(r"[^\W\d]+", lambda word: latin(word.group()), plain)
    return _SAME_MARK.sub(r"\1", " ".join(plain.split()))
