"""One engine for all tests of the recognisers: its vocabularies take seconds to load."""

from __future__ import annotations

import pytest

from fedmed.data.deidentify import Deidentifier, Policy

KEY = b"sixteen bytes or more"


@pytest.fixture(scope="session")
def engine() -> Deidentifier:
    return Deidentifier(Policy(key=KEY, year=2026))


@pytest.fixture(scope="session")
def found(engine):
    """Text -> [(type, what is found)]."""
    return lambda text: [(each.type, text[each.start : each.end]) for each in engine.find(text)]
