"""A ledger killed at any point never shows less than was spent, and never loses or doubles a charge."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.errors import BudgetError, LedgerError
from fedmed.privacy.accountant import Concentrated
from fedmed.privacy.ledger import Budget, Ledger
from fedmed.utils.hash_chain import ChainFile

pytestmark = pytest.mark.property

BUDGET = Budget(1000.0, 1e-5)
FIRST, SECOND = Concentrated(0.01, 1), Concentrated(0.02, 3)


def rho(ledger: Ledger) -> float:
    """What is spent, in the unit that adds up exactly."""
    return sum(entry.event.rho * entry.event.steps for entry in ledger.entries())


def unfinished(folder: Path, event: Concentrated = SECOND) -> tuple[Path, bytes, bytes, bytes]:
    """A ledger with one charge, its bytes, the bytes a second charge appends, and the intent that goes before them."""
    path = folder / "ledger.jsonl"
    ledger = Ledger.open(path, "A")
    ledger.charge("run", 1, 0, FIRST, BUDGET)
    before = path.read_bytes()
    kept: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        write = ChainFile._write

        def spying(self: ChainFile, rest: bytes) -> None:
            kept.append((folder / ".ledger.jsonl.intent").read_bytes())
            write(self, rest)

        patch.setattr(ChainFile, "_write", spying)
        ledger.charge("run", 2, 0, event, BUDGET)
    return path, before, path.read_bytes()[len(before) :], kept[0]


def test_cut_at_every_byte_of_an_append_the_charge_counts_once(tmp_path):
    path, before, added, intent = unfinished(tmp_path)
    for cut in range(len(added) + 1):
        path.write_bytes(before + added[:cut])
        (tmp_path / ".ledger.jsonl.intent").write_bytes(intent)
        looked = Ledger.read(path)
        assert rho(looked) == pytest.approx(0.07)
        assert path.read_bytes() == before + added[:cut], "looking changed the ledger"
        opened = Ledger.open(path, "A")
        assert rho(opened) == pytest.approx(0.07)
        assert path.read_bytes() == before + added
        assert not (tmp_path / ".ledger.jsonl.intent").exists()
        assert (
            opened.charge("run", 2, 0, SECOND, BUDGET).seq == 2
        )  # the run that was killed goes on: nothing is doubled
        assert rho(Ledger.open(path, "A")) == pytest.approx(0.07)


def test_a_line_that_a_killed_process_may_not_have_synced_is_synced_before_its_intent_goes(tmp_path, monkeypatch):
    """Otherwise kill -9 and, after the run went on, a power cut would lose a charge whose result has left."""
    path, before, added, intent = unfinished(tmp_path)
    done: list[str] = []
    real_fsync, real_unlink = os.fsync, Path.unlink

    def fsync(handle):
        done.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        real_fsync(handle)

    def unlink(self, **how):
        done.append(f"remove {self.name}")
        real_unlink(self, **how)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "unlink", unlink)
    for cut in (0, 20, len(added)):
        path.write_bytes(before + added[:cut])
        (tmp_path / ".ledger.jsonl.intent").write_bytes(intent)
        done.clear()
        Ledger.open(path, "A")
        assert done == ["sync ledger.jsonl", "remove .ledger.jsonl.intent"]


def test_a_last_line_cut_with_no_intent_left_is_no_crash_of_ours_and_stops_everything(tmp_path):
    path, before, added, _ = unfinished(tmp_path)
    for cut in range(1, len(added)):
        path.write_bytes(before + added[:cut])
        for call in (Ledger.read, lambda where: Ledger.open(where, "A")):
            with pytest.raises(LedgerError, match="line 3 of the ledger"):
                call(path)
        assert path.read_bytes() == before + added[:cut]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_byte_before_the_last_line_is_an_error_that_names_the_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("ledger")
    path, before, added, _ = unfinished(folder)
    raw = before + added
    place = data.draw(st.integers(0, len(before) - 1))
    changed = raw[place] ^ data.draw(st.integers(1, 255))
    path.write_bytes(raw[:place] + bytes([changed]) + raw[place + 1 :])
    line = 1 + raw[:place].count(b"\n")
    with pytest.raises(LedgerError, match=f"line {line} of the ledger"):
        Ledger.read(path)
    damaged = path.read_bytes()
    with pytest.raises(LedgerError, match="line"):
        Ledger.open(path, "A")
    assert path.read_bytes() == damaged


@settings(max_examples=25, deadline=None)
@given(
    rhos=st.lists(st.floats(1e-4, 0.5), min_size=1, max_size=6),
    limit=st.floats(0.5, 4.0),
)
def test_what_is_spent_never_passes_the_budget_and_a_refusal_writes_nothing(tmp_path_factory, rhos, limit):
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger, budget = Ledger.open(path, "A"), Budget(limit, 1e-5)
    for number, value in enumerate(rhos):
        event, before = Concentrated(value, 1), path.read_bytes()
        would = ledger.would_spend([event], 1e-5)
        assert path.read_bytes() == before
        if would.epsilon > limit:
            with pytest.raises(BudgetError):
                ledger.charge("run", number, 0, event, budget)
            assert path.read_bytes() == before
        else:
            ledger.charge("run", number, 0, event, budget)
            assert ledger.spent(1e-5, "hospital").epsilon == would.epsilon
    assert ledger.spent(1e-5, "hospital").epsilon <= limit


def forked(work: Callable[[], None]) -> tuple[int, int]:
    """Its process id, and the reading end of a pipe that ``work`` writes to as ``os.write(1, …)``."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            os.dup2(writing, 1)
            work()
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    return pid, reading


