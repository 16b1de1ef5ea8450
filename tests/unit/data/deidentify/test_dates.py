"""Dates go, years alone stay; ages over 89 go, others stay."""

import pytest

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "date",
    [
        "March 3, 2021", "3 March 2021", "Mar 3rd", "3rd of March, 2021", "the third of March", "March 2021",
        "03/14/2021", "14.03.2021", "2021-03-14", "14MAR2021", "Friday, March 3rd", "last Tuesday", "Christmas Eve",
        "25/5", "May 2", "september 10th",
    ],
)  # fmt: skip
def test_a_date_is_found_whole(found, date):
    dates = [what for kind, what in found(f"She was seen on {date} and went home.") if kind == "DATE"]
    assert len(dates) == 1
    assert date.removeprefix("the ") in dates[0] or dates[0] in date
    left = date.replace(dates[0], "") if dates[0] in date else ""
    assert not any(character.isdigit() for character in left)


@pytest.mark.parametrize(
    "text",
    [
        "Diagnosed in 2019 and treated until 2020.",
        "May weight bear; results may be delayed. Will march on.",
        "Pain 8/10 at rest, power 4/5 in both legs, visual acuity 6/9.",
        "Repeat in 6/12 and take it for 5/7.",
        "Seen for the 2nd time, every 3 months, over 10 days.",
    ],
)
def test_what_is_no_date_stays(found, text):
    assert found(text) == []


@pytest.mark.parametrize(
    "age", ["93-year-old", "93 y/o", "aged 101", "age 95", "ninety-three-year-old", "born in 1931"]
)
def test_an_age_over_89_is_found(found, age):
    assert [kind for kind, _ in found(f"The patient, {age}, fell at night.")] == ["AGE_OVER_89"]


@pytest.mark.parametrize("age", ["89-year-old", "aged 64", "born in 1960", "saturation 93 %", "weight 95 kg"])
def test_other_ages_and_numbers_stay(found, age):
    assert found(f"The patient, {age}, fell at night.") == []


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("Father d. 98 of a stroke.", "98"),
        ("Her mother is alive at 101.", "101"),
        ("SEEN IN TRIAGE: 92 Y/O MALE.", "92"),
        ("My mom is 93 and she lives with me.", "93"),
        ("Celebrated her 95th birthday on the ward.", "95"),
        ("The old man (ninety-six) is well.", "ninety-six"),
    ],
)
def test_a_high_age_is_known_by_what_stands_around_it(found, text, age):
    assert ("AGE_OVER_89", age) in found(text)


@pytest.mark.parametrize(
    "text",
    ["Pulse is 98 and his lungs are clear.", "Sats alive at 95% on air.", "Sister 100 mg twice a day.", "Ninety days."],
)
def test_a_measured_number_is_no_age(found, text):
    assert found(text) == []
