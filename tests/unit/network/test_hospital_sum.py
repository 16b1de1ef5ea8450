"""A hospital's seat in a secure sum over orders: the sum is that in the clear, and no attempt is begun twice."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed.config.load import config_digest
from fedmed.config.schema import FedMedConfig
from fedmed.errors import SecureSumError
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.fixed_point import to_fixed
from fedmed.network.global_state import pack_whole
from fedmed.network.hospital_half import HospitalHalf
from fedmed.network.hospital_sum import open_header, sum_context
from fedmed.network.orders import Order, Reply, decode_reply, digest_of, encode_order, split
from fedmed.network.worker import Worker
from fedmed.network.workplace import Workplace
from fedmed.privacy.secure_sum.context import Context
from fedmed.privacy.secure_sum.keys import Identity
from fedmed.privacy.secure_sum.message_bytes import decode, encode
from fedmed.privacy.secure_sum.messages import LiveList, UnmaskRequest
from fedmed.privacy.secure_sum.server import ServerSession
from fedmed.types import RoundPlan

pytestmark = pytest.mark.unit

NAMES = ("hospital_A", "hospital_B", "hospital_C")
COORDINATOR = Identity.generate(random.Random("coordinator").randbytes)
IDENTITIES = {name: Identity.generate(random.Random(name).randbytes) for name in NAMES}
CONFIG = FedMedConfig.model_validate({"privacy": {"secure_sum": True}, "federated": {"num_clients": 3}})


class CohortPolicy:
    least = 2

    def refusals(self, header: Mapping[str, Any], **known: Any) -> tuple[str, ...]:
        return ()

    def sum_refusals(self, hospitals: int, threshold: int) -> tuple[str, ...]:
        return (f"a threshold of {threshold} is too low",) if threshold < self.least else ()

    def summary(self) -> dict[str, Any]:
        return {}


class ToyHalf(HospitalHalf):
    def __init__(self, name: str, trainer: Any) -> None:
        super().__init__(name, Path("/nowhere"), Path("/nowhere"))
        self._toy, self.trainings = trainer, 0

    def _trainer(self, *args: Any) -> Any:
        return self

    def run(self, jobs: Any) -> Any:
        self.trainings += 1
        return self._toy.run(jobs)


class Server(ServerSession):
    """The coordinator's half, with what it is about."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.context = context


