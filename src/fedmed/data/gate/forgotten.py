"""Tombstones: keyed names whose records come in no more. They are kept for good; nothing can be read from them.

forgotten.json   {"version": 1, "names": {"p-…": "2026-02-03", …}}
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from pathlib import Path

from fedmed.errors import DataFormatError
from fedmed.utils.files import private_folder, write_json

FILE = "forgotten.json"


def read_tombstones(folder: Path) -> frozenset[str]:
    """Every forgotten name.

    Raises:
        DataFormatError: the file is damaged; nothing is let in then.
    """
    return frozenset(_read(folder / FILE))


def add_tombstones(folder: Path, names: Iterable[str]) -> None:
    """Remember names, with the day; those already there keep theirs."""
    known = _read(folder / FILE)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    private_folder(folder)
    write_json(folder / FILE, {"version": 1, "names": dict.fromkeys(sorted(names), today) | known}, private=True)


def _read(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    try:
        names = json.loads(file.read_text(encoding="utf-8"))["names"]
        if not isinstance(names, dict):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFormatError(
            f"the list of forgotten patients {file} is damaged", "put it back from the hospital's backup"
        ) from error
    return names
