"""A whole source through the gate: streaming, by several processes, resumable, the set whole or absent.

Unfinished work lies in ``sets/.<name>.partial``: what is written so far and how many documents that is. The same call
goes on from there after a kill. Memory does not grow with the number of documents: a few chunks are in flight at any
time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from fedmed import __version__
from fedmed.config.schema import GateSection
from fedmed.data.documents import Document, SourceFile, digest, documents, source_files
from fedmed.data.gate.admission import Admission, Admitted
from fedmed.data.gate.forgotten import read_tombstones
from fedmed.data.gate.keys import HospitalKey
from fedmed.data.gate.scan import DocumentScan, OpenScanner, Outcome, ScanSettings, open_scanner
from fedmed.data.gate.sets import (
    GATE,
    LAYOUT,
    QUARANTINE,
    RECORDS,
    GateSet,
    partial_folder,
    read_set,
    remove_older,
    set_name,
    sets_folder,
)  # fmt: skip
from fedmed.errors import DataFormatError, EmptyDataError, FedMedError, RunError
from fedmed.utils.console import Step, track
from fedmed.utils.files import clear_write_errors, folder_lock, private_folder, sha256_file, write_json

CHUNK = 32
PROGRESS = "progress.json"
_MARKS_EVERY = 8
_WORTH_A_PROCESS = 400
"""Documents a worker must have before it, as it takes seconds to begin."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Documents that are scanned together; ``end``: how many of the source are behind it."""

    end: int
    documents: tuple[Admitted, ...]


def scan_settings(gate: GateSection, key: HospitalKey) -> ScanSettings:
    model = Path(gate.ner_model).expanduser() if gate.ner_model else None
    return ScanSettings(gate.operator, gate.min_score, gate.max_risk, model, key.derived("deidentify"))


def build_set(
    path: Path,
    columns: Mapping[str, str],
    gate: GateSection,
    key: HospitalKey,
    *,
    workers: int | None = None,
    scanner: OpenScanner | None = None,
) -> GateSet:
    """Scan everything at ``path``, or find it scanned already.

    Args:
        path: a file or folder.
        columns: our column -> theirs.
        gate: folder and policy.
        key: the hospital's.
        workers: processes; None: one a core, where there is enough to do.
        scanner: what finds identifiers; None: ``scan.open_scanner``.

    Returns:
        The set; older sets of the same source are gone.

    Raises:
        What reading raises; MissingExtraError, ModelNotFoundError; RunBusyError: another process uses the gate.
        EmptyDataError: there is no document. DataFormatError: the source changed meanwhile.
    """
    folder = private_folder(Path(gate.folder))
    with folder_lock(folder):
        name = set_name(path, columns, gate, key)
        whole = sets_folder(folder) / name
        private_folder(sets_folder(folder))
        if not whole.is_dir():
            _remove_unfinished(folder, str(path.resolve()), partial_folder(folder, name))
            files = list(source_files(path, columns or None))
            total = sum(file.documents for file in files)
            if not total:
                raise EmptyDataError(f"{path} holds no document", "give a file with records or notes")
            admission = Admission(key, read_tombstones(folder))
            settings = scan_settings(gate, key)
            work = _Work(partial_folder(folder, name), path, files, admission, settings, scanner or open_scanner)
            work.carry_out(total, _workers(workers, total))
            if set_name(path, columns, gate, key) != name:
                raise DataFormatError(
                    f"{path} changed while it was scanned", "run again once the export is finished and lies still"
                )
            work.finish(whole, _described(path, gate, files, admission, work.done, total))
        made = read_set(whole)
        remove_older(folder, made)
        return made


def _remove_unfinished(folder: Path, source: str, kept: Path) -> None:
    """Remove stopped scans of what this source was before: nobody goes on with them, and they hold text."""
    for partial in sets_folder(folder).glob(".*.partial"):
        if partial != kept and _progress(partial).get("source", source) == source:
            with clear_write_errors(partial):
                shutil.rmtree(partial)