class Lab:
    """Three workers and the coordinator's half of one attempt after another."""

    def __init__(self, folder: Path, toy: Any) -> None:
        self.folder, self.toy, self.policy = folder, toy, CohortPolicy()
        self.pins = {name: one.fingerprint for name, one in IDENTITIES.items()}
        self.halves = {name: ToyHalf(name, toy.trainer(NAMES)) for name in NAMES}
        self.workers: dict[str, Worker] = {}
        for name in NAMES:
            self.restart(name)
        self.algorithm = get_algorithm(CONFIG.federated)
        self.state = toy.state("global")
        self.raw: dict[str, bytes] = {}  # name -> the last order

    def restart(self, name: str) -> None:
        place = Workplace(
            name, self.folder / name, IDENTITIES[name], COORDINATOR.public, Path("/nowhere"),
            lambda: self.pins, lambda: self.policy,
        )  # fmt: skip
        self.workers[name] = Worker(place, self.halves[name])

    def plan(self, round: int) -> RoundPlan:
        return RoundPlan("run", round, CONFIG.federated.rounds, NAMES, 2, CONFIG.federated.seed)

    def context(self, round: int = 1, attempt: int = 0, threshold: int = 3, **changes: Any) -> Context:
        shapes = self.algorithm.template(self.state, self.plan(round).for_hospital(NAMES[0]))
        length = sum(int(np.prod(shape)) for shape in shapes.values())
        cohort = [(name, IDENTITIES[name].fingerprint) for name in NAMES]
        return replace(sum_context("run", round, attempt, cohort, threshold, length), **changes)

    def order(
        self, name: str, kind: Any, context: Context, header: Mapping[str, Any], body: bytes = b"", key: Any = None
    ) -> Reply:
        order = Order(kind, "run", context.round, context.attempt, name, int(time.time()) + 60, header, body)
        self.raw[name] = encode_order(order, (key or COORDINATOR).sign)
        answer = self.workers[name].answer(self.raw[name])
        return decode_reply(answer, IDENTITIES[name].public, digest_of(self.raw[name]))

    def train(self, name: str, context: Context, config: FedMedConfig = CONFIG) -> Reply:
        state, body = pack_whole(self.state, round=context.round, algorithm="fedavg")
        header = {
            "config": config.as_dict(), "config_digest": config_digest(config), "algorithm": "fedavg",
            "plan": asdict(self.plan(context.round).for_hospital(name)), "admitted": None, "state": state,
        }  # fmt: skip
        return self.order(name, "train", context, header, body)

    def opened(self, context: Context) -> Server:
        """Every hospital has taken its seat and dealt its shares."""
        server = Server(context)
        for name in NAMES:
            self.heard(server, self.order(name, "sum", context, open_header(context)))
        for _ in ("keys", "shares"):
            self.say(server)
        return server

    def heard(self, server: Server, reply: Reply) -> None:
        assert reply.kind == "sum", reply.header
        for message in split(reply.body):
            server.receive(decode(message, server.context))  # type: ignore[arg-type]

    def say(self, server: Server, silent: tuple[str, ...] = ()) -> None:
        for name, message in server.advance():
            if name not in silent:
                body = encode(message, server.context)
                self.heard(server, self.order(name, "sum", server.context, {"step": "message"}, body))

    def masked(self, server: Server, names: tuple[str, ...] = NAMES) -> None:
        for name in names:
            reply = self.train(name, server.context)
            assert reply.kind == "payload", reply.header
            assert reply.header["masked"]
            server.receive(decode(reply.body, server.context))  # type: ignore[arg-type]

    def in_the_clear(self, names: tuple[str, ...]) -> np.ndarray:
        total = None
        for name in names:
            job = self.algorithm.begin(self.state, {}, self.plan(1).for_hospital(name))
            (result,) = self.toy.trainer(NAMES).run([job])
            payload, _ = self.algorithm.finish(job, result, {})
            parts = [to_fixed(key, payload.arrays[key]).ravel() for key in sorted(payload.arrays)]
            mine = np.concatenate(parts) * payload.num_samples
            total = mine if total is None else total + mine
        assert total is not None
        return total


@pytest.fixture
def lab(tmp_path: Path, toy: Any) -> Lab:
    return Lab(tmp_path, toy)


@pytest.mark.parametrize(("threshold", "live"), [(3, NAMES), (2, NAMES), (2, NAMES[:2])])
def test_the_sum_over_orders_is_the_sum_in_the_clear_also_when_one_drops_out(
    lab: Lab, threshold: int, live: tuple[str, ...]
) -> None:
    config = CONFIG.model_copy(
        update={"privacy": CONFIG.privacy.model_copy(update={"secure_sum_threshold": threshold}),
                "federated": CONFIG.federated.model_copy(update={"min_replies": threshold})}
    )  # fmt: skip
    server = lab.opened(lab.context(threshold=threshold))
    for name in live:
        reply = lab.train(name, server.context, config)
        server.receive(decode(reply.body, server.context))  # type: ignore[arg-type]
    for _ in ("live list", "agreements"):
        lab.say(server)
    server.advance()
    assert server.result.hospitals == live
    np.testing.assert_array_equal(server.result.values, lab.in_the_clear(live))


def test_a_masked_vector_is_not_the_update(lab: Lab) -> None:
    server = lab.opened(lab.context())
    reply = lab.train(NAMES[0], server.context)
    words = decode(reply.body, server.context).words.astype(np.int64)  # type: ignore[union-attr]
    assert np.count_nonzero(words == lab.in_the_clear(NAMES[:1])) == 0


