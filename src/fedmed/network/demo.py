"""The whole of it on one machine: four hospitals and a server as real processes over TLS. cli -> HERE -> everything.

    split the embedded records -> make the federation, join, approve -> server, workers, nodes -> rounds, one worker
    killed in the middle of its training -> the same settings with 'fedmed run' -> compare the adapters, bit for bit

Everything lies in one folder that is removed at the end, and every process that was started is ended.

Not covered: what a network does between machines (tests/network has that); a person who compares fingerprints.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedmed.config.load import load_config
from fedmed.config.schema import FedMedConfig
from fedmed.errors import ConfigError, FederationError
from fedmed.network.federated_run import reaching, run_over
from fedmed.network.flower.launch import check_installed
from fedmed.network.loopback import HERE, Loopback, enrol, share_out
from fedmed.network.processes import Child

VICTIM = "hospital_B"
KILL_IN = 2  # round
_BUSY = 0.05  # seconds of processor time after which a worker is at work on its order
_LONGEST_WAIT = 120.0  # seconds; then it is killed wherever it is

Tell = Callable[[str], None]

_SMALL = [
    "training.engine=single",
    "training.evaluation.max_records_per_hospital=1",
    "training.evaluation.few_shot=0",
    "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=0",
    "training.evaluation.sample_answers=0",
    "training.dataset.max_samples=400",
]
_TINY = [
    "model.name=builtin:tiny-llama",
    "training.max_steps=8",
    "training.batch_size=4",
    "training.learning_rate=0.01",
    "training.threads=1",
]


def run_demo(
    *, tiny: bool, rounds: int, overrides: Sequence[str] = (), keep: Path | None = None, tell: Tell
) -> dict[str, Any]:
    """Do all of it.

    Args:
        tiny: with the tiny random model; else the embedded Gemma.
        rounds: at least 2, as one worker is killed in the second.
        overrides: ``KEY=VALUE``, after the demo's own.
        keep: a folder to do it in and to leave behind; None: a temporary one.
        tell: shows a line.

    Returns:
        ``equal``: whether the adapter is that of ``fedmed run``; times in seconds, bytes, restarts, the digest.

    Raises:
        ConfigError: settings that a comparison bit for bit is impossible with. What the parts raise.
    """
    check_installed()
    words = [*_SMALL, *(_TINY if tiny else ()), f"federated.rounds={rounds}", *overrides]
    config = load_config("quick", (), words)
    if config.training.engine != "single" or config.privacy.noised:
        raise ConfigError(
            ["the demo compares bit for bit, which takes training.engine=single and no noise"], "leave these settings"
        )
    with _folder(keep) as folder:
        demo = _Demo(folder, config, tell)
        started = time.monotonic()
        found = demo.carry_out()
        told = time.monotonic()
        tell("now the same settings with 'fedmed run', all in one process")
        alone = _alone(folder, words)
        return found | {
            "equal": found["adapter_sha256"] == alone["adapter_sha256"],
            "alone_sha256": alone["adapter_sha256"],
            "seconds": round(told - started, 1),
            "alone_seconds": round(time.monotonic() - told, 1),
        }


class _Demo:
    def __init__(self, folder: Path, config: FedMedConfig, tell: Tell) -> None:
        self._folder, self._config = folder, config
        self._began = time.monotonic()
        self._told_to = tell
        self._over = threading.Event()
        self._parts: Loopback | None = None

    def _tell(self, line: str) -> None:
        self._told_to(f"{time.monotonic() - self._began:6.1f} s  {line}")

    def carry_out(self) -> dict[str, Any]:
        self._tell("sharing the embedded records out among four hospitals")
        shares = share_out(self._config, self._folder / "records")
        federation, sites = enrol(self._folder, shares)
        self._tell(f"{len(sites)} hospitals made their keys; only public ones left them")
        self._tell("their fingerprints agree on both sides: approved")
        parts = self._parts = Loopback(federation, sites, self._tell)
        with parts.running():
            self._tell(f"the server listens at {HERE} port {federation.invitation().port}, TLS, nodes by key")
            self._tell(f"{len(sites)} workers and {len(sites)} nodes were started; nodes dial out, nothing dials in")
            began = time.monotonic()
            try:
                with reaching(federation, patience=240.0, tell=self._tell, before_round=self._before) as reach:
                    _, summary = run_over(federation, self._config, reach, out="demo", command="fedmed federation demo")
            finally:
                self._over.set()
            seconds = time.monotonic() - began
        return {
            "adapter_sha256": summary["adapter_sha256"],
            "rounds": summary["rounds"],
            "hospitals": len(sites),
            "run_seconds": round(seconds, 1),
            "restarts": parts.restarts,
            "bytes": summary["bytes"],
        }

    def _before(self, round: int) -> None:
        if round == KILL_IN and self._parts is not None:
            worker = self._parts.workers[VICTIM]
            threading.Thread(target=self._kill_at_work, args=(worker, _processor_seconds(worker)), daemon=True).start()

    def _kill_at_work(self, worker: Child, before: float) -> None:
        deadline = time.monotonic() + _LONGEST_WAIT
        while _processor_seconds(worker) < before + _BUSY and time.monotonic() < deadline:
            if self._over.wait(0.01):
                return
        self._tell(f"kill -9 to {VICTIM}'s worker, in the middle of round {KILL_IN}")
        worker.kill()


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=False)
        yield keep.absolute()
        return
    folder = Path(tempfile.mkdtemp(prefix="fedmed-"))  # short: a socket's path has at most about 100 bytes
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _alone(folder: Path, words: Sequence[str]) -> dict[str, Any]:
    """The summary of the same run in one process, in a folder of its own."""
    place = folder / "alone"
    place.mkdir()
    sets = [part for word in words for part in ("--set", word)]
    command = [sys.executable, "-m", "fedmed", "run", "--recipe", "quick", *sets, "--out", str(place / "run"), "--json"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise FederationError(f"'fedmed run' ended with exit code {done.returncode} ({said[0][:300]})")
    return dict(json.loads(done.stdout))


def _processor_seconds(child: Child) -> float:
    """Of a process so far, all its threads; 0 where that cannot be told."""
    try:
        fields = (
            Path(f"/proc/{child.pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
