"""The OBO reader keeps texts verbatim and names the line it cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmed.data.obo import read_obo
from fedmed.errors import DataFormatError, DataNotFoundError

pytestmark = pytest.mark.unit

OBO = r"""format-version: 1.2
data-version: hp/releases/2025-01-16

[Term]
id: HP:1
name: First
def: "A \"quoted\" text, with\: escapes." [PMID:1, https://example.org/x]
synonym: "Plain one" EXACT layperson []
synonym: "Other" RELATED [OMIM:1]
is_a: HP:0 ! Root
is_a: HP:9 ! Other

[Term]
id: HP:2
name: Second
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "t.obo"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_term_comes_out_with_texts_sources_and_parents(tmp_path: Path) -> None:
    ontology = read_obo(write(tmp_path, OBO))
    term = ontology.terms["HP:1"]
    assert ontology.release == "hp/releases/2025-01-16"
    assert term.definition is not None
    assert term.definition.value == 'A "quoted" text, with: escapes.'
    assert term.definition.sources == ("PMID:1", "https://example.org/x")
    assert [(synonym.value, synonym.scope) for synonym in term.synonyms] == [
        ("Plain one", "EXACT layperson"),
        ("Other", "RELATED"),
    ]
    assert term.parents == ("HP:0", "HP:9")


def test_obsolete_terms_and_typedefs_are_left_out(tmp_path: Path) -> None:
    assert list(read_obo(write(tmp_path, OBO)).terms) == ["HP:1"]


def test_a_definition_without_its_closing_quote_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="line 7 holds no quoted text"):
        read_obo(write(tmp_path, OBO.replace('escapes."', "escapes.")))


def test_a_line_without_a_tag_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="line 6 is no"):
        read_obo(write(tmp_path, OBO.replace("name: First", "nam")))


def test_a_term_without_a_name_names_where_it_opens(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="line 4 opens a term without id or name"):
        read_obo(write(tmp_path, OBO.replace("name: First\n", "")))


def test_a_file_without_terms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="holds no term"):
        read_obo(write(tmp_path, "format-version: 1.2\n"))


def test_an_absent_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no ontology file"):
        read_obo(tmp_path / "t.obo")


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.obo").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataFormatError, match="not UTF-8"):
        read_obo(tmp_path / "t.obo")
