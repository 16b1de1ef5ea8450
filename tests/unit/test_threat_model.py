"""Each line of the threat model points to a test that is there, or says that it is open."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
POINTER = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[str]:
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    return [line for line in lines if not re.fullmatch(r"[|\- ]+", line) and "| what remains |" not in line]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[2:50])
def test_a_line_names_a_test_or_is_open(row: str) -> None:
    assert POINTER.search(row) or "open" in row.lower()
    assert row.count("|") == 4


@pytest.mark.parametrize(("path", "name"), sorted(set(POINTER.findall(PAGE))))
def test_every_test_it_names_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_says_what_few_hospitals_and_changing_cohorts_mean() -> None:
    text = " ".join(PAGE.split())
    assert "with four hospitals, three that collude see the fourth's update exactly" in text
    assert "changed cohorts allow differencing" in text
    assert len(rows()) > 20
