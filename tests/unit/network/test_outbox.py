"""An answer that was given once is given again, byte for byte, and the state behind it counts once it is admitted."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed.errors import DiskFullError, FederationError, RunError
from fedmed.network.outbox import KEPT_ROUNDS, Key, Outbox
from fedmed.network.run_memory import MOST_ATTEMPTS, RunMemory

pytestmark = pytest.mark.unit

ORDER, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


def put(outbox: Outbox, round: int, attempt: int = 0, value: float = 0.0) -> Key:
    key = Key("run", round, attempt)
    outbox.put(key, ORDER, b"reply %d %d" % (round, attempt), {"lost.x": np.full((2, 3), value, np.float32)})
    return key


def test_the_same_order_gets_the_same_bytes_also_from_a_new_process(outbox: Outbox, tmp_path: Path) -> None:
    key = put(outbox, 3, 1)
    for one in (outbox, Outbox(tmp_path / "outbox")):
        assert one.find(key, ORDER) == b"reply 3 1"
        assert one.find(Key("run", 3, 2), ORDER) is None
        assert one.find(Key("other", 3, 1), ORDER) is None
        with pytest.raises(FederationError, match="another order was answered in round 3, attempt 1"):
            one.find(key, OTHER)
    assert stat.S_IMODE((tmp_path / "outbox").stat().st_mode) == 0o700


def test_the_state_is_that_of_the_admitted_payload(outbox: Outbox) -> None:
    put(outbox, 1, 0, 1.0), put(outbox, 2, 0, 2.0), put(outbox, 2, 1, 3.0)
    assert outbox.kept("run", None) == {}
    assert outbox.kept("run", (2, 0))["lost.x"][0, 0] == 2.0
    assert outbox.kept("run", (1, 0))["lost.x"][0, 0] == 1.0
    with pytest.raises(FederationError, match="no longer has"):
        outbox.kept("run", (2, 2))


def test_a_transposed_array_and_any_type_come_back(outbox: Outbox) -> None:
    kept = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array([1, 2]), "empty": np.zeros((0, 3), np.float32)}
    outbox.put(Key("run", 1, 0), ORDER, b"", kept)
    back = outbox.kept("run", (1, 0))
    assert back.keys() == kept.keys()
    for name, array in kept.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_only_what_can_be_asked_for_again_stays(outbox: Outbox) -> None:
    put(outbox, 1)
    admitted = put(outbox, 2)  # and then not asked for a long time
    for round in range(6, 12):
        outbox.tidy("run", (2, 0), put(outbox, round))
    assert [key.round for key in outbox.keys("run")] == [2, *range(12 - KEPT_ROUNDS, 12)]
    assert admitted in outbox.keys("run")
    outbox.tidy("run", (10, 0), put(outbox, 11, 1))
    assert [(key.round, key.attempt) for key in outbox.keys("run")][-2:] == [(10, 0), (11, 1)]
    put(outbox, 1)
    outbox.put(Key("other", 1, 0), ORDER, b"", {})
    outbox.drop("run")
    assert outbox.keys("run") == []
    assert len(outbox.keys("other")) == 1


def test_a_damaged_entry_is_told_and_never_passed_over(outbox: Outbox, tmp_path: Path) -> None:
    key = put(outbox, 1)
    (path,) = (tmp_path / "outbox").glob("*.reply")
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1], whole[:70] + bytes([whole[70] ^ 1]) + whole[71:]):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="damaged"):
            outbox.find(key, ORDER)


def test_a_full_disk_leaves_no_half_entry(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError):
        put(outbox, 1)
    monkeypatch.undo()
    assert outbox.keys("run") == []
    assert outbox.find(Key("run", 1, 0), ORDER) is None


def test_what_a_kill_left_half_written_is_cleared_away(outbox: Outbox, tmp_path: Path) -> None:
    key = put(outbox, 1)
    left = tmp_path / "outbox" / ".x-0001-0000-train.reply.77.tmp"
    left.write_bytes(b"half")
    assert Outbox(tmp_path / "outbox").find(key, ORDER) == b"reply 1 0"
    assert not left.exists()


def test_what_was_answered_is_stale_and_going_back_takes_a_higher_attempt(tmp_path: Path) -> None:
    memory = RunMemory(tmp_path)
    memory.check_new("run", 1, 0)
    for round, attempt in [(1, 0), (2, 0), (3, 1)]:
        memory.answered("run", round, attempt)
    memory = RunMemory(tmp_path)  # a new process
    for round, attempt in [(1, 0), (2, 0), (3, 0), (3, 1), (0, 0)]:
        with pytest.raises(FederationError, match="stale"):
            memory.check_new("run", round, attempt)
    for round, attempt in [(2, 1), (3, 2), (4, 0), (0, 1)]:
        memory.check_new("run", round, attempt)
    memory.check_new("other", 1, 0)
    memory.check_new("run", 4, MOST_ATTEMPTS - 1)
    with pytest.raises(FederationError, match="more than the 31"):
        memory.check_new("run", 4, MOST_ATTEMPTS)


def test_a_run_keeps_its_settings_and_once_finished_does_nothing_more(tmp_path: Path) -> None:
    memory = RunMemory(tmp_path)
    memory.settle("run", ORDER, None)
    memory.settle("run", ORDER, OTHER)
    memory.settle("run", ORDER, None)
    with pytest.raises(FederationError, match="other settings"):
        RunMemory(tmp_path).settle("run", OTHER, OTHER)
    with pytest.raises(FederationError, match="base model at this hospital has changed"):
        RunMemory(tmp_path).settle("run", ORDER, ORDER)
    memory.finish("run")
    memory.finish("run")
    for act in (lambda: memory.check_new("run", 9, 9), lambda: memory.begin_sum("run", 9, 9)):
        with pytest.raises(FederationError, match="finished"):
            act()


def test_after_shares_left_no_other_attempt_of_that_round_is_begun(tmp_path: Path) -> None:
    memory = RunMemory(tmp_path)
    memory.begin_sum("run", 1, 0)
    with pytest.raises(FederationError, match="no further part"):
        RunMemory(tmp_path).begin_sum("run", 1, 0)
    memory.begin_sum("run", 1, 1)
    memory.reveal("run", 1, 1)
    for attempt in (0, 1, 2, 99):
        with pytest.raises(FederationError, match="revealed"):
            RunMemory(tmp_path).begin_sum("run", 1, attempt)
    memory.begin_sum("run", 2, 0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 9}', '{"format": 1, "run_id": "another"}'])
def test_a_damaged_memory_is_told_and_never_taken_for_none(tmp_path: Path, text: str) -> None:
    memory = RunMemory(tmp_path)
    memory.answered("run", 1, 0)
    (path,) = tmp_path.glob("*.json")
    path.write_text(text)
    acts: list[Any] = [memory.check_new, memory.answered, memory.begin_sum, memory.reveal]
    for act in acts:
        with pytest.raises(RunError, match="cannot be read"):
            act("run", 1, 0)
