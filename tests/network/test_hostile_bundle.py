"""A coordinator that ships hostile code to a hospital's node: what that code can reach, run as the node's own user.

Flower installs the app that the coordinator sends and runs it beside the node. So the code is taken to be anything at
all: here it runs as another user in the worker's group, which is how docs/deploy.md sets a hospital up.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from fedmed.config.load import config_digest, load_config
from fedmed.federated.algorithms import get_algorithm
from fedmed.model.adapter import get_adapter_state
from fedmed.model.load_model import shared_model
from fedmed.network.global_state import pack_whole
from fedmed.network.loopback import enrol, share_out
from fedmed.network.orders import Order, Reply, Sign, decode_reply, digest_of, encode_order
from fedmed.network.processes import Child
from fedmed.network.site import Site
from fedmed.network.socket_line import ask
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.secure_sum.keys import Identity
from fedmed.types import RoundPlan

pytestmark = pytest.mark.network

NODE_USER = 65534  # nobody
SETTINGS = [
    "model.name=builtin:tiny-llama", "model.lora.r=4", "training.max_steps=1", "training.threads=1",
    "training.engine=single", "training.dataset.max_samples=200", "federated.num_clients=3", "federated.rounds=3",
    "privacy.example={epsilon: 8.0, noise_multiplier: 2.0}",
]  # fmt: skip
CONFIG = load_config(None, (), SETTINGS)
Sent = Callable[..., bytes]


@dataclass
class Hospital:
    """A worker that runs, and orders for it."""

    site: Site
    sign: Sign
    records: list[Path]

    def order(self, round: int = 1, sign: Sign | None = None, **changes: Any) -> bytes:
        algorithm = get_algorithm(CONFIG.federated)
        start, _ = algorithm.start(get_adapter_state(shared_model(CONFIG.model, CONFIG.federated.seed)[0]))
        plan = RoundPlan("run", round, 3, ("hospital_A", "hospital_B", "hospital_C"), 3, CONFIG.federated.seed)
        state, body = pack_whole(start, round=round, algorithm=algorithm.name)
        header = {
            "config": CONFIG.as_dict(), "config_digest": config_digest(CONFIG), "algorithm": algorithm.name,
            "plan": asdict(plan.for_hospital("hospital_A")), "admitted": None, "state": state, "base_model": None,
        }  # fmt: skip
        fields = {"hospital": "hospital_A", "expires": int(time.time()) + 600} | changes
        order = Order("train", "run", round, 0, fields["hospital"], fields["expires"], header, body)
        return encode_order(order, sign or self.sign)

    def charges(self) -> int:
        file = self.site.ledger / "hospital_A.jsonl"
        return len(Ledger.read(file).entries()) if file.is_file() else 0

    def read(self, answer: bytes, order: bytes | None = None) -> Reply:
        public = bytes.fromhex(self.site.request().identity_public)
        return decode_reply(answer, public, *([digest_of(order)] if order is not None else []))


@pytest.fixture(scope="module")
def hospital() -> Iterator[Hospital]:
    folder = Path(tempfile.mkdtemp(prefix="fedmed-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, True)
        folder.chmod(0o711)  # others may pass, as through /srv
        federation, sites = enrol(folder, share_out(CONFIG, folder / "shares"))
        (folder / "shares").chmod(0o700)
        site = sites["hospital_A"]
        words = [sys.executable, "-m", "fedmed", "federation", "hospital", "--folder", str(site.path)]
        worker = Child("the worker", [*words, "--part", "worker"], folder / "worker.log")
        worker.start()
        stack.callback(worker.stop)
        deadline = time.monotonic() + 120
        while not site.socket.exists():
            assert worker.ended() is None, worker.tail()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (folder / "pid").write_text(str(worker.pid))
        yield Hospital(site, federation.coordinator(None).sign, sorted((folder / "shares").rglob("*.parquet")))


def as_the_nodes_user(do: Callable[[], Any]) -> Any:
    """What ``do`` returns in a process of the node's user, who is in the worker's group and nothing else."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # nothing is executed: that user need not be able to read this Python
        try:
            os.close(read)
            os.setgroups([os.getgid()])
            os.setgid(NODE_USER)
            os.setuid(NODE_USER)
            with os.fdopen(write, "w") as pipe:
                json.dump(do(), pipe)
        except BaseException as error:  # noqa: BLE001  (told to the test, which then fails)
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert said, "the attack failed for another reason; see what it wrote"
    return json.loads(said)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_reads_no_record_key_ledger_or_answer_and_changes_nothing(hospital: Hospital) -> None:
    order = hospital.order()
    assert hospital.read(ask(hospital.site.socket, order, 300), order).kind == "payload"
    site = hospital.site
    worker = int((site.path.parent / "pid").read_text())
    private = [
        site.identity_key, site.pins_path, site.policy_path, *site.ledger.iterdir(), *site.outbox.iterdir(),
        *site.state.glob("*.json"), *hospital.records, Path(f"/proc/{worker}/mem"), Path(f"/proc/{worker}/environ"),
    ]  # fmt: skip
    assert len(private) >= 9
    assert all(path.exists() for path in private)
    folders = [
        site.path,
        site.ledger,
        site.outbox,
        site.state,
        site.approvals,
        *{file.parent for file in private[-3:-2]},
    ]

    def attack() -> dict[str, Any]:
        got: dict[str, Any] = {"user": os.getuid(), "read": [], "written": [], "listed": []}
        for path in private:
            with contextlib.suppress(PermissionError):
                path.read_bytes()
                got["read"].append(str(path))
            with contextlib.suppress(PermissionError):
                path.open("ab").close()
                got["written"].append(str(path))
        for folder in folders:
            with contextlib.suppress(PermissionError):
                got["listed"].append([str(one) for one in folder.iterdir()])
            with contextlib.suppress(PermissionError):
                (folder / "planted").write_bytes(b"x")
                got["written"].append(str(folder))
        with contextlib.suppress(PermissionError):
            site.socket.unlink()  # to put a socket of its own there
            got["written"].append(str(site.socket))
        with contextlib.suppress(PermissionError):
            os.kill(worker, 9)
            got["written"].append("the worker")
        return got

    assert as_the_nodes_user(attack) == {"user": NODE_USER, "read": [], "written": [], "listed": []}


