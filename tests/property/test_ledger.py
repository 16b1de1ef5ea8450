"""A ledger killed at any point never shows less than was spent, and never loses or doubles a charge."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.errors import BudgetError, LedgerError
from fedmed.privacy.accountant import Concentrated
from fedmed.privacy.ledger import Budget, Ledger

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
        write_rest = Ledger._write_rest

        def spying(self: Ledger, raw: bytes, intent: object) -> None:
            kept.append((folder / ".ledger.jsonl.intent").read_bytes())
            write_rest(self, raw, intent)

        patch.setattr(Ledger, "_write_rest", spying)
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
        assert opened.repairs == (1 if cut < len(added) else 0), "a repair is said, and only where there was one"
        assert path.read_bytes().startswith(before + added)
        assert not (tmp_path / ".ledger.jsonl.intent").exists()
        assert (
            opened.charge("run", 2, 0, SECOND, BUDGET).seq == 2
        )  # the run that was killed goes on: nothing is doubled
        assert rho(Ledger.open(path, "A")) == pytest.approx(0.07)


def test_cut_at_every_byte_of_the_repair_itself_the_charge_counts_once(tmp_path):
    path, before, added, intent = unfinished(tmp_path)
    path.write_bytes(before + added[:20])
    (tmp_path / ".ledger.jsonl.intent").write_bytes(intent)
    kept: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "_write_rest", lambda *_: kept.append((tmp_path / ".ledger.jsonl.intent").read_bytes()))
        Ledger.open(path, "A")
    (tmp_path / ".ledger.jsonl.intent").write_bytes(kept[0])
    Ledger.open(path, "A")
    repaired = path.read_bytes()
    for cut in range(len(before), len(repaired) + 1):
        path.write_bytes(repaired[:cut])
        (tmp_path / ".ledger.jsonl.intent").write_bytes(kept[0])
        opened = Ledger.open(path, "A")
        assert path.read_bytes() == repaired
        assert (rho(opened), opened.repairs) == (pytest.approx(0.07), 1)


def test_a_last_line_cut_with_no_intent_left_counts_as_all_there_is(tmp_path):
    path, before, added, _ = unfinished(tmp_path)
    for cut in range(1, len(added) - 1):
        path.write_bytes(before + added[:cut])
        assert Ledger.read(path).spent(1e-5, "hospital").epsilon == math.inf
        opened = Ledger.open(path, "A")
        assert opened.spent(1e-5, "hospital").epsilon == math.inf
        assert path.read_bytes().startswith(before + added[:cut] + b"\n"), "the fragment is kept"
        assert json.loads(path.read_text().splitlines()[-1])["kind"] == "torn"
        with pytest.raises(BudgetError, match="infinite"):
            opened.charge("run", 3, 0, FIRST, BUDGET)
        assert Ledger.open(path, "A").spent(1e-5, "hospital").epsilon == math.inf


def test_a_last_line_that_lacks_only_its_newline_counts_as_it_stands(tmp_path):
    path, before, added, _ = unfinished(tmp_path)
    path.write_bytes(before + added[:-1])
    assert rho(Ledger.read(path)) == pytest.approx(0.07)
    opened = Ledger.open(path, "A")
    opened.charge("run", 3, 0, FIRST, BUDGET)
    assert (rho(Ledger.open(path, "A")), opened.repairs) == (pytest.approx(0.08), 1)


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


KILLED = """
import os, signal, sys
from pathlib import Path
from fedmed.privacy import ledger as module
from fedmed.privacy.accountant import Concentrated
path, step, cut = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
done = 0
def reached(*_):
    global done
    done += 1
    if done == step:
        os.kill(os.getpid(), signal.SIGKILL)
real_fsync, real_replace, real_unlink, real_open = os.fsync, os.replace, Path.unlink, open
os.fsync = lambda handle: (reached(), real_fsync(handle), reached())[1]
os.replace = lambda *names: (reached(), real_replace(*names), reached())[1]
Path.unlink = lambda self, **how: (reached(), real_unlink(self, **how), reached())[1]
book = module.Ledger.open(path, "A")
done = 0
write_rest = module.Ledger._write_rest
def in_parts(self, raw, intent):
    reached()
    if cut:
        with real_open(self._path, "ab", buffering=0) as file:
            file.write(intent.data[len(raw) - intent.offset:][:cut])
        raw += intent.data[:cut]
        reached()
    write_rest(self, raw, intent)
    reached()
module.Ledger._write_rest = in_parts
print("charging", flush=True)
book.charge("run", 2, 0, Concentrated(0.02, 3), module.Budget(1000.0, 1e-5))
print("left", flush=True)
"""


def test_killed_between_any_two_steps_what_left_the_hospital_is_counted(tmp_path):
    """kill -9 by the process itself at each step in turn, until one run gets through."""
    prepared = tmp_path / "prepared"
    Ledger.open(prepared / "ledger.jsonl", "A").charge("run", 1, 0, FIRST, BUDGET)
    outcomes = []
    for step in itertools.count(1):
        folder = tmp_path / str(step)
        shutil.copytree(prepared, folder)
        path = folder / "ledger.jsonl"
        words = [sys.executable, "-c", KILLED, str(path), str(step), str(37 * step % 200)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        left = "left" in done.stdout
        for ledger in (Ledger.read(path), Ledger.open(path, "A")):
            counted = rho(ledger)
            assert counted in (pytest.approx(0.01), pytest.approx(0.07))
            if left:
                assert counted == pytest.approx(0.07)
        Ledger.open(path, "A").charge("run", 2, 0, SECOND, BUDGET)
        assert rho(Ledger.open(path, "A")) == pytest.approx(0.07)
        outcomes.append((left, counted))
        if done.returncode == 0:
            break
    assert len(outcomes) > 8
    assert outcomes[0] == (False, pytest.approx(0.01))
    assert (False, pytest.approx(0.07)) in outcomes


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
    assert ledger.repairs == 0
