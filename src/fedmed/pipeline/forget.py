"""Forget a patient or a record: a tombstone first, then everything under the project's folders that holds them.

What happens, in an order that can be cut off and repeated at any point:

1. a tombstone under the hospital's key, for the patient and for every record of theirs that is known: from here on
   they come in no more
2. scanned sets, quarantine and unfinished scans; written splits
3. the cache of tokenised records, all of it, as it can be made again
4. runs that saw them: checkpoints go, which hold hospitals' state, and so do sample answers, which may quote held-out
   questions; scores and adapters stay and are listed

Not covered: an adapter that learnt from the records keeps what it learnt: retrain it without them, or remove it.
Exports and backups outside these folders are the hospital's to clean; the gate refuses what comes back from them.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedmed.data.gate.drop import drop_from_sets, drop_from_split, names_within
from fedmed.data.gate.forgotten import add_tombstones
from fedmed.data.gate.keys import open_key
from fedmed.data.gate.lineage import Seen, all_seen
from fedmed.evaluation.report import write_report
from fedmed.utils.cache import cache_root
from fedmed.utils.files import clear_write_errors, folder_lock, private_folder, write_json

PROCESSED = Path("data/processed")
SAW = "forgotten_records"


@dataclass(frozen=True, slots=True)
class SawThem:
    """A run or single adapter that was made from forgotten records."""

    kind: str  # run | adapter
    folder: str
    train: int  # forgotten records it was trained on
    test: int  # forgotten records it was only scored on
    adapters: tuple[str, ...]  # folders of adapters that are still there


@dataclass
class Forgotten:
    """What was done; holds no id that was given."""

    name: str  # keyed
    known_records: int = 0
    dropped_from_sets: int = 0
    dropped_from_splits: int = 0
    token_files: int = 0
    checkpoints: int = 0
    saw_them: list[SawThem] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def forget(gate_folder: Path, *, patient: str | None = None, record: str | None = None) -> Forgotten:
    """Forget one patient, or one record, given by the hospital's own id or by its keyed name.

    Raises:
        HospitalKeyError: the key is missing or readable by others.
        RunBusyError: a scan, or a run that saw them, goes on.
        DataFormatError: something that must be looked through is damaged; what was done so far holds.
    """
    private_folder(gate_folder)
    with folder_lock(gate_folder):
        key = open_key(gate_folder)
        name = key.patient(patient) if patient is not None else key.record(record or "")
        done = Forgotten(name)
        names = {name}
        add_tombstones(gate_folder, names)
        seen = list(all_seen(gate_folder))
        known = names_within(gate_folder, names).union(*(one.records_of(names) for one in seen))
        done.known_records = len({one for one in known if one.startswith("r-")})
        add_tombstones(gate_folder, known)
        names |= known
        done.dropped_from_sets = drop_from_sets(gate_folder, names)
        for split in {PROCESSED.resolve(), *(one.folder for one in seen if one.kind == "split")}:
            done.dropped_from_splits += drop_from_split(split, names)
        done.token_files = _clear_tokens()
        for one in seen:
            if one.kind != "split" and any((sides := one.touches(names)).values()):
                if one.kind == "run":
                    done.checkpoints += _clean_run(one.folder, sides)
                done.saw_them.append(SawThem(one.kind, str(one.folder), **sides, adapters=_adapters(one)))
    return done


def _clear_tokens() -> int:
    files = list((cache_root() / "tokens").glob("*"))
    for file in files:
        with clear_write_errors(file):
            file.unlink(missing_ok=True)
    return len(files)


def _clean_run(folder: Path, sides: dict[str, int]) -> int:
    """Take checkpoints and sample answers out of a run; returns how many checkpoints there were."""
    if not folder.is_dir():
        return 0
    with folder_lock(folder):
        rounds = list((folder / "rounds").glob("*"))
        if rounds:
            with clear_write_errors(folder / "rounds"):
                shutil.rmtree(folder / "rounds")
        summary_file = folder / "summary.json"
        if summary_file.is_file():
            summary = json.loads(summary_file.read_text(encoding="utf-8"))
            write_json(summary_file, summary | {"samples": [], SAW: dict(sides)})
            if (folder / "report.html").is_file():
                write_report(folder)
    return len(rounds)


def _adapters(one: Seen) -> tuple[str, ...]:
    if one.kind == "adapter":
        return (str(one.folder),) if one.folder.is_dir() else ()
    places = [one.folder / "adapter", *sorted(one.folder.glob("hospitals/*/adapter"))]
    return tuple(str(place) for place in places if place.is_dir())
