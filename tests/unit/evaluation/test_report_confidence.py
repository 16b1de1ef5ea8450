from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest

from fedmed.evaluation.calibration import measure
from fedmed.evaluation.report_confidence import confidence, reliability_chart

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    random = np.random.default_rng(2)
    p = random.random(200)
    return json.loads(json.dumps(dataclasses.asdict(measure(p, random.random(200) < p, seed=1))))


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_section_tells_figures_with_intervals_and_draws_a_point_a_bin(measured: dict[str, Any]) -> None:
    found = {
        "calibrated": True, "fitted_on": 200, "measured": measured, "token_probability": measured,
        "below_min_confidence": 0.25,
    }  # fmt: skip
    page = confidence({"confidence": found})
    text = words(page)
    assert f"Calibrated {measured['ece']['value']:.3f}" in text
    assert "Fitted on 200 held-out questions" in text
    assert "Token probability alone" in text
    assert "25.0 % of those answers" in text
    assert page.count("<circle") == len(measured["bins"])
    assert 'role="img"' in page


def test_a_run_without_calibration_says_why(measured: dict[str, Any]) -> None:
    text = words(confidence({"confidence": {"calibrated": False, "reason": "3 <questions>"}}))
    assert "not calibrated in this run: 3 &lt;questions&gt;" in text
    assert confidence({}) == confidence({"confidence": None}) == ""


def test_missing_figures_are_named_not_guessed(measured: dict[str, Any]) -> None:
    half = measured | {"auroc": None, "brier_skill": None, "bins": [{"stated": 0.5}, "x"]}
    page = confidence({"confidence": {"calibrated": True, "measured": half}})
    assert page.count("not measured") >= 2
    assert "<svg" not in page
    assert reliability_chart([]) == ""
