"""Whether capital words are a town: what the gazetteer says, and what stands around them."""

from __future__ import annotations

import re

from fedmed.data.deidentify.addresses import AddressFinder
from fedmed.data.deidentify.lists import words_of
from fedmed.data.deidentify.vocabulary import Vocabulary
from fedmed.data.deidentify.words import INITIAL, LOWER, TITLE, Words

_HEADS = words_of("clinical_heads")
_NOT_PLACES = words_of("not_places")
_GENERIC = words_of("facility_generic")
_IN = frozenset(["in", "near", "outside", "around", "visiting", "downtown", "suburban", "greater", "between"])
_AT = frozenset(["at", "from", "to", "through", "via", "of", "lives", "the"])
_VISITS = words_of("visits")
_PART = re.compile(r"[^\W\d_]+")


class TownReader:
    """Judges towns; holds the vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.lexicon = vocabulary.lexicon
        self.addresses = AddressFinder(vocabulary)

    def after_name(self, view: Words, index: int) -> bool:
        """Whether a word ends a person's name: "Lorraine V. Berger, MD"."""
        before = view.words[index - 1] if index and view.words[index].gap in (" ", ". ") else None
        return before is not None and (before.case == INITIAL or before.lower in self.lexicon.sure_given)

    def longest_town(self, view: Words, index: int) -> int:
        """How many words the longest town that begins here has; 0: none does."""
        words, towns = view.words, self.lexicon.towns
        name = words[index].lower
        best = 1 if name in towns else 0
        if name in self.lexicon.town_starts:
            for step in range(1, 5):
                if index + step >= len(words):
                    break
                after = words[index + step]
                if not after.joined and not (after.gap == ". " and words[index + step - 1].lower in ("st", "ft", "mt")):
                    break
                name = f"{name} {after.lower}"
                if name in towns and (after.case != LOWER or view.small):
                    best = step + 1
        return best

    def town_score(self, view: Words, first: int, last: int) -> float:
        words, lexicon = view.words, self.lexicon
        after = words[last + 1] if last + 1 < len(words) else None
        if after is not None and (after.joined or after.gap == "-") and after.lower in _HEADS:
            return 0.0
        word = words[first].lower
        name = " ".join(each.lower for each in words[first : last + 1])
        big = name in lexicon.big_towns
        if words[last].stop == words[last].end and self.addresses.state_follows(
            view.text, words[last].end, words[last].lower
        ):
            return 0.0 if self.after_name(view, first) else 0.85
        placed = self.in_place(view, first)
        if view.small and words[first].case == LOWER:
            return 0.6 if placed and not lexicon.known(word) and (big or last > first) else 0.0
        if last > first:
            if any(each.lower in lexicon.sure_given for each in words[first:last]) and not big:
                return 0.7 if placed else 0.0
            return 0.78
        if self.vocabulary.is_form_word(word) or word in _NOT_PLACES or word in _GENERIC:
            return 0.0
        person = word in lexicon.given or word in lexicon.common_surnames
        if words[first].stop != words[first].end and not placed:
            return 0.0
        sure = word in lexicon.sure_given
        if big and placed and not sure and not lexicon.drug(word):
            return 0.78
        if big and not lexicon.known(word) and not sure and word not in lexicon.eponyms:
            return 0.7
        if lexicon.medical(word) or (after is not None and after.joined and after.case in (TITLE, INITIAL) and person):
            return 0.0
        if placed:
            return 0.72 if big or not person else 0.62
        if lexicon.known(word) or person or word in lexicon.surnames or words[first].opens:
            return 0.0
        return 0.5

    def in_place(self, view: Words, index: int) -> bool:
        """Whether a preposition of place stands before a word; "from" and the like only where somebody goes or is."""
        if index == 0:
            return False
        word, before = view.words[index], view.words[index - 1]
        if not word.joined:
            return word.gap in (", ", " (") and self.visit_before(view, index, 40)
        return before.lower in _IN or (before.lower in _AT and self.visit_before(view, index - 1, 60))

    @staticmethod
    def visit_before(view: Words, index: int, reach: int) -> bool:
        """Whether a visit is told of among so many characters before a word."""
        words = view.words
        start = words[index].start - reach
        for before in range(index - 1, -1, -1):
            word = words[before]
            if word.stop <= start:
                break
            if word.start >= start and word.lower in _VISITS:
                return True
            if not word.lower.isalpha():  # "follow-up", "walk-in"
                parts = _PART.finditer(view.folded, word.start, word.stop)
                if any(part.start() >= start and part.group() in _VISITS for part in parts):
                    return True
        return False
