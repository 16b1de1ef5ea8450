"""How far a name reaches: from the words before its first to the last that still belongs to it."""

from __future__ import annotations

from fedmed.data.deidentify.lists import words_of
from fedmed.data.deidentify.name_signs import ABBREVIATIONS, SHORT_TITLES, TITLES, trigger
from fedmed.data.deidentify.vocabulary import LIKELY, MAYBE, SURE, UNKNOWN, WORD, Vocabulary
from fedmed.data.deidentify.words import INITIAL, LOWER, TITLE, UPPER, Word, Words

PARTICLES = words_of("name_particles")
INITIAL_GAPS = frozenset({".", ". ", ".  ", " "})
_SURNAME_WORDS = frozenset(
    [
        "may",
        "will",
        "see",
        "black",
        "white",
        "young",
        "west",
        "north",
        "long",
        "short",
        "day",
        "hill",
        "wood",
        "brown",
        "green",
        "gray",
        "english",
        "french",
    ]
)
_LONGEST = 5


class NameExtent:
    """Reads names from their first word on; holds the vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.kind = vocabulary.kind

    def back(self, view: Words, first: int) -> int:
        """Take what stands before a name into it: an initial ("P Morris"), a capital word that is plainly no other."""
        words, lexicon = view.words, self.vocabulary.lexicon
        for _ in range(2):
            if first == 0:
                return first
            word, before = words[first], words[first - 1]
            if before.case == INITIAL and word.gap in INITIAL_GAPS and view.text[before.start] not in "AI":
                earlier = words[first - 2] if first > 1 else None
                medical = earlier is not None and self.vocabulary.medical(earlier.lower)
                if not medical or not before.joined or self.vocabulary.is_function_word(words[first - 2].lower):
                    first -= 1
                    continue
            fits = before.case == TITLE and word.joined and before.stop == before.end
            fits = fits and (word.case == TITLE or (word.lower in PARTICLES and before.lower in lexicon.given))
            if fits and before.lower in lexicon.given and not self.vocabulary.is_form_word(before.lower):
                first -= 1
                continue
            if not fits or self.vocabulary.is_form_word(before.lower) or self.vocabulary.medical(before.lower):
                return first
            kind = self.kind(before.lower)
            if before.lower in TITLES or (
                kind == WORD and (before.opens or before.lower in self.vocabulary.lexicon.towns)
            ):
                return first
            if kind == WORD and not (first > 1 and (trigger(view, first - 1) or not before.opens)):
                return first
            first -= 1
        return first

    def _turned(self, view: Words, index: int) -> bool:
        """Whether a word after a comma can be a given name, where a label announced a whole name."""
        word = view.words[index]
        before = view.words[index - 1].case
        return word.case in (before, TITLE if before == UPPER else before) and self.kind(word.lower) != WORD

    def absorb(self, view: Words, first: int, *, sure: bool, label: bool = False) -> int | None:
        """The last word of the name that begins at ``first``; None: nothing here can be one."""
        words = view.words
        index, last, count = first, None, 0
        while index < len(words) and count < _LONGEST:
            word = words[index]
            if index > first:
                before = words[index - 1]
                if before.stop != before.end:
                    break  # a possessive ends a name
                turned = (
                    word.gap in (", ", ",")
                    and count == 1
                    and word.case != LOWER
                    and (self.reversed(view, index - 1) or (label and self._turned(view, index)))
                )
                if not (word.joined or turned or (before.case == INITIAL and word.gap in INITIAL_GAPS)):
                    break
            if word.case == LOWER:
                if word.lower in PARTICLES and self.capital_after(view, index) and (index > first or sure):
                    index += 1
                    continue
                if (
                    sure
                    and (index == first or view.small)
                    and (self.vocabulary.small_name(word) or self.kind(word.lower) == UNKNOWN)
                ):
                    last, index, count = index, index + 1, count + 1
                    continue
                if view.small and index > first and len(word.lower) == 1:
                    last, index, count = index, index + 1, count + 1
                    continue
                break
            if word.case == INITIAL:
                if index > first and not _is_initial(view, index):
                    break
            elif index > first and not self._goes_on(view, first, index, count, sure):
                break
            last, index, count = index, index + 1, count + 1
        return last

    def _goes_on(self, view: Words, first: int, index: int, count: int, sure: bool) -> bool:
        """Whether a capital word after the first still belongs to the name."""
        word, kind = view.words[index], self.kind(view.words[index].lower)
        if index == first + 1 and self._is_surname(view, first, word):
            return True
        if word.lower in PARTICLES and word.case == TITLE and self.capital_after(view, index):
            return True
        if self.vocabulary.is_form_word(word.lower):
            surname = word.lower in _SURNAME_WORDS or word.lower in self.vocabulary.lexicon.surnames
            return sure and surname and index == first + 1 and word.case == view.words[first].case
        if (
            word.case == UPPER
            and view.words[first].case == TITLE
            and (kind != SURE or len(word.lower) < 4)
            and not (sure and kind == LIKELY)
        ):
            return False
        if kind == WORD and (not sure or count >= 2 or word.lower in self.vocabulary.lexicon.clinical):
            return False
        lexicon = self.vocabulary.lexicon
        if kind == MAYBE and view.words[first].lower in lexicon.given and word.lower in lexicon.surnames:
            return True
        return not (kind == MAYBE and not sure and self.vocabulary.medical(word.lower))

    def _is_surname(self, view: Words, first: int, word: Word) -> bool:
        """Whether an everyday word is a surname behind a sure given name: "Jason Case", "Faith Stone"."""
        lexicon, given = self.vocabulary.lexicon, view.words[first]
        if word.case != given.case or word.case == LOWER or word.lower not in lexicon.surnames:
            return False
        if self.vocabulary.is_function_word(word.lower) and word.lower not in _SURNAME_WORDS:
            return False
        return self.kind(given.lower) == SURE and given.lower not in lexicon.eponyms and not lexicon.drug(word.lower)

    def capital_after(self, view: Words, index: int) -> bool:
        """Whether a capital follows the particles that begin here: "van der Berg"."""
        for word in view.words[index + 1 : index + 3]:
            if not word.joined:
                return False
            if word.case == TITLE:
                return True
            if word.lower not in PARTICLES:
                return view.small and (self.vocabulary.small_name(word) or self.kind(word.lower) == UNKNOWN)
        return False

    def titled(self, view: Words, index: int) -> bool:
        """Whether a title stands directly in front of a word that can be a name."""
        before, word = view.words[index - 1], view.words[index]
        if (
            before.lower not in TITLES
            or before.stop != before.end
            or word.gap not in (" ", ". ", ".", "  ", ".  ", "\u00a0")
        ):
            return False
        if before.case == UPPER and word.case != UPPER and before.lower not in ("dr", "mrs", "prof"):
            return False  # "MR. Probe in place", "MS patient"
        if word.case == INITIAL:
            return True
        if word.case == LOWER and word.lower in PARTICLES and self.capital_after(view, index):
            return before.lower in SHORT_TITLES
        if word.case == LOWER:
            if before.lower not in SHORT_TITLES or (before.lower == "ms" and before.case == LOWER and not view.small):
                return False
            unknown = self.kind(word.lower) == UNKNOWN and not self.vocabulary.medical(word.lower)
            return unknown or self.vocabulary.small_name(word)
        if before.lower in SHORT_TITLES or before.lower in ("professor", "doctor", "miss", "nurse"):
            if (
                before.lower not in SHORT_TITLES
                and self.kind(word.lower) == WORD
                and (before.case == LOWER or view.shouted)
            ):
                return False
            return not self.vocabulary.is_function_word(word.lower) or word.lower in _SURNAME_WORDS
        return before.case != LOWER and "." not in word.gap and self.kind(word.lower) != WORD

    def reversed(self, view: Words, index: int) -> bool:
        """Whether a comma and a given name follow a surname: "Smith, John"."""
        if index + 1 >= len(view.words) or view.words[index].stop != view.words[index].end:
            return False
        word, after = view.words[index], view.words[index + 1]
        if (
            after.gap not in (", ", ",")
            or after.case not in (TITLE, UPPER)
            or (after.case != word.case and word.case != UPPER)
        ):
            return False
        kind = self.kind(word.lower)
        if word.case == UPPER and word.lower in ABBREVIATIONS:
            return False
        if self.kind(after.lower) == SURE:
            lexicon = self.vocabulary.lexicon
            return (kind in (LIKELY, UNKNOWN, MAYBE) or (kind == SURE and word.lower in lexicon.surnames)) and (
                word.lower not in lexicon.towns or word.lower in lexicon.common_surnames
            )
        if word.case == UPPER and after.case == TITLE and len(word.lower) > 2 and kind != WORD:
            return self.kind(after.lower) in (LIKELY, UNKNOWN, MAYBE)  # SMITH, Jo: only surnames are written so
        if word.lower in self.vocabulary.lexicon.common_surnames and self.kind(after.lower) in (LIKELY, UNKNOWN):
            return word.lower not in self.vocabulary.lexicon.towns
        return kind == LIKELY and self.kind(after.lower) == MAYBE and after.lower in self.vocabulary.lexicon.given


def _is_initial(view: Words, index: int) -> bool:
    """A single capital after a name: "Anna S.", not "Anna I think"."""
    word: Word = view.words[index]
    after = view.text[word.end : word.end + 2]
    return view.text[word.start] != "I" or after[:1] == "." or after[:1] != " "
