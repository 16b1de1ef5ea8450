"""Forget a patient or a record: a tombstone first, then everything under the project's folders that holds them.

What happens, in an order that can be cut off and repeated at any point:

1. tombstones under the hospital's key, for what was asked for and for what follows (``data/gate/forgotten.py``): from
   here on they come in no more
2. scanned sets, quarantine and unfinished scans; written splits: whatever has a tombstone goes, also of an earlier call
3. the cache of tokenised records, all of it, as it can be made again
4. runs that saw them: checkpoints go, which hold hospitals' state, and so do sample answers, which may quote held-out
   questions; scores and adapters stay and are listed

A step that fails stops no other; all that failed is told at the end.

Not covered: an adapter that learnt from the records keeps what it learnt: retrain it without them, or remove it.
Exports and backups outside these folders are the hospital's to clean; the gate refuses what comes back from them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedmed.data.gate.drop import Problems, collected, drop_from_sets, drop_from_split, rows_with
from fedmed.data.gate.forgotten import add_tombstones, following, patient_of, read_tombstones, scoped
from fedmed.data.gate.keys import KEY_FILE, keyed, open_key
from fedmed.data.gate.lineage import Seen, notes, read_note
from fedmed.data.token_cache import clear_tokens
from fedmed.errors import DataError, DataFormatError, FedMedError, RunBusyError, RunError
from fedmed.evaluation.report import REPORT
from fedmed.pipeline.run_report import report_run
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
    new_gate: bool = False  # there was no gate here, so nothing could be known of anybody
    known_records: int = 0
    dropped_from_sets: int = 0
    dropped_from_splits: int = 0
    token_files: int = 0
    checkpoints: int = 0
    saw_them: list[SawThem] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def forget(
    gate_folder: Path,
    *,
    patient: str | None = None,
    record: str | None = None,
    show: Callable[[Forgotten], None] | None = None,
) -> Forgotten:
    """Forget one patient, or one record, given by the hospital's own id or by its keyed name.

    Args:
        gate_folder: of the hospital.
        patient: an id; or
        record: an id.
        show: is told what was done, also where an error follows.

    Raises:
        HospitalKeyError: the key is missing or readable by others. RunBusyError: a scan goes on. Nothing is done then.
        DataError, RunError: something could not be looked through, cleaned, or is in use by a run; names all of it.
        Everything else is done, and the same call can be repeated.
    """
    new_gate = not (gate_folder / KEY_FILE).exists()
    private_folder(gate_folder)
    problems: Problems = []
    with folder_lock(gate_folder):
        key = open_key(gate_folder)
        name = key.patient(patient) if patient is not None else key.record(_whole(record or ""))
        done = Forgotten(name, new_gate)
        add_tombstones(gate_folder, {name})
        seen = _lineage(gate_folder, problems)
        names = _remember(gate_folder, name, seen, done, problems)
        gone = read_tombstones(gate_folder)  # all: an earlier call may have been cut off
        done.dropped_from_sets = drop_from_sets(gate_folder, gone, problems)
        splits = {one.folder for one in seen if one.kind == "split"} - {PROCESSED.resolve()}
        for split in sorted(splits):
            with collected(problems):
                done.dropped_from_splits += drop_from_split(split, gone)
        with collected(problems), _processed(gate_folder):
            done.dropped_from_splits += drop_from_split(PROCESSED.resolve(), gone)
        with collected(problems):
            done.token_files = clear_tokens(cache_root())
        for one in seen:
            if one.kind != "split" and any((sides := one.touches(names)).values()):
                if one.kind == "run":
                    done.checkpoints += _clean_run(one.folder, one.touches(gone), problems)
                elif (unfinished := one.folder.with_name(f".{one.folder.name}.tmp")).is_dir():
                    problems.append(
                        RunBusyError(f"{one.folder} is being trained", f"wait for it, or remove {unfinished}")
                    )
                done.saw_them.append(SawThem(one.kind, str(one.folder), **sides, adapters=_adapters(one)))
    if show:
        show(done)
    if problems:
        raise _together(problems)
    return done


def _whole(record: str) -> str:
    """The note's keyed id where that of a passage was given, ``r-….3``."""
    return keyed(record.strip()) or record if record.strip().startswith("r-") else record


def _lineage(gate_folder: Path, problems: Problems) -> list[Seen]:
    seen = []
    for file in notes(gate_folder):
        with collected(problems):
            seen.append(read_note(file))
    return seen


def _remember(gate_folder: Path, name: str, seen: Sequence[Seen], done: Forgotten, problems: Problems) -> Set[str]:
    """Add tombstones for what follows from ``name``. Returns them all.

    Two looks: at the rows that were asked for, and at others with the same words, whose ids splits and runs know.
    """
    known = rows_with(gate_folder, {name}, problems)
    known |= {(*pair, "") for one in seen for pair in one.pairs_with({name})}
    done.known_records = len({record for record, _, _ in known})
    names = {name}.union(*(following(*row) for row in known))
    words = {one for one in names if one.startswith("c-")}
    if words:
        for record, group, _ in rows_with(gate_folder, words, problems):
            names |= scoped(record, patient_of(group))
    add_tombstones(gate_folder, names)
    return names


def _processed(gate_folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the folder that runs write their shares to; they hold it for moments."""
    parent = PROCESSED.parent
    if not parent.is_dir() or parent.resolve() == gate_folder.resolve():  # nothing is there, or it is held already
        return contextlib.nullcontext()
    return folder_lock(parent, wait=True)


def _clean_run(folder: Path, sides: dict[str, int], problems: Problems) -> int:
    """Take checkpoints and sample answers out of a run; returns how many checkpoints there were."""
    rounds: list[Path] = []
    if folder.is_dir():
        with collected(problems), folder_lock(folder):
            with collected(problems), clear_write_errors(folder / "rounds"):
                rounds = list((folder / "rounds").glob("*"))
                if rounds:
                    shutil.rmtree(folder / "rounds")
            with collected(problems):
                _clean_summary(folder, sides)
    return len(rounds)


def _clean_summary(folder: Path, sides: dict[str, int]) -> None:
    """The report goes first and is made anew: whatever is wrong with the summary, it must not go on quoting."""
    file, report = folder / "summary.json", folder / REPORT
    shown = report.is_file()
    with clear_write_errors(report):
        report.unlink(missing_ok=True)
    if not file.is_file():
        return
    try:
        summary = json.loads(file.read_text(encoding="utf-8")) | {"samples": [], SAW: dict(sides)}
    except (OSError, ValueError, TypeError) as error:
        raise DataFormatError(
            f"{file} is damaged and may hold sample answers", "remove it by hand; the run's report is gone"
        ) from error
    write_json(file, summary)
    if shown:
        report_run(folder)


def _adapters(one: Seen) -> tuple[str, ...]:
    if one.kind == "adapter":
        return (str(one.folder),) if one.folder.is_dir() else ()
    places = [one.folder / "adapter", *sorted(one.folder.glob("hospitals/*/adapter"))]
    return tuple(str(place) for place in places if place.is_dir())


def _together(problems: Sequence[FedMedError]) -> FedMedError:
    """All problems as one, of their own kind where they are of one."""
    told = list(dict.fromkeys(map(str, problems)))
    kind: type[FedMedError] = type(problems[0]) if len(set(map(type, problems))) == 1 else DataError
    if not issubclass(kind, DataError | RunError):
        kind = DataError
    return kind(f"forgotten, but not everywhere ({'; '.join(told)})", "put that right and repeat the same command")
