"""Read an ontology in OBO 1.2 text: terms with name, definition, lay synonyms and parents, nothing else.

A reader of our own, because definitions must come out verbatim with their sources beside them, and because it takes
under a second where building a full ontology object takes many.

Format: https://owlcollab.github.io/oboformat/doc/GO.format.obo-1_2.html
Not covered: typedefs, relationships other than ``is_a``, qualifiers in braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmed.errors import DataFormatError, DataNotFoundError

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*([^\[]*)\[(.*)\]')
_ESCAPES = {"n": "\n", "t": "\t", "W": " "}


@dataclass(frozen=True, slots=True)
class Text:
    """A quoted text with what stands behind it, e.g. scope ``EXACT layperson`` and sources ``("PMID:1",)``."""

    value: str
    scope: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Term:
    """One ``[Term]`` stanza that is not obsolete."""

    id: str
    name: str
    definition: Text | None
    synonyms: tuple[Text, ...]
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ontology:
    release: str  # as the file states it, e.g. hp/releases/2025-01-16
    terms: dict[str, Term]  # by id, in the file's order


def read_obo(path: Path) -> Ontology:
    """Read every live term of an OBO file.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: a line that cannot be read, named by its number, or no release or no term at all.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataNotFoundError(f"no ontology file {path}", "reinstall the package it belongs to") from error
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{path} is not UTF-8 text", "reinstall the package it belongs to") from error
    release = ""
    terms: dict[str, Term] = {}
    for stanza, start, fields in _stanzas(lines, path):
        if not stanza:
            release = next((value for tag, value, _ in fields if tag == "data-version"), "")
        elif stanza == "[Term]":
            term = _term(fields, path, start)
            if term is not None:
                terms[term.id] = term
    if not release or not terms:
        raise DataFormatError(f"{path} states no data-version or holds no term", "is it an OBO file?")
    return Ontology(release, terms)


_Field = tuple[str, str, int]  # tag, value, line number


def _stanzas(lines: list[str], path: Path) -> Iterator[tuple[str, int, list[_Field]]]:
    stanza, start, fields = "", 1, list[_Field]()
    for number, line in enumerate(lines, start=1):
        if line.startswith("["):
            yield stanza, start, fields
            stanza, start, fields = line.strip(), number, []
        elif line and not line.startswith("!"):
            tag, colon, value = line.partition(": ")
            if not colon:
                raise DataFormatError(f"{path} line {number} is no 'tag: value' line", "is it an OBO file?")
            fields.append((tag, value, number))
    yield stanza, start, fields


def _term(fields: list[_Field], path: Path, start: int) -> Term | None:
    term_id = name = ""
    definition: Text | None = None
    synonyms: list[Text] = []
    parents: list[str] = []
    for tag, value, number in fields:
        if tag == "id":
            term_id = value
        elif tag == "name":
            name = value
        elif tag == "is_obsolete" and value.startswith("true"):
            return None
        elif tag == "def":
            definition = _text(value, path, number)
        elif tag == "synonym":
            synonyms.append(_text(value, path, number))
        elif tag == "is_a":
            parents.append(value.split(" ", 1)[0])
    if not term_id or not name:
        raise DataFormatError(f"{path} line {start} opens a term without id or name", "is the file whole?")
    return Term(term_id, name, definition, tuple(synonyms), tuple(parents))


def _text(value: str, path: Path, number: int) -> Text:
    match = _QUOTED.match(value)
    if match is None:
        raise DataFormatError(f"{path} line {number} holds no quoted text with sources", "is the file whole?")
    text, scope, sources = match.groups()
    if "\\" in text:
        text = re.sub(r"\\(.)", lambda found: _ESCAPES.get(found.group(1), found.group(1)), text)
    return Text(text.strip(), scope.strip(), tuple(source.strip() for source in sources.split(",") if source.strip()))
