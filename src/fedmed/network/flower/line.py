"""The coordinator's end of Flower: orders to hospitals by name, replies back. transport -> HERE -> server_app.

The server app dials in here; where it hangs up or falls silent, all that was under way is reported lost and another one
is started, as long as the SuperLink is there. A node's hospital is what the roster registered; who signed a reply is
the transport's to check.

Not covered: two coordinators on one SuperLink.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fedmed.errors import FederationError
from fedmed.network.asking import Arrival
from fedmed.network.flower.frames import Wire
from fedmed.network.flower.launch import start_relay

log = logging.getLogger(__name__)

SILENCE = 45.0  # seconds without a word after which a server app counts as dead; it speaks every few
_START = 60.0  # seconds in which a started server app must dial in
_SLACK = 60.0  # seconds that Flower keeps a message beyond its use; the worker judges by the order's own expiry
_PAUSE = 5.0  # seconds between two tries to start one


class FlowerLine:
    """A ``Line`` over a running SuperLink.

    Args:
        folder: Flower's own, at the coordinator.
        nodes: gives node id -> hospital of all registered nodes; asked anew as nodes come and go.
    """

    def __init__(self, folder: Path, nodes: Callable[[], Mapping[str, str]]) -> None:
        self._folder, self._nodes = folder, nodes
        self._wire: Wire | None = None
        self._online: dict[str, str] = {}  # hospital -> node
        self._tickets: dict[int, str] = {}  # ticket -> hospital
        self._last_ticket = 0
        self._heard = self._started = float("-inf")
        self._awaited = False
        self._lost: list[Arrival] = []
        path = folder / "coordinator.sock"
        path.unlink(missing_ok=True)  # of a coordinator that died; the run's lock keeps a second one out
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(path))
        path.chmod(0o600)
        self._listener.listen()
        self._path = path

    def hospitals(self) -> frozenset[str]:
        """Whose nodes are connected now, as far as is known."""
        return frozenset(self._online)

    def send(self, hospital: str, raw: bytes, seconds: float) -> None:
        """Send an order that is of use for so many seconds; what becomes of it is for ``poll`` to say."""
        node = self._online.get(hospital)
        if self._wire is None or node is None:
            self._lost.append(Arrival(hospital, None, "its node is not connected"))
            return
        self._last_ticket += 1
        self._tickets[self._last_ticket] = hospital
        try:
            self._wire.send({"kind": "send", "ticket": self._last_ticket, "node": node, "ttl": seconds + _SLACK}, raw)
        except OSError:
            self._hang_up("the server app hung up")

    def poll(self, seconds: float) -> list[Arrival]:
        """What came, waiting at most ``seconds`` for something."""
        arrived, self._lost = self._lost, []
        if self._wire is None:
            self._connect(seconds if not arrived else 0.0)
        else:
            arrived += self._read(self._wire, seconds if not arrived else 0.0)
        if self._wire is not None and time.monotonic() - self._heard > SILENCE:
            self._hang_up("the server app fell silent")
        return arrived

    def close(self) -> None:
        """Hang up; the server app then ends, and Flower's run with it."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        with contextlib.suppress(OSError):
            self._listener.close()
        self._path.unlink(missing_ok=True)

    def _connect(self, seconds: float) -> None:
        now = time.monotonic()
        if not self._awaited and now - self._started >= _PAUSE:
            self._started = now
            try:
                run = start_relay(self._folder)
            except FederationError as error:
                log.warning("the relay cannot be started yet: %s", error.what)
                return
            log.info("the relay was started as Flower's run %s", run)
            self._awaited, self._started = True, time.monotonic()
        if select.select([self._listener], [], [], seconds)[0]:
            peer, _ = self._listener.accept()
            self._wire, self._heard, self._awaited = Wire(peer), time.monotonic(), False
        elif self._awaited and time.monotonic() - self._started > _START:
            log.warning("the relay did not dial in within %g s", _START)
            self._awaited = False

    def _read(self, wire: Wire, seconds: float) -> list[Arrival]:
        arrived = []
        try:
            for header, body in wire.receive(seconds):
                self._heard = time.monotonic()
                if header["kind"] == "nodes":
                    known = self._nodes()
                    self._online = {known[node]: node for node in header["nodes"] if node in known}
                    continue
                hospital = self._tickets.pop(header["ticket"], None)
                if hospital is not None:
                    lost = header["kind"] != "reply"
                    arrived.append(Arrival(hospital, None if lost else body, header["why"] if lost else ""))
        except (OSError, KeyError, ValueError) as error:
            self._hang_up(f"the server app hung up ({type(error).__name__})")
        return arrived

    def _hang_up(self, why: str) -> None:
        log.warning("%s; what was under way will be sent again", why)
        if self._wire is not None:
            self._wire.close()
        self._wire, self._online = None, {}
        self._lost += [Arrival(hospital, None, why) for hospital in self._tickets.values()]
        self._tickets = {}
