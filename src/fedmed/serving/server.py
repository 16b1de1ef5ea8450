"""The process that serves: its socket, and an end that loses no accepted question. api -> HERE -> cli.

On SIGTERM or Ctrl-C the port is closed, what was accepted is answered, and then the process ends; a second Ctrl-C ends
it at once.
Not covered: several processes, TLS, a socket handed over by systemd.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

import uvicorn
from fastapi import FastAPI

from fedmed.errors import ServeError
from fedmed.utils.logger import get_logger

log = get_logger(__name__)

_WAITING_CONNECTIONS = 512  # that the system holds before they are accepted
_MOST_CONNECTIONS = 1024
_IDLE = 30  # seconds that a connection is kept between requests
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def open_port(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ServeError: the port is taken, or the host is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_WAITING_CONNECTIONS)
    except OSError as error:
        hint = "choose another with --port" if error.errno == errno.EADDRINUSE else "check --host and --port"
        reason = error.strerror or str(error)
        raise ServeError(f"cannot listen at {host}, port {port} ({reason})", hint) from error
    except OverflowError as error:
        raise ServeError(f"there is no port {port}", "choose one up to 65535 with --port") from error


def serve(
    app: FastAPI,
    listening: socket.socket,
    *,
    drain_seconds: float,
    at_end: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until a signal ends it.

    Args:
        app: of ``create_app``.
        listening: of ``open_port``; closed at the end.
        drain_seconds: for accepted questions, once a signal has come.
        at_end: run beside that; ends connections that would stay open by themselves.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # it would hold addresses; the audit says what was answered
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=int(drain_seconds),
        limit_concurrency=_MOST_CONNECTIONS,
        backlog=_WAITING_CONNECTIONS,
    )
    with listening:
        _Server(config, at_end).run(sockets=[listening])
    log.info("the server has ended")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, at_end: Callable[[], Awaitable[None]] | None) -> None:
        super().__init__(config)
        self._at_end = at_end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.ensure_future(self._at_end()) if self._at_end is not None else None
        await super().shutdown(sockets)
        if ending is not None:
            ending.cancel()
