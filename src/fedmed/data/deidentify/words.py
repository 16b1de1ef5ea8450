"""One pass over a text: its words, how they are written, and which of them begin a sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass

TITLE, UPPER, INITIAL, LOWER = "T", "U", "I", "l"

_WORD = re.compile(r"(?<!\w)[^\W\d_]+(?:['’\-‐‑][^\W\d_]+)*(?!\w)")
_SENTENCE_END = re.compile(r"[.!?\n:;•|\[\]]|[-*–—]\s*$|[\"“(]\s*$")
_MIXED_NAME = re.compile(
    r"(?:(?:Mc|Mac|O['’]|D['’]|L['’]|N['’]|De|Del|Di|Da|Du|La|Le|Lo|Van|Von|St|Fitz|Al|El|Ben|Ver|Ten|Ter"
    r"|Vander)?[A-ZÀ-Þ])[a-zà-ÿ]+"
    r"(?:[-‐‑'’](?:Mc|Mac|O['’]|D['’])?[A-ZÀ-Þ]?[a-zà-ÿ]*)*$"
)
"""McCoy, O'Brien, DeAngelo, Anne-Marie."""
_SMALL_START = re.compile(r"(?:al|el|as|ad|bin|ibn|abu|de|di|da|d|l|o|ter|van|von)['’\-‐‑][A-ZÀ-Þ]")
"""al-Masri, d'Angelo."""
_JOINED = frozenset({" ", "  ", "\u00a0"})
_FEW = 12


@dataclass(slots=True)
class Word:
    """A word without digits; ``end`` leaves out a possessive 's."""

    start: int
    end: int
    stop: int  # where it really ends, with a possessive 's
    lower: str  # folded, without a possessive 's
    case: str  # TITLE (also McCoy), UPPER (two letters or more), INITIAL (one capital) or LOWER
    opens: bool  # begins a sentence, a line, or what stands after a colon
    joined: bool  # only a space parts it from the word before
    gap: str  # what parts it from the word before


class Words:
    """The words of one text, with what several recognisers want to know of them."""

    __slots__ = ("folded", "shouted", "small", "text", "words")

    def __init__(self, text: str) -> None:
        self.text = text
        self.folded = text.lower()
        self.words: list[Word] = []
        add = self.words.append
        last = shouted = titled = 0
        for match in _WORD.finditer(text):
            start, stop = match.span()
            raw = match.group()
            end = stop
            if len(raw) > 2 and raw[-1] in "sS" and raw[-2] in "'’":
                end, raw = stop - 2, raw[:-2]
            case = LOWER if raw.islower() else _case(raw)
            shouted += case == UPPER
            titled += case == TITLE
            gap = text[last:start]
            joined = last > 0 and gap in _JOINED
            opens = not joined and (last == 0 or "\n" in gap or _SENTENCE_END.search(gap) is not None)
            add(Word(start, end, stop, raw.lower(), case, opens, joined, gap))
            last = stop
        count = len(self.words)
        self.shouted = count > 3 and shouted > 0.7 * count  # capitals say nothing here
        self.small = count >= _FEW and titled + shouted < 0.03 * count  # and neither do small letters here


def _case(bare: str) -> str:
    if not bare[0].isupper():
        return TITLE if _SMALL_START.match(bare) else LOWER
    if len(bare) == 1:
        return INITIAL
    if bare.isupper():
        return UPPER
    if sum(map(str.isupper, bare)) > 1 and not _MIXED_NAME.match(bare):
        return UPPER  # AFib, UTIs: an abbreviation
    return TITLE
