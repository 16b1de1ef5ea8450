"""Take records with certain keyed names out of what the gate and splits hold on disk. Each step can be repeated.

Names are compared, not texts (``forgotten.marks``). Sets are read without their checksum: a call that was cut off
leaves one that does not fit, and a set that is damaged elsewhere still holds words that are to go. What cannot be read
or written is kept in a list of problems, so that it does not stop the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmed.data.gate.forgotten import marks
from fedmed.data.gate.keys import keyed
from fedmed.data.gate.sets import GATE, QUARANTINE, RECORDS, sets_folder
from fedmed.data.split_folder import read_manifest, read_split, write_split
from fedmed.errors import DataFormatError, FedMedError
from fedmed.utils.files import clear_write_errors, owner_only, sha256_file, write_json

Problems = list[FedMedError]
Row = tuple[str, str, str]  # id, group, content


@contextlib.contextmanager
def collected(problems: Problems) -> Iterator[None]:
    """Keep an error of the block for the end; what comes after the block is done all the same."""
    try:
        yield
    except FedMedError as error:
        problems.append(error)


def rows_with(gate_folder: Path, names: Set[str], problems: Problems) -> set[Row]:
    """Rows of all sets and their quarantine that have one of ``names``; the id is the record's, not a passage's."""
    found: set[Row] = set()
    for folder in _set_folders(gate_folder):
        for name in (RECORDS, QUARANTINE):
            with collected(problems):
                for line in _lines(folder / name):
                    if line.row is not None and line.marks & names:
                        row = line.row
                        found.add((keyed(row["id"]), row["group"], row.get("content", "")))
    return found


def drop_from_sets(gate_folder: Path, names: Set[str], problems: Problems) -> int:
    """Drop lines from every set and quarantine; unfinished scans are thrown away. Returns how many lines went."""
    dropped = 0
    for partial in sets_folder(gate_folder).glob(".*.partial"):
        with collected(problems), clear_write_errors(partial):
            shutil.rmtree(partial)
    for folder in _set_folders(gate_folder):
        left: dict[str, _Left] = {}
        for name in (RECORDS, QUARANTINE):
            with collected(problems):
                left[name] = _filter(folder / name, names)
        dropped += sum(one.dropped for one in left.values())
        with collected(problems):
            _recount(folder, left)
    return dropped


def drop_from_split(folder: Path, names: Set[str]) -> int:
    """Drop rows from a written split and write its manifest anew. Returns how many went; 0 where there is no split.

    Of the gate's counts in the manifest, those are lowered that the rows themselves tell: records, and documents kept.
    """
    for leftover in (folder.with_name(f".{folder.name}.old"), folder.with_name(f".{folder.name}.tmp")):
        if leftover.is_dir():
            with clear_write_errors(leftover):
                shutil.rmtree(leftover)
    if not (folder / "manifest.json").is_file():
        return 0
    manifest = read_manifest(folder)
    shares = read_split(folder)
    kept, gone = {}, []
    for name, share in shares.items():
        stays = []
        for row, one in enumerate(share.select_columns(["id", "group"])):
            if marks(one["id"], one["group"]) & names:
                gone.append(keyed(one["id"]))
            else:
                stays.append(row)
        kept[name] = share.select(stays)
    if gone:
        write_split(
            kept, folder, strategy=manifest["strategy"], alpha=manifest["alpha"], seed=manifest["seed"],
            gate=_lowered(manifest.get("gate"), records=len(gone), documents=len(set(gone))),
        )  # fmt: skip
    return len(gone)


def _lowered(gate: dict[str, Any] | None, *, records: int, documents: int) -> dict[str, Any] | None:
    if gate is None or "records" not in gate:  # public or unscanned: it counts none that were let in
        return gate
    refused = gate["refused"]
    return gate | {
        "records": gate["records"] - records,
        "kept": gate["kept"] - documents,
        "refused": refused | {"forgotten": refused["forgotten"] + documents},
        "changed_by_forget": True,
    }


def _set_folders(gate_folder: Path) -> list[Path]:
    return sorted(sets_folder(gate_folder).glob("[!.]*/"))


@dataclass(slots=True)
class _Left:
    """What is in a file after rows were dropped."""

    dropped: int = 0
    lines: int = 0
    documents: int = 0
    signs: Counter[str] = field(default_factory=Counter)  # of the quarantine
    damaged: int = 0  # number of the first line that cannot be read; it was left as it is


def _filter(file: Path, names: Set[str]) -> _Left:
    """Rewrite a file without the lines of these names; streaming, whole or as it was."""
    left = _Left()
    temporary = file.with_name(f".{file.name}.tmp")
    with clear_write_errors(file):
        try:
            with open(temporary, "wb", opener=owner_only) as out:
                for number, line in enumerate(_lines(file), start=1):
                    if line.row is None:
                        left.damaged = left.damaged or number
                    elif line.marks & names:
                        left.dropped += 1
                        continue
                    else:
                        left.documents += line.begins_document
                        left.signs.update(line.row.get("signs", {}).keys())
                    left.lines += 1
                    out.write(line.raw)
                out.flush()
                os.fsync(out.fileno())  # or a power cut could leave an empty file under the old one's name
            if left.dropped:
                temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    return left


def _recount(folder: Path, left: dict[str, _Left]) -> None:
    """Bring gate.json up to the files, also where an earlier call was cut off before it did.

    Counted anew: records, documents kept and set aside, signs, and as forgotten whatever is then missing. Findings of
    the scan stay: nobody knows which were in the dropped documents.

    Raises:
        DataFormatError: a file is missing or has a damaged line; gate.json is left, so that nobody trains on the set.
    """
    for name, one in left.items():
        if one.damaged:
            raise DataFormatError(
                f"{folder / name} line {one.damaged} is damaged", "remove its folder and prepare again"
            )
    if len(left) < 2:
        return  # that a file cannot be read has been said
    file, records, aside = folder / GATE, left[RECORDS], left[QUARANTINE]
    try:
        gate = json.loads(file.read_text(encoding="utf-8"))
        counted = {
            "records": records.lines,
            "records_sha256": sha256_file(folder / RECORDS),
            "quarantined": aside.lines,
            "quarantine_signs": dict(sorted(aside.signs.items())),
        }
        if all(gate[name] == value for name, value in counted.items()):
            return
        accounted = records.documents + aside.lines + gate["refused"]["no_consent"]
        accounted += gate["left_out"]["empty"] + gate["left_out"]["overlong"]
        refused = gate["refused"] | {"forgotten": max(gate["documents"] - accounted, 0)}
        counted |= {"kept": records.documents, "refused": refused, "changed_by_forget": True}
        changed = gate | counted
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFormatError(f"{file} is damaged", "remove its folder and prepare again") from error
    write_json(file, changed, private=True)


@dataclass(frozen=True, slots=True)
class _Line:
    raw: bytes
    row: dict[str, Any] | None  # None: it cannot be read

    @property
    def marks(self) -> set[str]:
        assert self.row is not None
        return marks(self.row["id"], self.row["group"], self.row.get("content", ""))

    @property
    def begins_document(self) -> bool:
        """Whether this is no later passage of the note before it (``notes.passages``)."""
        assert self.row is not None
        return self.row["id"].removeprefix(keyed(self.row["id"])) in ("", ".1")


def _lines(file: Path) -> Iterator[_Line]:
    try:
        with open(file, "rb") as lines:
            for raw in lines:
                yield _Line(raw, _row(raw))
    except FileNotFoundError as error:
        raise DataFormatError(f"{file} is missing", "remove its folder and prepare again") from error
    except OSError as error:
        raise DataFormatError(f"cannot read {file} ({error.strerror or error})", "check its permissions") from error


def _row(raw: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("signs", {}), dict):
        return None
    named = all(isinstance(row.get(name, ""), str) for name in ("id", "group", "content"))
    return row if named and {"id", "group"} <= row.keys() else None
