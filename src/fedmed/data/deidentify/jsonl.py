"""De-identify a JSONL file: streaming, by several processes, resumable, the result whole or absent.

Work in progress lies in ``.OUT.partial`` beside the result: what is written so far, how far the input was read, the
counts, and the key. After a kill the same call goes on from the last chunk that was finished. The folder vanishes at
the end of the run, and a key that was drawn for the run with it.

``value_sha256`` is an HMAC-SHA-256: a plain hash of a social security number is found again by trying all of them.
Without a key of the hospital one is drawn for each report and kept nowhere: equal values can be told inside one report,
and nothing from outside. With the hospital's own key, whoever has it can tell values across reports.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import secrets
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from dataclasses import field as default
from pathlib import Path
from typing import Any, BinaryIO

from fedmed import __version__
from fedmed.data.deidentify import lexicon
from fedmed.data.deidentify.engine import Deidentifier
from fedmed.data.deidentify.findings import TYPES
from fedmed.data.deidentify.jsonl_worker import Chunk, Job, Worker, run_chunk, start_worker
from fedmed.errors import ConfigChangedError, DataError, DataNotFoundError, EmptyDataError, RunError
from fedmed.utils.console import track
from fedmed.utils.files import check_writable, clear_write_errors, folder_lock, write_atomic, write_json

CHUNK_LINES = 32
CHUNK_BYTES = 1 << 19
_MARKS_EVERY = 8
"""So many chunks are written between two marks of how far the work has come."""


@dataclass(slots=True)
class Progress:
    """How far a run is: everything before ``read`` bytes of the input lies in ``written`` bytes of the output."""

    read: int = 0
    written: int = 0
    lines: int = 0
    records: int = 0
    with_findings: int = 0
    types: Counter[str] = default(default_factory=Counter)
    rules: Counter[str] = default(default_factory=Counter)

    def add(self, end: int, lines: int, done: Chunk) -> None:
        self.read, self.lines = end, lines
        self.written += len(done.raw)
        self.records += done.records
        self.with_findings += done.with_findings
        self.types.update(done.types)
        self.rules.update(done.rules)


def deidentify_file(job: Job) -> dict[str, Any]:
    """De-identify a file and write result and report.

    Returns:
        The report.

    Raises:
        DataNotFoundError, DataError, EmptyDataError: the input is absent, unreadable or empty.
        DataFormatError: a line is no record, or has no text in the field; names the line, never what is in it.
        ConfigChangedError: unfinished work of other settings, or of a changed input, lies beside the result.
        RunBusyError: another process writes the same result.
    """
    _check(job)
    partial = job.out.with_name(f".{job.out.name}.partial")
    with folder_lock(partial):
        partial.chmod(0o700)
        job, progress = _begin(job, partial)
        with clear_write_errors(job.out), open(partial / "out.jsonl", "ab") as out:
            _work(job, progress, out, lambda: _mark(partial, progress))
        if not progress.records:
            shutil.rmtree(partial, ignore_errors=True)
            raise EmptyDataError(f"{job.source} holds no record", "give a file with one JSON object a line")
        report = _report(job, progress)
        write_json(job.report, report)
        with clear_write_errors(job.out):
            os.replace(partial / "out.jsonl", job.out)
            shutil.rmtree(partial)
    return report


def _check(job: Job) -> None:
    if not job.source.is_file():
        raise DataNotFoundError(f"no file {job.source}", "check the path")
    if not os.access(job.source, os.R_OK):
        raise DataError(f"cannot read {job.source}", "check its permissions")
    names = [path.resolve() for path in (job.source, job.out, job.report)]
    if len(set(names)) < 3:
        raise DataError("input, --out and --report must be three files", "give each a name of its own")
    for path in (job.out, job.report):
        check_writable(path.parent)


def _begin(job: Job, partial: Path) -> tuple[Job, Progress]:
    """Start anew, or go on where an earlier run of the same settings was stopped."""
    file, settings = partial / "progress.json", job.settings()
    if file.is_file():
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            size = (partial / "out.jsonl").stat().st_size
            key = base64.b64decode(kept["key"])
            progress = Progress(
                **(kept["progress"] | {name: Counter(kept["progress"][name]) for name in ("types", "rules")})
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"the unfinished work in {partial} is damaged", "remove that folder and start again"
            ) from error
        if kept["settings"] != settings:
            raise ConfigChangedError(
                f"the unfinished work in {partial} is of another input or other settings",
                "give those it was started with, or remove that folder to start again",
            )
        if size >= progress.written:
            os.truncate(partial / "out.jsonl", progress.written)
            return replace(job, policy=replace(job.policy, key=job.policy.key or key)), progress
    own = job.policy.key or secrets.token_bytes(32)
    with clear_write_errors(partial):
        (partial / "out.jsonl").write_bytes(b"")
    started = replace(job, policy=replace(job.policy, key=own))
    kept_key = b"" if job.policy.key else own  # a hospital's own key is not copied beside its data
    write_atomic(partial / "start.json", json.dumps({"settings": settings, "key": base64.b64encode(kept_key).decode()}))
    _mark(partial, Progress())
    return started, Progress()


def _mark(partial: Path, progress: Progress) -> None:
    start = json.loads((partial / "start.json").read_text(encoding="utf-8"))
    counts = {name: getattr(progress, name) for name in Progress.__slots__}
    write_atomic(partial / "progress.json", json.dumps({**start, "progress": counts}))


def _work(job: Job, progress: Progress, out: BinaryIO, mark: Callable[[], None]) -> None:
    """Send chunks out, and write what comes back in the order of the input; at most two chunks a worker wait."""
    total = job.source.stat().st_size
    chunks = 0

    def finish(end: int, lines: int, done: Chunk) -> None:
        nonlocal chunks
        out.write(done.raw)
        before = progress.read
        progress.add(end, lines, done)
        chunks += 1
        if chunks % _MARKS_EVERY == 0:
            _to_disk(out)
            mark()
        step(end - before, records=progress.records, findings=sum(progress.types.values()))

    with track("de-identifying (bytes)", total) as step:
        step(progress.read, records=progress.records)
        waiting = _chunks(job.source, progress.read, progress.lines)
        if job.workers == 1:
            run = Worker(job)
            for end, number, lines in waiting:
                finish(end, number + len(lines), run(number, lines))
        else:
            _in_processes(job, waiting, finish)
        _to_disk(out)
        mark()


def _in_processes(
    job: Job, waiting: Iterator[tuple[int, int, list[bytes]]], finish: Callable[[int, int, Chunk], None]
) -> None:
    # Fresh processes, not forks: a fork of a process with threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(job.workers, mp_context=context, initializer=start_worker, initargs=(job,))
    queue: deque[tuple[int, int, Future[Chunk]]] = deque()

    def take() -> None:
        end, lines, future = queue.popleft()
        finish(end, lines, future.result())

    try:
        for end, number, lines in waiting:
            queue.append((end, number + len(lines), pool.submit(run_chunk, number, lines)))
            if len(queue) >= 2 * job.workers:
                take()
        while queue:
            take()
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process ended before its time", "run again to go on; fewer --workers need less memory"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _chunks(source: Path, start: int, lines_before: int) -> Iterator[tuple[int, int, list[bytes]]]:
    """End of the chunk in the file, number of the line before it, its lines."""
    try:
        with open(source, "rb") as file:
            file.seek(start)
            number, lines, size = lines_before, list[bytes](), 0
            for line in file:
                lines.append(line)
                size += len(line)
                if len(lines) >= CHUNK_LINES or size >= CHUNK_BYTES:
                    start += size
                    yield start, number, lines
                    number, lines, size = number + len(lines), [], 0
            if lines:
                yield start + size, number, lines
    except OSError as error:
        raise DataError(
            f"cannot read {source} ({error.strerror or 'no reason given'})", "check its permissions"
        ) from error


def _to_disk(out: BinaryIO) -> None:
    out.flush()
    os.fsync(out.fileno())


def _report(job: Job, progress: Progress) -> dict[str, Any]:
    policy = job.policy
    engine_spots = Deidentifier.blind_spots_of(policy)
    return {
        "rule": "45 CFR 164.514(b)(2)", "fedmed": __version__, "records": progress.records,
        "records_with_findings": progress.with_findings, "findings": sum(progress.types.values()),
        "types": {kind: progress.types[kind] for kind in TYPES},
        "rules": dict(sorted(progress.rules.items())),
        "policy": {
            "operator": policy.operator.value, "min_score": policy.min_score, "keep_zip3": policy.keep_zip3,
            "keep_year": policy.keep_year, "ner_model": policy.ner_model is not None,
        },
        "field": job.field,
        "value_sha256": "HMAC-SHA-256 under a secret key; see docs/de-identification.md",
        "sources": lexicon.sources(), "cannot_see": engine_spots,
    }  # fmt: skip
