"""Each kind of number, code and address is found by its label or its shape, and numbers of medicine stay."""

import pytest

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MRN: 00482913 reviewed", ("MRN", "00482913")),
        ("medical record number is AB-482913", ("MRN", "AB-482913")),
        ("MRN 123-45-6789 seen today", ("MRN", "123-45-6789")),
        ("SSN 219-09-9999 on file", ("SSN", "219-09-9999")),
        ("his social security number is 219 09 9999", ("SSN", "219 09 9999")),
        ("call 617-555-0143 after noon", ("PHONE", "617-555-0143")),
        ("reach him at (617) 555-0143 x22", ("PHONE", "617) 555-0143 x22")),
        ("ring +44 7700 900123 tonight", ("PHONE", "44 7700 900123")),
        ("fax 617-555-0188 to the ward", ("FAX", "617-555-0188")),
        ("write to j.doe+x@example.org today", ("EMAIL", "j.doe+x@example.org")),
        ("policy number HX-88213-01 expired", ("HEALTH_PLAN", "HX-88213-01")),
        ("Medicare 1EG4-TE5-MK73 active", ("HEALTH_PLAN", "1EG4-TE5-MK73")),
        ("account no. 55502931 was billed", ("ACCOUNT", "55502931")),
        ("card 4111 1111 1111 1111 declined", ("ACCOUNT", "4111 1111 1111 1111")),
        ("driver's license D4420-1193-22 shown", ("LICENSE", "D4420-1193-22")),
        ("DEA BX1234563 signed", ("LICENSE", "BX1234563")),
        ("VIN 1HGCM82633A004352 towed", ("VEHICLE", "1HGCM82633A004352")),
        ("license plate KJX 4821 at the scene", ("VEHICLE", "KJX 4821")),
        ("pacemaker serial PZQ551209 checked", ("DEVICE", "PZQ551209")),
        ("UDI (01)00844588003288(21)A213B1 scanned", ("DEVICE", "01)00844588003288(21)A213B1")),
        ("see https://portal.example.org/p/9 for it", ("URL", "https://portal.example.org/p/9")),
        ("logged in from 203.0.113.77 at night", ("IP", "203.0.113.77")),
        ("logged in from 2001:db8::7334 at night", ("IP", "2001:db8::7334")),
        ("fingerprint template FP-20931 enrolled", ("BIOMETRIC", "FP-20931")),
        ("wound photo IMG_20931.jpg stored", ("PHOTO", "IMG_20931.jpg")),
        ("accession S-2291-0044 received", ("UNIQUE_CODE", "S-2291-0044")),
        ("token 9f2c41d0-7a3b-4615-9c2e-0a1b2c3d4e5f leaked", ("UNIQUE_CODE", "9f2c41d0-7a3b-4615-9c2e")),
    ],
)  # fmt: skip
def test_an_identifier_is_found_with_its_type(found, text, expected):
    kind, value = expected
    assert any(got == kind and value in what for got, what in found(text)), found(text)


@pytest.mark.parametrize(
    "text",
    [
        "BP 120/80, HR 72, temperature 37.2 C, saturation 97%.",
        "platelets 250,000 and WBC 12.4, sodium 138 mmol/L.",
        "Metformin 1000 mg twice daily, insulin 20 units at night.",
        "HbA1c 8.2 %, CA-125 35, CD4 count 420, IL-6 raised.",
        "ICD-10 E11.9 and NCT01234567 are cited; PMID 31452104.",
        "BRAF V600E, HLA-B27 and COVID-19 were tested.",
        "A 64-year-old with stage IIIB disease, grade 2, ECOG 1.",
        "The 5-year survival was 43 % of 128 patients in 2019.",
    ],
)
def test_numbers_of_medicine_stay(found, text):
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("Grey van, licence plate k25 vvg, in bay 4.", "VEHICLE", "k25 vvg"),
        ("The rig was A11 PXT.", "VEHICLE", "A11 PXT"),
        ("Last four 7871, seen today.", "SSN", "7871"),
        ("Please book her (00-15-99-02) for a scan.", "UNIQUE_CODE", "00-15-99-02"),
        ("Moved to bed ICU-80A at noon.", "UNIQUE_CODE", "ICU-80A"),
        ("Catchment: 53365.", "ZIP", "53365"),
    ],
)
def test_numbers_known_by_a_word_near_them(found, text, kind, value):
    assert (kind, value) in found(text), found(text)


def test_blood_salts_are_no_code(found):
    assert found("Chem 7: 138-108-22, repeated.") == []
