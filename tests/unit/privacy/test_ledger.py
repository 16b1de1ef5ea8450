"""What a ledger accepts, refuses and says."""

from __future__ import annotations

import json
import math

import pytest

from fedmed.errors import AccountingError, BudgetError, DiskFullError, LedgerError
from fedmed.privacy.accountant import Concentrated, SampledGaussian, epsilon
from fedmed.privacy.ledger import Budget, Ledger

pytestmark = pytest.mark.unit

STEP = SampledGaussian(0.01, 1.0, 100)
BUDGET = Budget(8.0, 1e-5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hospital_A" / "ledger.jsonl"


def test_charges_of_all_runs_add_up_to_what_the_accountant_says(path):
    ledger = Ledger.open(path, "A")
    ledger.charge("first", 1, 0, STEP, BUDGET)
    ledger.charge("second", 1, 0, STEP, BUDGET)
    again = Ledger.open(path, "A")
    assert again.spent(1e-5, "record") == epsilon([SampledGaussian(0.01, 1.0, 200)], 1e-5)
    assert [entry.run_id for entry in again.entries()] == ["first", "second"]
    assert again.units() == ("record",)
    assert again.spent(1e-5, "hospital").epsilon == 0.0


def test_a_line_holds_what_the_page_says(path):
    Ledger.open(path, "A").charge("first", 3, 1, STEP, BUDGET)
    opening, line = map(json.loads, path.read_text().splitlines())
    assert opening["kind"] == "open"
    assert line["previous"] == opening["sha256"]
    wanted = {"seq": 1, "hospital": "A", "run": "first", "round": 3, "attempt": 1, "level": "example", "unit": "record"}
    assert wanted.items() <= line.items()
    assert line["event"] == {"kind": "sampled_gaussian", "q": 0.01, "sigma": 1.0, "steps": 100}
    assert (line["delta"], line["budget"]) == (1e-5, 8.0)


def test_the_same_attempt_is_charged_once_and_only_with_the_same_event(path):
    ledger = Ledger.open(path, "A")
    first = ledger.charge("run", 1, 0, STEP, BUDGET)
    before = path.read_bytes()
    assert ledger.charge("run", 1, 0, STEP, BUDGET) == first
    assert Ledger.open(path, "A").charge("run", 1, 0, STEP, BUDGET) == first
    with pytest.raises(LedgerError, match=r"already charged with another event \(line 2\)"):
        ledger.charge("run", 1, 0, SampledGaussian(0.01, 1.0, 99), BUDGET)
    assert path.read_bytes() == before
    ledger.charge("run", 1, 1, STEP, BUDGET)
    ledger.charge("run", 1, 0, Concentrated(0.01, 1), BUDGET)  # the other level of the same attempt
    assert len(ledger.entries()) == 3


def test_a_budget_error_says_what_is_spent_left_and_what_it_would_cost(path):
    ledger = Ledger.open(path, "A")
    ledger.charge("run", 1, 0, Concentrated(0.05, 1), Budget(3.0, 1e-5))
    before = path.read_bytes()
    with pytest.raises(BudgetError) as refused:
        ledger.charge("run", 2, 0, Concentrated(0.2, 1), Budget(3.0, 1e-5))
    spent, alone, both = (epsilon([Concentrated(r, 1)], 1e-5).epsilon for r in (0.05, 0.2, 0.25))
    for part in (f"{spent:.4g} of 3", f"{3.0 - spent:.4g} is left", f"{alone:.4g} by itself", f"to {both:.4g}"):
        assert part in str(refused.value)
    assert path.read_bytes() == before


def test_no_noise_never_fits(path):
    ledger = Ledger.open(path, "A")
    assert ledger.would_spend([SampledGaussian(0.01, 0.0, 1)], 1e-5).epsilon == math.inf
    with pytest.raises(BudgetError):
        ledger.charge("run", 1, 0, SampledGaussian(0.01, 0.0, 1), Budget(1e9, 1e-5))


def test_records_and_patients_do_not_share_a_ledger(path):
    ledger = Ledger.open(path, "A")
    ledger.charge("run", 1, 0, STEP, BUDGET)
    patients = SampledGaussian(0.01, 1.0, 100, unit="patient")
    for call in (lambda: ledger.charge("run", 2, 0, patients, BUDGET), lambda: ledger.would_spend([patients], 1e-5)):
        with pytest.raises(LedgerError, match="counts by record"):
            call()


def test_a_dry_run_of_nothing_is_an_error(path):
    with pytest.raises(AccountingError, match="no events"):
        Ledger.open(path, "A").would_spend([], 1e-5)


def test_an_older_head_is_known_and_a_foreign_one_is_not(path, tmp_path):
    ledger = Ledger.open(path, "A")
    heads = [ledger.head()]
    for number in range(3):
        ledger.charge("run", number, 0, STEP, BUDGET)
        heads.append(ledger.head())
    assert len(set(heads)) == 4
    for head in heads:
        Ledger.open(path, "A").check_head(head)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))  # somebody takes the newest charge away
    with pytest.raises(LedgerError, match="does not know the head"):
        Ledger.open(path, "A").check_head(heads[-1])


def test_another_hospitals_ledger_is_refused(path):
    Ledger.open(path, "A")
    with pytest.raises(LedgerError, match="is the ledger of 'A', not of 'B'"):
        Ledger.open(path, "B")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}\n", b"hello", b'{"kind":"open"}\n', b"\xff\xfe\n", b"[1]\n", b"[" * 5000]
)
def test_what_is_no_ledger_is_named_with_its_line(path, content):
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for call in (Ledger.read, lambda where: Ledger.open(where, "A")):
        with pytest.raises(LedgerError, match="line 1 of the ledger"):
            call(path)
    assert path.read_bytes() == content


def test_a_removed_or_doubled_line_is_named(path):
    ledger = Ledger.open(path, "A")
    for number in range(3):
        ledger.charge("run", number, 0, STEP, BUDGET)
    lines = path.read_bytes().splitlines(keepends=True)
    for wrong in ([*lines[:2], lines[3]], [*lines[:3], lines[2], lines[3]]):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(LedgerError, match="line [34] of the ledger"):
            Ledger.read(path)


def test_a_missing_ledger_cannot_be_read_and_a_read_one_not_charged(path):
    with pytest.raises(LedgerError, match="cannot be read"):
        Ledger.read(path)
    assert not path.parent.exists()
    Ledger.open(path, "A")
    with pytest.raises(LedgerError, match="opened to be read"):
        Ledger.read(path).charge("run", 1, 0, STEP, BUDGET)


def test_an_intent_that_does_not_belong_stops_everything_and_changes_nothing(path):
    Ledger.open(path, "A")
    raw = path.read_bytes()
    intent = path.with_name(".ledger.jsonl.intent")
    first = raw.decode().splitlines()[0]
    for text in ("", "\n", "{", "{}\n", first, first[:-1] + "\n", first + "\n" + first + "\n"):
        intent.write_text(text)
        for call in (Ledger.read, lambda where: Ledger.open(where, "A")):
            with pytest.raises(LedgerError):
                call(path)
        assert path.read_bytes() == raw


def test_a_full_disk_charges_nothing_that_is_hidden(path, monkeypatch):
    import errno
    import os

    ledger = Ledger.open(path, "A")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError):
            ledger.charge("run", 1, 0, STEP, BUDGET)
    assert Ledger.open(path, "A").charge("run", 1, 0, STEP, BUDGET).seq == 1
