"""What runs at a hospital: the worker, and Flower's node beside it, each kept running. cli -> HERE -> worker, flower.

    worker   reads records, keys, policy and ledger; answers at worker.sock          worker.log
    node     dials the coordinator's server, and nothing else                        flower/node.log

Both may be services of their own, the node as another user in the worker's group: it needs ``node.key``, ``ca.pem``,
``site.json`` and the socket. Started together they are two processes of one that looks after them.

Not covered: starting at boot, which is systemd's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fedmed.errors import CertificateError, FederationError
from fedmed.network.authority import certificate_warnings, read_certificate
from fedmed.network.flower.launch import check_installed, check_server, flower_folder, free_port, supernode_command
from fedmed.network.key_files import lent_key
from fedmed.network.processes import Child, stop_all
from fedmed.network.site import Site

log = logging.getLogger(__name__)

_LOOK = 0.5
_AGAIN = 10.0  # seconds before the server is dialled again
# A server that goes away in the middle of a handshake ends the thread of Flower 1.41's node that speaks with it; the
# process stays and does nothing.
_LAST_WORDS = ("SSL/TLS handshake error detected",)
_REASONS = {
    "code: 2004": "the server does not let this hospital in: it is not approved, was revoked, or a node with its key is"
    " connected already",
    "code: 2001": "the server does not let this hospital in: its key is not registered",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not of this federation's authority",
}


def serve_worker(site: Site, data: Path | None, passphrase: bytes | None, memory_mb: int | None = None) -> None:
    """Be the worker until SIGTERM.

    Args:
        site: the hospital.
        data: its records; None: those of ``site.json``.
        passphrase: of its identity key.
        memory_mb: most memory of the process; None: no limit.

    Raises:
        What ``workplace_at`` and ``worker_process.serve`` raise.
    """
    from fedmed.network.worker_process import serve
    from fedmed.network.workplace import workplace_at

    place = workplace_at(site, passphrase=passphrase, records=data)
    serve(place, memory_bytes=None if memory_mb is None else memory_mb * 1_000_000)


@contextlib.contextmanager
def node_of(
    site: Site, passphrase: bytes | None, socket: Path | None = None, prefix: Sequence[str] = ()
) -> Iterator[Child]:
    """The hospital's node, not started yet; its key is lent for the length of the block.

    Args:
        site: the hospital.
        passphrase: of the node's key.
        socket: where the worker answers; None: in the site's folder.
        prefix: words before the command.
    """
    check_installed()
    with lent_key(site.node_key, passphrase, "openssh") as key:
        command, environment = supernode_command(
            flower_folder(site.path), host=site.host, port=site.port, authority=site.ca_pem.absolute(), key=key,
            worker=(socket or site.socket).absolute(),
        )  # fmt: skip

        def words() -> list[str]:
            return [*prefix, *command, "--port", str(free_port())]  # anew: what was free may be another's by now

        log_file = flower_folder(site.path) / "node.log"
        child = Child("the node", words, log_file, environment, apart=False, last_words=_LAST_WORDS)
        try:
            yield child
        finally:
            child.stop()


def serve_node(site: Site, passphrase: bytes | None, tell: Callable[[str], None], stopped: Callable[[], bool]) -> None:
    """Keep the node connected until told to stop; what keeps it out is told in plain words, once."""
    told = ""

    def say(text: str) -> None:
        nonlocal told
        if text != told:
            tell(text)
            log.info("%s", text)
        told = text

    for warning in certificate_warnings(read_certificate(site.ca_pem)):
        say(warning)
    with node_of(site, passphrase) as node:
        due = 0.0
        while not stopped():
            if node.pid is None and time.monotonic() >= due:
                try:
                    check_server(site.host, site.port, site.ca_pem, seconds=3.0)
                    node.start()
                    say(f"dialled {site.host}:{site.port}")
                except (CertificateError, FederationError) as error:
                    say(str(error))
                    due = time.monotonic() + _AGAIN
            elif node.ended() is not None:
                said = node.tail()
                say(next((words for sign, words in _REASONS.items() if sign in said), "the node ended; see node.log"))
                node.stop()
                due = time.monotonic() + _AGAIN
            time.sleep(_LOOK)


def serve_both(
    site: Site, data: Path | None, passphrase: bytes | None, memory_mb: int | None,
    tell: Callable[[str], None], stopped: Callable[[], bool],
) -> None:  # fmt: skip
    """Worker and node as two processes that are started again when they end, until told to stop."""
    around = dict(os.environ)
    if passphrase is not None:
        around["FEDMED_PASSPHRASE"] = passphrase.decode()
    words = [sys.executable, "-m", "fedmed", "federation", "hospital", "--folder", str(site.path), "--part"]
    more = [] if data is None else ["--data", str(data)]
    more += [] if memory_mb is None else ["--memory-mb", str(memory_mb)]
    children = [
        Child("the worker", [*words, "worker", *more], site.path / "worker.log", around),
        Child("the node", [*words, "node"], flower_folder(site.path) / "node.log", around),
    ]
    try:
        for child in children:
            child.start()
        tell(f"{site.name}: worker and node are running")
        while not stopped():
            for child in children:
                if why := child.keep():
                    tell(f"{site.name}: {why}; starting it again")
            time.sleep(_LOOK)
    finally:
        stop_all(children)
