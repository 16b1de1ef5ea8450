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
from fedmed.network.enrolment import join
from fedmed.network.federated_run import reaching, run_over
from fedmed.network.federation_folder import FederationFolder
from fedmed.network.flower.launch import check_installed, free_port
from fedmed.network.hospital import node_of
from fedmed.network.processes import Child, stop_all
from fedmed.network.server import Server
from fedmed.network.site import Site
from fedmed.privacy.secure_sum.keys import fingerprint

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
        self._workers: dict[str, Child] = {}
        self._nodes: dict[str, Child] = {}
        self._over = threading.Event()

    def _tell(self, line: str) -> None:
        self._told_to(f"{time.monotonic() - self._began:6.1f} s  {line}")

    def carry_out(self) -> dict[str, Any]:
        self._tell("sharing the embedded records out among four hospitals")
        shares = self._share_out()
        federation, sites = self._enrol(shares)
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(Server(federation, "127.0.0.1", None, self._tell).running())
            self._tell(f"the server listens at 127.0.0.1 port {federation.invitation().port}, TLS, nodes by key")
            stack.callback(self._end)
            self._start(sites, stack)
            keeper = threading.Thread(target=self._keep, args=(server,), daemon=True)
            keeper.start()
            stack.callback(keeper.join, 15.0)
            stack.callback(self._over.set)
            began = time.monotonic()
            with reaching(federation, patience=240.0, tell=self._tell, before_round=self._before) as reach:
                _, summary = run_over(federation, self._config, reach, out="demo", command="fedmed federation demo")
            seconds = time.monotonic() - began
        return {
            "adapter_sha256": summary["adapter_sha256"],
            "rounds": summary["rounds"],
            "hospitals": len(sites),
            "run_seconds": round(seconds, 1),
            "restarts": sum(child.restarts for child in (*self._workers.values(), *self._nodes.values())),
            "bytes": summary["bytes"],
        }

    def _share_out(self) -> dict[str, Path]:
        from fedmed.data.split_folder import write_split
        from fedmed.pipeline.run_records import run_records

        federated = self._config.federated
        split = run_records(self._config).split
        alpha = federated.dirichlet_alpha if federated.split == "dirichlet" else None
        write_split(split, self._folder / "records", strategy=federated.split, alpha=alpha, seed=federated.seed)
        return {name: self._folder / "records" / name for name in split}

    def _enrol(self, shares: dict[str, Path]) -> tuple[FederationFolder, list[Site]]:
        federation = FederationFolder.create(self._folder / "federation", ["127.0.0.1"], free_port())
        sites = [join(str(federation.path), name, self._folder / name, data=data).site for name, data in shares.items()]
        self._tell(f"{len(sites)} hospitals made their keys; only public ones left them")
        federation.take_in_requests()
        for site in sites:
            federation.approve(site.name, site.fingerprint())  # two people compare it; here both are this process
            for other in sites:
                if other is not site:
                    site.pin(other.name, fingerprint(bytes.fromhex(other.request().identity_public)))
        self._tell("their fingerprints agree on both sides: approved")
        return federation, sites

    def _start(self, sites: list[Site], stack: contextlib.ExitStack) -> None:
        for site in sites:
            command = [sys.executable, "-m", "fedmed", "federation", "hospital", "--folder", str(site.path)]
            self._workers[site.name] = Child(
                f"{site.name}'s worker", [*command, "--part", "worker"], site.path / "worker.log"
            )
            self._nodes[site.name] = stack.enter_context(node_of(site, None))
            self._workers[site.name].start()
            self._nodes[site.name].start()
        self._tell(f"{len(sites)} workers and {len(sites)} nodes were started; nodes dial out, nothing dials in")

    def _keep(self, server: Server) -> None:
        """What systemd does at a hospital: start again what ended."""
        while not self._over.wait(0.3):
            for child in (*self._workers.values(), *self._nodes.values()):
                if why := child.keep():
                    self._tell(f"{why}; it is started again")
            with contextlib.suppress(FederationError):
                server.look()

    def _before(self, round: int) -> None:
        if round == KILL_IN:
            worker = self._workers[VICTIM]
            threading.Thread(target=self._kill_at_work, args=(worker, _processor_seconds(worker)), daemon=True).start()

    def _kill_at_work(self, worker: Child, before: float) -> None:
        deadline = time.monotonic() + _LONGEST_WAIT
        while _processor_seconds(worker) < before + _BUSY and time.monotonic() < deadline:
            if self._over.wait(0.01):
                return
        self._tell(f"kill -9 to {VICTIM}'s worker, in the middle of round {KILL_IN}")
        worker.kill()

    def _end(self) -> None:
        stop_all([*self._workers.values(), *self._nodes.values()])


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
