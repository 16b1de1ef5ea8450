"""What is left out is counted; what stays has an id, a group and a source."""

from __future__ import annotations

import pytest

from fedmed.data.clean import MAX_CHARACTERS, Counts, clean
from fedmed.data.columns import Raw

pytestmark = pytest.mark.unit


def test_empty_duplicate_and_overlong_records_are_counted_by_file() -> None:
    first = [Raw("Q", "A"), Raw("", "A"), Raw("Q", ""), Raw("Q", "x" * MAX_CHARACTERS)]
    second = [Raw("Q ", " A"), Raw("Q", "A\n"), Raw("Q", "B")]
    records, counts = clean([("one", first), ("two", second)])
    assert [record.answer for record in records] == ["A", "B"]
    assert counts == {
        "one": Counts(read=4, usable=1, empty=2, duplicate=0, overlong=1),
        "two": Counts(read=3, usable=1, empty=0, duplicate=2, overlong=0),
    }


def test_the_longest_record_allowed_is_kept() -> None:
    assert clean([("x", [Raw("Q", "x" * (MAX_CHARACTERS - 1))])])[1]["x"].overlong == 0


def test_one_question_with_two_answers_is_one_group() -> None:
    records, _ = clean([("x", [Raw("Why  so?", "A"), Raw("why so?", "B"), Raw("Other?", "A")])])
    assert records[0].group == records[1].group != records[2].group


def test_what_the_record_says_of_itself_is_kept() -> None:
    records, _ = clean([("x", [Raw("Q", "A", "7", "cause", "eye", "book", "term", "test")])])
    record = records[0]
    assert (record.id, record.kind, record.specialty) == ("7", "cause", "eye")
    assert (record.source, record.group, record.split) == ("book", "term", "test")


def test_what_the_record_leaves_open_gets_a_default() -> None:
    record = clean([("notes.csv", [Raw("Q", "A")])])[0][0]
    assert (record.kind, record.specialty, record.source, record.split) == ("qa", "general", "notes.csv", "")
    assert len(record.id) == 16


def test_an_id_depends_on_the_content_and_not_on_the_place() -> None:
    there = clean([("x", [Raw("P", "A"), Raw("Q", "A")])])[0][1]
    here = clean([("y", [Raw("Q", "A")])])[0][0]
    assert there.id == here.id


def test_repeated_ids_become_unique() -> None:
    raws = [Raw("Q1", "A", "x"), Raw("Q2", "A", "x"), Raw("Q3", "A", "x#2"), Raw("Q4", "A", "x")]
    ids = [record.id for record in clean([("f", raws)])[0]]
    assert ids[:2] == ["x", "x#2"]
    assert len(set(ids)) == 4
