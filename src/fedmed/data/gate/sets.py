"""What the gate leaves on disk, one folder a source and policy, and how it is found again.

    sets/<name>/records.jsonl      what may be trained on: identifiers replaced, ids keyed
    sets/<name>/quarantine.jsonl   what may not: as it came, for people of the hospital to look at
    sets/<name>/gate.json          counts; no text

``name`` is a digest of the source's content, the rules, the policy and the key, so a set never stands for an export
that changed, or for rules that were not there yet.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.config.schema import GateSection
from fedmed.data.deidentify import lexicon
from fedmed.data.documents import digest
from fedmed.data.gate.keys import HospitalKey
from fedmed.errors import DataFormatError
from fedmed.utils.files import clear_write_errors, sha256_file

LAYOUT = 1
RECORDS, QUARANTINE, GATE = "records.jsonl", "quarantine.jsonl", "gate.json"


@dataclass(frozen=True, slots=True)
class GateSet:
    """A scanned source."""

    folder: Path
    gate: dict[str, Any]  # gate.json

    @property
    def records(self) -> Path:
        return self.folder / RECORDS

    @property
    def quarantine(self) -> Path:
        return self.folder / QUARANTINE

    def described(self) -> dict[str, Any]:
        """What manifests and summaries say of it: counts and policy, nothing of where it lies or what it is named."""
        private = {"source", "source_sha256", "records_sha256", "layout"}
        return {key: value for key, value in self.gate.items() if key not in private}


def set_name(path: Path, columns: Mapping[str, str], gate: GateSection, key: HospitalKey) -> str:
    """The name of the set that this source makes under this policy."""
    model = _content(Path(gate.ner_model).expanduser()) if gate.ner_model else ""
    made_of = [
        LAYOUT, digest(path), sorted(columns.items()), key.fingerprint, _rules(), lexicon.sources(),
        gate.operator, gate.min_score, gate.max_risk, gate.ner_model, model,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:24]


@functools.cache
def _rules() -> str:
    """Digest of the rules: records that older ones let through are scanned again."""
    return _content(Path(lexicon.__file__).parent)


def _content(folder: Path) -> str:
    """Digest of all files below a folder; a folder that is not there is for whoever opens it to complain of."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != ".pyc")
    named = "".join(f"{file.relative_to(folder)} {sha256_file(file)}\n" for file in files)
    return hashlib.sha256(named.encode()).hexdigest()


def sets_folder(gate_folder: Path) -> Path:
    return gate_folder / "sets"


def partial_folder(gate_folder: Path, name: str) -> Path:
    """Where unfinished work on a set lies."""
    return sets_folder(gate_folder) / f".{name}.partial"


def read_set(folder: Path) -> GateSet:
    """A whole set.

    Raises:
        DataFormatError: it is damaged.
    """
    try:
        gate = json.loads((folder / GATE).read_text(encoding="utf-8"))
        if gate["layout"] != LAYOUT or sha256_file(folder / RECORDS) != gate["records_sha256"]:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFormatError(
            f"the scanned set {folder} is damaged", "remove that folder and run 'fedmed data prepare' again"
        ) from error
    return GateSet(folder, gate)


def all_sets(gate_folder: Path) -> Iterator[GateSet]:
    """Every finished set."""
    for folder in sorted(sets_folder(gate_folder).glob("[!.]*/")):
        yield read_set(folder)


def remove_older(gate_folder: Path, new: GateSet) -> None:
    """Remove other sets of the same source: an export that was replaced is not kept a second time."""
    for old in all_sets(gate_folder):
        if old.folder != new.folder and old.gate.get("source") == new.gate["source"]:
            with clear_write_errors(old.folder):
                shutil.rmtree(old.folder)
