from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedmed.errors import DataFormatError, OutputNotWritableError, RunNotFoundError
from fedmed.evaluation.report import write_report

pytestmark = pytest.mark.unit


def page_of(folder: Path, summary: Any, rounds: str = "", config: str | None = None) -> str:
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    if rounds:
        (folder / "rounds.jsonl").write_text(rounds, encoding="utf-8")
    if config is not None:
        (folder / "config.yaml").write_text(config, encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


def words(page: str) -> str:
    """What a person reads, narrow spaces made plain."""
    without_style = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without_style))


def test_the_headline_tells_the_fall_and_the_share_of_worked_examples(
    tmp_path: Path, full_summary: dict[str, Any]
) -> None:
    text = words(page_of(tmp_path, full_summary))
    assert "3.348 → 2.012" in text
    assert "39.9 % lower" in text
    assert "95 % interval 37.1 to 42.6 %" in text
    assert "3 worked examples in the base model's prompt give 55.2 % of that fall by themselves" in text
    assert "Not for clinical use." in text


def test_each_hospital_has_its_row_and_the_total_stands_last(tmp_path: Path, full_summary: dict[str, Any]) -> None:
    text = words(page_of(tmp_path, full_summary))
    assert "hospital_A 4 100 3.300 2.580 1.980 −40.0 %" in text
    assert "All 8 237 3.348 2.610 2.012 −39.9 %" in text


def test_a_loss_that_rose_is_called_higher(tmp_path: Path) -> None:
    summary = {"loss": {"base": 2.0, "federated": 2.5}, "evaluation": {"few_shot": {"loss": 1.9, "examples": 3}}}
    text = words(page_of(tmp_path, summary))
    assert "25.0 % higher" in text
    assert "of that fall" not in text


def test_worked_examples_as_good_as_training_are_not_called_a_part_of_it(tmp_path: Path) -> None:
    summary = {"loss": {"base": 3.0, "federated": 2.5}, "evaluation": {"few_shot": {"loss": 2.4, "examples": 3}}}
    assert "does not show that training added knowledge" in words(page_of(tmp_path, summary))


def test_references_choices_rouge_answers_costs_and_digest_are_on_the_page(
    tmp_path: Path, full_summary: dict[str, Any]
) -> None:
    text = words(page_of(tmp_path, full_summary, config="federated:\n  rounds: 4\n"))
    assert "Shuffled answers the same training on wrong answers: form without content 2.871 −14.2 %" in text
    assert "Central all records in one place, the same tokens and steps 1.994" in text
    assert "55.0 % (40–69 %)" in text
    assert "70.0 % (55–82 %)" in text
    assert "0.287" in text
    assert "Withheld · confidence 0.21 · dose: advice to change a medicine" in text
    assert "63.7 MB" in text
    assert "2 min 32 s" in text
    assert "2.4 GB" in text
    assert "No differential privacy in this run" in text
    assert "per-hospital losses" in text
    assert "fedmed run --recipe cpu_demo" in text
    assert "9f2c" * 16 in text
    assert "torch 2.13.0" in text
    assert "rounds: 4" in text


def test_an_empty_summary_still_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    text = words(page_of(tmp_path, {}))
    assert text.count("Not measured in this run.") >= 8
    assert "Not for clinical use." in text


def test_any_single_missing_part_leaves_the_rest_standing(tmp_path: Path, full_summary: dict[str, Any]) -> None:
    for key in full_summary:
        for broken in (None, {}, [], "text", 7):
            page = page_of(tmp_path, {**full_summary, key: broken})
            assert "How to repeat it" in page
            assert "None" not in words(page)
            assert "nan" not in words(page)


