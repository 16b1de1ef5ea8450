"""Places below the state: addresses, towns, counties, and the hospitals that tell where somebody was.

States and countries by themselves stay, as Safe Harbor allows; beside a town or in an address they go with it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from fedmed.data.deidentify import postal
from fedmed.data.deidentify.addresses import Span
from fedmed.data.deidentify.facilities import TAIL, FacilityFinder
from fedmed.data.deidentify.findings import Finding
from fedmed.data.deidentify.lists import words_of
from fedmed.data.deidentify.towns import TownReader
from fedmed.data.deidentify.vocabulary import Vocabulary
from fedmed.data.deidentify.words import INITIAL, LOWER, TITLE, UPPER, Words

_NOT_PLACES = words_of("not_places")
_GENERIC = words_of("facility_generic")
_TITLES = words_of("titles")
_COUNTY_WORDS = frozenset(["county", "parish", "township", "borough", "province", "prefecture", "district", "village"])
_OF_PLACE = frozenset(
    ["city", "town", "village", "county", "township", "borough", "suburb", "neighborhood", "district", "state"]
)
_LEADS = frozenset(["at", "from", "near", "to", "via", "outside"])
_FORMED = frozenset(
    [
        "north",
        "south",
        "east",
        "west",
        "new",
        "port",
        "lake",
        "mount",
        "fort",
        "saint",
        "san",
        "santa",
        "los",
        "las",
        "el",
        "upper",
        "lower",
    ]
)
_TOWN_TAIL = re.compile(r"(?: |, | in | of | at )([A-ZÀ-Þ][\w'’.-]+(?: [A-ZÀ-Þ][\w'’.-]+){0,2})")


class PlaceFinder(TownReader):
    """Finds places; holds the vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.facilities = FacilityFinder(vocabulary)
        self._region_starts = frozenset(name.split(" ", 1)[0] for name in vocabulary.lexicon.regions)
        self._plain = functools.lru_cache(maxsize=1 << 14)(self._is_plain)

    def find(self, view: Words) -> Iterator[Finding]:
        """Places in one text, with the state and the postal code that follow them."""
        text = view.text
        spans = (*self.addresses.spans(view), *self.facilities.spans(view), *self._towns(view), *self._at(view))
        for start, end, score, rule, why in spans:
            if text[end : end + 1].isspace() and (tail := TAIL.match(text, end)):
                end = tail.end()
            if rule.startswith(("place.facility", "place.known", "place.saint")):
                end = self._in_town(text, end)
            end, code = self.addresses.with_state(text, end)
            yield Finding(start, end, "LOCATION", score, rule, why)
            if code is not None:
                yield Finding(*code, "ZIP", max(score, 0.9), "zip.after_place", "a postal code after its place")
        yield from postal.find(view, self.lexicon.zips)

    def _in_town(self, text: str, end: int) -> int:
        """A hospital's town belongs to its name: "Children's Hospital Boston", "Memorial Hospital in Atlanta"."""
        match = _TOWN_TAIL.match(text, end)
        if match is None:
            return end
        words = match.group(1).split(" ")
        for count in range(len(words), 0, -1):
            town = " ".join(words[:count])
            if (
                town.lower() in self.lexicon.towns
                and not self.vocabulary.is_form_word(town.lower())
                and town.lower() not in self.lexicon.sure_given
            ):
                return match.start(1) + len(town)
        return end

    def _towns(self, view: Words) -> Iterator[Span]:
        words = view.words
        last = -1
        for index in range(len(words)) if view.small else view.capitals:
            word = words[index]
            if (
                index <= last
                or (word.case == INITIAL and not view.small)
                or (word.case == UPPER and len(word.lower) < 4 and word.lower != "nyc")
                or (self._plain(word.lower) and not self._in_company(view, index))
            ):
                continue
            after = words[index + 1] if index + 1 < len(words) else None
            if after is not None and after.joined and f"{word.lower} {after.lower}" in self.lexicon.regions:
                last = index + 1
                continue
            length = (
                0
                if after is not None and after.joined and after.lower in _COUNTY_WORDS and after.case in (TITLE, UPPER)
                else self.longest_town(view, index)
            )
            score = self.town_score(view, index, index + length - 1) if length else 0.0
            if score:
                yield word.start, words[index + length - 1].end, score, "place.town", "a town by its name"
                last = index + length - 1
                continue
            yield from self._formed(view, index)

    def _is_plain(self, word: str) -> bool:
        """Whether nothing in a word itself says that a place begins with it."""
        lexicon = self.lexicon
        begins = word in lexicon.towns or word in lexicon.town_starts or word in self._region_starts or word in _FORMED
        return not begins and not self.vocabulary.town_like(word)

    def _in_company(self, view: Words, index: int) -> bool:
        """Whether what stands beside a word may make it a place: a comma (and a state), "County", "city of"."""
        words, word = view.words, view.words[index]
        if view.text[word.end : word.end + 1] == "," or (index and words[index - 1].lower == "of"):
            return True
        return index + 1 < len(words) and words[index + 1].lower in _COUNTY_WORDS

    def _formed(self, view: Words, index: int) -> Iterator[Span]:
        """Places that no gazetteer has: by "County" behind them, "city of" or a preposition before, by their form."""
        words, lexicon = view.words, self.lexicon
        word = words[index]
        shouted = view.shouted and word.case == UPPER
        if (word.case != TITLE and not shouted) or (
            self.vocabulary.is_function_word(word.lower) and word.lower not in _FORMED
        ):
            return
        after = words[index + 1] if index + 1 < len(words) else None
        if after is not None and after.joined and after.lower in _COUNTY_WORDS and after.case in (TITLE, UPPER):
            start = index
            while start and index - start < 2 and words[start].joined and words[start - 1].case == word.case:
                if self.vocabulary.is_function_word(words[start - 1].lower):
                    break
                start -= 1
            yield words[start].start, after.end, 0.8, "place.county", "a county or township"
        elif index > 1 and words[index - 1].lower == "of" and words[index - 2].lower in _OF_PLACE:
            if not lexicon.medical(word.lower) and word.lower not in lexicon.regions:
                yield word.start, word.end, 0.7, "place.city_of", "a place after 'city of'"
        elif (
            word.stop == word.end
            and not self.after_name(view, index)
            and self.addresses.state_follows(view.text, word.end, word.lower)
        ):
            begin = word
            if index and word.joined and words[index - 1].lower in _FORMED and words[index - 1].case == TITLE:
                begin = words[index - 1]
            yield begin.start, word.end, 0.76, "place.state_follows", "a capital word with a state behind it"
        elif (
            word.lower in _FORMED and after is not None and after.joined and after.case == TITLE and word.case == TITLE
        ):
            known = (
                lexicon.medical(after.lower)
                or after.lower in lexicon.regions
                or self.vocabulary.is_form_word(after.lower)
            )
            if not known and (
                self.in_place(view, index)
                or self.vocabulary.town_like(after.lower)
                or view.text[after.end : after.end + 1] in ",."
            ):
                yield (
                    word.start,
                    after.end,
                    0.77,
                    "place.form",
                    "a direction or 'port', 'lake', 'new' and a capital word",
                )
        elif self.vocabulary.town_like(word.lower):
            yield (
                word.start,
                word.end,
                0.78 if self.in_place(view, index) else 0.5,
                "place.form",
                "built as the name of a town",
            )

    def _at(self, view: Words) -> Iterator[Span]:
        """Capital words after "at", "from" …, where the sentence tells of a visit, an admission, a home."""
        words = view.words
        for index in view.capitals:
            word = words[index]
            if not index or word.case == INITIAL or not word.joined:
                continue
            before = words[index - 1]
            article = before.lower in ("the", "our") and before.case == LOWER and index > 1 and before.joined
            lead = words[index - 2] if article else before
            if (
                lead.lower not in _LEADS
                or self.vocabulary.is_form_word(word.lower)
                or word.lower in _NOT_PLACES
                or word.lower in _TITLES
            ):
                continue
            if (lead.lower != "at" or word.case == UPPER) and not self.visit_before(
                view, index - 2 if article else index - 1, 80
            ):
                continue
            last = index
            while last + 1 < len(words) and self._runs_on(view, last + 1):
                last += 1
            run = words[index : last + 1]
            plain = all(
                each.lower in _GENERIC or self.lexicon.medical(each.lower) or each.case == UPPER for each in run
            )
            if plain and not (
                word.case == UPPER
                and lead.lower == "at"
                and 2 < len(word.lower) < 6
                and not self.lexicon.known(word.lower)
                and not view.shouted
            ):
                continue
            if run[0].lower in self.lexicon.regions or (run[0].lower in self.lexicon.sure_given and lead.lower != "at"):
                continue
            if plain and run[0].lower in words_of("abbreviations"):
                continue
            yield (
                word.start,
                words[last].stop,
                0.58 if lead.lower == "at" else 0.48,
                "place.context",
                "a capital name where a place is said to follow",
            )

    def _runs_on(self, view: Words, index: int) -> bool:
        word = view.words[index]
        return (
            word.case in (TITLE, UPPER)
            and (word.joined or word.gap in ("-", " & "))
            and not self.vocabulary.is_function_word(word.lower)
        )
