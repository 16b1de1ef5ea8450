"""What a hospital has spent: one append-only file across all its runs. training, hospital_dp -> HERE -> result leaves.

One JSON object a line; each holds the SHA-256 of the line before it and its own:

    open    the first line: format and hospital
    charge  run, round, attempt, level, unit, event (see accountant), δ and ε of the budget it was held against

**Order of a charge.** Budget checked; the new line written whole to ``.NAME.intent`` and synced; appended and synced;
intent removed; only then does ``charge`` return and may a result leave. A crash before the intent is whole has spent
nothing and nothing left. A crash after it counts as spent, although nothing left: the next to open the ledger finishes
the line. So what the ledger shows is never less than what was spent, at any byte. No crash leaves a cut line without
an intent; such a line is damage, and stops everything.

A checkpoint keeps ``head()``, never a ledger: going back to an old checkpoint refunds nothing.

Not covered: somebody who may write the file can rewrite it with its hashes, or delete it; a checkpoint's head shows
that (``check_head``), nothing else does. Levels are counted apart: noise that hides a hospital is not credited to its
records. Training without noise is in no ledger.
"""

from __future__ import annotations

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
    fits,
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

    @property
    def head(self) -> str:
        return self.hashes[-1]

    def events(self, unit: Unit) -> list[Event]:
        return [entry.event for entry in self.entries if entry.event.unit == unit]


class Ledger:
    """A hospital's ledger. ``open`` to charge, ``read`` to look; each call sees what other processes have charged.

    Use ``Ledger.open`` or ``Ledger.read``.
    """

    def __init__(self, path: Path, hospital: str | None, *, writable: bool) -> None:
        self._path = path
        self._hospital = hospital
        self._writable = writable

    @classmethod
    def open(cls, path: Path, hospital: str) -> Ledger:
        """A ledger to charge; made if it is not there, its last line finished if a crash cut it.

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

    def entries(self) -> tuple[Entry, ...]:
        """All charges, oldest first."""
        return self._content().entries

    def events(self, unit: Unit) -> list[Event]:
        """All that was charged on one unit, oldest first."""
        return self._content().events(unit)

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

    def charge(self, run_id: str, round: int, attempt: int | None, event: Event, budget: Budget) -> Entry:
        """Spend, before what it pays for leaves the hospital. On return it is on the disk.

        Args:
            run_id: the run.
            round: >= 0.
            attempt: >= 0; None: the next that this round of this run has not had, for a result about to be computed. A
                result computed again is another attempt and is charged again. The same attempt is
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
        if not (_is_count(round) and (attempt is None or _is_count(attempt))):
            raise LedgerError(f"round {round!r} or attempt {attempt!r} is not a whole number from 0", "number them")
        with self._locked():
            content = self._refresh()
            if attempt is None:
                had = (entry.attempt for entry in content.entries if entry.key[::3] == (run_id, level_of(event.unit))
                       and entry.round == round)  # fmt: skip
                attempt = max(had, default=-1) + 1
            wanted = Entry(len(content.hashes), run_id, round, attempt, event, budget)
            for entry in content.entries:
                if entry.key == wanted.key and entry.event == event:
                    return entry
                if entry.key == wanted.key:
                    raise LedgerError(
                        f"{self._path}: {_name(entry)} was already charged with another event (line {entry.seq + 1})",
                        "count a result that is computed again as a new attempt",
                    )
            self._check_unit(content, event.unit)
            self._check_budget(content, wanted)
            body = {
                "kind": "charge", "hospital": content.hospital, "run": run_id, "round": round, "attempt": attempt,
                "level": level_of(event.unit), "unit": event.unit, "event": event_as_dict(event),
                "delta": budget.delta, "budget": budget.epsilon,
            }  # fmt: skip
            line = _line(body, wanted.seq, content.head)
            write_atomic(_intent_of(self._path), line)
            self._append(line)
        return wanted

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
        if fits([*content.events(unit), wanted.event], budget.epsilon, budget.delta):
            return
        after = self._total(content, (wanted.event,), budget.delta, unit).epsilon
        before = self._total(content, (), budget.delta, unit).epsilon
        alone = epsilon((wanted.event,), budget.delta).epsilon
        raise BudgetError(
            f"the privacy budget of '{content.hospital}' per {unit} would be exceeded: ε {_shown(before)} of "
            f"{budget.epsilon:g} at δ {budget.delta:g} is spent, {_shown(max(0.0, budget.epsilon - before))} is left, "
            f"{_name(wanted)} costs {_shown(alone)} by itself and would bring it to {_shown(after)}",
            "take fewer steps, raise sigma, or stop here; 'fedmed privacy plan' solves for each",
        )

    def _total(self, content: _Content, more: Sequence[Event], delta: float, unit: Unit) -> Spent:
        return epsilon([*content.events(unit), *more], delta)

    def _content(self) -> _Content:
        """The newest state, without a lock: what an intent announces counts as spent."""
        for _ in range(100):  # a charge may be going on; an intent never comes back once it was removed
            intent, raw = _read_intent(self._path), _read(self._path)
            if intent == _read_intent(self._path) and (intent is not None or raw.endswith(b"\n")):
                break
        return self._finished(raw, intent)

    def _refresh(self) -> _Content:
        """The newest state, under the lock, with the line finished that a crash left behind."""
        intent, raw = _read_intent(self._path), _read(self._path)
        content = self._finished(raw, intent)
        if intent is not None:
            self._append(content.raw[len(raw) :])  # maybe nothing: who was killed may not have synced
        return content

    def _finished(self, raw: bytes, intent: bytes | None) -> _Content:
        """The ledger as it is once the intent is carried out."""
        last = raw[raw.rfind(b"\n", 0, -1) + 1 :]
        if intent is not None and intent != last:
            cut = raw.rfind(b"\n") + 1
            before = _parse(self._path, raw[:cut], self._hospital)
            if not (intent.startswith(raw[cut:]) and _values(intent[:-1], len(before.hashes), before.head)):
                raise LedgerError(
                    f"{self._path} and {_intent_of(self._path).name} beside it do not belong together",
                    "put both back from one copy; neither is changed",
                )
            raw = raw[:cut] + intent
        return _parse(self._path, raw, self._hospital)

    def _append(self, rest: bytes) -> None:
        with clear_write_errors(self._path), open(self._path, "ab", buffering=0) as file:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
            _intent_of(self._path).unlink()

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