def test_an_order_of_the_sum_that_comes_again_gets_the_same_bytes(lab: Lab) -> None:
    server = lab.opened(lab.context())
    name, seen = NAMES[0], []
    raw = lab.raw[name]  # the delivery of shares
    assert lab.workers[name].answer(raw) == lab.workers[name].answer(raw)
    lab.masked(server)
    train = lab.raw[name]
    seen.append(lab.workers[name].answer(train))
    assert lab.workers[name].answer(train) == seen[0]
    assert lab.halves[name].trainings == 1
    for _ in ("live list", "agreements"):
        lab.say(server)
        last = lab.workers[name].answer(lab.raw[name])
        assert decode_reply(last, IDENTITIES[name].public).kind == "sum"
    assert lab.workers[name].answer(lab.raw[name]) == last  # the reveal, too, is one and the same


def test_a_worker_restarted_in_an_attempt_takes_no_further_part_and_never_answers_otherwise(lab: Lab) -> None:
    server = lab.opened(lab.context())
    name = NAMES[0]
    opening = encode_order(
        Order("sum", "run", 1, 0, name, int(time.time()) + 60, open_header(server.context)), COORDINATOR.sign
    )
    lab.masked(server, NAMES[:1])
    train, before = lab.raw[name], lab.workers[name].answer(lab.raw[name])
    lab.restart(name)
    assert lab.workers[name].answer(train) == before  # what left may leave again
    reply = decode_reply(lab.workers[name].answer(opening), IDENTITIES[name].public)
    assert reply.kind == "refused"
    assert "no further part in attempt 0" in reply.header["reasons"][0]
    lab.masked(server, NAMES[1:])
    for told, message in server.advance():
        reply = lab.order(told, "sum", server.context, {"step": "message"}, encode(message, server.context))
        assert reply.kind == ("failed" if told == name else "sum")
    server = lab.opened(lab.context(attempt=1))  # and is welcome in the next attempt
    lab.masked(server)
    for _ in ("live list", "agreements"):
        lab.say(server)
    server.advance()
    np.testing.assert_array_equal(server.result.values, lab.in_the_clear(NAMES))


def test_after_shares_left_no_other_attempt_of_that_round_gets_a_seat(lab: Lab) -> None:
    server = lab.opened(lab.context())
    lab.masked(server)
    for _ in ("live list", "agreements"):
        lab.say(server)
    for restarted in (False, True):
        if restarted:
            lab.restart(NAMES[0])
        reply = lab.order(NAMES[0], "sum", lab.context(attempt=5), open_header(lab.context(attempt=5)))
        assert reply.kind == "refused"
        assert "revealed its shares in round 1, attempt 0" in reply.header["reasons"][0]
    assert lab.order(NAMES[0], "sum", lab.context(2), open_header(lab.context(2))).kind == "sum"


def test_killed_before_its_shares_left_it_counts_as_having_revealed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedmed.privacy.secure_sum.hospital import HospitalSession

    server = lab.opened(lab.context())
    lab.masked(server)
    lab.say(server)
    real = HospitalSession.receive

    def dies(self: HospitalSession, message: Any) -> Any:
        if isinstance(message, UnmaskRequest):
            raise KeyboardInterrupt
        return real(self, message)

    monkeypatch.setattr(HospitalSession, "receive", dies)
    with pytest.raises(KeyboardInterrupt):
        lab.say(server)
    monkeypatch.undo()
    lab.restart(NAMES[0])
    reply = lab.order(NAMES[0], "sum", lab.context(attempt=1), open_header(lab.context(attempt=1)))
    assert "revealed" in reply.header["reasons"][0]


