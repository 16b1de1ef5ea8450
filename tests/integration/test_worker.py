"""Two hospitals' workers, driven by signed orders alone, do what ``fedmed run`` does in one process: to the bit."""

from __future__ import annotations

import json
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed.config.load import config_digest, load_config
from fedmed.config.schema import FedMedConfig
from fedmed.data.prepare import prepare_split
from fedmed.errors import RunBusyError
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.checkpoint import load_latest
from fedmed.federated.links import Downlink
from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
from fedmed.federated.wire import decode_payload
from fedmed.model.adapter import get_adapter_state
from fedmed.model.load_model import shared_model
from fedmed.network.global_state import pack_update, pack_whole, state_digest
from fedmed.network.hospital_half import HospitalHalf
from fedmed.network.hospital_sum import open_header, sum_context
from fedmed.network.orders import Order, Reply, decode_reply, digest_of, encode_order, split
from fedmed.network.outbox import Outbox
from fedmed.network.run_memory import RunMemory
from fedmed.network.socket_line import ask
from fedmed.network.worker import Worker
from fedmed.network.worker_process import serve
from fedmed.network.workplace import Workplace
from fedmed.pipeline.federation import run_federation
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.secure_sum.keys import Identity
from fedmed.privacy.secure_sum.message_bytes import decode, encode
from fedmed.privacy.secure_sum.server import ServerSession
from fedmed.types import AdapterState, Algorithm, Payload, RoundPlan, RoundReport, SummedPayload, TrainMetrics

pytestmark = pytest.mark.integration
pytest.importorskip("cryptography")

TINY = [
    "model.name=builtin:tiny-llama", "model.generation.max_new_tokens=4", "model.lora.r=4",
    "training.dataset.name=records.jsonl", "training.dataset.test_fraction=0.3", "training.max_steps=2",
    "training.batch_size=4", "training.gradient_accumulation_steps=1", "training.learning_rate=0.01",
    "training.threads=1", "training.engine=single",
    "training.evaluation.max_records_per_hospital=2", "training.evaluation.multiple_choice_items=0",
    "training.evaluation.generated_answers=0", "training.evaluation.few_shot=0",
    "training.evaluation.sample_answers=0", "training.dataset.gate.unscanned=true",
    "federated.num_clients=2", "federated.rounds=2",
]  # fmt: skip
HOSPITALS = ("hospital_A", "hospital_B")
COORDINATOR = Identity.generate(random.Random("coordinator").randbytes)
IDENTITIES = {name: Identity.generate(random.Random(name).randbytes) for name in HOSPITALS}
PINS = {name: one.fingerprint for name, one in IDENTITIES.items()}


class OpenPolicy:
    def refusals(self, header: Mapping[str, Any], **known: Any) -> tuple[str, ...]:
        return ()

    def sum_refusals(self, hospitals: int, threshold: int) -> tuple[str, ...]:
        return () if threshold >= 2 else ("too few",)

    def summary(self) -> dict[str, Any]:
        return {"models": [{"name": "builtin:tiny-llama", "digest": None}]}


class CountingHalf(HospitalHalf):
    trainings = 0

    def train(self, *args: Any, **words: Any) -> Any:
        type(self).trainings += 1
        return super().train(*args, **words)


def workplace(folder: Path, name: str) -> Workplace:
    return Workplace(
        name,
        folder / name,
        IDENTITIES[name],
        COORDINATOR.public,
        Path("data/processed") / name,
        lambda: PINS,
        OpenPolicy,
    )


def worker(folder: Path, name: str) -> Worker:
    place = workplace(folder, name)
    return Worker(place, CountingHalf(name, place.records, place.folder / "ledger"))


