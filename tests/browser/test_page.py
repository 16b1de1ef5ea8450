"""The page in a real browser: ask, be refused, be sent for help, compare, watch a run; by keyboard, on a phone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser.conftest import KEY
from tests.serving_writer import Writer, text_of

from fedmed.config.load import dump_config
from fedmed.config.schema import FedMedConfig

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
EMERGENCY = "I have crushing chest pain that spreads to my left arm"
WAIT = 60_000  # milliseconds; the machine may be busy


def shown(page: Any, selector: str) -> str:
    page.wait_for_selector(selector, timeout=WAIT)
    return re.sub(r"\s+", " ", page.inner_text(selector))


def ask(page: Any, question: str) -> None:
    page.fill("#question textarea", question)
    page.keyboard.press("Enter")


def test_a_question_gets_an_answer_its_confidence_and_what_the_rails_said(open_page: Open) -> None:
    page = open_page()
    ask(page, "What is gout?")
    card = shown(page, "#answer .fm-shown")
    assert "It is about gout?" in card
    assert "60 %" in card
    assert "Not calibrated" in card
    assert "no rule fired" in card
    assert "not medical advice" in card
    assert "tiny, run first" in card


def test_an_unsafe_answer_is_withheld_and_the_rule_is_named(open_page: Open) -> None:
    page = open_page()
    ask(page, "What is wrong with me?")
    card = shown(page, "#answer .fm-withheld")
    assert "Withheld" in card
    assert "diagnosis.stated" in card
    assert "You have cancer" not in page.content()


def test_an_emergency_is_answered_without_the_model(open_page: Open, writer: Writer) -> None:
    page, before = open_page(), len(writer.passes)
    page.click(f"text={EMERGENCY}")
    card = shown(page, "#answer .fm-refer")
    assert "911" in card
    assert len(writer.passes) == before


def test_what_a_model_writes_never_becomes_markup(open_page: Open, writer: Writer) -> None:
    page, says = open_page(), writer.says
    writer.says = lambda asked: text_of("Gout is <b>a disease</b> of joints <img src=x onerror=document.title='own'>.")
    try:
        ask(page, "What is <i>gout</i>?")
        assert "<b>a disease</b>" in shown(page, "#answer .fm-shown")
    finally:
        writer.says = says
    assert page.title() == "FED-MED"
    assert page.query_selector("#answer b") is None


@pytest.mark.parametrize(
    ("tab", "box", "place", "cards"), [("Ask", "question", "answer", 1), ("Compare", "compare-question", "compared", 2)]
)
def test_an_emergency_asked_while_another_question_is_answered_is_not_lost(
    open_page: Open, writer: Writer, tab: str, box: str, place: str, cards: int
) -> None:
    page, pause = open_page(), writer.pause
    page.click(f'role=tab[name="{tab}"]')
    writer.pause = 3.0
    try:
        for text in ("What is gout?", EMERGENCY):
            page.fill(f"#{box} textarea", text)
            page.keyboard.press("Enter")
            page.wait_for_selector(f"#{place} .fm-card", timeout=WAIT)
        page.wait_for_function(
            "([place, cards]) => document.querySelectorAll(`#${place} .fm-refer`).length == cards",
            arg=[place, cards], timeout=WAIT,
        )  # fmt: skip
        page.wait_for_timeout(1000)
        assert len(page.query_selector_all(f"#{place} .fm-refer")) == cards
        assert page.query_selector(f"#{place} .fm-shown") is None
    finally:
        writer.pause = pause


def test_two_models_stand_side_by_side(open_page: Open) -> None:
    page = open_page()
    page.click('role=tab[name="Compare"]')
    page.fill("#compare-question textarea", "What is gout?")
    page.click("#compare")
    page.wait_for_function("document.querySelectorAll('#compared .fm-shown').length == 2", timeout=WAIT)
    left, right = page.query_selector_all("#compared .fm-card")
    assert "base, without adapter" in left.inner_text()
    assert "first" in right.inner_text()
    assert left.bounding_box()["y"] == pytest.approx(right.bounding_box()["y"], abs=2)


def test_the_page_is_used_by_keyboard_alone(open_page: Open) -> None:
    page = open_page()
    page.focus("#question textarea")
    page.keyboard.type("What is gout?")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "ask"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    assert "It is about gout?" in shown(page, "#answer .fm-shown")
    assert page.get_attribute("#answer", "aria-live") == "polite"


def write_running(folder: Path, rounds: int) -> None:
    """A run that has ended so many of its four rounds, as ``fedmed run`` leaves it on the disk."""
    config = FedMedConfig()
    config = config.model_copy(update={"federated": config.federated.model_copy(update={"rounds": 4})})
    (folder / "rounds").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump_config(config, {"seed": 17}), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps({"run_id": folder.name, "status": "running", "reason": None}))
    names = [f"hospital_{letter}" for letter in "ABCD"]
    lines = [
        {"round": at, "hospital": name, "loss": 3.0 / at + place / 10, "tokens": 900, "seconds": 1.0}
        for at in range(1, rounds + 1)
        for place, name in enumerate(names)
    ]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"round": 9, "hosp')
    for at in range(1, rounds + 1):
        past = [
            {"round": one, "admitted": names, "refused": {}, "bytes_up": 2_000_000, "bytes_down": 1_000_000,
             "num_samples": dict.fromkeys(names, 100), "update_norm": 1.0}
            for one in range(1, at + 1)
        ]  # fmt: skip
        state = folder / "rounds" / f"{at:04d}" / "state.json"
        state.parent.mkdir(exist_ok=True)
        state.write_text(json.dumps({"round": at, "history": past}))


def test_a_run_is_drawn_while_it_goes_on(open_page: Open, runs: Path) -> None:
    folder = runs / "going-on"
    write_running(folder, 1)
    page = open_page()
    page.click('role=tab[name="Federation"]')
    assert "Running" in shown(page, "#federation .fm-state")
    assert "round 1 of 4" in shown(page, "#federation .fm-state")
    drawn = shown(page, "#federation")
    for words in ("8.0 MB", "4.0 MB", "hospital_C", "No differential privacy"):
        assert words.replace("8.0", "2.0").replace("4.0", "1.0") in drawn
    write_running(folder, 3)
    page.wait_for_function("document.querySelector('#federation').innerText.includes('round 3 of 4')", timeout=WAIT)
    assert "6.0 MB" in shown(page, "#federation")
    assert page.eval_on_selector_all("#federation .wide .dot", "dots => dots.length") == 12
    (folder / "summary.json").write_text(json.dumps({"run_id": "going-on", "status": "stopped", "reason": "no disk"}))
    page.wait_for_function("document.querySelector('#federation').innerText.includes('no disk')", timeout=WAIT)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_the_page_fits_phone_and_desk_in_light_and_dark(open_page: Open, runs: Path, width: int, scheme: str) -> None:
    write_running(runs / "going-on", 3)
    page = open_page(width=width, scheme=scheme)
    ask(page, "What is gout?")
    shown(page, "#answer .fm-shown")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) == 0
    ink, paper = (
        sum(
            map(
                int,
                re.findall(r"\d+", page.eval_on_selector("#answer .fm-card", f"one => getComputedStyle(one).{key}"))[
                    :3
                ],
            )
        )
        for key in ("color", "backgroundColor")
    )
    assert (paper > ink + 300) if scheme == "light" else (ink > paper + 300)
    page.click('role=tab[name="Federation"]')
    shown(page, "#federation .fm-run")
    assert page.evaluate(wide) == 0
    kind = "narrow" if width == 360 else "wide"
    assert page.is_visible(f"#federation .{kind} svg")


@pytest.fixture
def pictured(address: str, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """What is taken and where it is put: for ``make picture`` the newest run, else the writer's page."""
    place = os.environ.get("FEDMED_PICTURE")
    if not place:
        yield address, tmp_path / "page.png"
        return
    words = ["serve", "--port", "0", "--audit", str(tmp_path / "audit.jsonl")]
    process = subprocess.Popen([sys.executable, "-m", "fedmed", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = next(at[1] for line in process.stderr if (at := re.match(r"page at (\S+)/", line)))
        yield found, Path(place)
    finally:
        process.terminate()
        process.wait(60)


def test_a_picture_of_the_page_is_not_blank(open_page: Open, pictured: tuple[str, Path]) -> None:
    url, place = pictured
    page = open_page(width=900, height=860, url=url)
    ask(page, "What is hypertrophic cardiomyopathy?")
    page.wait_for_selector("#answer .fm-card:not(.fm-waiting)", timeout=5 * WAIT)
    page.evaluate("document.activeElement.blur()")
    page.screenshot(path=place)
    assert place.stat().st_size > 30_000


def test_with_keys_a_person_signs_in_and_the_audit_knows_whose_key_it_was(
    open_page: Open, locked_address: str, tmp_path: Path
) -> None:
    page = open_page(url=locked_address, until="input[type=password]")
    assert page.query_selector("#question") is None
    page.fill("input:not([type=password])", "ward-3")
    page.fill("input[type=password]", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#ask", timeout=WAIT)
    ask(page, "What is gout?")
    assert "It is about gout?" in shown(page, "#answer .fm-shown")
    (line,) = (tmp_path / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["asker"] == "ward-3"
