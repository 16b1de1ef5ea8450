"""The worker's door: it survives whatever comes through it, and lets nothing large in."""

from __future__ import annotations

import contextlib
import random
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedmed.errors import FederationError, OutputNotWritableError, RunBusyError
from fedmed.network.socket_line import Line, ask

pytestmark = pytest.mark.unit

LIMIT = 1 << 16


@contextlib.contextmanager
def serving(path: Path, answer: Callable[[bytes], bytes] = bytes.upper, **settings: float) -> Iterator[Line]:
    line = Line(path, limit=LIMIT, **settings)  # type: ignore[arg-type]
    thread = threading.Thread(target=line.serve, args=(answer,))
    thread.start()
    while thread.is_alive() and not path.exists():
        time.sleep(0.01)
    try:
        yield line
    finally:
        line.stop()
        thread.join(10)
    assert not thread.is_alive()


def raw_line(path: Path) -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(5)
    line.connect(str(path))
    return line


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def test_a_frame_gets_its_answer_and_the_socket_goes_with_the_worker(path: Path) -> None:
    with serving(path):
        assert ask(path, b"hello", 5) == b"HELLO"
        assert ask(path, b"", 5) == b""
        assert ask(path, b"x" * LIMIT, 5) == b"X" * LIMIT
    assert not path.exists()


def test_nothing_is_sent_after_the_length_of_an_empty_frame(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker answers as soon as it knows the length, and leaves; a send of no bytes would then break the line."""

    class Watched(socket.socket):
        def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
            assert data
            super().sendall(data, flags)

    with serving(path):
        monkeypatch.setattr(socket, "socket", Watched)
        assert ask(path, b"", 5) == b""


def test_the_group_may_use_the_socket_and_others_may_not(path: Path) -> None:
    with serving(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_frame_beyond_the_limit_is_refused_before_it_is_sent(path: Path) -> None:
    with serving(path):
        with raw_line(path) as line:
            line.sendall(struct.pack("<Q", 2**63))
            assert line.recv(1) == b""
        with pytest.raises(FederationError):
            ask(path, b"x" * (LIMIT + 1), 5)
        assert ask(path, b"still there", 5) == b"STILL THERE"


def test_garbage_and_peers_that_leave_do_no_harm(path: Path) -> None:
    noise = random.Random(3)
    with serving(path, patience=0.5):
        for length in (0, 1, 7, 8, 9, 100, 5000):
            with raw_line(path) as line, contextlib.suppress(OSError):
                line.sendall(noise.randbytes(length))
        for _ in range(5):  # asks and does not wait for the answer
            with raw_line(path) as line:
                line.sendall(struct.pack("<Q", 3) + b"abc")
        assert ask(path, b"still there", 5) == b"STILL THERE"


def test_a_slow_peer_loses_its_place_and_holds_nobody_up(path: Path) -> None:
    with serving(path, patience=0.5), raw_line(path) as slow:
        slow.sendall(struct.pack("<Q", 10) + b"a")
        started = time.monotonic()
        assert ask(path, b"quick", 5) == b"QUICK"
        assert time.monotonic() - started < 0.5 + 0.4
        assert slow.recv(1) == b""


def test_more_peers_than_threads_are_answered_one_after_another(path: Path) -> None:
    at_once, most = [], []

    def answer(raw: bytes) -> bytes:
        at_once.append(raw)
        most.append(len(at_once))
        time.sleep(0.02)
        at_once.remove(raw)
        return raw + b"!"

    got: dict[bytes, bytes] = {}
    with serving(path, answer, peers=2):
        raws = [b"%d" % number for number in range(8)]
        threads = [threading.Thread(target=lambda raw=raw: got.update({raw: ask(path, raw, 10)})) for raw in raws]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == {raw: raw + b"!" for raw in raws}
    assert max(most) == 1


def test_an_answer_that_fails_costs_one_peer_its_answer(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def answer(raw: bytes) -> bytes:
        if raw == b"bad":
            raise ValueError("what a record says")
        return raw

    with serving(path, answer):
        with pytest.raises(FederationError, match="hung up"):
            ask(path, b"bad", 5)
        assert ask(path, b"good", 5) == b"good"
    assert "ValueError" in caplog.text
    assert "what a record says" not in caplog.text


def test_who_waits_too_long_or_asks_where_nobody_is_gets_one_line(path: Path) -> None:
    with pytest.raises(FederationError, match="no worker listens"):
        ask(path, b"x", 1)
    with (
        serving(path, lambda raw: time.sleep(0.6) or raw),
        pytest.raises(FederationError, match=r"within 0.2 s"),
    ):
        ask(path, b"x", 0.2)


def test_a_dead_worker_leaves_a_socket_that_the_next_one_replaces_and_a_living_one_keeps_it(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(FederationError, match="no worker listens"):
        ask(path, b"x", 1)
    line = Line(path)
    thread = threading.Thread(target=line.serve, args=(bytes.upper,))
    thread.start()
    try:
        for _ in range(500):
            with contextlib.suppress(FederationError):
                assert ask(path, b"new", 5) == b"NEW"
                break
            time.sleep(0.01)
        with pytest.raises(RunBusyError):
            Line(path).serve(bytes.upper)
        assert ask(path, b"new", 5) == b"NEW"
    finally:
        line.stop()
        thread.join()


def test_a_place_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputNotWritableError, match="no socket"):
        Line(tmp_path / "file").serve(bytes.upper)
    assert (tmp_path / "file").read_text() == "mine"
    for long in (tmp_path / ("x" * 120), tmp_path / "absent" / "s"):
        with pytest.raises(OutputNotWritableError):
            Line(long).serve(bytes.upper)


def test_what_is_raised_to_stop_ends_the_work_at_hand(path: Path) -> None:
    """As a signal handler does in the main thread."""

    def answer(raw: bytes) -> bytes:
        raise SystemExit(0)

    ended = []

    def serve() -> None:
        try:
            Line(path).serve(answer)
        except SystemExit:
            ended.append(True)

    thread = threading.Thread(target=serve)
    thread.start()
    while not path.exists():
        time.sleep(0.01)
    with pytest.raises(FederationError):
        ask(path, b"x", 5)
    thread.join(10)
    assert ended == [True]
    assert not path.exists()
