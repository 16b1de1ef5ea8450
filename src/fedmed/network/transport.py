"""The consortium over a line: what ``SimulationTransport`` is in process. runner -> HERE -> asking -> line -> workers.

Hospitals keep their own state and ledgers; what the coordinator knows of one is its name, its public key and what it
signed. A hospital that refuses, fails or is late is absent from the round, with its reason in ``absent``.

Not covered: choosing who is asked (coordinator.py). Sums under masks are masked_transport.py's.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import fedmed
from fedmed.config.load import config_digest
from fedmed.config.schema import FedMedConfig
from fedmed.errors import WireError
from fedmed.federated.wire import decode_payload
from fedmed.network.asking import Asking
from fedmed.network.event_log import REFUSED
from fedmed.network.global_state import pack_whole
from fedmed.network.order_book import OrderBook, Sent
from fedmed.network.orders import Order, Reply
from fedmed.network.way_down import Form, WayDown
from fedmed.types import AdapterState, Algorithm, HospitalState, Payload, RoundPlan, RoundReport, SummedPayload

HELLO_SECONDS = 60.0


@dataclass
class NetworkTransport:
    """A ``Transport`` whose hospitals are elsewhere.

    Args:
        asking: sends orders.
        config: settings of the run.
        run_id: names it to the workers.
        book: of the orders sent so far, also before a restart.
        down: the runner's way down, which this transport packs.
        history: of the rounds so far.
        deadline: seconds in which a round's replies must come.
        base_model: digest of the base model that hospitals must have; None: not compared.
        tell: shows a line to whoever watches.
    """

    asking: Asking
    config: FedMedConfig
    run_id: str
    book: OrderBook
    down: WayDown
    history: tuple[RoundReport, ...] = ()
    deadline: float = 3600.0
    base_model: str | None = None
    tell: Callable[[str], None] = lambda line: None
    absent: dict[str, str] = field(default_factory=dict)  # hospital -> why it is not in the round at hand
    greeted: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # hospital -> header of its hello
    holds: dict[str, str] = field(default_factory=dict)  # hospital -> digest of the global state it says it holds

    def greet(self, names: Sequence[str], seconds: float = HELLO_SECONDS) -> None:
        """Say hello to hospitals that have not been greeted; who answers as itself with this version is ``greeted``."""
        nonces = {name: secrets.token_hex(16) for name in names if name not in self.greeted}
        orders = {name: Order("hello", "", 0, 0, name, 0, {"nonce": nonce}) for name, nonce in nonces.items()}
        for reply in self.asking.ask(orders, seconds):
            name, theirs = reply.hospital, reply.header.get("fedmed_version")
            if reply.kind != "hello":
                self.missing(name, self.reasons(reply))
            elif reply.header.get("nonce") != nonces[name] or reply.header.get("name") != name:
                self.missing(name, "its greeting answers another one")
            elif theirs != fedmed.__version__:
                self.missing(
                    name, f"it runs FED-MED {theirs}, this coordinator {fedmed.__version__}: install one version"
                )
            else:
                self.greeted[name] = reply.header
                self.absent.pop(name, None)
                self.note_held(reply)
                self.tell(f"{name} answered, signed with the key on the roster")
        for name, why in self.asking.lost.items():
            self.missing(name, why)

    def exchange(
        self, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm
    ) -> Iterator[Payload] | SummedPayload:
        """Payloads as they come until the deadline; under masks, their sum."""
        self.absent = {}
        if self.config.privacy.secure_sum:
            from fedmed.network.masked_transport import masked_exchange

            return masked_exchange(self, plan, global_state, algorithm)
        return self._in_the_clear(plan, global_state, algorithm)

    def commit(self, report: RoundReport) -> Mapping[str, HospitalState]:
        """Remember what was admitted, for the next orders to name; hospitals keep their own state."""
        self.history = (*self.history, report)
        return {}

    def finish(
        self, names: Sequence[str], final: AdapterState, algorithm: Algorithm, seconds: float = HELLO_SECONDS
    ) -> None:
        """Tell hospitals that the run is over, and what came of it; each keeps the adapter, personal or shared.

        One that does not hear it keeps its last answers a while longer.
        """
        number = self.history[-1].round if self.history else 0
        state, body = pack_whole(final, round=number, algorithm=algorithm.name)
        header = {"config": self.config.as_dict(), "algorithm": algorithm.name, "state": state}
        plan = RoundPlan(self.run_id, number, self.config.federated.rounds, tuple(names), 1, self.config.federated.seed)
        orders = {
            name: Order(
                "finish", self.run_id, number, 0, name, 0,
                header | {"admitted": self._admitted(name), "plan": asdict(plan.for_hospital(name))}, body,
            )
            for name in names
        }  # fmt: skip
        for reply in self.asking.ask(orders, seconds):
            if reply.kind == "finished":
                self.tell(f"{reply.hospital} has the final adapter" if reply.header.get("saved") else reply.hospital)
            else:
                self.tell(f"{reply.hospital} did not take the final adapter: {self.reasons(reply)}")

    def train_orders(
        self,
        plan: RoundPlan,
        global_state: AdapterState,
        algorithm: Algorithm,
        *,
        attempt: int | None = None,
        whole: Sequence[str] = (),
    ) -> dict[str, Order]:
        """One order a hospital; in the book, so that the same is sent after a restart.

        Args:
            plan, global_state, algorithm: of the round.
            attempt: under masks, that of the sum; None: as the book says.
            whole: hospitals that get all of the global state, whatever they hold.
        """
        settings = {
            "config": self.config.as_dict(), "config_digest": config_digest(self.config), "algorithm": algorithm.name,
            "base_model": self.base_model,
        }  # fmt: skip
        orders, sent = {}, {}
        for name in plan.hospitals:
            before = self.book.sent(plan.round, name) if attempt is None else None
            form: Form = self.down.form_for(global_state, self.holds.get(name)) if before is None else before.form
            if name in whole:
                form = "whole"
            state, body = self.down.pack(global_state, form, round=plan.round, algorithm=algorithm.name)
            header = settings | {
                "plan": asdict(plan.for_hospital(name)), "admitted": self._admitted(name), "state": state
            }  # fmt: skip
            digest = _digest(header)
            number = self.book.attempt_for(plan.round, {name: digest})[name] if attempt is None else attempt
            sent[name] = Sent(number, digest if attempt is None else "", form)
            orders[name] = Order("train", self.run_id, plan.round, number, name, 0, header, body)
        self.book.write(plan.round, sent)
        return orders

    def whole_instead(
        self, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm, *, attempt: int | None = None
    ) -> Callable[[Reply], Order | None]:
        """For ``Asking.ask``: a hospital that cannot use what changed, as it was restarted, gets all of the state."""

        def instead(reply: Reply) -> Order | None:
            name = reply.hospital
            sent = self.book.sent(plan.round, name)
            if reply.kind != "refused" or sent is None or sent.form == "whole":
                return None
            self.holds.pop(name, None)
            alone = replace(plan, hospitals=(name,))
            (order,) = self.train_orders(alone, global_state, algorithm, attempt=attempt, whole=(name,)).values()
            return replace(order, header={**order.header, "plan": asdict(plan.for_hospital(name))})

        return instead

    def note_held(self, reply: Reply) -> None:
        """Remember which global state a hospital says it holds."""
        held = reply.header.get("held")
        if isinstance(held, str):
            self.holds[reply.hospital] = held
        else:
            self.holds.pop(reply.hospital, None)

    def _in_the_clear(self, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm) -> Iterator[Payload]:
        orders = self.train_orders(plan, global_state, algorithm)
        top_k_share = self.config.federated.wire.top_k_share
        instead = self.whole_instead(plan, global_state, algorithm)
        for reply in self.asking.ask(orders, self.deadline, instead):
            name = reply.hospital
            if reply.kind != "payload":
                self.missing(name, self.reasons(reply))
                continue
            try:
                shapes = algorithm.template(global_state, plan.for_hospital(name))
                payload = decode_payload(reply.body, shapes, top_k_share=top_k_share)
            except WireError as error:
                self.missing(name, error.what)
                continue
            if payload.hospital != name:
                self.missing(name, "its payload bears another hospital's name")
                continue
            self.note_held(reply)
            self.tell(f"round {plan.round}/{plan.rounds}: {name} sent {len(reply.body):,} bytes")
            yield replace(payload, message_bytes=len(reply.body))
        for name, why in self.asking.lost.items():
            self.missing(name, why)

    def missing(self, name: str, why: str) -> None:
        self.holds.pop(name, None)
        self.greeted.pop(name, None)  # it may have been restarted: it is greeted before it is asked again
        self.absent[name] = why
        self.asking.log.write(REFUSED, hospital=name, why=why)
        self.tell(f"{name} is left out: {why}")

    def _admitted(self, name: str) -> list[int] | None:
        found = self.book.admitted(name, self.history)
        return None if found is None else list(found)

    @staticmethod
    def reasons(reply: Reply) -> str:
        given = reply.header.get("reasons")
        reasons = [str(reason)[:300] for reason in given[:20]] if isinstance(given, list) else []
        said = "; ".join(reason for reason in reasons if reason.isprintable()) or "without a reason"
        return f"it refuses: {said}" if reply.kind == "refused" else f"it failed: {said}"


def _digest(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