class OverOrders:
    """A ``Transport`` of signed orders; everything is asked twice, and the second answer must be the same bytes."""

    def __init__(self, config: FedMedConfig, workers: Mapping[str, Callable[[bytes], bytes]], run_id: str) -> None:
        self.config, self.workers, self.run_id = config, workers, run_id
        self.admitted: dict[str, list[int] | None] = dict.fromkeys(workers)
        self.attempt = 0
        self.link = Downlink(config.federated.wire)
        self.held: dict[str, AdapterState] = {}
        self.state: AdapterState = {}
        self.forms: list[str] = []
        self.whole = False  # whether the global state is always sent whole

    def send(self, state: AdapterState, held: AdapterState | None, *rest: Any) -> tuple[AdapterState, int]:
        """As a ``Downlink``: remembers what the update is made of."""
        self.state = state
        return self.link.send(state, held, *rest)

    def signed(self, kind: Any, plan: RoundPlan, name: str, header: dict[str, Any], body: bytes = b"") -> bytes:
        order = Order(kind, self.run_id, plan.round, self.attempt, name, int(time.time()) + 600, header, body)
        return encode_order(order, COORDINATOR.sign)

    def order(self, kind: Any, plan: RoundPlan, name: str, header: dict[str, Any], body: bytes = b"") -> Reply:
        raw = self.signed(kind, plan, name, header, body)
        answer = self.workers[name](raw)
        assert self.workers[name](raw) == answer
        reply = decode_reply(answer, IDENTITIES[name].public, digest_of(raw))
        assert reply.kind not in ("refused", "failed"), reply.header
        return reply

    def train_header(
        self, plan: RoundPlan, now: AdapterState, algorithm: Algorithm, name: str
    ) -> tuple[dict[str, Any], bytes]:
        packed = pack_whole(now, round=plan.round, algorithm=algorithm.name)
        known = None if self.whole else self.held.get(name)
        if known is not None:
            update = self.link.update(self.state, known, plan.round, algorithm.name)
            if state_digest(update.now) == state_digest(now):
                packed = pack_update(update, known)
        header = {
            "config": self.config.as_dict(), "config_digest": config_digest(self.config),
            "plan": asdict(plan.for_hospital(name)), "algorithm": algorithm.name, "admitted": self.admitted.get(name),
            "state": packed[0], "base_model": None,
        }  # fmt: skip
        return header, packed[1]

    def train(self, plan: RoundPlan, now: AdapterState, algorithm: Algorithm, name: str) -> Reply:
        header, body = self.train_header(plan, now, algorithm, name)
        self.forms.append(header["state"]["form"])
        reply = self.order("train", plan, name, header, body)
        assert reply.header["held"] == state_digest(now)
        self.held[name] = now
        return reply

    def exchange(
        self, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm
    ) -> Iterator[Payload] | SummedPayload:
        if self.config.privacy.secure_sum:
            return self.masked(plan, global_state, algorithm)
        return (
            decode_payload(
                self.train(plan, global_state, algorithm, name).body,
                algorithm.template(global_state, plan.for_hospital(name)),
                top_k_share=self.config.federated.wire.top_k_share,
            )
            for name in plan.hospitals
        )

    def masked(self, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm) -> SummedPayload:
        shapes = dict(sorted(algorithm.template(global_state, plan.for_hospital(plan.hospitals[0])).items()))
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        cohort = [(name, PINS[name]) for name in plan.hospitals]
        context = sum_context(self.run_id, plan.round, self.attempt, cohort, len(cohort), sum(sizes))
        server, told = ServerSession(context), {}

        def heard(reply: Reply) -> None:
            for message in split(reply.body):
                server.receive(decode(message, context))  # type: ignore[arg-type]

        def say() -> None:
            for name, message in server.advance():
                heard(self.order("sum", plan, name, {"step": "message"}, encode(message, context)))

        for name in plan.hospitals:
            heard(self.order("sum", plan, name, open_header(context)))
        say(), say()
        for name in plan.hospitals:
            reply = self.train(plan, global_state, algorithm, name)
            assert reply.header["masked"]
            server.receive(decode(reply.body, context))  # type: ignore[arg-type]
            told[name] = reply.header
        say(), say()
        server.advance()
        parts = np.split(server.result.values, np.cumsum(sizes)[:-1])
        sums = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        metrics = {
            name: TrainMetrics(**{**header["metrics"], "step_losses": tuple(header["metrics"]["step_losses"])})
            for name, header in told.items()
        }
        weights = {name: header["num_samples"] for name, header in told.items()}
        return SummedPayload(plan.round, algorithm.name, sums, weights, metrics, 0, 0)

    def commit(self, report: RoundReport) -> Mapping[str, Any]:
        self.admitted.update({name: [report.round, self.attempt] for name in report.admitted})
        return {}


def settings(*more: str) -> FedMedConfig:
    return load_config(None, (), [*TINY, *more])


