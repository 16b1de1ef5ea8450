"""Command lines and surroundings of Flower's processes, and what to wait for. cli, demo -> HERE -> processes.

Nothing phones home: telemetry, the update check and the installation of dependencies are off, Flower's own folder lies
inside the federation's, and a proxy is never used on the way to this machine itself.

Not covered: starting at boot and restarting after one, which is systemd's (docs/deploy.md).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedmed.errors import CertificateError, FederationError, MissingExtraError
from fedmed.network.flower.door import LOG
from fedmed.network.flower.frames import SOCKET
from fedmed.utils.files import write_atomic

CONNECTION = "here"  # name of the coordinator's SuperLink in Flower's own settings
_COMMANDS = ("flwr", "flower-superlink", "flower-supernode", "flower-superexec")
_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "PYTHONUNBUFFERED": "1",
}
_APP = """\
[project]
name = "fedmed-relay"
version = "1.0.0"
description = "Relays bytes between FED-MED's coordinator and a hospital's worker"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedmed"

[tool.flwr.app.components]
serverapp = "fedmed_relay_server:app"
clientapp = "fedmed_relay_client:app"

[tool.flwr.app.config]
"""
_APP_CODE = '''\
"""Names the relay that the installed FED-MED has; no code of FED-MED travels."""

from fedmed.network.flower import {half}

app = {half}.app
'''


def flower_folder(federation: Path) -> Path:
    """Flower's own folder in a coordinator's or a hospital's; made where it is not there."""
    folder = federation.absolute() / "flower"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What Flower's processes find around them.

    Args:
        home: Flower's own folder.
        more: further variables.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    beside = str(Path(sys.executable).parent)  # Flower starts its helpers by their bare names
    local = ",".join(filter(None, (kept.get("NO_PROXY", kept.get("no_proxy", "")), "127.0.0.1,localhost,::1")))
    return {
        **kept, **_OFF, "FLWR_HOME": str(home), "PATH": beside + os.pathsep + kept.get("PATH", ""),
        "NO_PROXY": local, "no_proxy": local, **(more or {}),
    }  # fmt: skip


def check_installed() -> None:
    """Raises MissingExtraError where Flower's commands are not beside this Python."""
    folder = Path(sys.executable).parent
    missing = [name for name in _COMMANDS if shutil.which(name, path=str(folder)) is None]
    if missing:
        raise MissingExtraError(
            f"Flower's {missing[0]} is not installed beside {sys.executable}", "pip install 'fedmed[network]'"
        )


