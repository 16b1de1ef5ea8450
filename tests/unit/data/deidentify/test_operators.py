"""What stands where an identifier stood."""

import re
from dataclasses import replace

import pytest

from fedmed.data.deidentify import Finding, Operator, Policy
from fedmed.data.deidentify.operators import SMALL_ZIP_AREAS, apply, presidio_operators, value_hash
from fedmed.errors import ConfigError

pytestmark = pytest.mark.unit

KEY = b"sixteen bytes or more"
TEXT = "Mr. John Abbott met Mary Abbott on 2021-03-14. John came back on 2021-03-20."


def spans(text, *wanted):
    found, last = [], 0
    for kind, value in wanted:
        start = text.index(value, last)
        last = start + len(value)
        found.append(Finding(start, last, kind, 0.9, "test", "given"))
    return found


FOUND = spans(
    TEXT, ("NAME", "Mr. John Abbott"), ("NAME", "Mary Abbott"), ("DATE", "2021-03-14"), ("NAME", "John"),
    ("DATE", "2021-03-20"),
)  # fmt: skip


def done(operator, text=TEXT, found=FOUND, patient="", **more):
    return apply(text, found, Policy(operator=operator, key=KEY, **more), KEY, patient, "1")


def test_a_placeholder_names_the_type():
    assert done(Operator.PLACEHOLDER) == "[NAME] met [NAME] on [DATE]. [NAME] came back on [DATE]."


def test_redaction_leaves_no_letter():
    assert done(Operator.REDACT) == "— met — on —. — came back on —."


def test_years_and_three_digits_of_a_zip_stay_only_where_they_may():
    text = "02139 and 03601 on 2021-03-14 and 3/4"
    found = spans(text, ("ZIP", "02139"), ("ZIP", "03601"), ("DATE", "2021-03-14"), ("DATE", "3/4"))
    made = done(Operator.PLACEHOLDER, text, found, keep_year=True, keep_zip3=True)
    assert made == "[ZIP 021] and [ZIP 000] on [DATE 2021] and [DATE]"
    assert len(SMALL_ZIP_AREAS) == 17


def test_a_hash_is_the_same_for_the_same_value_under_the_same_key_only():
    assert value_hash(KEY, "Mary Abbott") == value_hash(KEY, " mary  abbott ")
    assert value_hash(KEY, "Mary Abbott") != value_hash(b"another sixteen bytes", "Mary Abbott")
    made = re.findall(r"\[NAME:([0-9a-f]{16})\]", done(Operator.HASH))
    assert len(set(made)) == 3


def test_a_person_keeps_one_surrogate_and_dates_their_distance():
    made = done(Operator.SURROGATE)
    match = re.fullmatch(r"Mr\. (\w+) (\w+) met (\w+) (\w+) on (\S+)\. (\w+) came back on (\S+)\.", made)
    assert match is not None
    given, surname, other, same_surname, first, again, second = match.groups()
    assert (given, surname) == (again, same_surname)
    assert other not in (given, "Mary")
    assert not {"John", "Abbott", "Mary"} & {given, surname, other}
    assert int(second[-2:]) - int(first[-2:]) == 6 or first[:7] != second[:7]
    assert "2021-03-14" not in made


def test_dates_of_one_patient_move_together_and_of_others_not():
    text = "2021-03-14"
    found = spans(text, ("DATE", text))
    same = {apply(text, found, Policy(operator=Operator.SURROGATE), KEY, "p1", str(n)) for n in range(3)}
    others = {apply(text, found, Policy(operator=Operator.SURROGATE), KEY, f"p{n}", "1") for n in range(20)}
    assert len(same) == 1
    assert len(others) > 10


def test_presidio_gets_the_same_operators():
    made = presidio_operators()[Operator.PLACEHOLDER]()
    assert made.operate("Mary", {"key": KEY, "entity_type": "NAME"}) == "[NAME]"
    assert made.operator_name() == "fedmed_placeholder"
    with pytest.raises(ValueError, match="key"):
        made.validate({})


def test_a_policy_refuses_what_cannot_work_and_never_shows_its_key():
    with pytest.raises(ConfigError, match="2 settings"):
        Policy(min_score=2.0, key=b"short")
    assert KEY.decode() not in repr(replace(Policy(), key=KEY))
