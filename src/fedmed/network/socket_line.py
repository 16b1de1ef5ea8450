"""Frames over a Unix socket: the one door between the relay, which nobody trusts, and the worker.
relay -> HERE -> worker.

    a connection   length u64, frame; then length u64, frame back; then it ends

The relay may run as another user of the same group: the socket has mode 0660. Whoever can reach it can send bytes, so a
length beyond the limit is refused before anything is allocated, memory grows only with bytes that came, and a peer that
is slower than the time-out loses its place. Some threads read, one peer at a time each; the caller's thread alone
answers, one frame after another, so a signal that raises there ends the work at hand.

Not covered: who is at the other end and whether a frame may be believed, which is ``orders``' business; fairness among
peers of one group.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedmed.errors import FederationError, OutputNotWritableError, RunBusyError
from fedmed.network.orders import LARGEST_FRAME
from fedmed.utils.files import clear_write_errors

log = logging.getLogger(__name__)

MODE = 0o660
PATIENCE = 60.0  # seconds in which a peer must send its whole frame, or take the answer
_LONGEST_PATH = 100  # bytes; Linux allows 107, other systems 103
_LENGTH = struct.Struct("<Q")
_CHUNK = 1 << 20
_LOOK = 0.2  # seconds between looks at whether it is time to stop


def ask(path: Path, raw: bytes, timeout: float, *, limit: int = LARGEST_FRAME) -> bytes:
    """Send a frame and wait for the answer.

    Args:
        path: the worker's socket.
        raw: the frame.
        timeout: seconds for all of it, the worker's training among them.
        limit: longer answers are refused.

    Raises:
        FederationError: nobody listens there, no answer came in time, or the worker hung up, as it does on a frame that
            is too long.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            line.settimeout(max(timeout, 0.001))
            line.connect(os.fspath(_short(path)))
            _send(line, raw, deadline)
            answer = _receive(line, limit, deadline)
        except TimeoutError as error:
            raise FederationError(
                f"the worker at {path} did not answer within {timeout:g} s", "ask again; it keeps its answer"
            ) from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise FederationError(
                f"no worker listens at {path}", "start it with 'fedmed federation hospital'"
            ) from error
        except OSError as error:
            raise FederationError(
                f"the line to the worker at {path} broke ({error.strerror or error})", "ask again"
            ) from error
    if answer is None:
        raise FederationError(f"the worker at {path} hung up without an answer", "see its log; ask again")
    return answer


@dataclass(slots=True)
class _Asked:
    """A frame on its way from a reading thread to the answering one and back."""

    raw: bytes
    answer: bytes | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Line:
    """The worker's end.

    Args:
        path: where the socket will be; one that a dead process left is replaced.
        limit: longest frame, in bytes.
        patience: seconds in which a peer must send its frame, and take the answer.
        peers: threads that read, each one peer at a time.
    """

    def __init__(self, path: Path, *, limit: int = LARGEST_FRAME, patience: float = PATIENCE, peers: int = 4) -> None:
        self._path, self._limit, self._patience, self._peers = path, limit, patience, peers
        self._stop = threading.Event()
        self._asked: queue.Queue[_Asked] = queue.Queue()

    def serve(self, answer: Callable[[bytes], bytes]) -> None:
        """Answer frames in this thread until ``stop``, or until something that is no Exception is raised in it.

        Args:
            answer: frame -> frame; what it raises costs that peer its answer and nothing else.

        Raises:
            RunBusyError: another process listens there. OutputNotWritableError: the socket cannot be made.
        """
        with _listening(self._path) as listener:
            threads = [threading.Thread(target=self._read, args=(listener,), daemon=True) for _ in range(self._peers)]
            for thread in threads:
                thread.start()
            try:
                while not self._stop.is_set():
                    with contextlib.suppress(queue.Empty):
                        self._answer_one(self._asked.get(timeout=_LOOK), answer)
            finally:
                self._stop.set()
                for thread in threads:
                    thread.join(2.0)

    def stop(self) -> None:
        """End ``serve`` after the frame at hand; from any thread."""
        self._stop.set()

    def _answer_one(self, asked: _Asked, answer: Callable[[bytes], bytes]) -> None:
        try:
            asked.answer = answer(asked.raw)
        except Exception as error:  # noqa: BLE001  (one bad frame must not close the door for all others)
            log.error("a frame of %d bytes got no answer: %s", len(asked.raw), type(error).__name__)
        finally:
            asked.done.set()

    def _read(self, listener: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                peer, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:  # the listener was closed, or this process has too many files open
                self._stop.wait(_LOOK)
                continue
            with peer, contextlib.suppress(OSError):  # whoever leaves, leaves
                self._attend(peer)

    def _attend(self, peer: socket.socket) -> None:
        raw = _receive(peer, self._limit, time.monotonic() + self._patience)
        if raw is None:
            return
        asked = _Asked(raw)
        self._asked.put(asked)
        while not asked.done.wait(_LOOK):
            if self._stop.is_set():
                return
        if asked.answer is not None:
            _send(peer, asked.answer, time.monotonic() + self._patience)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    _remove_dead(_short(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, contextlib.ExitStack() as after:
        with clear_write_errors(path):
            listener.bind(os.fspath(path))
            after.callback(path.unlink, missing_ok=True)
            path.chmod(MODE)  # before anybody can connect
            listener.listen()
        listener.settimeout(_LOOK)
        yield listener


def _remove_dead(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_socket():
        raise OutputNotWritableError(f"{path} is there and is no socket", "remove it, or name another place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise RunBusyError(f"another worker listens at {path}", "stop it, or give this one another folder")


def _short(path: Path) -> Path:
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise OutputNotWritableError(
            f"{path} is longer than the {_LONGEST_PATH} bytes that a socket's path may have",
            "choose a folder nearer to the root",
        )
    return path


def _send(line: socket.socket, raw: bytes, deadline: float) -> None:
    for part in (_LENGTH.pack(len(raw)), raw):
        if not part:  # an empty frame ends with its length: who read that may have answered and left
            continue
        line.settimeout(_left(deadline))
        line.sendall(part)


def _receive(line: socket.socket, limit: int, deadline: float) -> bytes | None:
    """A frame; None: the other end left, or claims more than the limit."""
    prefix = _exactly(line, _LENGTH.size, deadline)
    if prefix is None:
        return None
    (length,) = _LENGTH.unpack(prefix)
    if length > limit:
        log.warning("refused a frame of %d bytes, %d is the most", length, limit)
        return None
    return _exactly(line, length, deadline)


def _exactly(line: socket.socket, length: int, deadline: float) -> bytes | None:
    got = bytearray()  # grows with what comes, whatever was announced
    while len(got) < length:
        line.settimeout(_left(deadline))
        piece = line.recv(min(_CHUNK, length - len(got)))
        if not piece:
            return None
        got += piece
    return bytes(got)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
