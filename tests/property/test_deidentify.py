"""De-identification under any text: spans are right, what is done stays done, and nothing of the original gets out."""

from __future__ import annotations

import io
import itertools
import json
import logging
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmed.data.deidentify import TYPES, Deidentifier, Finding, Operator, Policy
from fedmed.data.deidentify.findings import resolve
from fedmed.data.deidentify.jsonl import deidentify_file
from fedmed.data.deidentify.jsonl_worker import Job
from fedmed.data.deidentify.operators import apply
from fedmed.errors import FedMedError

pytestmark = pytest.mark.property

KEY = b"sixteen bytes or more"
some = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

NAMES = ("Abernathy", "Okonkwo", "Kowalczyk", "Thibodeaux")
GIVEN = ("Mary", "Robert", "Patricia", "Kevin")
PIECES = st.sampled_from(
    [
        "Mr. {n} came.", "{g} {n} was seen on 03/14/2021.", "MRN: 4482913.", "Call 617-555-0143.",
        "Dr. {n} agreed.",
        "She lives in Boston, MA 02115.", "Parkinson's disease.", "BP 120/80.", "\n", "Plan:", "«é» 漢字 🙂", "e\u0301",
        "her son {g}", "SSN 219-09-9999", "aged 93", "j@example.org", "May take Tylenol.", "İstanbul ß ﬁ", "A. B. {n}",
        "Admitted to St. Brendan's Hospital.", "[NAME] saw [DATE 2021]",
        "{n}, {g}", "\u200b", "Signed,\n{g}", "#778812",
    ]
)  # fmt: skip


@st.composite
def notes(draw):
    parts = draw(st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=9))
    name, given_name = draw(st.sampled_from(NAMES)), draw(st.sampled_from(GIVEN))
    return " ".join(part.replace("{n}", name).replace("{g}", given_name) for part in parts)


@pytest.fixture(scope="module")
def engine():
    return Deidentifier(Policy(key=KEY, year=2026))


@given(text=st.one_of(notes(), st.text()))
@some
def test_findings_lie_in_the_text_in_order_and_apart(engine, text):
    last = 0
    for found in engine.find(text):
        assert last <= found.start < found.end <= len(text)
        assert found.type in TYPES
        assert 0.0 < found.score <= 1.0
        assert found.rule
        assert found.why
        assert any(character.isalnum() for character in text[found.start : found.end])
        last = found.end


@given(text=notes())
@some
def test_what_is_outside_findings_stays_as_it_was(engine, text):
    findings = engine.find(text)
    made = engine.apply(text, findings)
    outside, last = [], 0
    for found in findings:
        outside.append(text[last : found.start])
        last = found.end
    pattern = r"\[[A-Z_0-9]+\]".join(re.escape(part) for part in [*outside, text[last:]])
    assert re.fullmatch(pattern, made, re.S)


@given(text=notes())
@some
def test_deidentified_text_comes_out_as_it_went_in(engine, text):
    made = engine.apply(text, engine.find(text))
    assert engine.apply(made, engine.find(made)) == made


@st.composite
def overlapping(draw):
    text = draw(st.text(min_size=1, max_size=40))
    spans = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).filter(lambda span: span[0] < span[1])
    found = draw(st.lists(st.tuples(spans, st.sampled_from(TYPES), st.floats(0.1, 1.0)), max_size=8))
    return text, [Finding(*span, kind, score, "rule", "why") for span, kind, score in found]


@given(case=overlapping())
@some
def test_resolving_loses_no_letter_and_leaves_no_overlap(case):
    text, findings = case
    made = resolve(findings, text)
    assert all(one.end <= other.start for one, other in itertools.pairwise(made))
    covered = {at for found in made for at in range(found.start, found.end)}
    wanted = {at for found in findings for at in range(found.start, found.end) if text[at].isalnum()}
    assert wanted <= covered
    assert resolve(made, text) == made


@given(
    people=st.lists(st.tuples(st.sampled_from(GIVEN), st.sampled_from(NAMES)), min_size=1, max_size=6),
    key=st.binary(min_size=16, max_size=32),
)
@some
def test_the_same_person_has_the_same_surrogate_and_none_is_an_original(people, key):
    names = [f"{given_name} {name}" for given_name, name in people]
    text = "; ".join(names)
    findings, last = [], 0
    for name in names:
        findings.append(Finding(last, last + len(name), "NAME", 0.9, "rule", "why"))
        last += len(name) + 2
    made = apply(text, findings, Policy(operator=Operator.SURROGATE, key=key), key, "", "1").split("; ")
    by_name: dict[str, set[str]] = {}
    for name, stand_in in zip(names, made, strict=True):
        by_name.setdefault(name, set()).add(stand_in)
    assert all(len(stand_ins) == 1 for stand_ins in by_name.values())
    assert not {word for name in names for word in name.split()} & {word for each in made for word in each.split()}


@given(text=notes(), operator=st.sampled_from(Operator))
@some
def test_no_identifier_survives_in_output_or_report_or_log(engine, tmp_path_factory, text, operator):
    text = text.replace("\x00", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    folder = tmp_path_factory.mktemp("files")
    (folder / "in.jsonl").write_text(json.dumps({"text": f"{text} Mr. Quimby-Zielinski, SSN 219-09-9999."}) + "\n")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "policy", Policy(operator=operator, key=KEY))
            patch.setattr("fedmed.data.deidentify.jsonl_worker.Deidentifier", lambda policy: engine)
            policy = Policy(operator=operator, key=KEY)
            deidentify_file(Job(folder / "in.jsonl", folder / "out.jsonl", folder / "report.json", policy=policy))
    finally:
        root.removeHandler(handler)
    for shown in ((folder / "out.jsonl").read_text(), (folder / "report.json").read_text(), stream.getvalue()):
        assert "Quimby" not in shown
        assert "219-09-9999" not in shown
        for name in NAMES:
            assert f"Mr. {name}" not in shown


@given(line=st.text(min_size=1, max_size=30))
@some
def test_an_error_never_shows_what_is_in_a_line(engine, tmp_path_factory, line):
    folder = tmp_path_factory.mktemp("files")
    secret = "Quimby-Zielinski"
    (folder / "in.jsonl").write_bytes(b'{"note": "' + secret.encode() + line.encode("utf-8", "replace") + b"\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedmed.data.deidentify.jsonl_worker.Deidentifier", lambda policy: engine)
        with pytest.raises(FedMedError) as caught:
            deidentify_file(
                Job(folder / "in.jsonl", folder / "out.jsonl", folder / "report.json", policy=Policy(key=KEY))
            )
    seen = caught.value
    while seen is not None:
        assert secret not in str(seen)
        seen = seen.__cause__
