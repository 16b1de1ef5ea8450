from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fedmed.config.schema import GenerationSection, ModelSection
from fedmed.errors import DataFormatError
from fedmed.safety.calibrator import MIN_ANSWERS, Calibrator, fit, read_calibrator, settings_digest
from fedmed.safety.confidence import LEAD

pytestmark = pytest.mark.unit

NAMES = ("token_probability", "entropy")
OF = {"settings": "s", "adapter": "a"}


def answers(count: int = 200) -> tuple[list[dict[str, float]], list[bool]]:
    random = np.random.default_rng(5)
    table = random.normal(size=(count, 2))
    right = random.random(count) < 1 / (1 + np.exp(-(1.5 * table[:, 0] - 0.5 * table[:, 1])))
    return [dict(zip(NAMES, row, strict=True)) for row in table.tolist()], right.tolist()


def test_inside_its_range_it_is_scikit_learns_logistic_regression() -> None:
    rows, right = answers()
    made = fit(rows, right, names=NAMES, **OF)
    assert made is not None
    table = np.array([list(row.values()) for row in rows])
    standard = (table - table.mean(0)) / table.std(0)
    theirs = LogisticRegression(C=0.3).fit(standard, right).predict_proba(standard)[:, 1]
    assert [made.confidence(row) for row in rows] == pytest.approx(theirs.tolist(), abs=1e-4)
    assert made.fitted_on == 200


def test_nothing_is_stated_surer_than_what_was_seen() -> None:
    rows, right = answers()
    made = fit(rows, right, names=NAMES, **OF)
    assert made is not None
    highest = {name: max(row[name] for row in rows) for name in NAMES}
    assert made.confidence(dict.fromkeys(NAMES, 1000000000.0)) == made.confidence(highest)


@pytest.mark.parametrize("right", [[True] * 60, [False] * 60, [True, False] * (MIN_ANSWERS // 2 - 1)])
def test_too_few_or_all_alike_make_no_calibrator(right: list[bool]) -> None:
    rows, _ = answers(len(right))
    assert fit(rows, right, names=NAMES, **OF) is None


def test_a_signal_that_never_changes_is_left_out() -> None:
    rows, right = answers()
    made = fit([row | {"first_entropy": 2.0} for row in rows], right, names=(*NAMES, "first_entropy"), **OF)
    assert made is not None
    assert [term.signal for term in made.terms] == list(NAMES)
    assert fit([{"entropy": 1.0}] * 60, [True, False] * 30, names=("entropy",), **OF) is None


def test_a_signal_that_is_missing_or_no_number_is_refused() -> None:
    rows, right = answers()
    made = fit(rows, right, names=NAMES, **OF)
    assert made is not None
    with pytest.raises(KeyError):
        made.confidence({"entropy": 1.0})
    with pytest.raises(ValueError, match="not a number"):
        made.confidence({"entropy": 1.0, "token_probability": math.nan})


def test_a_run_without_the_file_or_without_a_fit_has_none(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    assert read_calibrator(file) is None
    file.write_text('{"calibrator": null, "reason": "too few"}')
    assert read_calibrator(file) is None


def damaged() -> dict[str, object]:
    rows, right = answers()
    made = fit(rows, right, names=NAMES, **OF)
    assert made is not None
    whole = made.model_dump(mode="json")
    first = whole["terms"][0]
    return {
        "not an object": [],
        "no calibrator": {"reason": "x"},
        "text": {"calibrator": "yes"},
        "no terms": {"calibrator": whole | {"terms": []}},
        "twice": {"calibrator": whole | {"terms": [first, first]}},
        "unknown signal": {"calibrator": whole | {"terms": [first | {"signal": "mood"}]}},
        "zero scale": {"calibrator": whole | {"terms": [first | {"scale": 0.0}]}},
        "range upside down": {"calibrator": whole | {"terms": [first | {"low": 9.0, "high": 8.0}]}},
        "a number as text": {"calibrator": whole | {"intercept": "0.1"}},
        "another format": {"calibrator": whole | {"format": 2}},
        "one key more": {"calibrator": whole | {"extra": 1}},
        "samples without agreement": {"calibrator": whole | {"samples": 3}},
    }


@pytest.mark.parametrize("case", list(damaged()))
def test_a_damaged_file_is_refused_in_one_line_that_names_it(tmp_path: Path, case: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(damaged()[case]))
    with pytest.raises(DataFormatError, match=r"calibration\.json") as caught:
        read_calibrator(file)
    assert "\n" not in str(caught.value)


def test_infinity_written_as_json_is_refused(tmp_path: Path) -> None:
    whole = damaged()["another format"]["calibrator"] | {"format": 1, "intercept": math.inf}  # type: ignore[index]
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"calibrator": whole}))
    with pytest.raises(DataFormatError):
        read_calibrator(file)


def test_the_settings_digest_changes_with_what_changes_the_words() -> None:
    plain = settings_digest(ModelSection())
    assert settings_digest(ModelSection(generation=GenerationSection(max_new_tokens=LEAD))) == plain
    assert settings_digest(ModelSection(generation=GenerationSection(max_new_tokens=LEAD - 1))) != plain
    assert settings_digest(ModelSection(generation=GenerationSection(temperature=0.5))) != plain
    assert settings_digest(ModelSection(prompt_template="{question}?")) != plain


def test_it_reads_what_it_wrote(tmp_path: Path) -> None:
    rows, right = answers()
    made = fit(rows, right, names=NAMES, **OF)
    assert made is not None
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"calibrator": made.model_dump(mode="json")}))
    assert read_calibrator(file) == made
    assert isinstance(made, Calibrator)
