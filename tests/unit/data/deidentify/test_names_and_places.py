"""Names and places by their company; words of medicine that look like them stay."""

import pytest

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Discussed with Dr. Okonkwo this morning.", "Dr. Okonkwo"),
        ("discussed with dr. okonkwo this morning and the plan was agreed by all on the ward", "dr. okonkwo"),
        ("Her daughter, Hope, will drive her.", "Hope"),
        ("The patient, Will Grant, has Crohn's disease.", "Will Grant"),
        ("Mary Kowalczyk was seen.", "Mary Kowalczyk"),
        ("Seen with Anna S. in the morning.", "Anna S"),
        ("PATIENT NAME: KOWALCZYK, MARY", "KOWALCZYK, MARY"),
        ("Referred by J. R. Abernathy, MD.", "Abernathy"),
        ("Yours sincerely,\nThandiwe Mokoena", "Thandiwe Mokoena"),
        ("Spoke to Jan van der Berg at length.", "Jan van der Berg"),
        ("Zbigniew is a 54-year-old man with gout.", "Zbigniew"),
        ("PID|1||77||Kowalczyk^Mary||", "Kowalczyk^Mary"),
        ("Present at the round: Anna Kowalczyk, Jones, Smith.", "Smith"),
        ("She came with Zbigniew and Joy.", "Joy"),
        ("Handover\n2. Dawn Coleman - Hashimoto thyroiditis - home", "Dawn Coleman"),
        ("Seen with Jason Case today.", "Jason Case"),
        ("The stairs were practised with K Davila today.", "K Davila"),
    ],
)
def test_a_name_is_found(found, text, name):
    assert any(kind == "NAME" and name in what for kind, what in found(text)), found(text)


def test_a_name_that_was_found_once_is_found_again(found):
    names = [what for kind, what in found("Mr. Abernathy slept well. Abernathy wants to go home.") if kind == "NAME"]
    assert names == ["Mr. Abernathy", "Abernathy"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("She lives at 14 Willow Bend Road, Springfield, IL 62704.", "14 Willow Bend Road, Springfield, IL"),
        ("He moved from Albuquerque last year.", "Albuquerque"),
        ("Admitted to St. Brendan's Hospital overnight.", "St. Brendan's Hospital"),
        ("Transferred from Larkspur Regional Medical Center.", "Larkspur Regional Medical Center"),
        ("A farmer from Bexar County with cough.", "Bexar County"),
        ("Send it to P.O. Box 4471 today.", "P.O. Box 4471"),
        ("Treated at Mount Sinai for a year.", "Mount Sinai"),
    ],
)
def test_a_place_is_found(found, text, place):
    assert any(kind == "LOCATION" and place in what for kind, what in found(text)), found(text)


def test_a_zip_code_is_its_own_finding(found):
    assert ("ZIP", "62704") in found("She lives at 14 Willow Bend Road, Springfield, IL 62704.")
    assert ("ZIP", "SW1A 1AA") in found("Postcode: SW1A 1AA")


@pytest.mark.parametrize(
    "text",
    [
        "Parkinson's disease with Lewy bodies; Romberg negative.",
        "Crohn's disease, Ann Arbor stage II, Lyme serology negative.",
        "Bell's palsy on the left; Foley catheter in place.",
        "Hodgkin lymphoma with Reed-Sternberg cells, Deauville 2.",
        "The Glasgow Coma Scale was 15 and the Apgar score 9.",
        "Warfarin was stopped, Eliquis started, Tylenol as needed.",
        "May take Metformin. Will repeat the MRI in Texas or Canada.",
        "Rocky Mountain spotted fever and West Nile virus are rare.",
        "Circle of Willis patent; no fluid in the pouch of Douglas.",
        "Chief Complaint: cough. Physical Exam: normal. Assessment and Plan: rest.",
        "COPD, GERD and DVT; takes Vitamin D. Hepatitis B negative.",
    ],
)
def test_words_of_medicine_stay(found, text):
    assert found(text) == []


def test_an_eponym_with_a_title_is_a_name(found):
    assert ("NAME", "Dr. Parkinson") in found("Dr. Parkinson saw him for Parkinson's disease.")


TABLE = "Name | Age | Bed | Doctor\nJo Best | 99 | 7E-92 | Best\nAl Ray | 45 | B2-03 | Ota"
ROWS = 'Pt,DOB,MRN,Zip\n"Case, Al",01/02/1980,2083171,31744'


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        (TABLE, "AGE_OVER_89", "99"),
        (TABLE, "NAME", "Ota"),
        (TABLE, "UNIQUE_CODE", "B2-03"),
        (ROWS, "MRN", "2083171"),
        (ROWS, "ZIP", "31744"),
    ],
)
def test_what_stands_under_a_header_is_found(found, text, kind, value):
    assert (kind, value) in found(text), found(text)


def test_a_table_of_measurements_stays(found):
    assert found("Test | Result | Unit\nSodium | 138 | mmol/l\nPotassium | 4.1 | mmol/l") == []
