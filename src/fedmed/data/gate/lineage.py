"""Which folders were made from which records: runs, single adapters, splits. Keyed names only; stays at the hospital.

    lineage/<digest of the folder>.json
    {"version": 1, "kind": "run", "folder": "/…/output-models/x", "dataset": "notes.jsonl",
     "train": [["r-…", "p-…"], …], "test": […]}

A run folder may be shown to others; what it saw is therefore written here and not there.
Not covered: a folder that was moved or copied after it was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedmed.data.gate.keys import keyed
from fedmed.errors import DataFormatError
from fedmed.utils.files import private_folder, write_json

Kind = Literal["run", "adapter", "split"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one folder was made from: (record, group) under the hospital's key; no group: empty."""

    kind: Kind
    folder: Path
    dataset: str
    train: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]

    def touches(self, names: Set[str]) -> dict[str, int]:
        """How many of its records on each side have one of these names."""
        return {
            side: sum(bool(names & {*pair}) for pair in pairs)
            for side, pairs in (("train", self.train), ("test", self.test))
        }

    def records_of(self, names: Set[str]) -> set[str]:
        """Its records with one of these names."""
        return {record for record, group in (*self.train, *self.test) if names & {record, group}}


def note_seen(gate_folder: Path, kind: Kind, folder: Path, dataset: str, rows: Iterable[Mapping[str, str]]) -> None:
    """Write down what a folder is made from; an older note about the same folder is replaced.

    Args:
        gate_folder: of the hospital.
        kind: what the folder is.
        folder: the run's, adapter's or split's.
        dataset: as it was asked for.
        rows: records with ``id``, ``group`` and ``split``; those without keyed ids are left out.
    """
    sides: dict[str, list[list[str]]] = {"train": [], "test": []}
    for row in rows:
        if name := keyed(row["id"]):
            sides["test" if row["split"] == "test" else "train"].append([name, keyed(row["group"])])
    place = folder.resolve()
    file = _folder(gate_folder) / f"{hashlib.sha256(str(place).encode()).hexdigest()[:24]}.json"
    private_folder(gate_folder)
    private_folder(file.parent)
    write_json(file, {"version": 1, "kind": kind, "folder": str(place), "dataset": dataset, **sides}, private=True)


def all_seen(gate_folder: Path) -> Iterator[Seen]:
    """Every note, in no order that means anything.

    Raises:
        DataFormatError: one is damaged.
    """
    for file in sorted(_folder(gate_folder).glob("*.json")):
        try:
            noted = json.loads(file.read_text(encoding="utf-8"))
            train, test = (tuple((record, group) for record, group in noted[side]) for side in ("train", "test"))
            yield Seen(noted["kind"], Path(noted["folder"]), noted["dataset"], train, test)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataFormatError(
                f"the lineage {file} is damaged",
                "put it back from a backup, or remove it and look through runs by hand",
            ) from error


def _folder(gate_folder: Path) -> Path:
    return gate_folder / "lineage"