def _progress(partial: Path) -> dict[str, Any]:
    """How far an unfinished scan came; empty: it must begin anew."""
    try:
        return dict(json.loads((partial / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _workers(asked: int | None, total: int) -> int:
    cores = len(os.sched_getaffinity(0))
    return asked or max(1, min(cores, total // _WORTH_A_PROCESS))


def _described(
    path: Path, gate: GateSection, files: list[SourceFile], admission: Admission, done: Outcome, total: int
) -> dict[str, Any]:
    counts = done.counts
    return {
        "layout": LAYOUT, "status": "scanned", "fedmed": __version__,
        "source": str(path.resolve()), "source_sha256": digest(path),
        "documents": total, "kept": counts["kept"], "records": counts["records"], "quarantined": counts["quarantined"],
        "refused": {name: admission.refused[name] for name in ("forgotten", "no_consent")},
        "left_out": {
            "empty": counts["empty"], "overlong": counts["overlong"],
            "no_note": sum(file.passed_over for file in files),
        },
        "documents_with_findings": counts["with_findings"],
        "findings": dict(sorted(done.types.items())), "quarantine_signs": dict(sorted(done.reasons.items())),
        "policy": gate.model_dump(mode="json", include={"operator", "min_score", "max_risk", "ner_model"}),
    }  # fmt: skip


class _Work:
    """Scans what is left of a source into a partial folder."""

    def __init__(
        self, folder: Path, source: Path, files: list[SourceFile], admission: Admission, settings: ScanSettings,
        scanner: OpenScanner,
    ) -> None:  # fmt: skip
        self.folder, self.source = private_folder(folder), str(source.resolve())
        self.files, self.admission, self.settings, self.scanner = files, admission, settings, scanner
        self.begun, self.done = self._resumed()

    def _resumed(self) -> tuple[int, Outcome]:
        """How many documents an earlier start got through, and its counts; its half-written lines are cut off."""
        done, paths = Outcome(), [self.folder / RECORDS, self.folder / QUARANTINE]
        try:
            kept = _progress(self.folder)
            done.counts, done.types, done.reasons = (Counter(kept[name]) for name in ("counts", "types", "reasons"))
            begun, sizes = int(kept["documents"]), kept["sizes"]
            if any(path.stat().st_size < size for path, size in zip(paths, sizes, strict=True)):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged
            begun, sizes, done = 0, [0, 0], Outcome()
        for path, size in zip(paths, sizes, strict=True):
            with clear_write_errors(path):
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
                os.truncate(path, size)
        return begun, done

    def carry_out(self, total: int, workers: int) -> None:
        with ExitStack() as stack:
            stack.enter_context(clear_write_errors(self.folder))
            out = [stack.enter_context(open(self.folder / name, "ab")) for name in (RECORDS, QUARANTINE)]
            step = stack.enter_context(track("scanning", total))
            self._mark(self.begun, out)  # from here on it is known whose unfinished work this is
            step(self.begun, set_aside=self.done.counts["quarantined"])
            chunks = self._chunks()
            if workers == 1:
                first = next(chunks, None)
                if first is not None:
                    scan = DocumentScan(self.settings, self.scanner(self.settings))
                    self._take(first.end, scan.scan(first.documents), out, step)
                    for chunk in chunks:
                        self._take(chunk.end, scan.scan(chunk.documents), out, step)
            else:
                self._in_processes(chunks, workers, lambda end, done: self._take(end, done, out, step))
            self._mark(self.begun, out)

    def _chunks(self) -> Iterator[Chunk]:
        held: list[Admitted] = []
        number = 0
        for file in self.files:
            for document in documents(file):
                number += 1
                document = _with_source(document, file.label)
                admitted = self.admission.admit(document)  # also those that are done: refusals are counted anew
                if admitted is not None and number > self.begun:
                    held.append(admitted)
                if len(held) == CHUNK:
                    yield Chunk(number, tuple(held))
                    held = []
        if number > self.begun:
            yield Chunk(number, tuple(held))

    def _take(self, end: int, outcome: Outcome, out: Sequence[BinaryIO], step: Step) -> None:
        for file, lines in zip(out, (outcome.records, outcome.quarantine), strict=True):
            file.write(lines)
        self.done.add(outcome)
        before, self.begun = self.begun, end
        if end // CHUNK // _MARKS_EVERY != before // CHUNK // _MARKS_EVERY:
            self._mark(end, out)
        step(end - before, set_aside=self.done.counts["quarantined"])

    def _mark(self, end: int, out: Sequence[BinaryIO]) -> None:
        for file in out:
            file.flush()
            os.fsync(file.fileno())
        counts = {name: getattr(self.done, name) for name in ("counts", "types", "reasons")}
        progress = {"source": self.source, "documents": end, "sizes": [file.tell() for file in out], **counts}
        write_json(self.folder / PROGRESS, progress, private=True)

    def _in_processes(self, chunks: Iterator[Chunk], workers: int, take: Callable[[int, Outcome], None]) -> None:
        # Fresh processes, not forks: a fork of a process with threads can hang.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start_worker, initargs=(self.settings, self.scanner)
        )
        queue: deque[tuple[int, Future[Outcome]]] = deque()
        try:
            for chunk in chunks:
                queue.append((chunk.end, pool.submit(_scan, chunk.documents)))
                if len(queue) >= 2 * workers:
                    end, future = queue.popleft()
                    take(end, future.result())
            while queue:
                end, future = queue.popleft()
                take(end, future.result())
        except BrokenProcessPool as error:
            raise RunError(
                "a scanning process ended before its time", "run again to go on; fewer --workers need less memory"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def finish(self, whole: Path, described: dict[str, Any]) -> None:
        """Turn the partial folder into the set."""
        described["records_sha256"] = sha256_file(self.folder / RECORDS)
        write_json(self.folder / GATE, described, private=True)
        with clear_write_errors(whole):
            (self.folder / PROGRESS).unlink()
            os.replace(self.folder, whole)


def _with_source(document: Document, label: str) -> Document:
    """A record that names no source comes from its file, as without a gate."""
    return document if document.raw.source else replace(document, raw=replace(document.raw, source=label))


_worker: DocumentScan | FedMedError | None = None


def _start_worker(settings: ScanSettings, scanner: OpenScanner) -> None:
    """Raising here would break the pool without a word of why, so ``_scan`` says it."""
    global _worker
    try:
        _worker = DocumentScan(settings, scanner(settings))
    except FedMedError as error:
        _worker = error


def _scan(admitted: tuple[Admitted, ...]) -> Outcome:
    assert _worker is not None
    if isinstance(_worker, FedMedError):
        raise _worker
    return _worker.scan(admitted)
