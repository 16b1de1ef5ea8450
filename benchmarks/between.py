"""What stands between a hospital's node and the server, and between the node and the worker: lines that can be cut.

node -- Link (TCP, TLS goes through unread) -- server        node -- Tap (Unix socket) -- worker
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_LENGTH = struct.Struct("<Q")
_CHUNK, _PACKET = 1 << 16, 1448  # bytes


class Link:
    """A TCP line to ``port`` that can be cut for a while, or made slow.

    Args:
        port: where it leads.
        host: address on which it begins and ends.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = host, port
        self._delay = self._loss = self._again = 0.0
        self._draw = random.Random("lost packets")
        self._listener = socket.create_server((host, 0))
        self.port = int(self._listener.getsockname()[1])
        self._cut_until = 0.0
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, seconds: float) -> None:
        """Break what is open, and let nothing through for so long."""
        self._cut_until = time.monotonic() + seconds
        for end in list(self._open):
            _close(end)

    def hold_back(self, delay: float, loss: float, again: float) -> None:
        """From now on every piece comes ``delay`` seconds later, a share ``loss`` of them ``again`` seconds more."""
        self._delay, self._loss, self._again = delay, loss, again

    def close(self) -> None:
        _close(self._listener)
        self.cut(0.0)

    def _accept(self) -> None:
        for near in _peers(self._listener):
            if time.monotonic() < self._cut_until:
                _close(near)
                continue
            try:
                far = socket.create_connection(self._target, timeout=5.0)
            except OSError:
                _close(near)
                continue
            far.settimeout(None)
            self._open |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        due: queue.Queue[tuple[float, bytes]] = queue.Queue()
        threading.Thread(target=self._deliver, args=(due, other), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := one.recv(_CHUNK):
                for start in range(0, len(data), _PACKET):
                    lost = self._again if self._loss and self._draw.random() < self._loss else 0.0
                    due.put((time.monotonic() + self._delay + lost, data[start : start + _PACKET]))
        due.put((time.monotonic() + self._delay, b""))
        _close(one)
        self._open.discard(one)

    def _deliver(self, due: queue.Queue[tuple[float, bytes]], other: socket.socket) -> None:
        """In order, as a stream is; what waits for a lost piece waits with it."""
        with contextlib.suppress(OSError):
            while True:
                when, data = due.get()
                time.sleep(max(0.0, when - time.monotonic()))
                if not data:
                    break
                other.sendall(data)
        _close(other)
        self._open.discard(other)


class Tap:
    """The way to a worker's socket, where the next reply can be damaged; keeps every reply that went through whole.

    Args:
        worker: the worker's socket.
        path: where nodes find this one.
    """

    def __init__(self, worker: Path, path: Path) -> None:
        self._worker, self.path = worker, path
        self.replies: list[bytes] = []
        self.damaged = 0
        self._damage_next = threading.Event()
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def damage_next(self) -> None:
        """Flip a bit of the next reply."""
        self._damage_next.set()

    def close(self) -> None:
        _close(self._listener)

    def _accept(self) -> None:
        for near in _peers(self._listener):
            threading.Thread(target=self._one, args=(near,), daemon=True).start()

    def _one(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError, struct.error), near, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as far:
            order = _frame(near)
            far.connect(os.fspath(self._worker))
            far.sendall(order)
            reply = _frame(far)
            if self._damage_next.is_set():
                self._damage_next.clear()
                self.damaged += 1
                middle = len(reply) // 2
                reply = reply[:middle] + bytes([reply[middle] ^ 0x10]) + reply[middle + 1 :]
            else:
                self.replies.append(reply[_LENGTH.size :])
            near.sendall(reply)


def _peers(listener: socket.socket) -> Iterator[socket.socket]:
    """Who dials, until the listener is closed."""
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        yield near


def _frame(line: socket.socket) -> bytes:
    """One frame with its length before it."""
    parts = [_exactly(line, _LENGTH.size)]
    (length,) = _LENGTH.unpack(parts[0])
    return parts[0] + _exactly(line, length)


def _exactly(line: socket.socket, count: int) -> bytes:
    return b"".join(_pieces(line, count))


def _pieces(line: socket.socket, count: int) -> Iterator[bytes]:
    while count:
        piece = line.recv(min(count, _CHUNK))
        if not piece:
            raise ConnectionError("the peer hung up")
        count -= len(piece)
        yield piece


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        end.close()
