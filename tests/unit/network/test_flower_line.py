"""The coordinator's end of Flower: names for nodes, and losses told when the relay goes. No Flower runs here."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmed.errors import FederationError
from fedmed.network.flower import launch, line
from fedmed.network.flower.frames import Wire
from fedmed.network.flower.line import FlowerLine
from fedmed.network.processes import Child

pytestmark = pytest.mark.unit


class Relay:
    """What the server app does, in a thread: tells its nodes, answers each order with its own bytes, turned round."""

    def __init__(self, socket_path: Path, answers: bool = True) -> None:
        self.answers = answers
        self.got: list[tuple[dict[str, Any], bytes]] = []
        self._peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._peer.connect(str(socket_path))
        self._wire = Wire(self._peer)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._peer, contextlib.suppress(OSError):
            self._wire.send({"kind": "nodes", "nodes": ["11", "12", "99"]})
            while True:
                for header, body in self._wire.receive(0.05):
                    self.got.append((header, body))
                    if self.answers:
                        self._wire.send(
                            {"kind": "reply", "ticket": header["ticket"], "node": header["node"]}, body[::-1]
                        )

    def hang_up(self) -> None:
        self._peer.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        self._thread.join(10.0)


@pytest.fixture
def relays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Relay]]:
    """Relays that the line started, newest last; each dials in at once."""
    started: list[Relay] = []

    def start(folder: Path) -> str:
        started.append(Relay(folder / "coordinator.sock"))
        return str(len(started))

    monkeypatch.setattr(line, "start_relay", start)
    monkeypatch.setattr(line, "_PAUSE", 0.0)
    yield started
    for relay in started:
        relay.join()


@pytest.fixture
def flower(tmp_path: Path, relays: list[Relay]) -> Iterator[FlowerLine]:
    made = FlowerLine(tmp_path, lambda: {"11": "hospital_A", "12": "hospital_B"})
    yield made
    made.close()


def until(true: Callable[[], Any], flower: FlowerLine, seconds: float = 20.0) -> list[Any]:
    """What arrives until something holds."""
    arrived: list[Any] = []
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        arrived += flower.poll(0.05)
    assert true()
    return arrived


def test_orders_go_to_nodes_and_replies_come_back_by_name(flower: FlowerLine, relays: list[Relay]) -> None:
    until(lambda: flower.hospitals() == {"hospital_A", "hospital_B"}, flower)
    flower.send("hospital_B", b"abc" * 1_000_000, 30)
    arrived: list[Any] = []
    deadline = time.monotonic() + 20
    while not arrived and time.monotonic() < deadline:
        arrived += flower.poll(0.1)
    assert [(one.hospital, one.raw) for one in arrived] == [("hospital_B", b"cba" * 1_000_000)]
    assert relays[0].got[0][0]["node"] == "12"


def test_a_node_that_is_not_registered_is_nobody(flower: FlowerLine) -> None:
    until(lambda: flower.hospitals(), flower)
    flower.send("stranger", b"x", 30)
    (arrival,) = flower.poll(0.1)
    assert (arrival.hospital, arrival.raw) == ("stranger", None)


def test_when_the_relay_hangs_up_what_was_under_way_is_lost_and_another_is_started(
    flower: FlowerLine, relays: list[Relay]
) -> None:
    until(lambda: flower.hospitals(), flower)
    relays[0].answers = False
    flower.send("hospital_A", b"x", 30)
    until(lambda: relays[0].got, flower)
    relays[0].hang_up()
    arrived = until(lambda: len(relays) == 2 and flower.hospitals(), flower)
    assert [(one.hospital, one.raw) for one in arrived] == [("hospital_A", None)]


def test_a_relay_that_falls_silent_counts_as_dead(
    flower: FlowerLine, relays: list[Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: flower.hospitals(), flower)
    monkeypatch.setattr(line, "SILENCE", 0.1)
    until(lambda: len(relays) == 2, flower)


def test_only_its_owner_may_use_the_socket(flower: FlowerLine, tmp_path: Path) -> None:
    assert (tmp_path / "coordinator.sock").stat().st_mode & 0o777 == 0o600


def test_a_socket_left_by_a_dead_coordinator_is_replaced(tmp_path: Path, relays: list[Relay]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "coordinator.sock"))
    FlowerLine(tmp_path, dict).close()
    assert not (tmp_path / "coordinator.sock").exists()


def test_flowers_objects_are_read_from_between_its_other_words() -> None:
    text = 'note {\n{"success": true, "node-id": 7}\nmore\n{"success": false}'
    assert launch._objects('{"success": true, "node-id": 7}\nmore\n{"success": false} {cut') == [
        {"success": True, "node-id": 7},
        {"success": False},
    ]
    assert launch._objects(text) == []  # what cannot be read is not guessed at


def test_the_bundle_names_the_relays_and_has_no_code_of_its_own(tmp_path: Path) -> None:
    bundle = launch.write_bundle(tmp_path)
    files = {path.name: path.read_text(encoding="utf-8") for path in bundle.iterdir()}
    assert set(files) == {"pyproject.toml", "fedmed_relay_server.py", "fedmed_relay_client.py"}
    assert "from fedmed.network.flower import client_app" in files["fedmed_relay_client.py"]
    assert "dependencies = []" in files["pyproject.toml"]


def test_no_setting_of_flower_and_no_proxy_reaches_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("FLWR_HOME", "/elsewhere")
    around = launch.environment(tmp_path)
    assert around["FLWR_TELEMETRY_ENABLED"] == "0"
    assert around["FLWR_HOME"] == str(tmp_path)
    assert "127.0.0.1" in around["NO_PROXY"]


def test_looks_for_answers_grow_rarer_but_never_cost_a_training_more_than_a_fiftieth() -> None:
    server_app = pytest.importorskip("fedmed.network.flower.server_app", reason="needs Flower")
    between = [server_app.pull_interval(float(waited)) for waited in range(600)]
    assert between[0] == 0.5
    assert between[-1] == 3.0
    assert between == sorted(between)
    assert all(pause <= max(0.5, waited / 50 + 1e-9) for waited, pause in enumerate(between))


def test_nobody_at_a_port_is_told_with_the_next_step() -> None:
    with pytest.raises(FederationError, match="nobody listens at .* firewall"):
        launch.wait_for_port("127.0.0.1", launch.free_port(), 0.1)


def test_a_child_that_ends_is_started_again_after_a_pause_and_its_own_children_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmed.network.processes.FIRST_PAUSE", 0.0)
    script = (
        "import os, subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(inner.pid))\n"
        "time.sleep(60)\n"
    )
    child = Child("a child", [sys.executable, "-c", script], tmp_path / "log")
    child.start()
    try:
        inner = _pid_in(tmp_path / "pid")
        first = child.pid
        child.kill()
        said = child.keep()
        assert said is not None
        assert "SIGKILL" in said
        assert _gone(inner)
        (tmp_path / "pid").unlink()
        deadline = time.monotonic() + 20
        while child.pid is None and time.monotonic() < deadline:
            child.keep()
        assert child.pid not in (None, first)
        assert child.restarts == 1
        inner = _pid_in(tmp_path / "pid")
    finally:
        child.stop()
    assert _gone(inner)


def test_words_that_are_made_anew_are_those_of_each_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmed.network.processes.FIRST_PAUSE", 0.0)
    ports = iter(("1111", "2222"))
    child = Child("a child", lambda: [sys.executable, "-c", f"print({next(ports)})"], tmp_path / "log")
    child.start()
    deadline = time.monotonic() + 20
    while (child.restarts == 0 or child.ended() is None) and time.monotonic() < deadline:
        child.keep() if child.restarts == 0 else time.sleep(0.01)
    child.stop()
    assert (tmp_path / "log").read_text().split() == ["1111", "2222"]


def test_the_end_of_a_childs_output_is_kept(tmp_path: Path) -> None:
    child = Child("a child", [sys.executable, "-c", "print('why it ended')"], tmp_path / "log")
    child.start()
    deadline = time.monotonic() + 20
    while child.ended() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert child.ended() == 0
    assert "why it ended" in child.tail()
    child.stop()


def test_a_child_that_says_its_last_words_and_stays_is_ended(tmp_path: Path) -> None:
    script = "import time; print('it is over', flush=True); time.sleep(60)"
    (tmp_path / "log").write_text("it is over\n")  # of an earlier life: does not count
    child = Child(
        "a child", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", last_words=["over"]
    )
    child.start()
    assert child.ended() is None
    child.stop()
    child = Child("a child", [sys.executable, "-c", script], tmp_path / "log", last_words=["it is over"])
    child.start()
    pid, deadline = child.pid, time.monotonic() + 20
    assert pid is not None
    while child.ended() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert child.ended() == -9
    assert _gone(pid)
    child.stop()


def _pid_in(path: Path) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError("the child did not start")


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_frames_cross_in_pieces_and_a_peer_that_left_is_noticed() -> None:
    left, right = socket.socketpair()
    sender, receiver = Wire(left), Wire(right)
    writer = threading.Thread(target=lambda: [sender.send({"n": n}, bytes([n]) * 300_000) for n in range(5)])
    writer.start()
    got: list[tuple[dict[str, Any], bytes]] = []
    while len(got) < 5:
        got += receiver.receive(5.0)
    writer.join()
    assert [header["n"] for header, _ in got] == list(range(5))
    assert all(body == bytes([n]) * 300_000 for n, (_, body) in enumerate(got))
    sender.close()
    with pytest.raises(ConnectionError):
        list(receiver.receive(1.0))
    receiver.close()


def test_bytes_that_are_no_frames_end_the_line() -> None:
    left, right = socket.socketpair()
    left.sendall(b"\xff" * 64)
    with pytest.raises(ConnectionError):
        list(Wire(right).receive(1.0))
    left.close()
    right.close()
