"""What a hospital has spent: one append-only file across all its runs. training, hospital_dp -> HERE -> result leaves.

One JSON object a line; each holds the SHA-256 of the line before it and its own:

    open    the first line: format and hospital
    charge  run, round, attempt, level, unit, event (see accountant), δ and ε of the budget it was held against
    repair  the line before it was cut by a crash and has been finished from the intent below
    torn    the line before it is a fragment of which nothing else is known: whatever it spent, it counts as infinite

**Order of a charge.** Budget checked; the new line written whole to ``.NAME.intent`` and synced; appended and synced;
intent removed; only then does ``charge`` return and may a result leave. A crash before the intent is whole has spent
nothing and nothing left. A crash after it counts as spent, although nothing left: the next to open the ledger finishes
the line and says so in a repair line. So what the ledger shows is never less than what was spent, at any byte.

A checkpoint keeps ``head()``, never a ledger: going back to an old checkpoint refunds nothing.

Not covered: somebody who may write the file can rewrite it with its hashes, or delete it; a checkpoint's head shows
that (``check_head``), nothing else does. Levels are counted apart: noise that hides a hospital is not credited to its
records. Training without noise is in no ledger.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.errors import AccountingError, BudgetError, LedgerError
from fedmed.privacy.accountant import (
    Event,
    Level,
    Spent,
    Unit,
    check_target,
    epsilon,
    event_as_dict,
    event_from_dict,
    level_of,
)
from fedmed.utils.files import clear_write_errors, write_atomic

FORMAT = 1
_NOTHING = "0" * 64  # what the first line names as the line before it


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent in all, on the unit of the event that is charged: ε above 0, δ between 0 and 1."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One charge."""

    seq: int
    run_id: str
    round: int
    attempt: int
    event: Event
    budget: Budget

    @property
    def key(self) -> tuple[str, int, int, Level]:
        """What a charge is known by: the same again must be the same event."""
        return self.run_id, self.round, self.attempt, level_of(self.event.unit)


@dataclass(frozen=True, slots=True)
class _Content:
    """A ledger as read."""

    raw: bytes
    hospital: str
    entries: tuple[Entry, ...]
    hashes: tuple[str, ...]
    repairs: int
    unknown: int  # torn lines of which nothing is known

    @property
    def head(self) -> str:
        return self.hashes[-1]


