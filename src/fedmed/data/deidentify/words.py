"""One pass over a text: its words, how they are written, and which of them begin a sentence."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

TITLE, UPPER, INITIAL, LOWER = "T", "U", "I", "l"

_WORD = re.compile(r"[^\W\d_](?<!\w[^\W\d_])[^\W\d_]*(?:['’\-‐‑][^\W\d_]+)*(?!\w)")
_PART = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d(?<!\w\d)")
_DIGIT_INSIDE = re.compile(r"\d(?<=[^\W\d]\d)")
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
_HELD = frozenset("_'’-‐‑")
WALL = "\u2588"
"""Stands where a finding stood; neither letter, digit nor space, so that rules do not reach across it."""
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

    def __init__(self, text: str, words: Iterable[Word] | None = None) -> None:
        self.text = text
        self.folded = _folded(text)
        self.words = list(_read(text, 0, len(text), 0) if words is None else words)
        self.capitals = [index for index, word in enumerate(self.words) if word.case != LOWER]  # not written small
        cases = [self.words[index].case for index in self.capitals]
        count, shouted = len(self.words), cases.count(UPPER)
        self.shouted = count > 3 and shouted > 0.7 * count  # capitals say nothing here
        few = shouted + cases.count(TITLE) < 0.03 * count
        self.small = count >= _FEW and few  # and neither do small letters here

    def behind_walls(self, spans: Sequence[tuple[int, int]]) -> Words:
        """The same text with walls over spans, in order and apart; only what stands beside one is read again."""
        text = self.text
        for start, end in spans:
            text = text[:start] + WALL * (end - start) + text[end:]
        return Words(text, _read_beside(text, spans, self.words))

    @functools.cached_property
    def numbers(self) -> list[int]:
        """Where letters and digits without a gap begin with a digit: "12", "5mg"."""
        return [match.start() for match in _NUMBER.finditer(self.text)]

    @functools.cached_property
    def codes(self) -> list[int]:
        """Where letters and digits without a gap begin with a letter and hold a digit: "B12"."""
        text, found = self.text, list[int]()
        for match in _DIGIT_INSIDE.finditer(text):
            start = match.start()
            while start and (text[start - 1].isalnum() or text[start - 1] == "_"):
                start -= 1
            if not text[start].isdecimal() and (not found or found[-1] != start):
                found.append(start)
        return found

    @functools.cached_property
    def present(self) -> set[str]:
        """Which words there are, folded; of "follow-up" both parts as well."""
        found = {word.lower for word in self.words}
        for word in [word for word in found if not word.isalpha()]:
            found.update(_PART.findall(word))
        return found


def _read(text: str, start: int, end: int, last: int) -> Iterator[Word]:
    """The words of a stretch that cuts none; ``last`` is the end of the word before it."""
    for match in _WORD.finditer(text, start, end):
        begin, stop = match.span()
        lower, case, cut = _form(match.group())
        yield Word(begin, stop - cut, stop, lower, case, *_parted(text[last:begin], last))
        last = stop


def _parted(gap: str, last: int) -> tuple[bool, bool, str]:
    """Whether a word opens a sentence, whether it is joined to the word before, and what parts the two."""
    if last and gap in _JOINED:
        return False, True, gap
    return last == 0 or "\n" in gap or _SENTENCE_END.search(gap) is not None, False, gap


def _read_beside(text: str, walls: Sequence[tuple[int, int]], words: Sequence[Word]) -> Iterator[Word]:
    """The words of a text with walls, of which some words away from walls are known."""
    at = last = 0
    moved = False  # a wall stands before the next word that is known
    for start, end in (*_with_what_touches(text, walls), (len(text), len(text))):
        while at < len(words) and words[at].start < start:
            word = words[at]
            if moved:
                word = Word(
                    word.start, word.end, word.stop, word.lower, word.case, *_parted(text[last : word.start], last)
                )
            yield word
            last, at, moved = word.stop, at + 1, False
        for word in _read(text, start, end, last):
            yield word
            last = word.stop
        while at < len(words) and words[at].start < end:
            at += 1
        moved = True


def _with_what_touches(text: str, walls: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Walls with the rest of the words that they cut, in order and apart."""
    found: list[tuple[int, int]] = []
    for start, end in walls:
        while start and (text[start - 1].isalnum() or text[start - 1] in _HELD):
            start -= 1
        while end < len(text) and (text[end].isalnum() or text[end] in _HELD):
            end += 1
        if found and start <= found[-1][1]:
            start = found.pop()[0]
        found.append((start, end))
    return found


def _folded(text: str) -> str:
    """In small letters, each at its place: the small form of "İ" is two characters."""
    folded = text.lower()
    return folded if len(folded) == len(text) else "".join(small if len(small := c.lower()) == 1 else c for c in text)


@functools.lru_cache(maxsize=1 << 16)
def _form(raw: str) -> tuple[str, str, int]:
    """A word folded and without a possessive 's, how it is written, and how long that 's is."""
    cut = 2 if len(raw) > 2 and raw[-1] in "sS" and raw[-2] in "'’" else 0
    bare = raw[: len(raw) - cut]
    return bare.lower(), LOWER if bare.islower() else _case(bare), cut


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
