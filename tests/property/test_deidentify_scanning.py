"""De-identification tries patterns only where they can match: nothing is found anywhere else."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.data.deidentify import addresses, dates, facilities, identifiers, lexicon
from fedmed.data.deidentify.identifier_shapes import SHAPES
from fedmed.data.deidentify.places import PlaceFinder
from fedmed.data.deidentify.vocabulary import Vocabulary
from fedmed.data.deidentify.words import Words

pytestmark = pytest.mark.property

many = settings(max_examples=150, deadline=None)

PIECES = st.sampled_from(
    """
    a@b.org|x y@b.org|@handle_1|(at)|www.b.org/c|http://b.io/?q=1|scan.png|00:1A:2B:3C:4D:5E|10.0.0.12|fe80::1:2|::
    123e4567-e89b-12d3-a456-426614174000|1EG4-TE5-MK73|1HGCM82633A004352|(01)00643169007222(17)160712|+A123BJC5D6E71
    MORGA657054SM9IJ|AB12 CDE|ICU-12|7E-85B|in 3A-12|ABC-D-012|XXX-XX-1234|219-09-9999|(617) 555-0143|+44 20 7946 0958
    617-555-0143 x12|1-800-ABC-DEFG|4111 1111 1111 1111|GB29 NWBK 6016 1331 9268 19|MRN: 448-291|#778812|12 34 56|a--5
    5mg|B12|_5|é5|65-year-old|mid-2020|x/5|2023|07/12/2023|3/14|14 March|March 3rd, 2021|in May|mid-June|mid- July 2020
    19JAN2021|Tues, 3/4|on the 4th|3/4-5/4|Jan|sept|20210304|she,93|aged 93|(93)|Ann, 94,|at 95, she|92 yo|is now 91
    age at onset of 93|ninety-one|in her 90s|Christmas Day|New Year's Eve|Friday|born in 1921|12 Main Street, Apt 4|4
    12 N. Oak St|221 oak lane|9 ELM ROAD|7 Upper Hill|Rue de Lyon 12|Hauptstr. 5|Oak Avenue|unit 4B|PO Box 12
    lives in 02115|SW1A 1AA|sw1a 1aa|K1A 0B1|zip 021|42.36011, -71.05891|corner of Oak and Elm|St. Mary's|02115-1234
    Our Lady of Fatima|Mayo Clinic|Mass General|at the city hospital|walk-in general hospital|@ county Clinic
    """.replace("\n", "|").split("|")
).map(str.strip)
SIGNS = st.sampled_from(
    [" ", "  ", "\n", ", ", ". ", "-", "/", ":", "(", ")", "#", "'", "^", "", "\u2588", "x", "7", "é"]
)
TEXTS = st.lists(st.one_of(PIECES, SIGNS, SIGNS), max_size=14).map("".join)


@pytest.fixture(scope="module")
def places():
    return PlaceFinder(Vocabulary(lexicon.load()))


@given(text=TEXTS)
@many
def test_a_shape_is_found_wherever_it_stands(text):
    view = Words(text)
    for shape in SHAPES:
        found = [match.span() for match in shape.matches(view)]
        assert found == [match.span() for match in shape.pattern.finditer(text)], shape.rule


@given(text=TEXTS)
@many
def test_trying_every_place_finds_no_more(places, text):
    finders = (identifiers.find, lambda view: dates.find(view, 2026), places.find)
    view = Words(text)
    found = [set(find(view)) for find in finders]
    with pytest.MonkeyPatch.context() as patch:
        for module in (identifiers, dates, addresses, facilities):
            patch.setattr(module, "matches_at", lambda pattern, text, starts: pattern.finditer(text), raising=False)
            patch.setattr(module, "holds", lambda text, words: True, raising=False)
        assert found == [set(find(view)) for find in finders]


@st.composite
def walls(draw):
    text = draw(st.one_of(TEXTS, st.text(alphabet="aB1 '-.\n_é", max_size=30)))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    return text, [span for span in spans if re.search(r"\w", text[slice(*span)])]


@given(case=walls())
@many
def test_words_behind_walls_are_those_of_the_walled_text(case):
    text, spans = case
    view = Words(text).behind_walls(spans)
    again = Words(view.text)
    assert view.words == again.words
    assert (view.capitals, view.shouted, view.small) == (again.capitals, again.shouted, again.small)
    assert (view.folded, view.numbers, view.codes) == (again.folded, again.numbers, again.codes)
