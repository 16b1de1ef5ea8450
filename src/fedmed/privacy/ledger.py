"""What a hospital has spent: one append-only file across all its runs. training, hospital_dp -> HERE -> result leaves.

A chained file (``utils.hash_chain``) with two kinds of lines:

    open    the first line: format and hospital
    charge  run, round, attempt, level, unit, event (see accountant), δ and ε of the budget it was held against

**Order of a charge.** Budget checked; the line appended, by an intent that is synced first; only then does ``charge``
return and may a result leave. A crash before the intent is whole has spent nothing and nothing left. A crash after it
counts as spent, although nothing left. So what the ledger shows is never less than what was spent, at any byte. A cut
line without an intent is damage, and stops everything.

A checkpoint keeps ``head()``, never a ledger: going back to an old checkpoint refunds nothing.

Not covered: somebody who may write the file can rewrite it with its hashes, or delete it; a checkpoint's head shows
that (``check_head``), nothing else does. Levels are counted apart: noise that hides a hospital is not credited to its
records. Training without noise is in no ledger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from fedmed.utils.hash_chain import Chain, ChainFile, Tip

FORMAT = 1


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

    hospital: str
    entries: tuple[Entry, ...]
    hashes: tuple[str, ...]
    tip: Tip

    @property
    def head(self) -> str:
        return self.tip.head

    def events(self, unit: Unit) -> list[Event]:
        return [entry.event for entry in self.entries if entry.event.unit == unit]


class Ledger:
    """A hospital's ledger. ``open`` to charge, ``read`` to look; each call sees what other processes have charged.

    Use ``Ledger.open`` or ``Ledger.read``.
    """

    def __init__(self, path: Path, hospital: str | None, *, writable: bool) -> None:
        self._path = path
        self._file = ChainFile(path, "ledger", LedgerError, "so what was spent is not known")
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
        with ledger._file.locked():
            if not ledger._file.exists():
                ledger._file.create({"kind": "open", "format": FORMAT, "hospital": hospital})
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

    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each line, by ``Entry.seq``."""
        return self._content().hashes

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
        with self._file.locked():
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
            self._file.append([body], content.tip)
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
        return self._understood(self._file.look())

    def _refresh(self) -> _Content:
        """The newest state, under the lock, with the line finished that a crash left behind."""
        return self._understood(self._file.refresh())

    def _understood(self, chain: Chain) -> _Content:
        entries: list[Entry] = []
        owner = ""
        for number, values in enumerate(chain.lines, 1):
            try:
                if number == 1:
                    owner = _owner(self._path, values, self._hospital)
                else:
                    entries.append(_entry(values, owner))
            except (KeyError, TypeError, ValueError, AccountingError) as error:
                raise self._file.damaged(number) from error
        return _Content(owner, tuple(entries), tuple(chain.hashes), chain.tip)


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


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _name(entry: Entry) -> str:
    return f"run '{entry.run_id}', round {entry.round}, attempt {entry.attempt}"


def _shown(value: float) -> str:
    return "infinite" if math.isinf(value) else f"{value:.4g}"
