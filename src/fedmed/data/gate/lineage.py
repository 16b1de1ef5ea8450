"""Which folders were made from which records: runs, single adapters, splits. Keyed names only; stays at the hospital.

    lineage/<digest of the folder>.json
    {"version": 1, "kind": "run", "folder": "/…/output-models/x", "dataset": "notes.jsonl",
     "train": [["r-…", "p-…"], …], "test": […]}

A run folder may be shown to others; what it saw is therefore written here and not there. It is written before anything
but tokens is made from the records, so that a patient who is forgotten meanwhile is looked for there too.
Not covered: a folder that was moved or copied after it was made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedmed.data.gate.forgotten import marks, read_tombstones
from fedmed.data.gate.keys import keyed
from fedmed.data.token_cache import clear_tokens
from fedmed.errors import DataError, DataFormatError
from fedmed.utils.cache import cache_root
from fedmed.utils.files import folder_lock, private_folder, write_json

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
        """How many records on each side have one of these names; passages of one note are one record."""
        return {
            side: len({record for record, group in pairs if marks(record, group) & names})
            for side, pairs in (("train", self.train), ("test", self.test))
        }

    def pairs_with(self, names: Set[str]) -> set[tuple[str, str]]:
        """(record, group) of those that have one of these names."""
        return {pair for pair in (*self.train, *self.test) if marks(*pair) & names}


@contextlib.contextmanager
def noting(
    gate_folder: Path, places: Mapping[Path, Kind], dataset: str, rows: Iterable[Mapping[str, str]]
) -> Iterator[None]:
    """Write down what folders are made from, and let nobody be forgotten until the block ends.

    An older note about the same folder is replaced. Waits for whoever holds the gate.

    Args:
        gate_folder: of the hospital.
        places: the folders, and what each is.
        dataset: as it was asked for.
        rows: records with ``id``, ``group`` and ``split``; those without keyed ids are left out.

    Raises:
        DataError: some of them were forgotten after they were read.
    """
    sides: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for row in rows:
        if name := keyed(row["id"]):
            sides["test" if row["split"] == "test" else "train"].append((name, keyed(row["group"])))
    private_folder(gate_folder)
    with folder_lock(gate_folder, wait=True):
        forgotten = read_tombstones(gate_folder)
        gone = {record for pairs in sides.values() for record, group in pairs if marks(record, group) & forgotten}
        if gone:
            clear_tokens(cache_root())  # theirs may have been made since
            raise DataError(
                f"{len(gone)} records of {dataset} were forgotten while they were read",
                "start again; if 'fedmed data forget' was cut off, repeat that first",
            )
        private_folder(_folder(gate_folder))
        for folder, kind in places.items():
            place = str(folder.resolve())
            file = _folder(gate_folder) / f"{hashlib.sha256(place.encode()).hexdigest()[:24]}.json"
            write_json(file, {"version": 1, "kind": kind, "folder": place, "dataset": dataset, **sides}, private=True)
        yield


def note_seen(gate_folder: Path, places: Mapping[Path, Kind], dataset: str, rows: Iterable[Mapping[str, str]]) -> None:
    """``noting`` with nothing to do in its block."""
    with noting(gate_folder, places, dataset, rows):
        pass


def notes(gate_folder: Path) -> list[Path]:
    """The files of all notes; each is read by itself, so that a damaged one hides no other."""
    return sorted(_folder(gate_folder).glob("*.json"))


def read_note(file: Path) -> Seen:
    """One note.

    Raises:
        DataFormatError: it is damaged.
    """
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
        train, test = (tuple((record, group) for record, group in noted[side]) for side in ("train", "test"))
        return Seen(noted["kind"], Path(noted["folder"]), noted["dataset"], train, test)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFormatError(
            f"the lineage {file} is damaged", "put it back from a backup, or remove it and look through runs by hand"
        ) from error


def _folder(gate_folder: Path) -> Path:
    return gate_folder / "lineage"
