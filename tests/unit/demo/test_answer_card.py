"""A card says what was decided, and shows text as text."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.demo.answer_card import card, problem, waiting
from fedmed.types import Answer

pytestmark = pytest.mark.unit

TEXT = "A disease of joints."


def answer(text: str = TEXT, **more: Any) -> Answer:
    values: dict[str, Any] = {"allowed": True, "reasons": (), "confidence": 0.62, "disclaimer": "No advice."}
    return Answer(text, **(values | {"model": "tiny", "run": "first"} | more))


def words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup))


def test_a_shown_answer_says_how_sure_it_is_and_of_what() -> None:
    plain, measured = words(card(answer())), words(card(answer(calibrated=True)))
    assert TEXT in plain
    assert "62\u202f%".replace("\u202f", " ") in plain
    assert "Not calibrated" in plain
    assert "measured on held-out questions" in measured
    assert "Not calibrated" not in measured
    assert "No advice." in plain


def test_rails_are_named_with_their_reasons() -> None:
    made = card(answer(reasons=("dose.stated: it states a dose", "text.cut_off: it stops early"), action="annotate"))
    assert "<code>dose.stated</code> <span>it states a dose</span>" in made
    assert "text.cut_off" in made


@pytest.mark.parametrize(
    ("action", "kind"), [("allow", "shown"), ("annotate", "shown"), ("withhold", "withheld"), ("refer", "refer")]
)
def test_what_was_done_can_be_seen(action: str, kind: str) -> None:
    allowed = action in ("allow", "annotate")
    assert f"fm-{kind}" in card(answer(action=action, allowed=allowed))


def test_what_was_not_allowed_is_never_drawn_as_shown() -> None:
    assert "fm-withheld" in card(answer(action="annotate", allowed=False))
    assert "fm-withheld" in card(answer(action="a new one", allowed=False))


def test_no_figure_is_drawn_where_there_is_none() -> None:
    assert "Confidence" not in card(answer(confidence=None))


@given(st.text(), st.text(), st.text())
def test_no_text_becomes_markup(text: str, reason: str, title: str) -> None:
    tags = re.compile(r"<(/?[a-z]+)")
    made = card(answer(text, reasons=(f"rule: {reason}",), disclaimer=reason, model=text, run=title), title or "x")
    plain = card(answer("x", reasons=("rule: x",), disclaimer="x", model="x", run=title and "x"), "x")
    assert tags.findall(made) == tags.findall(plain)
    assert len(tags.findall(problem(text))) == len(tags.findall(problem("x")))
    assert tags.findall(waiting(text or "x")) == tags.findall(waiting("x"))
