"""Common shapes are recognised, others are mapped, and the rest is refused with the columns there are."""

from __future__ import annotations

from typing import Any

import pytest

from fedmed.data.columns import Raw, recognise
from fedmed.errors import DataFormatError

pytestmark = pytest.mark.unit


def read(record: dict[str, Any], columns: dict[str, str] | None = None) -> Raw:
    return recognise(record, columns, "x.jsonl").read(record, "x.jsonl line 7")


PAIRS: list[tuple[str, dict[str, Any]]] = [
    ("question/answer", {"question": "Q", "answer": "A"}),
    ("question/answer", {" Question": "Q ", "Answer ": " A"}),
    ("question/long_answer", {"question": "Q", "context": {"x": []}, "long_answer": "A", "final_decision": "yes"}),
    ("question/response", {"question": "Q", "response": "A"}),
    ("prompt/response", {"prompt": "Q", "response": "A"}),
    ("prompt/completion", {"prompt": "Q", "completion": "A"}),
    ("input/output", {"input": "Q", "output": "A"}),
    ("query/response", {"query": "Q", "response": "A"}),
    ("instruction", {"instruction": "Q", "input": "", "output": "A"}),
    ("instruction", {"instruction": "Q", "input": None, "response": "A"}),
    ("patient/doctor", {"Patient": "Q", "Doctor": "A"}),
    ("patient/doctor", {"Description": "d", "Patient": "Q", "Doctor": "A"}),
    ("patient/doctor", {"Description": "Q", "Patient": "", "Doctor": "A"}),
    ("chat", {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}),
    ("chat", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}),
]


@pytest.mark.parametrize(("name", "record"), PAIRS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(PAIRS)])
def test_a_common_shape_is_recognised(name: str, record: dict[str, Any]) -> None:
    assert recognise(record, None, "x").name == name
    raw = read(record)
    assert (raw.question, raw.answer) == ("Q", "A")


def test_instruction_and_input_are_joined() -> None:
    assert read({"instruction": "Explain.", "input": "Fever", "output": "A"}).question == "Explain.\nFever"


def test_a_chat_gives_its_first_exchange_without_the_system_message() -> None:
    turns = [("system", "S"), ("assistant", "hello"), ("user", "Q1"), ("assistant", "A1"), ("user", "Q2")]
    raw = read({"messages": [{"role": role, "content": said} for role, said in turns]})
    assert (raw.question, raw.answer) == ("Q1", "A1")


def test_a_chat_without_a_reply_has_no_answer() -> None:
    assert read({"messages": [{"role": "user", "content": "Q"}]}).answer == ""
    assert read({"messages": None}).question == ""


def test_optional_columns_are_taken_under_their_aliases() -> None:
    record = {"question": "Q", "answer": "A", "qid": 12, "Subject_Name": "Anatomy", "qtype": "cause", "source": "book"}
    raw = read(record | {"group": "g", "split": "Validation"})
    assert raw == Raw("Q", "A", "12", "cause", "Anatomy", "book", "g", "test")


def test_an_absent_optional_value_is_left_open() -> None:
    assert read({"question": "Q", "answer": "A", "specialty": None}).specialty == ""


def test_columns_can_be_mapped() -> None:
    raw = read({"ask": "Q", "reply": "A", "ward": "ICU"}, {"question": "ask", "answer": "reply", "specialty": "ward"})
    assert (raw.question, raw.answer, raw.specialty) == ("Q", "A", "ICU")


def test_one_mapped_column_is_enough_where_the_other_is_known() -> None:
    assert read({"ask": "Q", "answer": "A"}, {"question": "ask"}).question == "Q"


def test_a_mapped_column_wins_over_one_of_that_name() -> None:
    assert read({"question": "no", "asked": "Q", "answer": "A"}, {"question": "asked"}).question == "Q"


def test_a_mapping_of_both_turns_recognition_off() -> None:
    record = {"question": "Q", "options": ["x", "y"], "answer": "A"}
    assert read(record, {"question": "question", "answer": "answer"}).answer == "A"


def test_unknown_columns_are_listed() -> None:
    with pytest.raises(
        DataFormatError, match=r"x\.jsonl has no columns known as question and answer: it has bar, foo;"
    ):
        read({"foo": "Q", "bar": "A"})


def test_a_mapped_column_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(DataFormatError, match="no column 'reply' for our 'answer': it has ask"):
        read({"ask": "Q"}, {"answer": "reply"})


def test_a_mapping_of_something_we_do_not_have_lists_what_we_have() -> None:
    with pytest.raises(DataFormatError, match="maps 'quest'.* ours are question, answer, id"):
        read({"ask": "Q"}, {"quest": "ask"})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": ["SECRET"], "answer": "A"}, "'question' is list, not text"),
        ({"question": "Q", "answer": 3}, "'answer' is int, not text"),
        ({"question": "Q", "answer": "SECRET \ud800"}, "half a surrogate pair"),
        ({"question": "Q", "answer": "A", "specialty": {"SECRET": 1}}, "'specialty' is dict, not text"),
        ({"question": "Q", "answer": "A", "split": "SECRET"}, "'split' is none of train, test"),
        ({"messages": "SECRET"}, "'messages' is not a list of turns"),
        ({"messages": [{"role": "user", "content": ["SECRET"]}]}, "'content' is list"),
    ],
)
def test_a_value_of_the_wrong_kind_names_its_place_and_not_its_text(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataFormatError) as caught:
        read(record)
    assert str(caught.value).startswith("x.jsonl line 7: ")
    assert message in str(caught.value)
    assert "SECRET" not in str(caught.value)
