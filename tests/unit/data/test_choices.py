"""The answer to an exam question is the text of the right option."""

from __future__ import annotations

from typing import Any

import pytest

from fedmed.data.choices import multiple_choice
from fedmed.data.columns import recognise
from fedmed.data.values import BadValueError

pytestmark = pytest.mark.unit

MCQ: dict[str, dict[str, Any]] = {
    "MedQA": {"question": "Q", "options": {"A": "x", "B": "right"}, "answer": "right", "answer_idx": "B"},
    "MedMCQA": {"question": "Q", "opa": "x", "opb": "right", "opc": "y", "opd": "z", "cop": 1, "exp": "because"},
    "MMLU": {"question": "Q", "choices": ["x", "right"], "answer": 1},
    "letter": {"question": "Q", "choices": ["x", "right"], "answer": "b"},
    "text": {"question": "Q", "options": ["x", "right"], "answer": " right "},
    "digit": {"question": "Q", "options": ["x", "right"], "label": "1"},
    "numbered keys": {"question": "Q", "options": {"1": "right", "2": "x"}, "answer": "1"},
    "key/value": {"question": "Q", "options": [{"key": "a", "value": "x"}, {"key": "b", "value": "right"}], "cop": "b"},
    "ARC": {"question": "Q", "choices": {"label": ["A", "B"], "text": ["x", "right"]}, "answer": "B"},
}  # fmt: skip


@pytest.mark.parametrize("record", MCQ.values(), ids=MCQ.keys())
def test_the_right_option_becomes_the_answer(record: dict[str, Any]) -> None:
    schema = recognise(record, None, "x")
    raw = schema.read(record, "x line 1")
    assert schema.name == "multiple_choice"
    assert (raw.question, raw.answer, raw.kind) == ("Q", "right", "multiple_choice")


@pytest.mark.parametrize("right", [None, "", -1])
def test_a_record_that_keeps_its_answer_secret_has_none(right: object) -> None:
    read = multiple_choice({"question", "options", "answer"})
    assert read is not None
    assert read({"question": "Q", "options": ["x", "y"], "answer": right}) == ("Q", "")


@pytest.mark.parametrize(
    ("options", "right", "message"),
    [
        (["x", "y"], 2, "'answer' is 2, but there are 2 options"),
        (["x", "y"], "SECRET", "'answer' names none of the 2 options"),
        (["x", "y"], True, "'answer' is bool"),
        (["x", "y"], 1.0, "'answer' is float"),
        ("SECRET", 0, "'options' is str"),
        (["x", 4], 0, "an option that is not text"),
    ],
)
def test_a_choice_that_cannot_be_resolved_says_why(options: object, right: object, message: str) -> None:
    read = multiple_choice({"question", "options", "answer"})
    assert read is not None
    with pytest.raises(BadValueError) as caught:
        read({"question": "Q", "options": options, "answer": right})
    assert message in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("names", [{"question", "answer"}, {"options", "answer"}, {"question", "opa", "cop"}])
def test_other_columns_are_no_exam_question(names: set[str]) -> None:
    assert multiple_choice(names) is None