class Ledger:
    """A hospital's ledger. ``open`` to charge, ``read`` to look; each call sees what other processes have charged.

    Use ``Ledger.open`` or ``Ledger.read``.
    """

    def __init__(self, path: Path, hospital: str | None, *, writable: bool) -> None:
        self._path = path
        self._hospital = hospital
        self._writable = writable
        self._known: _Content | None = None

    @classmethod
    def open(cls, path: Path, hospital: str) -> Ledger:
        """A ledger to charge; made if it is not there, repaired if a crash cut it.

        Args:
            path: the file, the hospital's own; beside it lie ``.NAME.lock`` and, during a charge, ``.NAME.intent``.
            hospital: whose it is; a ledger of another hospital is refused.

        Raises:
            LedgerError: damaged (names the line), of another hospital, or of a newer format.
            OutputNotWritableError, DiskFullError.
        """
        ledger = cls(path, hospital, writable=True)
        with ledger._locked():
            if not path.exists() and not _intent_of(path).exists():
                first = _line({"kind": "open", "format": FORMAT, "hospital": hospital}, 0, _NOTHING)
                write_atomic(path, first)
            ledger._refresh()
        return ledger

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """A ledger to look at; nothing on the disk changes, and an unfinished charge is shown as spent.

        Raises:
            LedgerError: not there, or damaged (names the line).
        """
        ledger = cls(path, None, writable=False)
        ledger._content()
        return ledger

    @property
    def hospital(self) -> str:
        """Whose ledger it is."""
        return self._content().hospital

    @property
    def repairs(self) -> int:
        """How many charges were finished after a crash."""
        return self._content().repairs

    def entries(self) -> tuple[Entry, ...]:
        """All charges, oldest first."""
        return self._content().entries

    def units(self) -> tuple[Unit, ...]:
        """The units that anything was spent on."""
        return tuple(sorted({entry.event.unit for entry in self.entries()}))

    def head(self) -> str:
        """SHA-256 of the newest line, for a checkpoint."""
        return self._content().head

    def check_head(self, head: str) -> None:
        """Return quietly if ``head`` was ever this ledger's head; an older one is fine.

        Raises:
            LedgerError: it never was: the ledger is another one, or lines were taken away.
        """
        if head not in self._content().hashes:
            raise LedgerError(
                f"{self._path} does not know the head {head[:12]}… that a checkpoint holds",
                "put back the ledger that the run was charged to; a shorter copy would hide what was spent",
            )

    def spent(self, delta: float, unit: Unit) -> Spent:
        """What is spent so far on one unit, over all runs.

        Raises:
            AccountingError: ``delta`` out of range.
        """
        return self._total(self._content(), (), delta, unit)

    def would_spend(self, events: Sequence[Event], delta: float) -> Spent:
        """What would be spent in all if ``events`` came on top; changes nothing.

        Args:
            events: of one unit, at least one.
            delta: above 0 and below 1.

        Raises:
            AccountingError: no events, mixed units, or ``delta`` out of range.
            LedgerError: the ledger counts another unit of the same level.
        """
        if not events:
            raise AccountingError("there are no events to count", "pass what the run would do, or ask for 'spent'")
        content = self._content()
        for event in events:
            self._check_unit(content, event.unit)
        return self._total(content, events, delta, events[0].unit)

    def charge(self, run_id: str, round: int, attempt: int, event: Event, budget: Budget) -> Entry:
        """Spend, before what it pays for leaves the hospital. On return it is on the disk.

        Args:
            run_id: the run.
            round: >= 0.
            attempt: >= 0; a result computed again is another attempt and is charged again. The same attempt is
                charged once, however often this is called, as its result must then be the same bytes.
            event: what was, or will be, done to the hospital's records.
            budget: ε and δ for everything in this ledger that has the event's unit.

        Returns:
            The charge as it stands in the ledger.

        Raises:
            BudgetError: it would be exceeded; nothing was written.
            LedgerError: this attempt was charged with another event; the ledger counts another unit; damage.
            OutputNotWritableError, DiskFullError: not charged as far as the caller may assume; the result must not
                leave. It may count as spent all the same.
        """
        if not self._writable:
            raise LedgerError(f"{self._path} was opened to be read", "open it with Ledger.open")
        check_target(budget.epsilon, budget.delta)
        if not (_is_count(round) and _is_count(attempt)):
            raise LedgerError(f"round {round!r} or attempt {attempt!r} is not a whole number from 0", "number them")
        with self._locked():
            content = self._refresh()
            wanted = Entry(len(content.hashes), run_id, round, attempt, event, budget)
            for entry in content.entries:
                if entry.key == wanted.key:
                    return self._same(entry, event)
            self._check_unit(content, event.unit)
            self._check_budget(content, wanted)
            body = {
                "kind": "charge", "hospital": content.hospital, "run": run_id, "round": round, "attempt": attempt,
                "level": level_of(event.unit), "unit": event.unit, "event": event_as_dict(event),
                "delta": budget.delta, "budget": budget.epsilon,
            }  # fmt: skip
            self._append(content.raw, _line(body, wanted.seq, content.head))
            self._refresh()
        return wanted

    def _same(self, entry: Entry, event: Event) -> Entry:
        if entry.event != event:
            raise LedgerError(
                f"{self._path}: {_name(entry)} was already charged with another event (line {entry.seq + 1})",
                "count a result that is computed again as a new attempt",
            )
        return entry

    def _check_unit(self, content: _Content, unit: Unit) -> None:
        for entry in content.entries:
            other = entry.event.unit
            if level_of(other) == level_of(unit) and other != unit:
                raise LedgerError(
                    f"{self._path} counts by {other} (line {entry.seq + 1}), this event by {unit}: they do not add up",
                    f"train with the unit '{other}', or keep another ledger for other records",
                )

    def _check_budget(self, content: _Content, wanted: Entry) -> None:
        budget, unit = wanted.budget, wanted.event.unit
        after = self._total(content, (wanted.event,), budget.delta, unit).epsilon
        if after <= budget.epsilon:
            return
        before = self._total(content, (), budget.delta, unit).epsilon
        alone = epsilon((wanted.event,), budget.delta).epsilon
        raise BudgetError(
            f"the privacy budget of '{content.hospital}' per {unit} would be exceeded: ε {_shown(before)} of "
            f"{budget.epsilon:g} at δ {budget.delta:g} is spent, {_shown(max(0.0, budget.epsilon - before))} is left, "
            f"{_name(wanted)} costs {_shown(alone)} by itself and would bring it to {_shown(after)}",
            "take fewer steps, raise sigma, or stop here; 'fedmed privacy plan' solves for each",
        )

    def _total(self, content: _Content, more: Sequence[Event], delta: float, unit: Unit) -> Spent:
        events = [entry.event for entry in content.entries if entry.event.unit == unit]
        counted = epsilon([*events, *more], delta)
        if content.unknown:
            return Spent(math.inf, delta, "rdp", None, math.inf, unit, counted.sampling)
        return counted

    def _content(self) -> _Content:
        """The newest state, without a lock: what an intent announces counts as spent."""
        for _ in range(100):
            before = _stamp(self._path)
            intent, raw = _read_intent(self._path), _read(self._path)
            if _stamp(self._path) == before:
                break
        if self._known is not None and intent is None and self._known.raw == raw:
            return self._known
        if intent is not None:
            raw = _finished(self._path, raw, intent)
        self._known = _parse(self._path, raw, self._hospital)
        return self._known

    def _refresh(self) -> _Content:
        """The newest state, under the lock, with whatever a crash left behind put right."""
        intent = _read_intent(self._path)
        if intent is not None:
            self._finish(intent)
        raw = _read(self._path)
        cut = raw.rfind(b"\n") + 1
        if 0 < cut < len(raw):  # a fragment without an intent: no crash of ours leaves one, a damaged disk may
            before, fragment = _parse(self._path, raw[:cut], self._hospital), raw[cut:]
            seq, found = len(before.hashes), {"bytes": len(fragment), "fragment": hashlib.sha256(fragment).hexdigest()}
            values = _values(fragment, seq, before.head)
            if values is None:
                marker = _line({"kind": "torn"} | found, seq, before.head)
            else:  # only its newline is missing
                marker = _line({"kind": "repair"} | found, seq + 1, values["sha256"])
            self._append(raw, b"\n" + marker)
            raw = _read(self._path)
        self._known = _parse(self._path, raw, self._hospital)
        return self._known

    def _finish(self, intent: _Intent) -> None:
        raw = _read(self._path)
        whole = _finished(self._path, raw, intent)
        if raw != whole:
            if not intent.repair:
                content = _parse(self._path, whole, self._hospital)
                found = raw[intent.offset :]
                body = {"kind": "repair", "bytes": len(found), "fragment": hashlib.sha256(found).hexdigest()}
                marker = _line(body, len(content.hashes), content.head)
                intent = _Intent(intent.offset, intent.data + marker, repair=True)
                _write_intent(self._path, intent)
            self._write_rest(raw, intent)
        _remove_intent(self._path)

    def _append(self, raw: bytes, data: bytes) -> None:
        intent = _Intent(len(raw), data, repair=False)
        _write_intent(self._path, intent)
        self._write_rest(raw, intent)
        _remove_intent(self._path)

    def _write_rest(self, raw: bytes, intent: _Intent) -> None:
        rest = intent.data[len(raw) - intent.offset :]
        with clear_write_errors(self._path), open(self._path, "ab", buffering=0) as file:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time; a second waits. The system frees the lock on any exit."""
        lock = self._path.with_name(f".{self._path.name}.lock")
        with clear_write_errors(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


@dataclass(frozen=True, slots=True)
class _Intent:
    """What is being appended: the ledger is ``data`` longer than ``offset`` once it is done."""

    offset: int
    data: bytes
    repair: bool  # ``data`` already ends with a repair line


def _intent_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.intent")


def _write_intent(path: Path, intent: _Intent) -> None:
    data = base64.b64encode(intent.data).decode()
    write_atomic(_intent_of(path), json.dumps({"offset": intent.offset, "data": data, "repair": intent.repair}) + "\n")


def _read_intent(path: Path) -> _Intent | None:
    file = _intent_of(path)
    try:
        values = json.loads(file.read_bytes())
        return _Intent(int(values["offset"]), base64.b64decode(values["data"], validate=True), bool(values["repair"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            f"{file} cannot be read ({type(error).__name__}); it says what is being charged to {path.name}",
            "put it back from a copy, together with the ledger",
        ) from error


def _remove_intent(path: Path) -> None:
    with clear_write_errors(path):
        _intent_of(path).unlink()


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes with every charge, so that a look without the lock sees one state."""
    stamp = []
    for file in (path, _intent_of(path)):
        try:
            status = file.stat()
            stamp += [status.st_ino, status.st_size, status.st_mtime_ns]
        except FileNotFoundError:
            stamp += [0, 0, 0]
    return tuple(stamp)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LedgerError(
            f"the ledger {path} cannot be read ({error.strerror or error})",
            "check the path; 'fedmed privacy ledger --help' says what it is",
        ) from error


