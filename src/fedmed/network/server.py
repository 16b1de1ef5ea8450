"""The coordinator's server: Flower's SuperLink kept running, its nodes kept to the roster. cli -> HERE -> flower.

    flower/   Flower's own: state.db, config.toml, nodes.json, bundle/, coordinator.sock, server.log

Nodes are registered when their hospital is approved and turned away when it is revoked, while the server runs. Flower's
database and ``nodes.json`` belong together: without one of them both are made anew from the roster.

Not covered: the run itself, which is a process of its own (federated_run.py) and survives this one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fedmed.errors import FederationError
from fedmed.network.authority import certificate_warnings, check_server, read_certificate
from fedmed.network.event_log import EventLog
from fedmed.network.federation_folder import FederationFolder
from fedmed.network.flower.launch import (
    check_installed,
    flower_folder,
    register,
    superlink_command,
    unregister,
    wait_for_port,
)
from fedmed.network.key_files import lent_key, openssh_public
from fedmed.network.processes import Child
from fedmed.utils.files import folder_lock, write_atomic, write_json

log = logging.getLogger(__name__)

_START = 60.0  # seconds in which the SuperLink must listen
_LOOK = 1.0  # seconds between two looks at the roster
_DAY = 86400.0


def read_nodes(federation: FederationFolder) -> dict[str, str]:
    """Node id -> hospital, of all that are registered and approved now."""
    approved = set(federation.roster().approved())
    return {node: name for name, (node, _) in _registered(federation).items() if name in approved}


def members_of(federation: FederationFolder) -> dict[str, bytes]:
    """Name -> public identity of every approved hospital, as the roster says now."""
    members = federation.roster().members
    return {
        name: bytes.fromhex(member.identity_public) for name, member in members.items() if member.status == "approved"
    }


class Server:
    """A running server.

    Args:
        federation: the coordinator's folder.
        bind: address to listen on.
        passphrase: of the server's key.
        tell: shows a line to whoever watches.
    """

    def __init__(
        self, federation: FederationFolder, bind: str, passphrase: bytes | None, tell: Callable[[str], None]
    ) -> None:
        self._federation, self._bind, self._passphrase, self._tell = federation, bind, passphrase, tell
        self._events = EventLog(federation.log)
        self._seen: Mapping[str, str] = {}
        self._warned = float("-inf")
        self.child: Child | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        """Start it, and stop it at the end of the block.

        Raises:
            CertificateError: expired or not of this authority. FederationError: it does not come up.
            RunBusyError: a server runs in this folder.
        """
        check_installed()
        federation = self._federation
        check_server(federation.path)
        self._warn()
        folder = flower_folder(federation.path)
        with (
            folder_lock(folder),
            lent_key(federation.server_key, self._passphrase, "pem") as key,
        ):
            if not (folder / "state.db").is_file() or not (folder / "nodes.json").is_file():
                (folder / "state.db").unlink(missing_ok=True)
                write_json(folder / "nodes.json", {})
            port = federation.invitation().port
            command, environment = superlink_command(
                folder, bind=self._bind, port=port, certificate=federation.server_pem.absolute(), key=key,
                authority=federation.ca_pem.absolute(),
            )  # fmt: skip
            self.child = Child("the server", command, folder / "server.log", environment)
            self.child.start()
            try:
                self._wait(port)
                self._events.write("server started", port=port)
                self.look()
                yield self
            finally:
                self.child.stop()
                self._events.write("server stopped")

    def look(self) -> None:
        """Restart the SuperLink if it ended, and bring its nodes in line with the roster."""
        assert self.child is not None
        if why := self.child.keep():
            self._events.write("server ended", why=why)
            self._tell(f"{why}; starting it again")
        if time.monotonic() - self._warned > _DAY:
            self._warn()
        roster = self._federation.roster()
        now = {name: f"{member.status} {member.node_public_pem}" for name, member in roster.members.items()}
        if now == self._seen:
            return
        try:
            self._follow()
            self._seen = now
        except FederationError as error:  # the SuperLink is not up: the next look tries again
            log.warning("%s", error)

    def serve(self, stopped: Callable[[], bool]) -> None:
        """Look until told to stop."""
        while not stopped():
            self.look()
            time.sleep(_LOOK)

    def _follow(self) -> None:
        federation, folder = self._federation, flower_folder(self._federation.path)
        known = _registered(federation)
        members = federation.roster().members
        for name, (node, public) in list(known.items()):
            member = members.get(name)
            if member is None or member.status != "approved" or member.node_public_pem != public:
                unregister(folder, node)
                del known[name]
                _remember(folder, known)
                self._events.write("node unregistered", hospital=name)
                self._tell(f"{name} is turned away from now on")
        new = {name: member for name, member in members.items() if member.status == "approved" and name not in known}
        if not new:
            return
        files = {name: folder / f"registering-{number}.pub" for number, name in enumerate(new)}
        for name, file in files.items():
            write_atomic(file, openssh_public(new[name].node_public_pem))
        try:
            registered = register(folder, files)
        finally:
            for file in files.values():
                file.unlink(missing_ok=True)
        for name, node in registered.items():
            known[name] = node, new[name].node_public_pem
            self._events.write("node registered", hospital=name)
            self._tell(f"{name} may connect")
        _remember(folder, known)
        if len(registered) < len(new):
            raise FederationError("not all nodes could be registered", "they are tried again")

    def _wait(self, port: int) -> None:
        assert self.child is not None
        try:
            wait_for_port("127.0.0.1", port, _START)
        except FederationError as error:
            said = self.child.tail().strip().splitlines()[-1:]
            raise FederationError(
                f"the server does not come up at port {port} ({said[0][:200] if said else 'it says nothing'})",
                f"see {flower_folder(self._federation.path) / 'server.log'}; is the port free?",
            ) from error
        if self.child.ended() is not None:
            raise FederationError(
                f"another program listens at port {port}", "stop it, or make the federation with another --port"
            )

    def _warn(self) -> None:
        self._warned = time.monotonic()
        federation = self._federation
        for line in certificate_warnings(read_certificate(federation.ca_pem), read_certificate(federation.server_pem)):
            self._events.write("certificate", warning=line)
            self._tell(line)


def _registered(federation: FederationFolder) -> dict[str, tuple[str, str]]:
    """Hospital -> node id and public key, as the SuperLink knows them."""
    path = flower_folder(federation.path) / "nodes.json"
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return {name: (str(one["node"]), str(one["public"])) for name, one in read.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FederationError(f"{path} is damaged", "remove it; the server makes it anew from the roster") from error


def _remember(folder: Path, known: Mapping[str, tuple[str, str]]) -> None:
    write_json(
        folder / "nodes.json", {name: {"node": node, "public": public} for name, (node, public) in known.items()}
    )
