"""Overlaps are resolved so that everything stays covered."""

import pytest

from fedmed.data.deidentify.findings import TYPES, Finding, resolve

pytestmark = pytest.mark.unit


def test_the_surer_finding_keeps_its_span_and_the_rest_stays_covered():
    text = "Dr. Smith Hospital"
    name = Finding(4, 9, "NAME", 0.9, "a", "b")
    place = Finding(0, 18, "LOCATION", 0.8, "a", "b")
    made = resolve([place, name], text)
    assert [(each.type, text[each.start : each.end]) for each in made] == [
        ("LOCATION", "Dr"), ("NAME", "Smith"), ("LOCATION", "Hospital"),
    ]  # fmt: skip


def test_what_is_left_without_letter_or_digit_is_no_finding():
    made = resolve([Finding(0, 6, "NAME", 0.5, "a", "b"), Finding(1, 5, "NAME", 0.9, "a", "b")], "(Anna)")
    assert [(each.start, each.end) for each in made] == [(1, 5)]


def test_there_are_twenty_types_for_the_eighteen_identifiers():
    assert len(TYPES) == len(set(TYPES)) == 20