def test_a_cohort_that_the_policy_or_the_pins_do_not_allow_gets_no_key(lab: Lab) -> None:
    lab.policy.least = 3
    reply = lab.order(NAMES[0], "sum", lab.context(threshold=2), open_header(lab.context(threshold=2)))
    assert (reply.kind, reply.header["reasons"]) == ("refused", ["a threshold of 2 is too low"])
    lab.pins = {**lab.pins, NAMES[2]: bytes(32)}
    reply = lab.order(NAMES[0], "sum", lab.context(), open_header(lab.context()))
    assert (reply.kind, reply.header["culprit"]) == ("failed", "the server")
    assert "not the pinned one" in reply.header["reasons"][0]
    lab.pins = {}
    assert lab.order(NAMES[0], "sum", lab.context(), open_header(lab.context())).kind == "failed"


def test_a_lie_costs_the_seat_and_nothing_leaves_after_it(lab: Lab) -> None:
    server = lab.opened(lab.context())
    lab.masked(server)
    lie = LiveList(server.context.digest, NAMES[:2])
    name = NAMES[2]
    reply = lab.order(name, "sum", server.context, {"step": "message"}, encode(lie, server.context))
    assert (reply.kind, reply.header["culprit"]) == ("failed", "the server")
    true = LiveList(server.context.digest, NAMES)
    reply = lab.order(name, "sum", server.context, {"step": "message"}, encode(true, server.context))
    assert reply.kind == "failed"
    assert "has no seat" in reply.header["reasons"][0]


def test_a_plan_under_masks_must_be_that_of_the_attempt(lab: Lab) -> None:
    name, context = NAMES[0], lab.context()
    assert lab.train(name, context).kind == "failed"  # no seat yet
    lab.order(name, "sum", context, open_header(context))
    assert "not ready" in lab.train(name, context).header["reasons"][0]  # no shares yet
    server = lab.opened(lab.context(attempt=1, threshold=2))
    reply = lab.train(name, server.context)
    assert reply.kind == "refused"
    assert "opens with 2 hospitals, the plan says 3" in reply.header["reasons"][0]
    wrong = lab.opened(lab.context(attempt=2, length=7))
    reply = lab.train(name, wrong.context)
    assert reply.kind == "failed"
    assert "not 7" in reply.header["reasons"][0]


@pytest.mark.parametrize(
    "header",
    [
        {}, {"step": "close"}, {"step": "open"}, {"step": "open", "cohort": [["a"]], "threshold": 2, "length": 3},
        {"step": "open", "cohort": [["hospital_A", "xyz"]], "threshold": 2, "length": 3},
        {"step": "open", "cohort": [[1, "ab" * 32]], "threshold": 2, "length": 3},
        {"step": "open", "cohort": [["a", "ab" * 32]] * 65, "threshold": 2, "length": 3},
        {"step": "open", "cohort": [["hospital_A", "ab" * 32]] * 2, "threshold": 2, "length": 3},
        {"step": "open", "cohort": [["hospital_A", "ab" * 32], ["b", "cd" * 32]], "threshold": 2.0, "length": 3},
        {"step": "open", "cohort": [["hospital_A", "ab" * 32], ["b", "cd" * 32]], "threshold": 1, "length": 3},
        {"step": "open", "cohort": [["hospital_A", "ab" * 32], ["b", "cd" * 32]], "threshold": 2, "length": 2**40},
        {"step": "message"},
    ],
)  # fmt: skip
def test_an_order_that_makes_no_sense_gets_no_key(lab: Lab, header: dict[str, Any]) -> None:
    reply = lab.order(NAMES[0], "sum", lab.context(), header)
    assert reply.kind in ("refused", "failed")
    assert reply.body == b""
    assert list((lab.folder / NAMES[0] / "state").iterdir()) == []


def test_bounds_of_both_ends_come_from_the_code_alone(lab: Lab) -> None:
    context = lab.context()
    assert sum_context("run", 1, 0, [(name, lab.pins[name]) for name in NAMES], 3, context.length).digest == (
        context.digest
    )
    with pytest.raises(SecureSumError):
        sum_context("run", 1, 0, [(NAMES[0], lab.pins[NAMES[0]])], 1, 3)