def run_over(transport: OverOrders) -> AdapterState:
    """The global adapter after all rounds, from the same start as ``fedmed run``."""
    config = transport.config
    federated, algorithm = config.federated, get_algorithm(config.federated)
    start, server_state = algorithm.start(get_adapter_state(shared_model(config.model, federated.seed)[0]))
    return run_rounds(
        FederationState(0, start, server_state=server_state), algorithm=algorithm, transport=transport,
        policy=AllOrSampled(HOSPITALS, federated.rounds, federated.seed, "run"), rounds=federated.rounds,
        on_round=lambda *_: None, downlink=transport,  # type: ignore[arg-type]
    ).global_state  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [{"question": f"What is finding {i}?", "answer": f"A sign of organ {i % 7}."} for i in range(50)]
    Path("records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr(CountingHalf, "trainings", 0)
    return tmp_path


def in_one_process(config: FedMedConfig) -> AdapterState:
    run_federation(config, out=Path("clear"))
    state = load_latest(Path("clear"))
    assert state is not None
    return state.global_state


def same_bits(left: AdapterState, right: AdapterState) -> bool:
    return left.keys() == right.keys() and all(left[name].tobytes() == right[name].tobytes() for name in left)


@pytest.mark.parametrize(
    ("more", "forms"),
    [
        ((), ["whole", "whole", "changed", "changed"]),
        (("federated.wire={up: int4, down: int8}",), ["whole", "whole", "moved", "moved"]),
        (("privacy.secure_sum=true",), ["whole", "whole", "changed", "changed"]),
    ],
    ids=["fedavg", "error feedback", "masked"],
)
def test_workers_end_with_the_adapter_of_fedmed_run_bit_for_bit(
    place: Path, more: tuple[str, ...], forms: list[str]
) -> None:
    config = settings(*more)
    expected = in_one_process(settings(*(one for one in more if "secure_sum" not in one)))
    workers = {name: worker(place, name) for name in HOSPITALS}
    transport = OverOrders(config, {name: one.answer for name, one in workers.items()}, "run")
    assert same_bits(run_over(transport), expected)
    assert transport.forms == forms
    assert CountingHalf.trainings == 4  # everything was asked twice


def test_workers_that_are_restarted_before_every_order_end_with_the_same_adapter(place: Path) -> None:
    config = settings("federated.algorithm=ffa", "federated.wire.up=int4")
    expected = in_one_process(config)
    fresh = {name: lambda raw, name=name: worker(place, name).answer(raw) for name in HOSPITALS}
    transport = OverOrders(config, fresh, "run")
    transport.whole = True
    assert same_bits(run_over(transport), expected)
    assert CountingHalf.trainings == 4


def test_a_hospital_may_have_its_own_adapter_at_the_end(place: Path) -> None:
    config = settings("federated.algorithm=fedsa")
    run_federation(config, out=Path("clear"))
    workers = {name: worker(place, name) for name in HOSPITALS}
    transport = OverOrders(config, {name: one.answer for name, one in workers.items()}, "run")
    final = run_over(transport)
    plan = RoundPlan("run", 2, 2, HOSPITALS, 1, config.federated.seed)
    for name in HOSPITALS:
        header, body = transport.train_header(plan, final, get_algorithm(config.federated), name)
        reply = transport.order("finish", plan, name, header, body)
        assert reply.header == {"saved": True}
        saved = Path(name, "adapters", "run-run", "adapter_model.safetensors").read_bytes()
        assert saved == Path("clear", "hospitals", name, "adapter", "adapter_model.safetensors").read_bytes()


def noised(*more: str) -> FedMedConfig:
    return settings("privacy.example={epsilon: 8.0, noise_multiplier: 2.0}", "training.max_steps=1", *more)


def first_order(config: FedMedConfig, attempt: int = 0) -> tuple[OverOrders, bytes]:
    transport = OverOrders(config, {}, "run")
    transport.attempt = attempt
    plan = RoundPlan("run", 1, config.federated.rounds, HOSPITALS, 2, config.federated.seed)
    algorithm = get_algorithm(config.federated)
    start, _ = algorithm.start(get_adapter_state(shared_model(config.model, config.federated.seed)[0]))
    header, body = transport.train_header(plan, start, algorithm, "hospital_A")
    return transport, transport.signed("train", plan, "hospital_A", header, body)


@pytest.fixture
def split_only(place: Path) -> Path:
    """The hospitals' shares on disk, without a run."""
    config = settings()
    prepare_split(config.training.dataset, config.federated, Path("data/processed"))
    return place


def charges(name: str = "hospital_A") -> int:
    return len(Ledger.read(Path(name, "ledger", f"{name}.jsonl")).events("record"))


def test_killed_between_training_and_reply_it_charges_once_and_answers_with_the_same_bytes(
    split_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, raw = first_order(noised())

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(RunMemory, "answered", dies)
        with pytest.raises(KeyboardInterrupt):
            worker(split_only, "hospital_A").answer(raw)
    kept = next(Path("hospital_A", "outbox").iterdir()).read_bytes()
    answer = worker(split_only, "hospital_A").answer(raw)
    reply = decode_reply(answer, IDENTITIES["hospital_A"].public, digest_of(raw))
    assert reply.kind == "payload"
    assert answer in kept
    assert charges() == 1
    ledger = Ledger.read(Path("hospital_A/ledger/hospital_A.jsonl"))
    assert reply.header["ledger_head"] == ledger.head()
    assert (reply.header["num_samples"], reply.header["metrics"]) == (1, None)
    # A new attempt is other noise, and is charged.
    _, again = first_order(noised(), attempt=1)
    other = decode_reply(worker(split_only, "hospital_A").answer(again), IDENTITIES["hospital_A"].public)
    assert other.kind == "payload"
    assert other.body != reply.body
    assert charges() == 2


def test_killed_while_training_it_trains_again_and_the_ledger_is_never_short(
    split_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, raw = first_order(noised())

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Outbox, "put", dies)
        with pytest.raises(KeyboardInterrupt):
            worker(split_only, "hospital_A").answer(raw)
    assert charges() == 1
    assert decode_reply(worker(split_only, "hospital_A").answer(raw), IDENTITIES["hospital_A"].public).kind == "payload"
    assert charges() == 2


def test_a_spent_budget_is_a_refusal_of_its_own(split_only: Path) -> None:
    config = noised("privacy.example.noise_multiplier=0.3", "training.max_steps=400")
    _, raw = first_order(config)
    reply = decode_reply(worker(split_only, "hospital_A").answer(raw), IDENTITIES["hospital_A"].public)
    assert (reply.kind, reply.header["error"]) == ("failed", "BudgetError")
    assert "would" in reply.header["reasons"][0]


PROGRAM = """
import logging, sys
from pathlib import Path
from fedmed.network.worker_process import serve
from fedmed.network.workplace import Workplace
from fedmed.privacy.secure_sum.keys import Identity

class Policy:
    def refusals(self, header, **known): return ()
    def sum_refusals(self, hospitals, threshold): return ()
    def summary(self): return {"models": [{"name": "builtin:tiny-llama"}]}

logging.basicConfig(level="INFO")
private, coordinator, memory = sys.argv[1:]
place = Workplace("hospital_A", Path("hospital_A"), Identity(bytes.fromhex(private)), bytes.fromhex(coordinator),
                  Path("data/processed/hospital_A"), dict, Policy)
serve(place, Path("s"), memory_bytes=int(memory) or None)
print("ended well")
"""


class Process:
    def __init__(self, memory: int = 0) -> None:
        words = [IDENTITIES["hospital_A"].private.hex(), COORDINATOR.public.hex(), str(memory)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        deadline = time.monotonic() + 120
        while not Path("s").exists():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said


def test_a_worker_process_answers_is_alone_survives_a_kill_and_ends_cleanly(split_only: Path) -> None:
    _, raw = first_order(settings())
    first = Process()
    try:
        answer = ask(Path("s"), raw, 120)
        assert decode_reply(answer, IDENTITIES["hospital_A"].public, digest_of(raw)).kind == "payload"
        assert stat.S_IMODE(Path("s").stat().st_mode) == 0o660
        assert stat.S_IMODE(Path("hospital_A").stat().st_mode) == 0o710
        inside = list(Path("hospital_A").rglob("*"))
        assert len(inside) >= 5
        assert [path for path in inside if path.stat().st_mode & 0o077 and path.name != ".lock"] == []
        with pytest.raises(RunBusyError):
            serve(workplace(split_only, "hospital_A"), Path("other"))
        assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
        Path("s").unlink()  # the dead one's; a new worker would replace it
        second = Process()
        assert ask(Path("s"), raw, 120) == answer
        code, said = second.end(signal.SIGTERM)
        assert (code, "ended well" in said, "was stopped" in said) == (0, True, True)
        assert not Path("s").exists()
    finally:
        first.process.kill()


def test_a_training_beyond_the_memory_limit_fails_and_the_worker_stays(split_only: Path) -> None:
    _, raw = first_order(settings("training.max_steps=1", "model.lora.r=4"))
    small = Process(memory=600 * 2**20)  # too little to load torch
    try:
        reply = decode_reply(ask(Path("s"), raw, 120), IDENTITIES["hospital_A"].public, digest_of(raw))
        assert reply.kind == "failed"
        reply = decode_reply(ask(Path("s"), b"still there?", 60), IDENTITIES["hospital_A"].public)
        assert reply.kind == "refused"
    finally:
        small.end(signal.SIGKILL)
