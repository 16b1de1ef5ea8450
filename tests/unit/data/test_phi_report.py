"""A report on identifiers counts them and shows none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.data.phi_report import mask, phi_report

pytestmark = pytest.mark.unit


@given(st.text())
def test_a_mask_shows_no_letter_and_no_digit(value: str) -> None:
    assert not any(letter.isalnum() for letter in mask(value))


def test_a_mask_keeps_the_shape() -> None:
    assert mask("Dr. Jane  Roe") == "•••. ••• •••"
    assert mask("(617) 555-0142") == "(###) ###-####"
    assert len(mask("x " * 200)) <= 40


def test_findings_are_counted_by_type_and_record(marked_scanner: Any) -> None:
    texts = [("SECRETa", "SECRETb"), ("none", ""), ("MAYBE", "SECRETc")]
    made = phi_report(texts, marked_scanner(), records=10, min_score=0.5)
    assert (made.scanned, made.records, made.with_findings) == (3, 10, 2)
    name = made.types["NAME"]
    assert (name.found, name.records, name.examples) == (3, 2, (("•••", 3),))
    assert "SECRET" not in str(made.as_dict())
