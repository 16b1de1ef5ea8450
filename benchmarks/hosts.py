"""Hospitals' nodes on hosts with addresses of their own, and what is done to their links. Needs root and Linux.

    10.77.0.1, a bridge: server and coordinator      10.77.0.11 ...: one network namespace a hospital

A link is cut by taking its interface down, and narrowed by a token bucket. Delay and loss are made in user space, as
not every kernel has netem: each piece of the TCP stream is held back, and where a packet would have been lost, by a
retransmission's time more, which is what a stream notices of it.

Not covered: loss of the handshake's packets; reordering, which TCP hides.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from between import Link

from fedmed.config.schema import FedMedConfig
from fedmed.network.adapter_files import make_start
from fedmed.network.event_log import read_events
from fedmed.network.federated_run import reaching, run_over
from fedmed.network.loopback import Loopback, enrol, share_out
from fedmed.network.site import Site

COORDINATOR = "10.77.0.1"
_BRIDGE = "fedmed0"
DELAY, LOSS, RETRANSMISSION = 0.1, 0.02, 0.4  # seconds one way; share of pieces; seconds
RATE = "1mbit"
CUT_AFTER, CUT_FOR = 2.0, 20.0  # seconds into the second round; seconds
CONDITIONS = ("nothing", "200 ms and 2 % loss", "1 Mbit/s", "one site cut off in a round")


def possible() -> bool:
    """Whether namespaces can be made here."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "fedmed-try"], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "del", "fedmed-try"], capture_output=True, check=False)
    return made


@dataclass(frozen=True)
class Host:
    """One hospital's."""

    namespace: str
    outside: str  # its link's interface at the bridge
    inside: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words before a command that shall run there."""
        return ("ip", "netns", "exec", self.namespace)

    def cut(self, seconds: float) -> None:
        """Take the link down, and up again later."""
        _run("ip", "link", "set", self.outside, "down")
        timer = threading.Timer(seconds, lambda: _run("ip", "link", "set", self.outside, "up"))
        timer.daemon = True
        timer.start()

    def narrow(self) -> None:
        """Both directions, to ``RATE``."""
        bucket = ("root", "tbf", "rate", RATE, "burst", "16kb", "latency", "400ms")
        _run("tc", "qdisc", "add", "dev", self.outside, *bucket)
        _run(*self.prefix, "tc", "qdisc", "add", "dev", self.inside, *bucket)

    def widen(self) -> None:
        _run("tc", "qdisc", "del", "dev", self.outside, "root")
        _run(*self.prefix, "tc", "qdisc", "del", "dev", self.inside, "root")


@contextlib.contextmanager
def hosts(names: Sequence[str]) -> Iterator[dict[str, Host]]:
    """A host a name, joined by a bridge; all gone at the end."""
    with contextlib.ExitStack() as stack:
        _run("ip", "link", "add", _BRIDGE, "type", "bridge")
        stack.callback(_run, "ip", "link", "del", _BRIDGE)
        _run("ip", "addr", "add", f"{COORDINATOR}/24", "dev", _BRIDGE)
        _run("ip", "link", "set", _BRIDGE, "up")
        made = {}
        for number, name in enumerate(names):
            host = Host(f"fedmed-{number}", f"fedmed-o{number}", f"fedmed-i{number}", f"10.77.0.{11 + number}")
            _run("ip", "netns", "add", host.namespace)
            stack.callback(_run, "ip", "netns", "del", host.namespace)
            _run("ip", "link", "add", host.outside, "type", "veth", "peer", "name", host.inside)
            _run("ip", "link", "set", host.inside, "netns", host.namespace)
            _run("ip", "link", "set", host.outside, "master", _BRIDGE, "up")
            _run(*host.prefix, "ip", "addr", "add", f"{host.address}/24", "dev", host.inside)
            _run(*host.prefix, "ip", "link", "set", host.inside, "up")
            _run(*host.prefix, "ip", "link", "set", "lo", "up")
            made[name] = host
        yield made


def under_conditions(config: FedMedConfig, folder: Path, conditions: Sequence[str] = CONDITIONS) -> dict[str, Any]:
    """One run under each condition, by the same processes.

    Args:
        config: of each run.
        folder: empty, with a short path.
        conditions: some of ``CONDITIONS``.

    Returns:
        By condition: ``seconds`` of each round, ``adapter_sha256``, hospitals admitted in each round.
    """
    start = folder / "start"
    make_start(config, start)
    federation, sites = enrol(folder, share_out(config, folder / "shares"), COORDINATOR)
    found = {}
    with hosts(sorted(sites)) as made, contextlib.ExitStack() as stack:
        link = Link(federation.invitation().port, COORDINATOR)
        stack.callback(link.close)
        port = link.port

        def way(site: Site) -> tuple[Site, Path]:
            return replace(site, port=port), site.socket

        parts = Loopback(
            federation, sites, lambda line: None, way, bind="0.0.0.0", prefix=lambda name: made[name].prefix
        )
        stack.enter_context(parts.running())
        for condition in conditions:
            found[condition] = _one(condition, config, parts, made, link, start)
    return found


def _one(
    condition: str, config: FedMedConfig, parts: Loopback, made: dict[str, Host], link: Link, start: Path
) -> dict[str, Any]:
    entered: list[float] = []

    def before(number: int) -> None:
        entered.append(time.time())
        if condition == "one site cut off in a round" and number == 2:
            timer = threading.Timer(CUT_AFTER, lambda: made[sorted(made)[1]].cut(CUT_FOR))
            timer.daemon = True
            timer.start()

    known = len(read_events(parts.federation.log))
    link.hold_back(*((DELAY, LOSS, RETRANSMISSION) if condition == "200 ms and 2 % loss" else (0.0, 0.0, 0.0)))
    if condition == "1 Mbit/s":
        for host in made.values():
            host.narrow()
    try:
        with reaching(parts.federation, patience=300.0, before_round=before) as reach:
            name = re.sub(r"\W+", "-", condition)
            _, summary = run_over(parts.federation, config, reach, out=name, start=start)
    finally:
        if condition == "1 Mbit/s":
            for host in made.values():
                host.widen()
    events = [event for event in read_events(parts.federation.log)[known:] if event["event"] == "round"]
    return {
        "seconds": [event["time"] - begin for begin, event in zip(entered, events, strict=True)],
        "adapter_sha256": summary["adapter_sha256"],
        "admitted": [event["admitted"] for event in events],
        "bytes": summary["bytes"],
    }


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
