"""A round's sum under masks over a line: the coordinator's phases, told to workers. transport -> HERE -> sum.

    open -> advertisements    key list -> shares    deliveries -> ready    train -> masked vectors
    live list -> agreements   unmask request -> reveals   -> the sum

Each phase is one order to each hospital that is still in, and closes with whoever answered in time. An attempt that
fails before shares were asked for leaks nothing and is made again with new keys; after that the round is over, as two
sums of one round could be subtracted; a run that is resumed goes on with the next one.

Not covered: leaving out who lied; it is named, and a person revokes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import FederationError, SecureSumError, WireError
from fedmed.federated.masked_round import threshold_of
from fedmed.network.event_log import REFUSED
from fedmed.network.hospital_sum import open_header, sum_context
from fedmed.network.order_book import Sent
from fedmed.network.orders import Order, Reply, split
from fedmed.privacy.secure_sum.context import Context
from fedmed.privacy.secure_sum.keys import fingerprint
from fedmed.privacy.secure_sum.message_bytes import decode, encode
from fedmed.privacy.secure_sum.server import Outgoing, ServerSession
from fedmed.types import AdapterState, Algorithm, RoundPlan, Shapes, SummedPayload, TrainMetrics

if TYPE_CHECKING:
    from fedmed.network.transport import NetworkTransport

ATTEMPTS = 3
_PHASE = 180.0  # seconds in which a worker that is there answers a message; training has the round's deadline


def masked_exchange(
    transport: NetworkTransport, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm
) -> SummedPayload:
    """The sum of a round.

    Raises:
        SecureSumError: too few hospitals were left, or one lied; says who is missing.
    """
    shapes = dict(sorted(algorithm.template(global_state, plan.for_hospital(plan.hospitals[0])).items()))
    for number in range(1, ATTEMPTS + 1):
        attempt = _Attempt(transport, plan, shapes, algorithm.name)
        try:
            return attempt.carry_out(global_state, algorithm)
        except SecureSumError as error:
            if attempt.asked_for_shares or number == ATTEMPTS:
                raise
            transport.tell(f"round {plan.round}: {error.what}; making attempt {number + 1}")
            transport.greet(plan.hospitals)
    raise AssertionError("the last attempt returns or raises")


class _Attempt:
    def __init__(self, transport: NetworkTransport, plan: RoundPlan, shapes: Shapes, algorithm: str) -> None:
        self._transport, self._plan, self._shapes, self._algorithm = transport, plan, shapes, algorithm
        self.asked_for_shares = False
        members = transport.asking.members()
        if gone := [name for name in plan.hospitals if name not in members]:
            raise FederationError(f"'{gone[0]}' left the roster while the round was planned", "resume the run")
        number = transport.book.attempt_for(plan.round, dict.fromkeys(plan.hospitals, ""), anew=True)
        self._number = number[plan.hospitals[0]]
        transport.book.write(plan.round, {name: Sent(self._number, "") for name in plan.hospitals})
        chosen = transport.config.privacy.secure_sum_threshold
        self._context: Context = sum_context(
            transport.run_id, plan.round, self._number,
            [(name, fingerprint(members[name])) for name in plan.hospitals],
            threshold_of(len(plan.hospitals), plan.min_replies, chosen),
            sum(_size(shape) for shape in shapes.values()),
        )  # fmt: skip
        self._server = ServerSession(self._context)
        self._beside: dict[str, tuple[int, TrainMetrics | None]] = {}
        self._up = self._down = 0

    def carry_out(self, global_state: AdapterState, algorithm: Algorithm) -> SummedPayload:
        header = open_header(self._context)
        self._exchange({name: self._order(name, header) for name in self._plan.hospitals})
        for _ in ("keys", "shares"):
            ready = self._message(self._server.advance())
        self._train(ready, global_state, algorithm)
        self._message(self._server.advance())  # the live list
        request = self._server.advance()
        self.asked_for_shares = True
        self._transport.book.spend(self._plan.round)
        self._message(request)
        self._server.advance()
        found = self._server.result
        return SummedPayload(
            round=self._plan.round,
            algorithm=self._algorithm,
            sums=self._arrays(found.values),
            num_samples={name: self._beside[name][0] for name in found.hospitals},
            metrics={name: kept for name in found.hospitals if (kept := self._beside[name][1]) is not None},
            bytes_up=self._up,
            bytes_down=self._down,
        )

    def _train(self, ready: tuple[str, ...], global_state: AdapterState, algorithm: Algorithm) -> None:
        transport = self._transport
        orders = transport.train_orders(self._plan, global_state, algorithm, attempt=self._number)
        wanted = {name: orders[name] for name in ready}
        instead = transport.whole_instead(self._plan, global_state, algorithm, attempt=self._number)
        for reply in self._replies(wanted, "payload", transport.deadline, instead):
            beside = _beside(reply)
            if beside is None:
                transport.missing(reply.hospital, "what it says beside its masked vector cannot be used")
                continue
            if self._receive(reply.hospital, reply.body):
                self._beside[reply.hospital] = beside
                transport.note_held(reply)
                transport.tell(f"round {self._plan.round}/{self._plan.rounds}: {reply.hospital} sent a masked vector")

    def _message(self, outgoing: Outgoing) -> tuple[str, ...]:
        """Deliver what the server says. Returns who answered."""
        orders = {}
        for name, message in outgoing:
            raw = encode(message, self._context)
            self._down += len(raw)
            orders[name] = self._order(name, {"step": "message"}, raw)
        return self._exchange(orders)

    def _exchange(self, orders: Mapping[str, Order]) -> tuple[str, ...]:
        answered = []
        for reply in self._replies(orders, "sum", min(_PHASE, self._transport.deadline)):
            try:
                parts = split(reply.body, 4)
            except WireError as error:
                self._transport.missing(reply.hospital, error.what)
                continue
            if all(self._receive(reply.hospital, part) for part in parts):
                answered.append(reply.hospital)
        return tuple(name for name in self._plan.hospitals if name in answered)

    def _replies(
        self,
        orders: Mapping[str, Order],
        kind: str,
        seconds: float,
        instead: Callable[[Reply], Order | None] = lambda reply: None,
    ) -> Iterator[Reply]:
        started = time.monotonic()
        for reply in self._transport.asking.ask(orders, seconds, instead):
            if reply.kind == kind:
                yield reply
            else:
                self._transport.missing(reply.hospital, self._transport.reasons(reply))
        for name, why in self._transport.asking.lost.items():
            self._transport.missing(name, f"{why} (after {time.monotonic() - started:.0f} s)")

    def _receive(self, hospital: str, raw: bytes) -> bool:
        self._up += len(raw)
        try:
            message = decode(raw, self._context)
            if getattr(message, "sender", None) != hospital:
                raise SecureSumError(f"'{hospital}' hands over a message of another")
            self._server.receive(message)  # type: ignore[arg-type]
        except SecureSumError as error:
            self._transport.asking.log.write(REFUSED, hospital=hospital, why=error.what, culprit=error.culprit)
            return False
        return True

    def _order(self, name: str, header: Mapping[str, Any], body: bytes = b"") -> Order:
        return Order("sum", self._transport.run_id, self._plan.round, self._number, name, 0, header, body)

    def _arrays(self, vector: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        arrays, start = {}, 0
        for name, shape in self._shapes.items():
            end = start + _size(shape)
            arrays[name] = vector[start:end].reshape(shape)
            start = end
        return arrays


def _beside(reply: Reply) -> tuple[int, TrainMetrics | None] | None:
    """Records and losses that travel beside a masked vector; admission judges their values."""
    count, given = reply.header.get("num_samples"), reply.header.get("metrics")
    if type(count) is not int or not (given is None or isinstance(given, Mapping)):
        return None
    if given is None:
        return count, None
    try:
        return count, TrainMetrics(**{**given, "step_losses": tuple(given["step_losses"])})
    except (TypeError, KeyError):
        return None


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