def _finished(path: Path, raw: bytes, intent: _Intent) -> bytes:
    """The ledger as it is once the intent is carried out."""
    if len(raw) < intent.offset or not intent.data.startswith(raw[intent.offset :]):
        raise LedgerError(
            f"{path} and {_intent_of(path).name} beside it do not belong together",
            "put both back from one copy; neither is changed",
        )
    return raw[: intent.offset] + intent.data


def _line(body: dict[str, Any], seq: int, previous: str) -> bytes:
    values = {"seq": seq, "previous": previous} | body
    return (_canonical(values | {"sha256": _digest(values)}) + "\n").encode()


def _canonical(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(values).encode()).hexdigest()


def _parse(path: Path, raw: bytes, hospital: str | None) -> _Content:
    lines = raw.split(b"\n")
    ends_whole = lines[-1] == b""
    if ends_whole:
        lines.pop()
    entries: list[Entry] = []
    hashes: list[str] = []
    repairs = unknown = 0
    owner = ""
    fragment: tuple[int, bytes] | None = None
    for number, text in enumerate(lines, 1):
        values = _values(text, len(hashes), hashes[-1] if hashes else _NOTHING)
        if fragment is not None:
            digest = hashlib.sha256(fragment[1]).hexdigest()
            if values is None or values["kind"] != "torn" or values.get("fragment") != digest:
                raise _damaged(path, fragment[0])
        if values is None:
            fragment = (number, text)
            continue
        if (fragment is None) == (values["kind"] == "torn"):
            raise _damaged(path, number)
        hashes.append(values["sha256"])
        try:
            if number == 1:
                owner = _owner(path, values, hospital)
            elif values["kind"] == "charge":
                entries.append(_entry(values, owner))
            elif values["kind"] == "repair":
                repairs += 1
            elif values["kind"] == "torn":
                unknown += 1
            else:
                raise KeyError(values["kind"])
        except (KeyError, TypeError, ValueError, AccountingError) as error:
            raise _damaged(path, number) from error
        fragment = None
    if not hashes or (fragment is not None and ends_whole):
        raise _damaged(path, fragment[0] if fragment else 1)
    return _Content(raw, owner, tuple(entries), tuple(hashes), repairs, unknown + (fragment is not None))


