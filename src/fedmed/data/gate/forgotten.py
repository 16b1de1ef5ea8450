"""Tombstones: keyed names whose records come in no more. They are kept for good; nothing can be read from them.

forgotten.json   {"version": 1, "names": {"p-…": "2026-02-03", "r-…@": "2026-02-03", …}}

    p-…, r-…                   asked for: every row of that patient, every row with that id
    r-…@p-…, c-…@p-…           follows from that: a record's id and its words, in rows of the same patient
    r-…@, c-…@                 the same, in rows that name no patient

What only follows must not reach other patients: row numbers are the same in every table, and short answers are the same
in many records. A row that names another patient therefore stays, whatever its id and words.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from pathlib import Path

from fedmed.data.gate.keys import keyed
from fedmed.errors import DataFormatError
from fedmed.utils.files import private_folder, write_json

FILE = "forgotten.json"


def patient_of(group: str) -> str:
    """The patient's keyed name, where a record's group is one; else empty."""
    return keyed(group) if group.startswith("p-") else ""


def scoped(record: str, patient: str, content: str = "") -> set[str]:
    """A record's id and words as one patient's, or as nobody's where ``patient`` is empty."""
    return {f"{name}@{patient}" for name in (keyed(record), content) if name}


def marks(record: str, group: str, content: str = "") -> set[str]:
    """Every name by which a row can be forgotten; one of them among the tombstones is enough.

    Args:
        record: its id, perhaps of a passage.
        group: its group, which is its patient where that is known.
        content: c-…, of its words; empty where they are not known any more.
    """
    patient = patient_of(group)
    return ({patient, keyed(record)} - {""}) | scoped(record, patient, content)


def following(record: str, group: str, content: str = "") -> set[str]:
    """What goes with a row that was asked for: its id and its words, under its own patient's name or under nobody's."""
    return scoped(record, patient_of(group), content) | scoped(record, "", content)


def read_tombstones(folder: Path) -> frozenset[str]:
    """Every forgotten name, to be compared with ``marks``.

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