def output(reading: int) -> bytes:
    with os.fdopen(reading, "rb") as file:
        return file.read()


def charge_and_die(path: Path, step: int, cut: int) -> None:
    """A charge that kills itself at its ``step``-th step; the line is written in two parts, the first ``cut`` long."""
    steps = itertools.count(1)

    def reached() -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(call: Callable[..., object]) -> Callable[..., object]:
        def called(*args: object, **how: object) -> object:
            reached()
            result = call(*args, **how)
            reached()
            return result

        return called

    def in_parts(self: ChainFile, rest: bytes) -> None:
        with path.open("ab", buffering=0) as file:
            file.write(rest[:cut])
        reached()
        write(self, rest[cut:])

    ledger, write = Ledger.open(path, "A"), ChainFile._write
    os.fsync, os.replace, Path.unlink = around(os.fsync), around(os.replace), around(Path.unlink)
    ChainFile._write = around(in_parts)
    ledger.charge("run", 2, 0, SECOND, BUDGET)
    os.write(1, b"left")


def test_killed_between_any_two_steps_what_left_the_hospital_is_counted(tmp_path):
    """kill -9 by the process itself at each step in turn, until one run gets through."""
    prepared = tmp_path / "prepared"
    Ledger.open(prepared / "ledger.jsonl", "A").charge("run", 1, 0, FIRST, BUDGET)
    outcomes = []
    for step in itertools.count(1):
        folder = tmp_path / str(step)
        shutil.copytree(prepared, folder)
        path = folder / "ledger.jsonl"
        pid, reading = forked(functools.partial(charge_and_die, path, step, 37 * step % 200))
        left = output(reading) == b"left"
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == (0 if left else -signal.SIGKILL)
        for ledger in (Ledger.read(path), Ledger.open(path, "A")):
            counted = rho(ledger)
            assert counted in (pytest.approx(0.01), pytest.approx(0.07))
            if left:
                assert counted == pytest.approx(0.07)
        Ledger.open(path, "A").charge("run", 2, 0, SECOND, BUDGET)
        assert rho(Ledger.open(path, "A")) == pytest.approx(0.07)
        outcomes.append((left, counted))
        if left:
            break
    assert len(outcomes) > 12
    assert outcomes[0] == (False, pytest.approx(0.01))
    assert (False, pytest.approx(0.07)) in outcomes


def test_killed_from_outside_at_any_moment_no_charge_that_returned_is_missing(tmp_path):
    """Nothing here knows how a charge is written; at most one charge a kill is counted although it never returned."""
    path, returned = tmp_path / "ledger.jsonl", 0

    def charging(kill: int) -> None:
        ledger = Ledger.open(path, "A")
        for number in itertools.count():
            ledger.charge(f"run {kill}", number, 0, FIRST, BUDGET)
            os.write(1, b".")

    for kill in range(20):
        pid, reading = forked(functools.partial(charging, kill))
        assert os.read(reading, 1) == b"."
        time.sleep(0.0007 * kill)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        returned += 1 + len(output(reading))
        assert returned <= len(Ledger.read(path).entries()) <= returned + kill + 1
    Ledger.open(path, "A").charge("last", 0, 0, FIRST, BUDGET)
    assert not (tmp_path / ".ledger.jsonl.intent").exists()


def test_two_processes_at_once_lose_no_charge(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger.open(path, "A")
    program = (
        "import sys; from pathlib import Path; from fedmed.privacy.ledger import *;"
        "from fedmed.privacy.accountant import Concentrated\n"
        "book = Ledger.open(Path(sys.argv[1]), 'A')\n"
        "for n in range(15): book.charge(sys.argv[2], n, 0, Concentrated(0.001, 1), Budget(1000.0, 1e-5))"
    )
    start = functools.partial(subprocess.Popen, env=os.environ | {"OMP_NUM_THREADS": "1"})
    running = [start([sys.executable, "-c", program, str(path), name]) for name in ("one", "two")]
    assert [process.wait(120) for process in running] == [0, 0]
    ledger = Ledger.open(path, "A")
    assert len({entry.key for entry in ledger.entries()}) == len(ledger.entries()) == 30
