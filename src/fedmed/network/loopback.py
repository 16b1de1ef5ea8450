"""A whole federation on this machine, each part a process of its own. demo, tests, benches -> HERE -> server, hospital.

    split -> shares on disk -> enrolled (keys, requests, approvals, pins) -> server, workers, nodes, kept running

Not covered: two people who compare a fingerprint; what a network does between machines.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fedmed.config.schema import FedMedConfig
from fedmed.errors import FederationError
from fedmed.network.enrolment import join
from fedmed.network.federation_folder import FederationFolder
from fedmed.network.flower.launch import free_port
from fedmed.network.hospital import node_of
from fedmed.network.processes import Child, stop_all
from fedmed.network.server import Server
from fedmed.network.site import Site
from fedmed.privacy.secure_sum.keys import fingerprint

HERE = "127.0.0.1"
_LOOK = 0.3  # seconds between two looks at what ended


def share_out(config: FedMedConfig, folder: Path) -> dict[str, Path]:
    """Split the configured records as ``fedmed run`` does. Returns hospital -> the folder of its share."""
    from fedmed.data.split_folder import write_split
    from fedmed.pipeline.run_records import run_records

    federated = config.federated
    found = run_records(config)
    alpha = federated.dirichlet_alpha if federated.split == "dirichlet" else None
    write_split(found.split, folder, strategy=federated.split, alpha=alpha, seed=federated.seed, gate=found.gate)
    return {name: folder / name for name in found.split}


def enrol(folder: Path, shares: Mapping[str, Path], host: str = HERE) -> tuple[FederationFolder, dict[str, Site]]:
    """Make a federation in ``folder``, let a hospital join for each share, approve all, and let each pin the others.

    Args:
        folder: where all of it lies.
        shares: hospital -> its records.
        host: address that hospitals dial; the coordinator itself uses loopback.
    """
    federation = FederationFolder.create(folder / "federation", list(dict.fromkeys((host, HERE))), free_port())
    sites = {name: join(str(federation.path), name, folder / name, data=data).site for name, data in shares.items()}
    federation.take_in_requests()
    for name, site in sites.items():
        federation.approve(name, site.fingerprint())  # two people compare it; here both are this process
        for other in sites.values():
            if other is not site:
                site.pin(other.name, fingerprint(bytes.fromhex(other.request().identity_public)))
    return federation, sites


class Loopback:
    """Server, workers and nodes of an enrolled federation, started again when they end.

    Args:
        federation: the coordinator's folder.
        sites: the hospitals.
        tell: shows a line.
        way: gives the address that a hospital's node dials and the socket at which it finds the worker; something may
            stand in between.
        bind: address that the server listens on.
        prefix: gives words before a node's command, to run it elsewhere, as in another network namespace.
    """

    def __init__(
        self,
        federation: FederationFolder,
        sites: Mapping[str, Site],
        tell: Callable[[str], None],
        way: Callable[[Site], tuple[Site, Path]] = lambda site: (site, site.socket),
        *,
        bind: str = HERE,
        prefix: Callable[[str], Sequence[str]] = lambda name: (),
    ) -> None:
        self.federation, self.sites = federation, dict(sites)
        self.workers: dict[str, Child] = {}
        self.nodes: dict[str, Child] = {}
        self._tell, self._way, self._prefix = tell, way, prefix
        self._server = Server(federation, bind, None, tell)
        self._over = threading.Event()

    @property
    def server(self) -> Child:
        """The server's process; it must run."""
        assert self._server.child is not None
        return self._server.child

    @property
    def restarts(self) -> int:
        """How often a worker or node was started again."""
        return sum(child.restarts for child in (*self.workers.values(), *self.nodes.values()))

    @contextlib.contextmanager
    def running(self) -> Iterator[Loopback]:
        """Start everything; at the end of the block all of it is ended."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._server.running())
            stack.callback(lambda: stop_all([*self.workers.values(), *self.nodes.values()]))
            for name, site in self.sites.items():
                words = [sys.executable, "-m", "fedmed", "federation", "hospital", "--folder", str(site.path)]
                self.workers[name] = Child(f"{name}'s worker", [*words, "--part", "worker"], site.path / "worker.log")
                dialled, socket = self._way(site)
                self.nodes[name] = stack.enter_context(node_of(dialled, None, socket, self._prefix(name)))
                self.workers[name].start()
                self.nodes[name].start()
            keeper = threading.Thread(target=self._keep, daemon=True)
            keeper.start()
            stack.callback(keeper.join, 20.0)
            stack.callback(self._over.set)
            yield self

    def _keep(self) -> None:
        """What systemd does at a hospital and at the coordinator."""
        while not self._over.wait(_LOOK):
            for child in (*self.workers.values(), *self.nodes.values()):
                if why := child.keep():
                    self._tell(f"{why}; it is started again")
            with contextlib.suppress(FederationError):
                self._server.look()
