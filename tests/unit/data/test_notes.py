"""A note becomes passages that hold every word of it once, and FHIR gives up its text."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.data import fhir
from fedmed.data.columns import Raw
from fedmed.data.notes import CONTEXT, PASSAGE, cut, passages
from fedmed.data.values import BadValueError

pytestmark = pytest.mark.unit

WORDS = st.lists(st.text("abcdé.;\n", min_size=1, max_size=30), max_size=400).map(" ".join)


@given(WORDS)
def test_passages_hold_every_word_in_its_order_and_none_is_too_long(text: str) -> None:
    made = cut(text)
    assert "".join("".join(made).split()) == "".join(text.split())
    assert all(0 < len(passage) <= PASSAGE for passage in made)


def test_each_passage_after_the_first_continues_the_one_before() -> None:
    text = "\n\n".join(f"Paragraph {n}. " + "Words go on. " * 40 for n in range(6))
    note = Raw("", text, id="r", kind="Discharge summary")
    first, second, *_ = made = list(passages(note))
    assert first.question == "Write a discharge summary."
    assert second.question.startswith("Continue this discharge summary:\n")
    tail = second.question.split("\n", 1)[1]
    assert first.answer.endswith(tail)
    assert 0 < len(tail) <= CONTEXT
    assert [one.id for one in made] == [f"r.{n}" for n in range(1, len(made) + 1)]


def test_an_empty_note_becomes_nothing() -> None:
    assert list(passages(Raw("", "  "))) == []


def document(text: str = "Seen today.", **more: Any) -> dict[str, Any]:
    data = base64.b64encode(text.encode()).decode()
    resource = {
        "resourceType": "DocumentReference", "id": "d1", "status": "current", "type": {"text": "Progress note"},
        "subject": {"reference": "Patient/77"},
        "content": [{"attachment": {"contentType": "text/plain", "data": data}}],
    }  # fmt: skip
    return resource | more


def test_a_document_reference_gives_text_type_patient_and_id() -> None:
    note = fhir.note(document())
    assert note is not None
    assert (note.answer, note.kind, note.patient, note.id) == ("Seen today.", "Progress note", "77", "d1")


def test_a_diagnostic_report_falls_back_on_conclusion_and_narrative() -> None:
    report: dict[str, Any] = {"resourceType": "DiagnosticReport", "code": {"coding": [{"display": "CT"}]}}
    narrative = {"text": {"div": "<div><p>No &amp; none</p><script>x()</script><p>clear</p></div>"}}
    concluded = fhir.note(report | {"conclusion": "Clear."} | narrative)
    told = fhir.note(report | narrative)
    assert concluded is not None
    assert told is not None
    assert (concluded.answer, concluded.kind) == ("Clear.", "CT")
    assert told.answer == "No & none\nclear"


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "Patient"}, document(status="entered-in-error"), document(docStatus="entered-in-error"),
        document(status="superseded"),
    ],
)  # fmt: skip
def test_what_is_no_note_or_was_withdrawn_is_none(resource: dict[str, Any]) -> None:
    assert fhir.note(resource) is None


@pytest.mark.parametrize(
    "attachment",
    [
        {"contentType": "application/pdf", "data": "JVBERi0="},
        {"contentType": "text/plain", "url": "https://files.example/1"},
        {},
    ],
)
def test_a_pdf_or_a_link_is_a_note_without_text(attachment: dict[str, str]) -> None:
    note = fhir.note(document(content=[{"attachment": attachment}]))
    assert note is not None
    assert note.answer == ""


@pytest.mark.parametrize("data", ["SECRET!", "/w=="])
def test_a_broken_attachment_is_named_without_its_text(data: str) -> None:
    with pytest.raises(BadValueError) as caught:
        fhir.note(document(content=[{"attachment": {"contentType": "text/plain; charset=utf-8", "data": data}}]))
    assert "SECRET" not in str(caught.value)


def test_a_bundle_is_opened() -> None:
    bundle = {"resourceType": "Bundle", "entry": [{"resource": document()}, {"fullUrl": "x"}]}
    assert [one["id"] for one in fhir.resources(bundle)] == ["d1"]


@pytest.mark.parametrize(
    "given",
    ["77", "Patient/77", "https://a.example/fhir/Patient/77", "Patient/77/_history/3", "urn:uuid:77", " 77 "],
)
def test_every_way_to_point_at_a_patient_is_one(given: str) -> None:
    assert fhir.reference_id(given) == "77"


@pytest.mark.parametrize("given", ["2023/0012", "A:12", "ward 3/12"])
def test_an_id_of_a_table_stays_as_it_is(given: str) -> None:
    """Else two patients, ``2023/0012`` and ``2024/0012``, would be one."""
    assert fhir.reference_id(given) == given


def test_half_a_surrogate_pair_and_a_status_that_is_no_text_are_complaints_and_no_crash() -> None:
    with pytest.raises(BadValueError, match="surrogate"):
        fhir.note({"resourceType": "DiagnosticReport", "conclusion": "\ud83d"})
    assert fhir.note({"resourceType": "DiagnosticReport", "conclusion": "x", "status": ["final"]}) is not None