def _values(text: bytes, seq: int, previous: str) -> dict[str, Any] | None:
    """A line's values; None: it is not the line that belongs here."""
    try:
        values: dict[str, Any] = json.loads(text)
        body = {key: value for key, value in values.items() if key != "sha256"}
        whole = _line({key: body[key] for key in body if key not in ("seq", "previous")}, seq, previous)
        return values if whole == text + b"\n" and isinstance(values.get("kind"), str) else None
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None


def _owner(path: Path, values: dict[str, Any], hospital: str | None) -> str:
    if values["kind"] != "open":
        raise KeyError("open")
    if values["format"] != FORMAT:
        raise LedgerError(f"{path} has format {values['format']}, this version reads {FORMAT}", "update FED-MED")
    owner = values["hospital"]
    if not isinstance(owner, str):
        raise TypeError("hospital")
    if hospital is not None and owner != hospital:
        raise LedgerError(f"{path} is the ledger of '{owner}', not of '{hospital}'", "each hospital keeps its own")
    return owner


def _entry(values: dict[str, Any], owner: str) -> Entry:
    event = event_from_dict(values["event"], values["unit"])
    if values["hospital"] != owner or values["level"] != level_of(event.unit):
        raise ValueError("the line contradicts itself")
    budget = Budget(float(values["budget"]), float(values["delta"]))
    return Entry(values["seq"], values["run"], values["round"], values["attempt"], event, budget)


def _damaged(path: Path, line: int) -> LedgerError:
    return LedgerError(
        f"line {line} of the ledger {path} is damaged or out of place, so what was spent is not known",
        "put the file back from a copy; a line is never to be edited or removed",
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _name(entry: Entry) -> str:
    return f"run '{entry.run_id}', round {entry.round}, attempt {entry.attempt}"


def _shown(value: float) -> str:
    return "unknown, infinite" if math.isinf(value) else f"{value:.4g}"
