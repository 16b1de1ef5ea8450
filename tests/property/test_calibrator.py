from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.errors import DataFormatError
from fedmed.safety.calibrator import Calibrator, Term, read_calibrator
from fedmed.safety.confidence import SIGNALS

pytestmark = pytest.mark.property

numbers = st.floats(-1e6, 1e6)


@st.composite
def calibrators(draw: st.DrawFn) -> Calibrator:
    names = draw(st.lists(st.sampled_from(sorted(SIGNALS)), min_size=1, unique=True))
    terms = []
    for name in names:
        low, mean, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
        terms.append(
            Term(signal=name, mean=mean, scale=draw(st.floats(1e-6, 1e6)), low=low, high=high, weight=draw(numbers))
        )
    samples = draw(st.integers(1, 9)) if "agreement" in names else 0
    return Calibrator(
        terms=tuple(terms), intercept=draw(numbers), samples=samples, settings="s", adapter="a",
        fitted_on=draw(st.integers(1, 10**6)),
    )  # fmt: skip


signals = st.fixed_dictionaries({name: st.floats(allow_nan=False) for name in SIGNALS})


@given(calibrators(), signals)
def test_a_confidence_lies_between_0_and_1(made, found):
    assert 0.0 <= made.confidence(found) <= 1.0


@given(calibrators(), signals, st.sampled_from(sorted(SIGNALS)), st.floats(allow_nan=False))
def test_it_rises_with_a_signal_of_positive_weight_and_falls_with_one_of_negative(made, found, name, other):
    weight = {term.signal: term.weight for term in made.terms}.get(name, 0.0)
    low, high = sorted((found[name], other))
    less, more = made.confidence(found | {name: low}), made.confidence(found | {name: high})
    if weight >= 0:
        assert less <= more
    if weight <= 0:
        assert less >= more


@given(calibrators())
def test_json_gives_the_same_calibrator_back(tmp_path_factory, made):
    file = tmp_path_factory.mktemp("c") / "calibration.json"
    file.write_text(json.dumps({"calibrator": made.model_dump(mode="json")}))
    assert read_calibrator(file) == made


@given(calibrators(), st.data())
def test_any_damage_is_refused_in_one_line_or_changes_a_value(tmp_path_factory, made, data):
    raw = json.dumps({"calibrator": made.model_dump(mode="json")}).encode()
    at = data.draw(st.integers(0, len(raw) - 1))
    broken = data.draw(
        st.sampled_from([raw[:at], raw[:at] + data.draw(st.binary(min_size=1, max_size=3)) + raw[at + 1 :]])
    )
    file = tmp_path_factory.mktemp("c") / "calibration.json"
    file.write_bytes(broken)
    said = refusal(file)  # None: another digit in a number, another letter in a digest
    assert said is None or "\n" not in said


def refusal(file):
    try:
        read_calibrator(file)
    except DataFormatError as error:
        return str(error)
    return None


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_json_value_breaks_the_reader(tmp_path_factory, value):
    file = tmp_path_factory.mktemp("c") / "calibration.json"
    for content in (value, {"calibrator": value}):
        file.write_text(json.dumps(content))
        with contextlib.suppress(DataFormatError):
            assert read_calibrator(file) is None