def _intent_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.intent")


def _read_intent(path: Path) -> bytes | None:
    """The line that is being appended; None: no charge is going on, nor was one cut."""
    try:
        return _intent_of(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(
            f"{_intent_of(path)} cannot be read ({error.strerror or error}); it says what is being charged",
            "make it readable, or put it back from a copy together with the ledger",
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LedgerError(
            f"the ledger {path} cannot be read ({error.strerror or error})",
            "check the path; 'fedmed privacy ledger --help' says what it is",
        ) from error


def _line(body: dict[str, Any], seq: int, previous: str) -> bytes:
    values = {"seq": seq, "previous": previous} | body
    return _canonical(values | {"sha256": hashlib.sha256(_canonical(values)).hexdigest()}) + b"\n"


def _canonical(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _parse(path: Path, raw: bytes, hospital: str | None) -> _Content:
    entries: list[Entry] = []
    hashes: list[str] = []
    owner = ""
    *lines, rest = raw.split(b"\n")
    for number, text in enumerate(lines, 1):
        values = _values(text, len(hashes), hashes[-1] if hashes else _NOTHING)
        try:
            if values is None:
                raise ValueError("not the line that belongs here")
            if number == 1:
                owner = _owner(path, values, hospital)
            else:
                entries.append(_entry(values, owner))
        except (KeyError, TypeError, ValueError, AccountingError) as error:
            raise _damaged(path, number) from error
        hashes.append(values["sha256"])
    if rest or not hashes:
        raise _damaged(path, len(lines) + 1)
    return _Content(raw, owner, tuple(entries), tuple(hashes))


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
    if values["kind"] != "charge":
        raise KeyError(values["kind"])
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
    return "infinite" if math.isinf(value) else f"{value:.4g}"
