"""Names that other names tell: in a row with one, or alone in a line or a cell of a list."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator

from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.lists import words_of
from fedmed.data.deidentify.name_extent import NameExtent
from fedmed.data.deidentify.name_signs import TITLES
from fedmed.data.deidentify.vocabulary import LIKELY, MAYBE, SURE, UNKNOWN, WORD
from fedmed.data.deidentify.words import INITIAL, LOWER, TITLE, UPPER, Words

_ROW = frozenset([", ", "; ", "/", " / ", " & ", ","])
_BACK_ROW = frozenset(["/", " / ", " & "])
_AND = frozenset(["and", "or", "to"])
_ENOUGH = 0.55
"""The score from which on a name tells of others beside it."""
_ENDS_ROW = re.compile(r"['’]?s?\s*(?:[,;.)/|\n]|$|and\b|&)")
_GENERIC = words_of("facility_generic") | words_of("clinical_heads") | words_of("headings")
_ENDS_CELL = re.compile(r"[ \t]*(?:\n|\||$|[ \t][-–—][ \t]|,[ \t]*\d|;|\(\d)")
_STARTS_CELL = re.compile(r"(?:^|[\n|])[ \t]*(?:\d{1,2}[.)][ \t]+|[-*•][ \t]+|[A-Za-z ]{2,12}:[ \t]*)?$")
_LONGEST = 4


class NameCompany(NameExtent):
    """Reads names beside names; holds the vocabulary."""

    def beside(self, view: Words, found: list[Finding]) -> Iterator[Finding]:
        """What stands in a row with a name that was found for a good reason: "Ana Ruiz, Joy and Grant"."""
        words = view.words
        starts = [word.start for word in words]
        taken = {
            index for each in found for index in range(bisect_left(starts, each.start), bisect_left(starts, each.end))
        }
        for each in found:
            if each.score < _ENOUGH or each.rule == "name.initials":
                continue
            index = bisect_left(starts, each.end)
            while (first := self._next(view, index)) is not None and first not in taken:
                last = self._member(view, first)
                if last is None:
                    break
                yield self._told(view, first, last)
                index = last + 1
            first = self._previous(view, bisect_left(starts, each.start))
            if first is not None and first not in taken:
                yield self._told(view, self.back(view, first), first)

    @staticmethod
    def _told(view: Words, first: int, last: int) -> Finding:
        why = "stands in a row with a name"
        return Finding(view.words[first].start, view.words[last].end, "NAME", 0.57, "name.row", why)

    @staticmethod
    def _next(view: Words, index: int) -> int | None:
        """The word after a name that stands in a row with it; ``index`` is the first word behind the name."""
        words = view.words
        if index >= len(words):
            return None
        word = words[index]
        if word.gap in _ROW:
            if word.lower in _AND and word.case == LOWER and index + 1 < len(words):
                return index + 1
            return index
        if word.lower in _AND and word.joined and word.case != TITLE and index + 1 < len(words):
            return index + 1 if words[index + 1].joined else None
        return None

    def _previous(self, view: Words, index: int) -> int | None:
        """The last word of what stands in a row before a name: "Joy and <name>", "Kim/<name>"."""
        words = view.words
        if not 0 < index < len(words):
            return None
        word = words[index]
        if word.gap in _BACK_ROW:
            at = index - 1
        elif words[index - 1].lower in ("and", "or") and word.joined and words[index - 1].joined and index > 1:
            at = index - 2
        else:
            return None
        before = words[at]
        if before.case not in (TITLE, UPPER) or before.lower in TITLES or before.stop != before.end:
            return None
        return at if self._can_be(view, at) else None

    def _can_be(self, view: Words, index: int) -> bool:
        word, lexicon = view.words[index], self.vocabulary.lexicon
        kind = self.kind(word.lower)
        if word.case == LOWER:
            return view.small and self.vocabulary.small_name(word) and not lexicon.known(word.lower)
        if word.case == UPPER and not view.shouted:
            return False
        if kind == WORD or self.vocabulary.is_form_word(word.lower) or word.lower in _GENERIC:
            return False
        if word.case == UPPER and kind not in (SURE, LIKELY):
            return False
        if word.lower in lexicon.regions or lexicon.drug(word.lower):
            return False
        if word.lower in lexicon.eponyms or word.lower in lexicon.clinical:
            named = word.lower in lexicon.given or word.lower in lexicon.surnames
            return named and _ENDS_ROW.match(view.text, word.end) is not None
        return (
            kind in (SURE, LIKELY)
            or (kind == MAYBE and (word.lower in lexicon.given or _ENDS_ROW.match(view.text, word.end) is not None))
            or (kind == UNKNOWN and len(word.lower) > 2)
        )

    def _member(self, view: Words, first: int) -> int | None:
        """The last word of a name in a row that begins at ``first``."""
        word = view.words[first]
        if word.lower in TITLES or self.vocabulary.head_follows(view, first):
            return None
        if word.case == INITIAL:
            step = first + 1
            fits = step < len(view.words) and view.words[step].gap in (". ", ".", " ") and self._can_be(view, step)
            return self.absorb(view, step, sure=True) if fits else None
        return self.absorb(view, first, sure=True) if self._can_be(view, first) else None

    def cells(self, view: Words) -> Iterator[Finding]:
        """Two to four words that can be a name and fill a line or a cell: "2. Dawn Coleman - home"."""
        words, text = view.words, view.text
        index = 0
        while index < len(words):
            word, last = words[index], index
            if not word.opens or word.case == LOWER:
                index += 1
                continue
            while last + 1 < len(words) and last - index < _LONGEST and self._runs_on(view, last + 1):
                last += 1
            if (
                last > index
                and last - index < _LONGEST
                and _ENDS_CELL.match(text, words[last].stop)
                and _STARTS_CELL.search(text, max(0, word.start - 18), word.start)
                and self._whole(view, index, last)
            ):
                yield Finding(word.start, words[last].end, "NAME", 0.66, "name.cell", "a name alone in a line or cell")
            index = last + 1

    @staticmethod
    def _runs_on(view: Words, index: int) -> bool:
        word, before = view.words[index], view.words[index - 1]
        gap = word.joined or (before.case == INITIAL and word.gap == ". ") or word.gap == ", "
        return gap and word.case != LOWER and before.stop == before.end

    def _whole(self, view: Words, first: int, last: int) -> bool:
        lexicon = self.vocabulary.lexicon
        full = [each for each in view.words[first : last + 1] if each.case != INITIAL]
        if not full or any(each.case == UPPER and not view.shouted for each in full[1:]):
            return False
        lowers = [each.lower for each in full]
        if any(lexicon.drug(each) or each in lexicon.regions or each in _GENERIC for each in lowers):
            return False
        given = any(each in lexicon.given for each in lowers)
        others = sum(each in lexicon.surnames or each in lexicon.given or self.kind(each) == UNKNOWN for each in lowers)
        kinds = [self.kind(each) for each in lowers]
        if len(full) == 1:
            return kinds[0] in (LIKELY, SURE) or (kinds[0] == MAYBE and lowers[0] in lexicon.surnames)
        told = UNKNOWN in kinds or LIKELY in kinds or (given and MAYBE in kinds)
        return others == len(lowers) and (SURE in kinds or (given and told))
