"""Execute the notebooks in place: ``make notebooks``. tests/e2e/test_notebooks.py executes them too, and keeps nothing.

In their order, each with a kernel of its own, in one folder that is thrown away: 05 asks the run that 03 made. What is
kept is what a cell shows; progress, times and warnings (stderr) are not, so that the same notebook says the same again.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

from fedmed.utils.files import write_atomic

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
SECONDS = 7200  # for one cell, on a busy machine; alone on two cores a whole notebook takes three minutes at most


def execute(paths: Sequence[Path], place: Path) -> Iterator[tuple[Path, Any]]:
    """Each notebook with its new outputs, as soon as it is done.

    Args:
        paths: notebooks, in the order in which they run.
        place: an empty folder; they run in ``place/notebooks`` and find ``../benchmarks`` and ``../docs``.

    Raises:
        CellExecutionError: a cell failed; says which, with its traceback.
    """
    (place / "notebooks").mkdir()
    for name in ("benchmarks", "docs"):
        (place / name).symlink_to(ROOT / name)
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        resources = {"metadata": {"path": str(place / "notebooks")}}
        # A socket file in place of ports on loopback, which any user of the machine could reach.
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(place / "kernel"))
        NotebookClient(notebook, km=kernel, timeout=SECONDS, resources=resources, record_timing=False).execute()
        yield path, tidy(notebook)


def tidy(notebook: Any) -> Any:
    """Without what differs from one execution or machine to the next."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = list(_joined(output for output in cell.outputs if output.get("name") != "stderr"))
    return notebook


def _joined(outputs: Iterable[Any]) -> Iterator[Any]:
    """Printed lines as one output: in how many pieces they arrive is chance."""
    last = None
    for output in outputs:
        if last is not None and output.output_type == last.output_type == "stream":
            last.text += output.text
            continue
        yield output
        last = output


def main(names: Sequence[str]) -> None:
    """Execute those whose name begins as one of ``names``, or all; progress goes to stderr."""
    chosen = [path for path in sorted(FOLDER.glob("*.ipynb")) if not names or path.name.startswith(tuple(names))]
    with tempfile.TemporaryDirectory() as place:
        for path, notebook in execute(chosen, Path(place)):
            write_atomic(path, nbformat.writes(notebook) + "\n")
            sys.stderr.write(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1024:.0f} KB\n")


if __name__ == "__main__":
    main(sys.argv[1:])
