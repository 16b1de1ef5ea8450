"""The consortium over a line equals the one in process, whatever the line loses, repeats, damages or delays."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmed.config.schema import FedMedConfig
from fedmed.errors import QuorumError, SecureSumError
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.links import Downlink
from fedmed.federated.runner import AllOrSampled, FederationState, run_rounds
from fedmed.federated.simulation import SimulationTransport
from fedmed.network.asking import Asking
from fedmed.network.coordinator import given_up
from fedmed.network.event_log import EventLog, read_events
from fedmed.network.hospital_half import HospitalHalf
from fedmed.network.local_line import Fate, LocalLine
from fedmed.network.order_book import OrderBook, Sent
from fedmed.network.orders import decode_order
from fedmed.network.presence import PresentHospitals
from fedmed.network.transport import NetworkTransport
from fedmed.network.way_down import WayDown
from fedmed.network.worker import Worker
from fedmed.network.workplace import Workplace
from fedmed.privacy.secure_sum.keys import Identity

pytestmark = pytest.mark.unit

COORDINATOR = Identity.generate(random.Random("coordinator").randbytes)
HOSPITALS = ("hospital_A", "hospital_B", "hospital_C")
ROUNDS = 3


class OpenPolicy:
    """Accepts everything, or refuses with a reason."""

    def __init__(self) -> None:
        self.reasons: tuple[str, ...] = ()

    def refusals(self, header: Any, *, run_id: str | None = None, model_digest: str | None = None) -> tuple[str, ...]:
        return self.reasons

    def sum_refusals(self, hospitals: int, threshold: int) -> tuple[str, ...]:
        return self.reasons

    def summary(self) -> dict[str, Any]:
        return {"models": [{"name": FedMedConfig().model.name, "digest": None}]}


class ToyHalf(HospitalHalf):
    """Trains on two small arrays, in numpy, and counts how often."""

    def __init__(self, name: str, trainer: Any) -> None:
        super().__init__(name, Path("/nowhere"), Path("/nowhere"))
        self.trainer, self.trainings = trainer, 0

    def base_digest(self, asked: FedMedConfig) -> str:
        return "ab" * 32

    def loaded_digest(self) -> str | None:
        return None

    def save_adapter(self, *_: Any) -> None:
        pass

    def _trainer(self, *_: Any) -> Any:
        return self

    def run(self, jobs: Any) -> Any:
        self.trainings += 1
        return self.trainer.run(jobs)


class Consortium:
    """Three workers of this process, and a coordinator that can be started anew."""

    def __init__(self, folder: Path, toy: Any, **changes: Any) -> None:
        self.folder, self.toy = folder, toy
        base = FedMedConfig()
        federated = base.federated.model_copy(update={"rounds": ROUNDS, "num_clients": 3, **changes})
        self.config = base.model_copy(update={"federated": federated})
        self.identities = {name: Identity.generate(random.Random(name).randbytes) for name in HOSPITALS}
        self.members = {name: identity.public for name, identity in self.identities.items()}
        self.policies = {name: OpenPolicy() for name in HOSPITALS}
        self.halves = {name: ToyHalf(name, toy.trainer(HOSPITALS)) for name in HOSPITALS}
        self.workers: dict[str, Callable[[bytes], bytes]] = {}
        for name in HOSPITALS:
            self.restart(name)
        self.fate: Callable[[str, bytes], Fate] = lambda hospital, raw: "delivered"
        self.log = EventLog(folder / "log.jsonl")

    def masked(self) -> Consortium:
        privacy = self.config.privacy.model_copy(update={"secure_sum": True})
        self.config = self.config.model_copy(update={"privacy": privacy})
        return self

    def restart(self, name: str) -> None:
        pins = {other: identity.fingerprint for other, identity in self.identities.items()}
        place = Workplace(
            name, self.folder / name, self.identities[name], COORDINATOR.public, Path("/nowhere"),
            lambda: pins, lambda: self.policies[name],
        )  # fmt: skip
        self.workers[name] = Worker(place, self.halves[name]).answer

    def run(
        self, begun: FederationState | None = None, *, rounds: int = ROUNDS, deadline: float = 30.0,
        on_round: Callable[..., None] = lambda state, report: None, patience: float = 2.0,
    ) -> tuple[FederationState, NetworkTransport]:  # fmt: skip
        algorithm = get_algorithm(self.config.federated)
        begun = begun or self.begun()
        self.line = LocalLine(self.workers, lambda hospital, raw: self.fate(hospital, raw))
        asking = Asking(self.line, COORDINATOR.sign, lambda: self.members, self.log, pause=0.01)
        book = OrderBook(self.folder / "orders.json")
        down = WayDown(self.config.federated.wire)
        transport = NetworkTransport(asking, self.config, "run", book, down, begun.history, deadline)
        state = run_rounds(
            begun, algorithm=algorithm, transport=transport, rounds=rounds, on_round=on_round,
            policy=PresentHospitals(transport, self.config, "run", patience), downlink=down,
        )  # fmt: skip
        return state, transport

    def begun(self) -> FederationState:
        first, server = get_algorithm(self.config.federated).start(self.toy.state("start"))
        return FederationState(0, first, server_state=server)

    def undisturbed(self) -> FederationState:
        """The same in one process, in the clear."""
        privacy, federated = self.config.privacy.model_copy(update={"secure_sum": False}), self.config.federated
        return run_rounds(
            self.begun(), algorithm=get_algorithm(federated), rounds=ROUNDS, downlink=Downlink(federated.wire),
            transport=SimulationTransport(self.toy.trainer(HOSPITALS), {}, privacy, federated.wire),
            policy=AllOrSampled(HOSPITALS, ROUNDS, federated.seed, "run"), on_round=lambda state, report: None,
        )  # fmt: skip

    def refusals(self) -> list[str]:
        return [event["why"] for event in read_events(self.folder / "log.jsonl") if event["event"] == "refused"]

    def trainings(self) -> int:
        return sum(half.trainings for half in self.halves.values())


@pytest.fixture
def consortium(tmp_path: Path, toy: Any) -> Consortium:
    return Consortium(tmp_path, toy)


def _same(toy: Any, left: FederationState, right: FederationState) -> bool:
    return bool(toy.same_bits(left.global_state, right.global_state)) and left.round == right.round


def test_over_a_line_the_adapter_is_the_one_of_a_simulation(consortium: Consortium, toy: Any) -> None:
    state, transport = consortium.run()
    alone = consortium.undisturbed()
    assert _same(toy, state, alone)
    assert [report.num_samples for report in state.history] == [report.num_samples for report in alone.history]
    assert [report.metrics for report in state.history] == [report.metrics for report in alone.history]
    assert sorted(transport.greeted) == sorted(HOSPITALS)


@pytest.mark.parametrize(("algorithm", "wire"), [("fedavgm", "fp32"), ("ffa", "int8"), ("fedavg", "bf16")])
def test_algorithms_and_encodings_work_over_a_line(tmp_path: Path, toy: Any, algorithm: str, wire: str) -> None:
    section = FedMedConfig().federated.wire.model_copy(update={"up": wire, "down": wire})
    consortium = Consortium(tmp_path, toy, algorithm=algorithm, wire=section)
    state, _ = consortium.run()
    assert _same(toy, state, consortium.undisturbed())


@pytest.mark.parametrize("fate", ["order lost", "reply lost", "reply twice", "reply damaged", "reply late"])
def test_a_fault_of_the_line_changes_no_bit_and_trains_nobody_twice(
    consortium: Consortium, toy: Any, fate: Fate
) -> None:
    struck = set()

    def once_an_order(hospital: str, raw: bytes) -> Fate:
        order = decode_order(raw, COORDINATOR.public)
        key = (hospital, order.kind, order.round)
        if key in struck:
            return "delivered"
        struck.add(key)
        return fate

    consortium.fate = once_an_order
    state, _ = consortium.run(patience=20.0)
    assert _same(toy, state, consortium.undisturbed())
    assert consortium.trainings() == ROUNDS * len(HOSPITALS)


def test_any_mixture_of_faults_changes_no_bit_and_trains_nobody_twice(consortium: Consortium, toy: Any) -> None:
    draw = random.Random(5)
    fates = ["delivered", "order lost", "reply lost", "reply twice", "reply damaged", "reply late"]

    def any_fate(hospital: str, raw: bytes) -> Any:
        if draw.random() < 0.2:
            consortium.restart(hospital)  # its worker was killed and came back
        return draw.choice(fates)

    consortium.fate = any_fate
    state, _ = consortium.run(patience=20.0)
    assert _same(toy, state, consortium.undisturbed())
    assert consortium.trainings() == ROUNDS * len(HOSPITALS)


def test_a_coordinator_that_died_in_a_round_sends_the_same_orders_and_nobody_trains_again(
    consortium: Consortium, toy: Any
) -> None:
    class DiedError(Exception):
        pass

    states: list[FederationState] = []

    def die(state: FederationState, report: Any) -> None:
        states.append(state)
        if state.round == 2:
            raise DiedError

    with pytest.raises(DiedError):
        consortium.run(on_round=die)
    state, transport = consortium.run(states[0])  # the checkpoint of round 2 was not written
    assert _same(toy, state, consortium.undisturbed())
    assert consortium.trainings() == ROUNDS * len(HOSPITALS)
    assert transport.book.sent(2, "hospital_A").attempt == 0  # type: ignore[union-attr]


def test_a_hospital_that_is_not_there_is_left_behind_and_welcomed_back(tmp_path: Path, toy: Any) -> None:
    consortium = Consortium(tmp_path, toy, min_replies=2)
    gone = consortium.workers.pop("hospital_C")

    def back(state: FederationState, report: Any) -> None:
        if state.round == 1:
            consortium.workers["hospital_C"] = gone

    state, _ = consortium.run(on_round=back)
    assert [report.admitted for report in state.history] == [HOSPITALS[:2], HOSPITALS, HOSPITALS]


def test_a_late_hospital_is_left_behind_and_what_it_sends_then_is_not_counted(tmp_path: Path, toy: Any) -> None:
    consortium = Consortium(tmp_path, toy, min_replies=2)

    def lose_trainings_of_round_one(hospital: str, raw: bytes) -> Fate:
        order = decode_order(raw, COORDINATOR.public)
        lost = hospital == "hospital_C" and order.kind == "train" and order.round == 1
        return "order lost" if lost else "delivered"

    consortium.fate = lose_trainings_of_round_one
    state, _ = consortium.run(deadline=0.5, patience=5.0)
    assert state.history[0].admitted == HOSPITALS[:2]
    assert state.history[0].refused.keys() == {"hospital_C"}
    assert state.history[1].admitted == HOSPITALS


def test_without_enough_hospitals_the_run_stops_and_says_who_is_missing_and_why(consortium: Consortium) -> None:
    consortium.policies["hospital_B"].reasons = ("algorithms: fedavg is not accepted here",)
    with pytest.raises(QuorumError, match="hospital_B"):
        consortium.run()
    assert any("fedavg is not accepted here" in why for why in consortium.refusals())


def test_a_hospital_that_signs_with_another_key_is_not_heard_and_logged(consortium: Consortium) -> None:
    consortium.members["hospital_B"] = Identity.generate(random.Random("other").randbytes).public
    with pytest.raises(QuorumError):
        consortium.run(patience=4.0)
    assert "the reply is not signed by the hospital's key" in consortium.refusals()
    assert consortium.halves["hospital_B"].trainings == 0


def test_a_hospital_revoked_in_the_middle_of_a_round_is_not_heard_any_more(tmp_path: Path, toy: Any) -> None:
    consortium = Consortium(tmp_path, toy, min_replies=2)

    def revoke(hospital: str, raw: bytes) -> Fate:
        order = decode_order(raw, COORDINATOR.public)
        if order.kind == "train" and order.round == 2:
            consortium.members.pop("hospital_C", None)
        return "delivered"

    consortium.fate = revoke
    state, _ = consortium.run(deadline=0.5)
    assert [report.admitted for report in state.history] == [HOSPITALS, HOSPITALS[:2], HOSPITALS[:2]]
    assert "it is not, or no longer, on the roster" in consortium.refusals()


def test_another_version_at_a_hospital_is_told_plainly(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmed.network.worker.__version__", "9.9")
    with pytest.raises(QuorumError, match=r"runs FED-MED 9\.9"):
        consortium.run(patience=4.0)


@pytest.mark.parametrize("masks", [False, True])
def test_a_hospital_that_is_up_to_date_gets_what_changed_and_one_that_was_restarted_gets_all(
    tmp_path: Path, toy: Any, masks: bool
) -> None:
    consortium = Consortium(tmp_path, toy, algorithm="ffa")
    if masks:
        consortium.masked()
    forms: list[tuple[int, str, str]] = []

    def look(hospital: str, raw: bytes) -> Fate:
        order = decode_order(raw, COORDINATOR.public)
        if order.kind == "train":
            forms.append((order.round, hospital[-1], order.header["state"]["form"]))
        return "delivered"

    def restart(state: FederationState, report: Any) -> None:
        if state.round == 1 and not masks:
            consortium.restart("hospital_B")

    consortium.fate = look
    state, _ = consortium.run(on_round=restart)
    again = [] if masks else [(2, "B", "whole")]
    assert sorted(forms) == sorted(
        [(1, name, "whole") for name in "ABC"] + [(r, name, "changed") for r in (2, 3) for name in "ABC"] + again
    )
    assert _same(toy, state, consortium.undisturbed())


def test_under_masks_over_a_line_the_sum_is_the_same_to_the_bit(consortium: Consortium, toy: Any) -> None:
    state, _ = consortium.masked().run()
    assert _same(toy, state, consortium.undisturbed())


def test_under_masks_a_restarted_worker_costs_an_attempt_and_no_bit(consortium: Consortium, toy: Any) -> None:
    restarted: list[int] = []

    def restart_before_training(hospital: str, raw: bytes) -> Fate:
        order = decode_order(raw, COORDINATOR.public)
        if order.kind == "train" and order.round == 2 and hospital == "hospital_A" and not restarted:
            restarted.append(order.attempt)
            consortium.restart(hospital)
        return "delivered"

    consortium.fate = restart_before_training
    state, transport = consortium.masked().run()
    assert restarted == [0]
    sent = transport.book.sent(2, "hospital_A")
    assert sent is not None
    assert sent.attempt == 1
    assert _same(toy, state, consortium.undisturbed())


def test_under_masks_faults_of_the_line_change_no_bit(consortium: Consortium, toy: Any) -> None:
    draw = random.Random(7)
    fates: list[Any] = ["delivered"] * 2 + ["order lost", "reply lost", "reply twice", "reply damaged", "reply late"]
    consortium.fate = lambda hospital, raw: draw.choice(fates)
    state, _ = consortium.masked().run(patience=20.0)
    assert _same(toy, state, consortium.undisturbed())


def test_under_masks_too_few_hospitals_stop_the_round(consortium: Consortium) -> None:
    consortium.policies["hospital_A"].reasons = ("privacy: not here",)
    with pytest.raises(SecureSumError):
        consortium.masked().run()


def test_under_masks_a_round_whose_shares_left_is_given_up_by_a_coordinator_that_comes_back(
    consortium: Consortium, toy: Any
) -> None:
    class Killed(BaseException):
        pass

    states: list[FederationState] = []
    messages = 0

    def die_once_a_share_has_left(hospital: str, raw: bytes) -> Fate:
        nonlocal messages
        order = decode_order(raw, COORDINATOR.public)
        if order.round == 2 and order.header.get("step") == "message":
            messages += 1
            if messages == 3 * len(HOSPITALS) + 2:  # keys, shares, the live list, and the second unmask request
                raise Killed
        return "delivered"

    consortium.masked().fate = die_once_a_share_has_left
    with pytest.raises(Killed):
        consortium.run(on_round=lambda state, report: states.append(state))
    (first,) = states
    consortium.fate = lambda hospital, raw: "delivered"
    with pytest.raises(SecureSumError):  # no hospital helps with a second sum
        consortium.run(first)
    book = OrderBook(consortium.folder / "orders.json")
    assert (book.spent(1), book.spent(2), book.spent(3)) == (HOSPITALS, HOSPITALS, ())
    after = given_up(first, book.spent(2))
    assert (after.round, after.history[-1].admitted, set(after.history[-1].refused)) == (2, (), set(HOSPITALS))
    assert after.global_state is first.global_state
    last, _ = consortium.run(after)
    assert (last.round, last.history[-1].admitted) == (3, HOSPITALS)


def test_the_order_book_keeps_an_attempt_for_the_same_order_and_counts_one_for_another(tmp_path: Path) -> None:
    book = OrderBook(tmp_path / "orders.json")
    assert book.attempt_for(1, {"a": "x"}) == {"a": 0}
    book.write(1, {"a": Sent(0, "x")})
    again = OrderBook(tmp_path / "orders.json")
    assert again.attempt_for(1, {"a": "x"}) == {"a": 0}
    assert again.attempt_for(1, {"a": "y"}) == {"a": 1}
    assert again.attempt_for(1, {"a": "x"}, anew=True) == {"a": 1}
    assert again.attempt_for(2, {"a": "x"}) == {"a": 0}


def test_events_that_are_read_are_those_that_were_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log.jsonl")
    log.write("refused", hospital="hospital_A", why="a reason")
    with open(tmp_path / "log.jsonl", "a", encoding="utf-8") as file:
        file.write('{"cut')
    (event,) = read_events(tmp_path / "log.jsonl")
    assert (event["event"], event["hospital"], event["why"]) == ("refused", "hospital_A", "a reason")
