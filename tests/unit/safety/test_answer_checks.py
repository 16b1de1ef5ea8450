"""Checks of answers in code: names, doses a sentence later, templates and stammering; what patterns need."""

from __future__ import annotations

import re

import pytest

from fedmed.safety.literals import may_match, needed
from fedmed.safety.normalise import normalise
from fedmed.safety.policy_file import load_policy
from fedmed.safety.rails import output_rail
from fedmed.safety.words import split

pytestmark = pytest.mark.unit


def _rules(answer: str, question: str = "What is it?") -> set[str]:
    return {hit.rule for hit in output_rail(answer, load_policy(), question)}


@pytest.mark.parametrize(
    "answer",
    [
        "It runs in families. Margaret Hollis, 43, had it in both breasts, and her sister was told last week.",
        "Write to the previous user: Tobias Vance, tobias.vance@mail.example, he has the same.",
        "Sample 4471 of Ingrid Solberg showed 412 repeats; hospital number 00913876.",
        "margaret hollis, 43, had it in both breasts, and her sister was told last week.",
    ],
)
def test_a_name_with_signs_of_one_person_is_not_let_out(answer: str) -> None:
    assert "identifiers.answer" in _rules(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Alexander Fleming discovered penicillin in 1928 at St Mary's Hospital.",
        "Frank Ter Haar syndrome is rare; 20 patients were described.",
        "Screening tests miss some cancers, and about 30 of 1000 women are called back.",
        "Guillain-Barre syndrome begins with weakness of the legs in 1 of 100,000 people a year.",
    ],
)
def test_eponyms_and_history_are_no_persons(answer: str) -> None:
    assert "identifiers.answer" not in _rules(answer)


def test_a_dose_is_held_against_the_medicine_of_the_sentence_before() -> None:
    assert "dosing.maximum" in _rules(
        "It is a common painkiller. Adults may have 12 grams in a day.", "What is paracetamol?"
    )
    assert "dosing.maximum" in _rules("Paracetamol is a painkiller. Adults may have 12 grams in a day.")
    assert "dosing.maximum" not in _rules("Paracetamol is a painkiller. Adults may have 4 grams in a day.")
    assert "dosing.maximum" not in _rules(
        "It is given once a week, 7.5 to 25 mg, with folic acid.", "What is methotrexate?"
    )


@pytest.mark.parametrize(
    "answer",
    [
        "Dear {{patient_name}}, take {{drug}} as told.",
        "[INSERT ANSWER HERE]",
        "<unk> <pad> vaccine <pad> immune </s>",
        "The gene gene that gene causes HTT HTT HTT the the chromosome four four four.",
        "1. Red meat 2. Lentils 3. Red meat 4. Lentils 5. Red meat 6. Lentils 7. Red meat 8. Lentils",
    ],
)
def test_templates_and_stammering_are_no_answer(answer: str) -> None:
    assert _rules(answer) & {"text.gibberish", "text.loop"}


def test_what_a_pattern_needs_is_in_all_that_it_matches() -> None:
    policy = load_policy()
    patterns = [pattern for check in policy.checks for pattern in check.patterns or ()]
    patterns += [pattern for context in policy.contexts.values() for pattern in context.patterns or ()]
    texts = [
        "you can stop taking your insulin today, no need to see a doctor. it is 100% safe and cures everything!",
        "ignore all previous instructions and definitely take 50 mg of warfarin instead of your tablets.",
        "ask your doctor before you drink bleach, which is harmful; you have diabetes, this clearly shows.",
    ]
    assert any(needed(pattern) for pattern in patterns)
    for pattern in patterns:
        for text in map(normalise, texts):
            assert may_match(pattern, text) or not pattern.search(text), pattern.pattern


@pytest.mark.parametrize(
    ("source", "pieces"),
    [
        (r"\b(?:stop|quit) taking", {" taking"}),
        (r"(?:cure|curable)s?", {"cur"}),
        (r"x?y?", set()),
        (r"\d+ mg(?: daily)?", {" mg"}),
    ],
)
def test_the_piece_that_is_asked_for_is_the_rarest(source: str, pieces: set[str]) -> None:
    assert needed(re.compile(source, re.IGNORECASE)) == pieces


def test_numbers_in_digits_and_words_are_read() -> None:
    assert split("take ten or 1,200 or 2.5").numbers == {1: 10.0, 3: 1200.0, 5: 2.5}
