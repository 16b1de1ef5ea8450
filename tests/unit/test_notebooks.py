"""The notebooks as they are kept: executed from top to bottom, small, without errors or logic of their own."""

from __future__ import annotations

import ast
import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLACES = re.compile(r"/(?:home|root|tmp|Users|var|opt|mnt|work)/|[A-Z]:\\\\")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def outputs(path: Path) -> list[dict[str, Any]]:
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@each
def test_a_notebook_was_executed_from_top_to_bottom_without_an_error(path: Path) -> None:
    assert [cell["execution_count"] for cell in cells(path, "code")] == [*range(1, len(cells(path, "code")) + 1)]
    assert {output["output_type"] for output in outputs(path)} <= {"stream", "display_data", "execute_result"}
    assert len(outputs(path)) >= 3
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]


@each
def test_a_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size < 150_000
    pictures = [output["data"]["image/png"] for output in outputs(path) if "image/png" in output.get("data", {})]
    assert all(len(base64.b64decode("".join(picture))) < 50_000 for picture in pictures)


@each
def test_a_notebook_names_no_place_on_the_machine_that_executed_it(path: Path) -> None:
    for output in outputs(path):
        data = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
        assert not PLACES.search("".join(output.get("text", "")) + json.dumps(data))


@each
def test_a_notebook_uses_fedmed_and_defines_no_logic(path: Path) -> None:
    tree = ast.parse("\n".join(source(cell) for cell in cells(path, "code")))
    nodes = list(ast.walk(tree))
    assert any(isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedmed.") for node in nodes)
    assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]


@each
def test_every_link_in_a_notebook_leads_somewhere(path: Path) -> None:
    text = "\n".join(source(cell) for cell in cells(path, "markdown"))
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if not re.match(r"[a-z]+:", target)]
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_readme_beside_the_notebooks_lists_them_all() -> None:
    listed = re.findall(r"\]\((\S+\.ipynb)\)", (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8"))
    assert listed == [path.name for path in NOTEBOOKS]
    assert NOTEBOOKS
