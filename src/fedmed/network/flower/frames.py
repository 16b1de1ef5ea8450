"""Frames between the coordinator and Flower's server app, over one Unix socket. line <- HERE -> server_app.

    length of the header u32, length of the body u64, header: JSON, body: bytes

Both ends are this machine's and this user's. Not covered: a peer that lies; replies are believed by their signature.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, TypeAlias

SOCKET = "FEDMED_COORDINATOR_SOCKET"
"""Environment variable of the SuperLink: where the coordinator listens. No setting of a run: hospitals see those."""

_HEAD = struct.Struct("<IQ")
_CHUNK = 1 << 20
_LONGEST_HEADER = 1 << 20

Frame: TypeAlias = tuple[dict[str, Any], bytes]


class Wire:
    """One connected socket that frames go over, both ways."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._kept = bytearray()
        peer.setblocking(True)

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Raises OSError where the other end has gone."""
        raw = json.dumps(header).encode()
        self._peer.sendall(_HEAD.pack(len(raw), len(body)) + raw)
        self._peer.sendall(body)

    def receive(self, seconds: float) -> Iterator[Frame]:
        """All whole frames that come within ``seconds``; returns at the first moment in which one is there.

        Raises:
            ConnectionError: the other end has gone, or does not speak this.
        """
        deadline = time.monotonic() + seconds
        while True:
            found = list(self._whole())
            if found:
                yield from found
                return
            left = deadline - time.monotonic()
            if not select.select([self._peer], [], [], max(left, 0.0))[0]:
                return
            piece = self._peer.recv(_CHUNK)
            if not piece:
                raise ConnectionResetError("the other end has gone")
            self._kept += piece

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._peer.close()

    def _whole(self) -> Iterator[Frame]:
        place = 0
        while len(self._kept) - place >= _HEAD.size:
            header_length, length = _HEAD.unpack_from(self._kept, place)
            if header_length > _LONGEST_HEADER:
                raise ConnectionAbortedError("these are no frames")
            start = place + _HEAD.size + header_length
            if len(self._kept) < start + length:
                break
            header = json.loads(self._kept[place + _HEAD.size : start])
            yield header, bytes(self._kept[start : start + length])
            place = start + length
        del self._kept[:place]