def test_through_the_socket_it_gets_no_update_that_was_not_ordered_and_charged(hospital: Hospital) -> None:
    ordered = hospital.order(round=2)
    first = ask(hospital.site.socket, ordered, 300)
    charged = hospital.charges()
    assert hospital.read(first, ordered).kind == "payload"
    assert charged >= 1
    stranger = Identity.generate(random.Random("stranger").randbytes)
    draw = random.Random(5)
    changed = []
    for _ in range(200):
        place = draw.randrange(len(ordered))
        changed.append(ordered[:place] + bytes([ordered[place] ^ (1 << draw.randrange(8))]) + ordered[place + 1 :])
    forged = {
        "its own signature": hospital.order(round=3, sign=stranger.sign),
        "no signature": hospital.order(round=3, sign=lambda message: b"\0" * 64),
        "another hospital's": hospital.order(round=3, hospital="hospital_B"),
        "an old one": hospital.order(round=3, expires=int(time.time()) - 5),
        "noise": draw.randbytes(5000),
        "nothing": b"",
        "cut": ordered[:-7],
    }

    def attack() -> dict[str, Any]:
        answers = {what: ask(hospital.site.socket, raw, 60).hex() for what, raw in forged.items()}
        return {
            "answers": answers,
            "changed": [ask(hospital.site.socket, raw, 60).hex() for raw in changed],
            "again": [ask(hospital.site.socket, ordered, 60).hex() for _ in range(5)],
        }

    got = as_the_nodes_user(attack) if os.geteuid() == 0 else attack()
    kinds = {what: hospital.read(bytes.fromhex(answer)).kind for what, answer in got["answers"].items()}
    assert kinds == dict.fromkeys(forged, "refused")
    assert {hospital.read(bytes.fromhex(answer)).kind for answer in got["changed"]} == {"refused"}
    assert {bytes.fromhex(answer) for answer in got["again"]} == {first}  # the same bytes, which were paid for
    assert hospital.charges() == charged
