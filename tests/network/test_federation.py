"""A real federation on loopback: server, nodes and workers as processes, TLS, nodes known by their keys, tiny model."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from fedmed.config.load import load_config
from fedmed.errors import CertificateError, QuorumError
from fedmed.network.authority import new_authority
from fedmed.network.event_log import EventLog, read_events
from fedmed.network.federated_run import go_on, reaching, run_over
from fedmed.network.federation_folder import FederationFolder
from fedmed.network.flower.door import Door, _handshake_words
from fedmed.network.flower.launch import (
    check_server,
    flower_folder,
    free_port,
    superlink_command,
    supernode_command,
    wait_for_port,
)
from fedmed.network.key_files import new_node_key
from fedmed.network.loopback import Loopback, enrol, share_out
from fedmed.network.processes import Child
from fedmed.network.server import Server, members_of, read_nodes
from fedmed.network.site import Site
from fedmed.pipeline.federation import run_federation

pytestmark = pytest.mark.network

SETTINGS = [
    "model.name=builtin:tiny-llama",
    "training.engine=single",
    "training.max_steps=2",
    "training.learning_rate=0.01",
    "training.threads=1",
    "training.evaluation.max_records_per_hospital=1",
    "training.evaluation.few_shot=0",
    "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=0",
    "training.evaluation.sample_answers=0",
    "federated.rounds=2",
]
PATIENT = 90.0  # seconds; a busy machine starts a process in many


@dataclass
class Town:
    """A federation with four hospitals, all of it running."""

    folder: Path
    parts: Loopback
    settings: list[str]
    told: list[str]

    @property
    def federation(self) -> FederationFolder:
        return self.parts.federation

    @property
    def sites(self) -> dict[str, Site]:
        return self.parts.sites

    def run(self, *more: str, out: str, **around: Any) -> tuple[Path, dict[str, Any]]:
        config = load_config(None, (), [*self.settings, *more])
        start = self.federation.runs / "first" / "start"  # spares a later run loading the model
        with reaching(self.federation, patience=PATIENT, tell=self.told.append, **around) as reach:
            return run_over(self.federation, config, reach, out=out, start=start if start.is_dir() else None)

    def events(self, **wanted: str) -> list[dict[str, Any]]:
        return [
            event
            for event in read_events(self.federation.log)
            if all(text in str(event.get(key, "")) for key, text in wanted.items())
        ]

    def logged(self, **wanted: str) -> bool:
        return wait_until(lambda: bool(self.events(**wanted)))


def wait_until(true: Callable[[], bool], seconds: float = PATIENT) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.2)
    return true()


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    folder = Path(tempfile.mkdtemp(prefix="fedmed-"))  # short: a socket's path has at most about 100 bytes
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, True)
        lines = [
            {
                "question": f"What is finding {i}?",
                "answer": f"Finding {i} is a sign of the {organ}.",
                "specialty": organ,
            }
            for i in range(40)
            for organ in ("heart", "lung")
        ]
        records = folder / "records.jsonl"
        records.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        settings = [*SETTINGS, f"training.dataset.name={records}", "training.dataset.test_fraction=0.3"]
        settings.append("training.dataset.gate.unscanned=true")
        federation, sites = enrol(folder, share_out(load_config(None, (), settings), folder / "shares"))
        for site in sites.values():
            text = site.policy_path.read_text(encoding="utf-8")
            site.policy_path.write_text(text.replace("records: scanned", "records: any"), encoding="utf-8")
        told: list[str] = []
        yield Town(folder, stack.enter_context(Loopback(federation, sites, told.append).running()), settings, told)


def test_the_adapter_is_that_of_one_process_bit_for_bit_though_a_worker_was_killed(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_a_worker(round: int) -> None:
        if round == 2:
            town.parts.workers["hospital_B"].kill()

    path, summary = town.run(out="first", before_round=kill_a_worker)
    monkeypatch.chdir(tmp_path)
    alone = run_federation(load_config(None, (), town.settings), out=Path("alone")).summary
    assert summary["adapter_sha256"] == alone["adapter_sha256"]
    assert summary["status"] == "finished"
    assert (path / "adapter" / "adapter_model.safetensors").is_file()
    assert town.parts.workers["hospital_B"].restarts == 1
    lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    assert [(line["round"], line["hospital"][-1]) for line in lines] == [(r, c) for r in (1, 2) for c in "ABCD"]
    for site in town.sites.values():
        (kept,) = (site.path / "adapters").glob("*/adapter_model.safetensors")
        assert kept.read_bytes() == (path / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_refusal_is_shown_with_its_reason_and_the_run_goes_on_later_though_its_server_is_killed(town: Town) -> None:
    policy = town.sites["hospital_C"].policy_path
    text = policy.read_text(encoding="utf-8")
    policy.write_text(text.replace("rounds: 100", "rounds: 1"), encoding="utf-8")
    with pytest.raises(QuorumError, match="'hospital_C': it refuses: 2 rounds are more than 1"):
        town.run("federated.seed=18", out="stopped")
    assert json.loads((town.federation.runs / "stopped" / "summary.json").read_text())["status"] == "stopped"
    policy.write_text(text, encoding="utf-8")

    before, killed = read_nodes(town.federation), []

    def kill_the_server(round: int) -> None:
        if round == 2:
            killed.append(_pid_listening(town.federation))
            os.kill(killed[0], signal.SIGKILL)

    with reaching(town.federation, patience=PATIENT, tell=town.told.append, before_round=kill_the_server) as reach:
        _, summary = go_on(town.federation, "stopped", reach)
    assert (summary["status"], summary["rounds"]) == ("finished", 2)
    assert _pid_listening(town.federation) != killed[0]
    assert read_nodes(town.federation) == before


def test_a_client_that_does_not_speak_tls_is_refused_and_logged(town: Town) -> None:
    port = town.federation.invitation().port
    plain = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    plain.request("POST", "/v1/fleet/pull-messages", b"x")
    with pytest.raises((OSError, http.client.HTTPException)):
        plain.getresponse()
    assert town.logged(event="handshake failed", why="plain text")


def test_a_server_of_another_authority_is_not_trusted_and_the_server_logs_it(town: Town, tmp_path: Path) -> None:
    new_authority(tmp_path, "00" * 16, ["127.0.0.1"])
    with pytest.raises(CertificateError, match="cannot be trusted"):
        check_server("127.0.0.1", town.federation.invitation().port, tmp_path / "ca.pem")
    assert town.logged(event="handshake failed", why="does not accept this server's certificate")


def test_a_node_with_an_unknown_key_is_refused_and_logged(town: Town, tmp_path: Path) -> None:
    new_node_key(tmp_path / "stranger.key")
    before = len(town.events(event="refused", path="activate-node"))
    said = _dial(town, tmp_path, tmp_path / "stranger.key")
    assert "code: 2004" in said
    assert len(town.events(event="refused", path="activate-node", why="unknown or revoked")) > before


def test_a_second_node_with_the_same_key_is_refused_and_logged(town: Town, tmp_path: Path) -> None:
    before = len(town.events(event="refused", path="activate-node"))
    said = _dial(town, tmp_path, town.sites["hospital_A"].node_key)
    assert "code: 2004" in said
    assert len(town.events(event="refused", path="activate-node", why="is there already")) > before
    assert town.parts.nodes["hospital_A"].ended() is None


def test_a_revoked_hospital_is_turned_away_while_it_is_connected(town: Town, tmp_path: Path) -> None:
    town.federation.revoke("hospital_D")
    assert town.logged(event="node unregistered", hospital="hospital_D")
    assert town.logged(event="refused", status="401")
    assert wait_until(lambda: town.parts.nodes["hospital_D"].ended() is not None)
    assert "code: 2004" in _dial(town, tmp_path, town.sites["hospital_D"].node_key)
    assert sorted(members_of(town.federation)) == ["hospital_A", "hospital_B", "hospital_C"]


def test_a_server_with_an_expired_certificate_does_not_start(tmp_path: Path) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=800)
    federation = FederationFolder.create(tmp_path / "federation", ["127.0.0.1"], free_port(), now=long_ago)
    with pytest.raises(CertificateError, match="expired"), Server(federation, "127.0.0.1", None, print).running():
        pass


def test_a_hospital_does_not_trust_an_expired_certificate_and_the_server_logs_it() -> None:
    folder = Path(tempfile.mkdtemp(prefix="fedmed-"))
    long_ago, port = datetime.now(UTC) - timedelta(days=800), free_port()
    federation = FederationFolder.create(folder / "federation", ["127.0.0.1"], port, now=long_ago)
    command, environment = superlink_command(
        flower_folder(federation.path), bind="127.0.0.1", port=port, certificate=federation.server_pem,
        key=federation.server_key, authority=federation.ca_pem,
    )  # fmt: skip
    child = Child("the server", command, folder / "server.log", environment)
    child.start()
    try:
        wait_for_port("127.0.0.1", port, PATIENT)
        with pytest.raises(CertificateError, match="expired"):
            check_server("127.0.0.1", port, federation.ca_pem)
        assert wait_until(lambda: any("EXPIRED" in event.get("why", "") for event in read_events(federation.log)))
    finally:
        child.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/push-messages"])
def test_only_this_machine_may_register_nodes_and_start_runs(tmp_path: Path, path: str) -> None:
    reached: list[str] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    door = Door(inside, EventLog(tmp_path / "log.jsonl"))
    assert _status(door, path, "10.0.0.5") == 403
    assert not reached
    (event,) = read_events(tmp_path / "log.jsonl")
    assert (event["event"], event["peer"], event["path"]) == ("refused", "10.0.0.5", path)
    _status(door, path, "127.0.0.1")
    _status(door, "/v1/fleet/pull-messages", "10.0.0.5")
    assert reached == [path, "/v1/fleet/pull-messages"]


def test_what_flower_is_told_has_every_off_switch(town: Town) -> None:
    _, around = supernode_command(
        town.folder / "home", host="127.0.0.1", port=1, authority=Path("ca"), key=Path("key"), worker=Path("w"),
    )  # fmt: skip
    assert around["FLWR_TELEMETRY_ENABLED"] == "0"
    assert around["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert around["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert around["FLWR_HOME"].startswith(str(town.folder))


def _status(door: Door, path: str, peer: str) -> int:
    seen: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            seen.append(message["status"])

    asyncio.run(door({"type": "http", "path": path, "client": (peer, 1)}, None, send))
    return seen[0] if seen else 0


def _dial(town: Town, folder: Path, key: Path) -> str:
    """What a node with this key says when it dials the server; it is expected to end by itself."""
    command, environment = supernode_command(
        folder, host="127.0.0.1", port=town.federation.invitation().port, authority=town.federation.ca_pem, key=key,
        worker=folder / "none.sock",
    )  # fmt: skip
    node = Child("a node", [*command, "--port", str(free_port())], folder / "node.log", environment)
    node.start()
    try:
        assert wait_until(lambda: node.ended() is not None)
        return node.tail()
    finally:
        node.stop()


def _pid_listening(federation: FederationFolder) -> int:
    """Of the server, by asking it; waits until one is there."""
    wait_for_port("127.0.0.1", federation.invitation().port, PATIENT)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"fedmed.network.flower.door" in words and str(federation.server_pem).encode() in words:
                    return int(entry.name)
    raise AssertionError("no server runs")


def test_the_words_of_a_failed_handshake_tell_plain_text_from_a_certificate() -> None:
    plain, refused = ssl.SSLError(1, "x"), ssl.SSLError(1, "x")
    plain.reason, refused.reason = "HTTP_REQUEST", "TLSV1_ALERT_UNKNOWN_CA"
    assert "plain text" in _handshake_words(plain)
    assert "certificate" in _handshake_words(refused)
