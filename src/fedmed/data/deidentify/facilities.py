"""Hospitals, schools and firms, which tell where somebody was: by what their names end with, and by general fame."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from fedmed.data.deidentify.addresses import Span
from fedmed.data.deidentify.lists import phrases_of, words_of
from fedmed.data.deidentify.scanning import matches_at
from fedmed.data.deidentify.vocabulary import Vocabulary
from fedmed.data.deidentify.words import INITIAL, LOWER, TITLE, UPPER, Words

_ENDS = words_of("facilities")
_STRONG = words_of("facility_strong")
_GENERIC = words_of("facility_generic") | _ENDS
_IN_NAMES = frozenset(
    [
        "north",
        "south",
        "east",
        "west",
        "eastern",
        "western",
        "northern",
        "southern",
        "american",
        "general",
        "family",
        "christian",
        "jewish",
        "catholic",
        "first",
        "medical",
        "second",
        "new",
        "physical",
        "summer",
        "may",
        "june",
        "april",
        "white",
        "black",
    ]
)
_SMALL_ENDS = frozenset(["hospital", "clinic", "medical", "health", "office", "infirmary", "hospice"])

_NOUN = (
    r"(?i:hospital|clinic|cent(?:er|re)|ctr\.?|campus|medical group|medical|med|healthcare|care|general"
    r"|health|hosp\.?|er|ed)"
)
TAIL = re.compile(
    rf"\s+(?:(?i:med(?:ical)?\.?|general|regional|health|urgent|outpatient|family|university"
    rf"|children['’]s)\s+)?{_NOUN}(?!\w)"
)
"""What may follow a place and makes it a hospital: "UCLA med center", "Mount Sinai hospital"."""
_WHERE = r"(?:[Aa]t|[Tt]o|[Ff]rom|@|[Ii]n|[Bb]y|[Oo]f|AT|TO|FROM)\s+(?:the\s+|our\s+|THE\s+)?"
_PLAIN = re.compile(
    rf"(?<!\w){_WHERE}((?:(?i:city|county|general|memorial|community|regional|university|children['’]?s"
    rf"|women['’]?s|veterans|va|state|central|national|"
    r"royal|queen['’]?s|king['’]?s|district|northern|southern|eastern|western|north|south|east|west|midtown"
    r"|downtown|uptown)\s+)+"
    r"(?:Hospital|Hosp\.?|Clinic|General|Medical\s+Center|Health|Center|Centre|Infirmary|Memorial|Healthcare"
    r"|hospital|HOSPITAL|CLINIC)"
    r"(?:\s+(?:of|at)\s+[A-Z][a-z]+(?:\s[A-Z][a-z]+)?)?)"
)  # fmt: skip
_ADJECTIVES = frozenset(
    [
        "city", "county", "general", "memorial", "community", "regional", "university", "children", "childrens",
        "women", "womens", "veterans", "va", "state", "central", "national", "royal", "queen", "queens", "king",
        "kings", "district", "northern", "southern", "eastern", "western", "north", "south", "east", "west", "midtown",
        "downtown", "uptown",
    ]
)  # fmt: skip
_PREPOSITIONS = frozenset(["at", "to", "from", "in", "by", "of"])
_SAINT_START = re.compile(r"(?:St\.?|Saint|Ste\.|Santa|Our\s+Lady\s+of|Holy|Sacred)\s+(?=[A-Z])")
_SAINT = re.compile(
    r"\b(?:St\.?|Saint|Ste\.|Santa|Our\s+Lady\s+of|Holy|Sacred)\s+(?:[A-Z][\w\-]+(?:['’]s)?)(?:(?:\s+and\s+"
    r"|\s*&\s*| )[A-Z][a-z][\w\-]*(?:['’]s)?)*"
)
_KNOWN = re.compile(
    r"(?<![\w-])(?:"
    + "|".join(re.escape(name).replace(r"\ ", r"\s+").replace("'", "['’]").replace(r"\-", r"[-\s]") for name in sorted(
        (name for names in phrases_of("known_facilities").values() for name in names), key=len, reverse=True
    ))
    + r")(?![\w-])(?!['’]s?\s+[a-z]+)(?:\s+(?:Hospital|Clinic|Medical|Health|Healthcare|Center|Centre|System"
    r"|University|General|Cancer|"
    r"Children['’]s|Institute|Campus|Med|Ctr\.?))*"
)  # fmt: skip


_KNOWN_STARTS = frozenset(
    re.split(r"[ .'’-]", name.lower())[0] for names in phrases_of("known_facilities").values() for name in names
) | {"m"}


class FacilityFinder:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.lexicon = vocabulary.lexicon

    def spans(self, view: Words) -> Iterator[Span]:
        text, words = view.text, view.words
        known = (words[index].start for index in view.capitals if _ends(words[index].lower)[0] in _KNOWN_STARTS)
        for match in matches_at(_KNOWN, text, known):
            after = text[match.end() : match.end() + 12].strip().split(" ", 1)[0].strip(",.").lower()
            if after not in self.vocabulary_heads:
                yield *match.span(), 0.8, "place.known_facility", "a hospital that is known by its name"
        for match in matches_at(_PLAIN, text, _before_adjectives(view)):
            yield *match.span(1), 0.66, "place.facility", "a hospital by what it is called, where somebody was"
        for match in matches_at(_SAINT, text, (saint.start() for saint in _SAINT_START.finditer(text))):
            yield *match.span(), 0.72, "place.saint", "named after a saint"
        for index in view.capitals:
            if words[index].lower in _ENDS and words[index].case != INITIAL:
                yield from self._named(view, index)
        for index, word in enumerate(words) if not _SMALL_ENDS.isdisjoint(view.present) else ():
            if word.case == LOWER and word.lower in _SMALL_ENDS and index and word.joined:
                before = words[index - 1]
                if before.case == TITLE and not before.opens and not self._plain(before.lower):
                    yield before.start, word.stop, 0.62, "place.facility", "a hospital or clinic by its name"

    @property
    def vocabulary_heads(self) -> frozenset[str]:
        return words_of("clinical_heads")

    def _plain(self, word: str) -> bool:
        return word in _GENERIC or self.lexicon.medical(word) or self.vocabulary.is_function_word(word)

    def _named(self, view: Words, index: int) -> Iterator[Span]:
        """A name that ends with a word for a hospital or the like at ``index``."""
        words, word = view.words, view.words[index]
        after = words[index + 1] if index + 1 < len(words) else None
        follows = after is not None and after.joined
        if after is not None and follows and after.case == word.case and after.lower in _ENDS:
            return  # the name goes on
        first = self._start(view, index)
        names = [each for each in words[first : index + 1] if each.lower not in _GENERIC and each.case != LOWER]
        of_town = (
            after is not None
            and follows
            and after.lower == "of"
            and index + 2 < len(words)
            and words[index + 2].case == TITLE
        )
        if of_town and word.lower in _STRONG and words[index + 2].joined:
            town = words[index + 2].lower
            if town not in _GENERIC and (town in self.lexicon.towns or not self.lexicon.medical(town)):
                last = index + 2
                while last + 1 < len(words) and words[last + 1].joined and words[last + 1].case == TITLE:
                    last += 1
                yield (
                    words[first].start,
                    words[last].stop,
                    0.8,
                    "place.facility",
                    "a hospital, school or firm of a place",
                )
                return
        if not names or (
            word.case == UPPER and not view.shouted and not any(each.lower in self.lexicon.towns for each in names)
        ):
            return
        end = word.stop
        if after is not None and follows and after.case == TITLE and after.lower in self.lexicon.towns:
            end = after.stop
        sure = word.lower in _STRONG and not all(
            self.lexicon.medical(each.lower) and each.lower not in self.lexicon.towns for each in names
        )
        if sure or any(self._name_word(each.lower) for each in names):
            yield (
                words[first].start,
                end,
                0.82 if sure else 0.62,
                "place.facility",
                "a hospital, school or firm by its name",
            )

    def _start(self, view: Words, index: int) -> int:
        """Back over the capital words (and "of", "and", "&") that a facility's name consists of."""
        words, first = view.words, index
        while first > 0:
            word, before = words[first], words[first - 1]
            dotted = word.gap == ". " and (before.lower in ("st", "mt", "ft", "med") or before.case == INITIAL)
            if not (word.joined or dotted or (word.gap in (" & ", "-", "/") and before.case != LOWER)):
                break
            if before.case == LOWER:
                link = before.lower in ("of", "and", "for", "the", "de", "del", "la") and before.joined and first > 1
                earlier = words[first - 2] if link else before
                if (
                    earlier.case not in (TITLE, UPPER)
                    or self.vocabulary.is_function_word(earlier.lower)
                    or earlier.lower in ("dr", "mr")
                ):
                    break
                if (
                    before.lower == "of"
                    and earlier.lower not in _ENDS
                    and not view.shouted
                    and earlier.lower not in ("lady", "school")
                ):
                    break  # "Dr. Jacobson of Cardiology"
                first -= 2
                continue
            if self.vocabulary.is_function_word(before.lower) and before.lower not in _IN_NAMES:
                break
            first -= 1
        return first

    def _name_word(self, word: str) -> bool:
        lexicon = self.lexicon
        return word in lexicon.given or word in lexicon.surnames or word in lexicon.towns or not lexicon.known(word)


@functools.lru_cache(maxsize=1 << 14)
def _ends(word: str) -> tuple[str, str]:
    """The first and the last part of a word: both halves of "walk-in"."""
    parts = re.split(r"['’\-‐‑]", word)
    return parts[0], parts[-1]


def _before_adjectives(view: Words) -> Iterator[int]:
    """Where a preposition stands with "general", "city" … behind it."""
    words = view.words
    for index, word in enumerate(words) if not _ADJECTIVES.isdisjoint(view.present) else ():
        if word.lower in _ADJECTIVES:
            first = index - 1 if index and words[index - 1].lower in ("the", "our") else index
            if words[first].gap.rstrip().endswith("@"):
                yield view.text.rfind("@", 0, words[first].start)
            elif first and (preposition := _ends(words[first - 1].lower)[1]) in _PREPOSITIONS:
                yield words[first - 1].stop - len(preposition)
