"""The notebooks run on the real embedded model, in their order, and show what their kept outputs show."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient")

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def kinds(notebook: Any) -> list[list[tuple[str, ...]]]:
    """Of every code cell's outputs; pictures, tables or lines of text."""
    return [
        [(output.output_type, *sorted(output.get("data", {}))) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.timeout(7200)
def test_every_notebook_runs_and_shows_what_it_is_kept_with(tmp_path: Path) -> None:
    import nbformat

    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    paths = sorted(tool.FOLDER.glob("*.ipynb"))
    assert paths
    before = [path.read_bytes() for path in paths]
    for path, executed in tool.execute(paths, tmp_path):
        assert kinds(executed) == kinds(nbformat.read(path, as_version=4)), path.name
    assert [path.read_bytes() for path in paths] == before
