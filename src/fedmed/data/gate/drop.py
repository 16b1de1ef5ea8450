"""Take records with certain keyed names out of what the gate and splits hold on disk. Each step can be repeated.

Names are compared, not texts: a record's id (r-…), its patient or group (p-…, g-…) and its words (c-…).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from fedmed.data.gate.keys import keyed
from fedmed.data.gate.sets import GATE, GateSet, all_sets, sets_folder
from fedmed.data.split_folder import read_manifest, read_split, write_split
from fedmed.errors import DataFormatError
from fedmed.utils.files import clear_write_errors, sha256_file, write_json


def names_within(gate_folder: Path, names: Set[str]) -> set[str]:
    """The names of all records, in sets and quarantine, that have one of ``names``: their ids and their words."""
    found: set[str] = set()
    for one in all_sets(gate_folder):
        for file in (one.records, one.quarantine):
            for _, row in _rows(file):
                if _names(row) & names:
                    found |= {keyed(row["id"]), row["content"]}
    return found


def drop_from_sets(gate_folder: Path, names: Set[str]) -> int:
    """Drop lines from every set and quarantine; unfinished scans are thrown away. Returns how many lines went."""
    dropped = 0
    for partial in sets_folder(gate_folder).glob(".*.partial"):
        with clear_write_errors(partial):
            shutil.rmtree(partial)
    for one in all_sets(gate_folder):
        gone = {file.name: _filter(file, names) for file in (one.records, one.quarantine)}
        if any(gone.values()):
            dropped += sum(gone.values())
            _recount(one, gone[one.records.name])
    return dropped


def drop_from_split(folder: Path, names: Set[str]) -> int:
    """Drop rows from a written split and write its manifest anew. Returns how many went; 0 where there is no split."""
    for leftover in (folder.with_name(f".{folder.name}.old"), folder.with_name(f".{folder.name}.tmp")):
        if leftover.is_dir():
            with clear_write_errors(leftover):
                shutil.rmtree(leftover)
    if not (folder / "manifest.json").is_file():
        return 0
    manifest = read_manifest(folder)
    shares = read_split(folder)
    kept = {
        name: share.select(
            [row for row, one in enumerate(share.select_columns(["id", "group"])) if not _names(one) & names]
        )
        for name, share in shares.items()
    }
    dropped = sum(map(len, shares.values())) - sum(map(len, kept.values()))
    if dropped:
        write_split(
            kept, folder, strategy=manifest["strategy"], alpha=manifest["alpha"], seed=manifest["seed"],
            gate=manifest.get("gate"),
        )  # fmt: skip
    return dropped


def _recount(one: GateSet, records: int) -> None:
    gate = one.gate | {
        "records": one.gate["records"] - records,
        "records_sha256": sha256_file(one.records),
        "changed_by_forget": True,
    }
    write_json(one.folder / GATE, gate, private=True)


def _filter(file: Path, names: Set[str]) -> int:
    """Rewrite a file without the lines of these names; streaming, whole or as it was."""
    dropped = 0
    temporary = file.with_name(f".{file.name}.tmp")
    with clear_write_errors(file):
        try:
            with open(temporary, "wb") as out:
                temporary.chmod(0o600)
                for raw, row in _rows(file):
                    if _names(row) & names:
                        dropped += 1
                    else:
                        out.write(raw)
            if dropped:
                temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    return dropped


def _rows(file: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    with open(file, "rb") as lines:
        for number, raw in enumerate(lines, start=1):
            try:
                row = json.loads(raw)
            except ValueError:
                raise DataFormatError(
                    f"{file} line {number} is damaged", "remove its folder and prepare again"
                ) from None
            yield raw, row


def _names(row: dict[str, Any]) -> set[str]:
    return {keyed(row["id"]), keyed(row["group"]), row.get("content", "")} - {""}
