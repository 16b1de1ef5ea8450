"""The generated evaluation set: its spans are right, its runs repeat, its halves have nothing in common."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("faker")
pytestmark = pytest.mark.unit

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COUNT = 700  # each template at least four times


@pytest.fixture(scope="module")
def cases():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("deid_cases.generate")


@pytest.fixture(scope="module")
def templates(cases):
    module = importlib.import_module("deid_cases.templates")
    return {half: module.load_templates(half) for half in module.HALVES}


@pytest.fixture(scope="module", params=["read", "held_back"])
def records(cases, request):
    return list(cases.generate(7, COUNT, request.param))


def test_spans_lie_on_their_text_in_order_and_apart(records):
    for record in records:
        for span in record.spans:
            marked = record.text[span.start : span.end]
            assert marked, record.id
            assert marked == marked.strip(), record.id
        for one, other in itertools.pairwise(record.spans):
            assert one.end <= other.start, record.id


def test_notes_are_filled_and_of_a_notes_length(records):
    for record in records:
        assert 20 <= len(record.text.split()) <= 250, record.id
        assert not re.search(r"\{[a-z]\w*(\.\w+)?\}|\[\[|\]\]", record.text), record.id
    assert len({record.id for record in records}) == len({record.text for record in records}) == COUNT


def test_every_type_appears_and_a_fifth_has_none(cases, records):
    types = importlib.import_module("deid_cases.fillers").TYPES
    assert {span.type for record in records for span in record.spans} == set(types)
    assert COUNT / 5 <= sum(not record.spans for record in records) <= COUNT / 4


def test_a_seed_repeats_its_records_whatever_the_count(cases):
    first = list(cases.generate(3, 60, "read"))
    assert list(cases.generate(3, 90, "read"))[:60] == first
    others = list(cases.generate(4, 60, "read")), list(cases.generate(3, 60, "held_back"))
    assert all({record.text for record in other}.isdisjoint(record.text for record in first) for other in others)


def test_halves_share_no_template_and_no_sentence(templates):
    def sentences(half):
        parts = itertools.chain.from_iterable(re.split(r"(?<=[.!?;])\s|\n", each.text) for each in templates[half])
        plain = (" ".join(re.findall(r"\w+", re.sub(r"\{.*?\}", "", part.lower()))) for part in parts)
        return {part for part in plain if part.count(" ") >= 2}

    assert all(len(half) >= 120 and any(each.bare for each in half) for half in templates.values())
    assert sentences("read").isdisjoint(sentences("held_back"))


def test_ages_are_marked_from_ninety_on(records):
    ages = [record.text[s.start : s.end] for record in records for s in record.spans if s.type == "AGE_OVER_89"]
    assert all(int(age) >= 90 for age in ages if age.isdigit())
    assert any(age.isdigit() for age in ages)
    assert any(age.lower().startswith("nine") for age in ages)


def test_the_command_writes_what_generate_yields(cases, tmp_path):
    out = tmp_path / "read.jsonl"
    words = ["--seed", "5", "--count", "12", "--half", "read", "--out", str(out)]
    subprocess.run([sys.executable, str(BENCHMARKS / "deid_cases" / "generate.py"), *words], check=True, timeout=120)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    expected = list(cases.generate(5, 12, "read"))
    assert [(row["id"], row["text"]) for row in rows] == [(record.id, record.text) for record in expected]
    assert [tuple(cases.Span(**span) for span in row["spans"]) for row in rows] == [each.spans for each in expected]
