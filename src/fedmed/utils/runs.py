"""Which run is meant: the newest one, or one by name or path."""

from __future__ import annotations

import json
from pathlib import Path

from fedmed.errors import RunNotFoundError
from fedmed.utils.files import write_json

DEFAULT_ROOT = Path("output-models")
_POINTER = "latest.json"
_START = "run 'fedmed run --recipe cpu_demo' first"


def note_latest(run_folder: Path, root: Path = DEFAULT_ROOT) -> None:
    """Remember ``run_folder`` as the newest run, in ``root/latest.json``.

    Raises:
        OutputNotWritableError, DiskFullError.
    """
    folder, base = run_folder.resolve(), root.resolve()
    # Relative inside the root, so that the whole folder can be moved to another place.
    path = folder.relative_to(base) if folder.is_relative_to(base) else folder
    write_json(root / _POINTER, {"run": str(path)})


def latest_run(root: Path = DEFAULT_ROOT) -> Path:
    """The run that ``note_latest`` named; where that is gone, the folder with the newest ``summary.json``.

    Raises:
        RunNotFoundError: there is no run under ``root``, or ``latest.json`` was damaged.
    """
    pointer = root / _POINTER
    if pointer.is_file():
        try:
            noted = json.loads(pointer.read_text(encoding="utf-8"))["run"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunNotFoundError(f"{pointer} does not name a run", "remove it or name the run with --run") from error
        if isinstance(noted, str) and (root / noted).is_dir():
            return root / noted
    summaries = sorted(root.glob("*/summary.json"), key=lambda file: (file.stat().st_mtime_ns, file))
    if not summaries:
        raise RunNotFoundError(f"there is no run in {root}", _START)
    return summaries[-1].parent


def find_run(name_or_path: str | Path, root: Path = DEFAULT_ROOT) -> Path:
    """The folder of one run, given as a path or as its name under ``root``; ``latest`` is the newest.

    Raises:
        RunNotFoundError: neither is a folder; lists the newest names there are.
    """
    if str(name_or_path) == "latest":
        return latest_run(root)
    for folder in (Path(name_or_path), root / name_or_path):
        if folder.is_dir():
            return folder
    there = sorted((file.parent.name for file in root.glob("*/summary.json")), reverse=True)[:5]
    hint = f"runs in {root}: {', '.join(there)}" if there else _START
    raise RunNotFoundError(f"there is no run '{name_or_path}'", hint)