def test_no_text_of_a_run_can_become_markup(tmp_path: Path, full_summary: dict[str, Any]) -> None:
    attack = '"><script>alert(1)</script>'

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {f"{key}": poison(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [poison(inner) for inner in value]
        return value + attack if isinstance(value, str) else value

    poisoned = poison(full_summary)
    poisoned["environment"][attack] = {attack: attack}
    poisoned["loss"]["per_hospital"][attack] = {"base": 1.0, "federated": 1.0}
    poisoned["wall_s"][attack] = 1.0
    line = json.dumps({"round": 1, "hospital": attack, "loss": 1.0})
    assert "<script" not in page_of(tmp_path, poisoned, line + "\n", config=attack)


class Tags(HTMLParser):
    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_tag_is_closed_in_order_and_every_id_is_its_own(
    tmp_path: Path, full_summary: dict[str, Any], round_lines: str
) -> None:
    tags = Tags()
    tags.feed(page_of(tmp_path, full_summary, round_lines))
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids)) > 0


def test_the_page_refers_to_nothing_outside_itself_and_holds_no_script(
    tmp_path: Path, full_summary: dict[str, Any], round_lines: str
) -> None:
    page = page_of(tmp_path, full_summary, round_lines)
    assert re.findall(r"https?:", page) == []
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert len(page) < 60_000


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, full_summary: dict[str, Any], round_lines: str) -> None:
    assert page_of(tmp_path, full_summary, round_lines) == page_of(tmp_path, full_summary, round_lines)


def test_curves_start_at_the_base_model_when_held_out_loss_was_followed(
    tmp_path: Path, full_summary: dict[str, Any], round_lines: str
) -> None:
    page = page_of(tmp_path, full_summary, round_lines)
    assert "hospital_A, round 0: 3.300" in page
    assert "hospital_B, round 2: " in page


def test_a_half_written_last_line_of_a_running_run_is_left_out(
    tmp_path: Path, full_summary: dict[str, Any], round_lines: str
) -> None:
    page = page_of(tmp_path, {**full_summary, "status": "running"}, round_lines + '{"round": 3, "hos')
    assert "still running" in page


def test_losses_that_hospitals_keep_to_themselves_are_said_to_be_kept(
    tmp_path: Path, full_summary: dict[str, Any]
) -> None:
    full_summary["loss"]["per_hospital"] = None
    assert "Losses of single hospitals were not shared in this run." in words(page_of(tmp_path, full_summary))


def test_a_folder_without_a_run_and_a_damaged_summary_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match=r"summary\.json"):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text('{"run_id": "x"')
    with pytest.raises(DataFormatError, match=r"summary\.json is not JSON"):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(DataFormatError, match="no JSON object"):
        write_report(tmp_path)


def test_a_damaged_line_between_whole_ones_is_named(tmp_path: Path, full_summary: dict[str, Any]) -> None:
    with pytest.raises(DataFormatError, match=r"rounds\.jsonl line 1 is not JSON"):
        page_of(tmp_path, full_summary, "half\n{}\n")


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path, full_summary: dict[str, Any]) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputNotWritableError, match=r"report\.html"):
        page_of(tmp_path, full_summary)


def test_the_fall_without_the_end_token_is_told_where_it_was_measured(tmp_path, full_summary):
    (tmp_path / "summary.json").write_text(json.dumps(full_summary), encoding="utf-8")
    assert "2.842 → 2.111" in write_report(tmp_path).read_text(encoding="utf-8")
    del full_summary["loss"]["without_end_token"]
    (tmp_path / "summary.json").write_text(json.dumps(full_summary), encoding="utf-8")
    assert "ends an answer" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_what_each_hospital_has_spent_and_has_left_is_told(tmp_path: Path, full_summary: dict[str, Any]) -> None:
    full_summary["privacy"] |= {
        "example_epsilon": 7.4, "example_budget": 8.0, "delta": 1e-5, "unit": "record",
        "hospitals": {"hospital_A": {"epsilon": 7.4, "hospital_epsilon": None}, "hospital_B": {"epsilon": 8.1}},
    }  # fmt: skip
    text = words(page_of(tmp_path, full_summary))
    assert "Hospital ε of a record Left, of 8 hospital_A 7.40 0.60 hospital_B 8.10 0.00" in text
