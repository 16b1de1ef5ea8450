"""``fedmed federation demo``, as a person types it: a kill, a recovery, and the adapter of ``fedmed run``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr")

pytestmark = [pytest.mark.network, pytest.mark.slow]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("words", [["--tiny"], []], ids=["tiny", "gemma"])
def test_the_demo_shows_a_kill_a_recovery_and_the_adapter_of_one_process(tmp_path: Path, words: list[str]) -> None:
    before = _ours()
    done = subprocess.run(
        [sys.executable, "-m", "fedmed", "federation", "demo", "--rounds", "2", "--json", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["equal"] is True
    assert (found["rounds"], found["hospitals"]) == (2, 4)
    assert found["restarts"] >= 1
    assert "kill -9 to hospital_B's worker, in the middle of round 2" in done.stderr
    assert "hospital_B's worker ended (SIGKILL); it is started again" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert _ours() <= before, "a process was left behind"


def _ours() -> set[str]:
    """Processes that the demo starts."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"fedmed.network.flower.door" in words or b"--part" in words or any(b"flower-super" in one for one in words):
            found.add(entry.parent.name)
    return found