def superlink_command(
    folder: Path, *, bind: str, port: int, certificate: Path, key: Path, authority: Path
) -> tuple[list[str], dict[str, str]]:
    """The server: Flower's SuperLink behind our door.

    Args:
        folder: Flower's own.
        bind: address to listen on.
        port: that hospitals dial.
        certificate, key, authority: the server's TLS files, the key in the plain.

    Returns:
        Command line and environment.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(folder / "config.toml", (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\n'
        f"root-certificates = {json.dumps(str(authority))}\n"
    ))  # fmt: skip
    command = [
        sys.executable, "-m", "fedmed.network.flower.door", "--host", bind, "--port", str(port),
        "--ssl-certfile", str(certificate), "--ssl-keyfile", str(key), "--ssl-ca-certfile", str(authority),
        "--enable-supernode-auth", "--database", str(folder / "state.db"), "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    around = {
        SOCKET: str(folder / "coordinator.sock"), LOG: str(folder.parent / "server.log.jsonl"),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "3",  # seconds; it starts one relay a run, and each look costs the server
    }  # fmt: skip
    return command, environment(folder, around)


def supernode_command(
    home: Path, *, host: str, port: int, authority: Path, key: Path, worker: Path
) -> tuple[list[str], dict[str, str]]:
    """A hospital's node.

    Args:
        home: Flower's own folder at this hospital.
        host, port: of the coordinator's server.
        authority: the federation's; no other is trusted.
        key: the node's private key, in the plain.
        worker: socket of the hospital's worker.

    Returns:
        Command line and environment; ``--port`` is to follow, free on loopback, where the node and its relays meet.
    """
    command = [
        str(Path(sys.executable).parent / "flower-supernode"), "--superlink", _address(host, port),
        "--root-certificates", str(authority), "--auth-supernode-private-key", str(key),
        "--node-config", f"socket={json.dumps(str(worker))}", "--host", "127.0.0.1",
    ]  # fmt: skip
    return command, environment(home)


def write_bundle(folder: Path) -> Path:
    """The app that Flower wants to be given: two names, no code of its own. Returns its folder."""
    bundle = folder / "bundle"
    bundle.mkdir(parents=True, exist_ok=True)
    write_atomic(bundle / "pyproject.toml", _APP)
    for half in ("server", "client"):  # two files, so that each end imports its own half alone
        write_atomic(bundle / f"fedmed_relay_{half}.py", _APP_CODE.format(half=f"{half}_app"))
    return bundle


def flwr(folder: Path, *commands: Sequence[str], seconds: float = 60.0) -> list[dict[str, object]]:
    """Run some of Flower's commands at the coordinator, in turn, and read their JSON.

    Args:
        folder: Flower's own.
        commands: the words after ``flwr`` of each.
        seconds: time for each.

    Returns:
        What each said; fewer than commands where one failed, whose own ``success`` is then false.

    Raises:
        FederationError: none of it worked, or it took too long.
    """
    what = f"'flwr {' '.join(commands[0][:2])}'"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fedmed.network.flower.control"], env=environment(folder), capture_output=True,
            input=json.dumps([list(words) for words in commands]), text=True, timeout=seconds * len(commands),
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise FederationError(f"{what} did not end in time", "is the server busy or stopped?") from error
    found = _objects(done.stdout)
    if not found or not found[0].get("success"):
        told = str(found[0].get("error-message")) if found else done.stderr or done.stdout
        said = told.strip().splitlines()[-1:] or ["it says nothing"]
        raise FederationError(f"{what} failed ({said[0][:300]})", "see the server's log")
    return found


def _objects(text: str) -> list[dict[str, object]]:
    """The JSON objects that follow each other in a text, up to the first thing that is none."""
    found: list[dict[str, object]] = []
    reader = json.JSONDecoder()
    while (start := text.find("{")) >= 0:
        try:
            one, end = reader.raw_decode(text, start)
        except ValueError:
            break
        found.append(one)
        text = text[end:]
    return found


def register(folder: Path, public_files: Mapping[str, Path]) -> dict[str, str]:
    """Make nodes known to the SuperLink.

    Args:
        folder: Flower's own.
        public_files: hospital -> its node's public key in OpenSSH's form.

    Returns:
        Hospital -> node id, of those that worked; at least one.

    Raises:
        FederationError: none did.
    """
    words = [("supernode", "register", str(file), CONNECTION, "--name", name) for name, file in public_files.items()]
    said = flwr(folder, *words)
    return {name: str(one["node-id"]) for name, one in zip(public_files, said, strict=False) if one.get("success")}


def unregister(folder: Path, node: str) -> None:
    """Turn a node away from now on, also while it is connected. Raises FederationError."""
    flwr(folder, ("supernode", "unregister", node, CONNECTION))


def start_relay(folder: Path) -> str:
    """Start the app at the SuperLink; its server half dials the coordinator's socket. Returns the run's id."""
    return str(flwr(folder, ("run", str(write_bundle(folder)), CONNECTION))[0]["run-id"])


def free_port() -> int:
    """A port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(host: str, port: int, seconds: float) -> None:
    """Raises FederationError where nobody listens in time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=2.0).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise FederationError(
                    f"nobody listens at {host}:{port} ({error.strerror or error})",
                    "start 'fedmed federation server', or open the port in the firewall",
                ) from error
        time.sleep(0.2)


def check_server(host: str, port: int, authority: Path, seconds: float = 10.0) -> None:
    """Speak TLS with the server once and say plainly what is wrong; Flower's own words are about exit codes.

    Raises:
        CertificateError: it is not the federation's, or has expired. FederationError: nobody answers.
    """
    wait_for_port(host, port, seconds)
    context = ssl.create_default_context(cafile=str(authority))
    try:
        with (
            socket.create_connection((host, port), timeout=seconds) as line,
            context.wrap_socket(line, server_hostname=host),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise CertificateError(
            f"the server at {host}:{port} shows a certificate that cannot be trusted ({error.verify_message})",
            "compare ca.pem with the coordinator's; an expired one is renewed there with 'fedmed federation renew'",
        ) from error
    except OSError as error:
        raise FederationError(
            f"{host}:{port} does not speak TLS as this federation does ({error.strerror or error})",
            "is another program listening there?",
        ) from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
