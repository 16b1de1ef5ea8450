"""The report tells what evaluation.json holds: who gained, who was harmed, does joining help, exams beside chance."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedmed.evaluation.report import write_report

pytestmark = pytest.mark.unit


def measure(base: float, federated: float, width: float) -> dict[str, dict[str, float]]:
    values = {"base": base, "federated": federated, "delta": federated - base}
    return {side: {"value": value, "low": value - width, "high": value + width} for side, value in values.items()}


def entry(base: float, federated: float) -> dict[str, Any]:
    loss, overlap = measure(base, federated, 0.1), measure(0.2, 0.3, 0.05)
    return {"records": 64, "loss": loss, "answers": 4, "rouge_l": overlap, "word_f1": overlap}


EVALUATION: dict[str, Any] = {
    "held_out": {
        "all": entry(3.0, 2.5),
        "hospitals": {"north": entry(3.0, 2.0), "south": entry(3.0, 3.2)},
        "specialties": {"heart": entry(2.9, 2.4)},
        "fairness": {
            "worst": "south", "best": "north", "gap": measure(0.0, 1.2, 0.2), "least_gain": "south",
            "most_gain": "north", "harmed": ["south"], "gained": ["north"], "unclear": [], "too_few": ["east"],
        },
    },
    "joining": {
        "hospitals": {
            "north": {
                "local": {"value": 2.6, "low": 2.5, "high": 2.7}, "shared": {"value": 2.0, "low": 1.9, "high": 2.1},
                "personalised": {"value": 1.9, "low": 1.8, "high": 2.0},
                "shared_less_local": {"value": -0.6, "low": -0.8, "high": -0.4},
                "personalised_less_local": {"value": -0.7, "low": -0.9, "high": -0.5},
                "verdict": {"shared": "helps", "personalised": "unclear"},
            }
        }
    },
    "exams": {
        "tasks": {
            "medqa": {
                "items": 640, "chance": 0.25, "most_frequent": 0.271, "acc": measure(0.25, 0.28, 0.03),
                "subjects": {"virology": {"items": 97, "acc": measure(0.2, 0.3, 0.1)}},
            },
            "pubmedqa": {"items": 500, "chance": 1 / 3, "most_frequent": 0.55, "acc": measure(0.4, 0.3, 0.05)},
        },
        "mean": {"acc": measure(0.325, 0.29, 0.02)},
    },
}  # fmt: skip


def page_of(folder: Path, evaluation: Any) -> str:
    (folder / "summary.json").write_text("{}", encoding="utf-8")
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


def words(page: str) -> str:
    without_style = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without_style))


def test_each_part_stands_on_the_page_with_its_intervals(tmp_path: Path) -> None:
    text = words(page_of(tmp_path, EVALUATION))
    assert "north 64 3.000 2.900 to 3.100 2.000 1.900 to 2.100 −1.000 −1.100 to −0.900" in text
    assert "Worst off: south" in text
    assert "was 0.000 before training and is 1.200 (95 % interval of the change +1.000 to +1.400)" in text
    assert "Harmed, its loss having risen beyond what chance explains: south" in text
    assert "Too few records to tell, whose intervals are too narrow: east" in text
    assert "heart 64" in text
    assert "north ROUGE-L 4 0.200" in text
    assert "north: the shared model helps; the personalised one shows no difference." in text
    assert "−0.600 −0.800 to −0.400" in text
    assert "MedQA 640 25.0 % or 27.1 % 25.0 % 22.0 to 28.0" in text
    assert "+3.0 +0.0 to +6.0" in text
    assert "Mean 32.5 %" in text
    assert "virology MedQA 97" in text


def test_what_was_not_measured_names_its_command(tmp_path: Path) -> None:
    for part, command in (("held_out", "--held-out"), ("joining", "--joining"), ("exams", "--tasks pubmedqa")):
        text = words(page_of(tmp_path, {name: own for name, own in EVALUATION.items() if name != part}))
        assert f"Not measured in this run. fedmed evaluate RUN {command}" in text


def test_unshared_losses_of_hospitals_are_said_to_be_so(tmp_path: Path) -> None:
    unshared = {"all": entry(3.0, 2.5), "hospitals": None, "specialties": None, "fairness": None}
    text = words(page_of(tmp_path, {"held_out": unshared}))
    assert "Losses of single hospitals were not shared in this run." in text
    assert "Worst off" not in text


def test_damaged_or_hostile_values_break_no_page_and_become_no_markup(tmp_path: Path) -> None:
    attack = '"><script>alert(1)</script>'

    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poisoned(inner) for key, inner in value.items()} | {attack: {attack: attack}}
        return value + attack if isinstance(value, str) else value

    assert "<script" not in page_of(tmp_path, poisoned(EVALUATION))
    for part in EVALUATION:
        for broken in (None, [], "text", 7, {"hospitals": {"a": None}, "tasks": {"b": 3}, "all": []}):
            page = page_of(tmp_path, EVALUATION | {part: broken})
            assert "How to repeat it" in page
            assert "None" not in words(page)
