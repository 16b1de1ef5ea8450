from __future__ import annotations

import pytest

from fedmed.safety.normalise import normalise

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "text",
    [
        "don't stop",
        "DON’T   STOP",
        "don\u2018t\n\tstop ",
        "do\u200bn't st\u00adop",
        "\ufeffd\u0301on\u02bct\u00a0stop",
        "ｄｏｎ'ｔ ｓｔｏｐ",
        "**don't** _stop_",
    ],
)
def test_every_way_to_write_it_has_one_plain_form(text: str) -> None:
    assert normalise(text) == "dont stop"


def test_dashes_become_hyphens() -> None:
    assert normalise("self–harm — self‑harm") == "self-harm - self-harm"


def test_words_of_other_scripts_are_kept_as_letters() -> None:
    assert any(character.isalpha() for character in normalise("сердце 心臓 قلب"))
