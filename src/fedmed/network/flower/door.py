"""The SuperLink behind a door that keeps strangers out and writes down whom it refused. launch -> HERE -> SuperLink.

Flower 1.41 serves three interfaces on one port: the nodes' (/v1/fleet), the control's (/v1/control: register a node,
start a run, which is code that the SuperLink then executes) and the server apps' (/v1/runtime). Only the first asks
who is there. So the others are for this machine's loopback alone, and a hospital cannot start a run here.

Every refused request, and every TLS handshake that failed, becomes a line of ``server.log.jsonl``: a wrong authority,
an expired certificate and plain text all end in the handshake.

Not covered: other users of this machine, who share its loopback, and a proxy or tunnel that ends on it, which makes all
its clients this machine: forward the port, do not relay it. The address of a failed handshake, which is in no object
that knows why.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

from fedmed.network.event_log import REFUSED, EventLog

LOG = "FEDMED_SERVER_LOG"
"""Environment variable: the file that refusals go to."""

_FOR_ALL = "/v1/fleet/"
_HERE = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
_WORDS = {
    "activate-node": "a node was refused: its key is unknown or revoked, or a node with this key is there already",
    "register-node": "a node without a registered key was refused",
    "push-messages": "a reply to a run that has ended; the coordinator asks again",
}

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Scope], Awaitable[None]]


class Door:
    """An ASGI application around Flower's.

    Args:
        inside: Flower's.
        log: of refusals.
    """

    def __init__(self, inside: Any, log: EventLog) -> None:
        self._inside, self._log = inside, log

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inside(scope, receive, send)
            return
        peer, path = (scope.get("client") or ("unknown", 0))[0], str(scope.get("path", ""))[:200]
        if peer not in _HERE and (scope["type"] != "http" or not path.startswith(_FOR_ALL)):
            self._log.write(REFUSED, peer=peer, path=path, why="only this machine may ask for that")
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 403, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            return

        async def watched(message: Scope) -> None:
            if message["type"] == "http.response.start" and message["status"] in (401, 403, 412):
                last = path.rsplit("/", 1)[-1]
                by_status = "the node is not, or no longer, registered" if message["status"] == 401 else ""
                why = by_status or _WORDS.get(last, "")
                self._log.write(REFUSED, peer=peer, path=path, status=message["status"], why=why)
            await send(message)

        await self._inside(scope, receive, watched)


def log_handshakes(log: EventLog) -> None:
    """Write down every TLS handshake that fails in this process; servers themselves keep silent about them."""

    class Watched(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                if self.server_side:
                    log.write("handshake failed", why=_handshake_words(error))
                raise

    ssl.SSLContext.sslobject_class = Watched


def _handshake_words(error: ssl.SSLError) -> str:
    reason = error.reason or type(error).__name__
    if reason in ("HTTP_REQUEST", "WRONG_VERSION_NUMBER", "UNEXPECTED_MESSAGE"):
        return f"plain text where TLS is spoken ({reason})"
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        return f"the peer does not accept this server's certificate ({reason})"
    return reason


def main() -> None:
    """``flower-superlink`` with its own arguments, behind the door."""
    import uvicorn

    flower: Any = import_module("flwr.superlink.cli.flower_superlink")  # its package has a function of that name

    log = EventLog(Path(os.environ[LOG]))
    log_handshakes(log)

    def run(app: Any, **settings: Any) -> None:
        # A header must not say who asks: FORWARDED_ALLOW_IPS in the environment would let anybody be 127.0.0.1.
        uvicorn.run(Door(app, log), **settings, proxy_headers=False)

    flower.uvicorn = SimpleNamespace(run=run)  # Flower has no hook for this; the version range is pinned to one minor
    flower.flower_superlink()


if __name__ == "__main__":
    main()
