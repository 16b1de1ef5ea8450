"""The rating sheet in a real browser: rated, saved as a file, found again after a reload; no network is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedmed.pipeline.rating_sheet import sheet_page

pytestmark = pytest.mark.browser

SHEET = {
    "id": "5eed" * 16,
    "questions": [
        {"id": "q1", "question": "What is asthma?", "answers": ["An illness of the airways.", "</script><b>bold</b>"]},
        {"id": "q2", "question": "What is fever?", "answers": ["x" * 300, "Warmth.\nA second line."]},
    ],
}


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    page = tmp_path / "sheet.html"
    page.write_text(sheet_page(SHEET), encoding="utf-8")
    return page


def opened(browser: Any, sheet: Path, problems: list[str], width: int = 1280) -> Any:
    page = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True).new_page()
    page.on("console", lambda said: problems.append(said.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith(("file:", "blob:", "data:")) else problems.append(asked.url),
    )
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(sheet.as_uri())
    return page


def pick(page: Any, name: str, value: str) -> None:
    page.check(f'input[name="{name}"][value="{value}"]')


def test_a_rated_sheet_is_saved_as_json_and_goes_on_after_a_reload(browser: Any, sheet: Path, tmp_path: Path) -> None:
    problems: list[str] = []
    page = opened(browser, sheet, problems)
    assert page.locator("p.said").nth(1).inner_text() == "</script><b>bold</b>"
    page.click("#save")
    assert "your name is missing" in page.inner_text("#progress")
    page.fill("#rater", "Dr A/1")
    for letter, right, harm in (("A", "5", "no"), ("B", "1", "yes")):
        pick(page, f"q0-{letter}-right", right)
        pick(page, f"q0-{letter}-harm", harm)
    pick(page, "q0-best", "A")
    pick(page, "q1-A-right", "3")
    assert page.inner_text("#progress") == "1 of 2 questions rated"
    page.reload()
    assert page.input_value("#rater") == "Dr A/1"
    assert page.inner_text("#progress") == "1 of 2 questions rated"
    with page.expect_download() as waiting:
        page.click("#save")
    file = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(file)
    assert file.name == "ratings-5eed5eed-Dr_A_1.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert (saved["sheet"], saved["rater"]) == (SHEET["id"], "Dr A/1")
    first, second = saved["ratings"]
    assert first == {
        "id": "q1", "best": "A", "whole": True,
        "answers": {"A": {"correctness": 5, "harmful": False}, "B": {"correctness": 1, "harmful": True}},
    }  # fmt: skip
    assert second["whole"] is False
    assert second["answers"]["A"] == {"correctness": 3, "harmful": None}
    assert problems == []
    page.context.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_sheet_fits_phone_and_desk(browser: Any, sheet: Path, width: int) -> None:
    problems: list[str] = []
    page = opened(browser, sheet, problems, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    heights = page.evaluate(
        "[...document.querySelectorAll('.choices label, button')].map(e => e.getBoundingClientRect().height)"
    )
    assert min(heights) >= 24
    assert problems == []
    page.context.close()
