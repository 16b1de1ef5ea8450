"""A hospital's seat in secure sums, driven by orders: one attempt at a time, and no attempt twice. worker -> HERE.

    "sum" order, header["step"] "open"      body empty; header["cohort"] [[name, fingerprint], …], "threshold", "length"
                                            -> its advertisement
    "sum" order, header["step"] "message"   body: one message of the coordinator's ``ServerSession`` -> its answers
    "train" order                           -> its masked vector, where the settings say ``privacy.secure_sum``

Run, round, attempt and bounds of the sum's context are not in the header: both ends take them from the order and from
``fixed_point``, so there is nothing to disagree about. Identity and pins are the hospital's own; the coordinator's word
on who another hospital is counts for nothing.

A session is in memory alone. A worker that was restarted takes no further part in the attempt, as ``RunMemory`` knows
of it. An order that comes again gets the same answer.

Not covered: public keys seen before a restart, which would be noticed if another hospital sent them again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import SecureSumError, WireError
from fedmed.federated.fixed_point import LARGEST_TOTAL_WEIGHT, LARGEST_VALUE, SCALE
from fedmed.federated.masked_round import BITS
from fedmed.network.orders import Order
from fedmed.network.run_memory import RunMemory
from fedmed.privacy.secure_sum.bounds import MOST_HOSPITALS, Bounds
from fedmed.privacy.secure_sum.context import Context, Participant
from fedmed.privacy.secure_sum.hospital import HospitalSession
from fedmed.privacy.secure_sum.keys import Identity
from fedmed.privacy.secure_sum.message_bytes import decode, encode
from fedmed.privacy.secure_sum.messages import KeyList, UnmaskRequest

_LARGEST = round(LARGEST_VALUE * SCALE)  # of one whole number, before its weight
_SAME_VERSION = "both ends need the same version of FED-MED"


def sum_context(
    run_id: str, round: int, attempt: int, cohort: Sequence[tuple[str, bytes]], threshold: int, length: int
) -> Context:
    """What both ends of a secure sum agree on.

    Args:
        run_id, round, attempt: of the orders.
        cohort: name and identity fingerprint of each hospital, in an order that all share.
        threshold: fewest hospitals whose sum is opened.
        length: numbers of an update: of all arrays of the algorithm's template together.

    Raises:
        SecureSumError: a value out of range.
    """
    return Context(
        run_id=hashlib.sha256(run_id.encode()).hexdigest(), round=round, attempt=attempt,
        participants=tuple(Participant(name, fingerprint) for name, fingerprint in cohort),
        threshold=threshold,
        bounds=Bounds(BITS, len(cohort), _LARGEST, LARGEST_TOTAL_WEIGHT),
        length=length,
    )  # fmt: skip


def open_header(context: Context) -> dict[str, Any]:
    """The header of the "sum" order that opens an attempt."""
    cohort = [[one.name, one.fingerprint.hex()] for one in context.participants]
    return {"step": "open", "cohort": cohort, "threshold": context.threshold, "length": context.length}


class HospitalSums:
    """The seat of one hospital.

    Args:
        name: the hospital's.
        identity: its key.
        memory: what it remembers of runs.
    """

    def __init__(self, name: str, identity: Identity, memory: RunMemory) -> None:
        self._name, self._identity, self._memory = name, identity, memory
        self._seat: tuple[str, int, int] | None = None
        self._context: Context | None = None
        self._session: HospitalSession | None = None
        self._used: set[bytes] = set()  # public keys of earlier attempts

    def open(
        self, order: Order, pins: Mapping[str, bytes], refusals: Callable[[int, int], tuple[str, ...]]
    ) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
        """Take a seat.

        Args:
            order: that opens the attempt.
            pins: name -> fingerprint of every hospital that is trusted.
            refusals: of the policy, for a number of hospitals and a threshold.

        Returns:
            Why not, or this hospital's advertisement.

        Raises:
            WireError: the order cannot be used. SecureSumError: a hospital that is not pinned. FederationError: this
            attempt or a later one was taken part in, or shares of this round have left.
        """
        context = _context_of(order)
        if reasons := refusals(len(context.participants), context.threshold):
            return reasons, ()
        session = HospitalSession(context, self._name, self._identity, pins, used=self._used)
        self._memory.begin_sum(order.run_id, order.round, order.attempt)
        self._seat, self._context, self._session = _seat_of(order), context, session
        return (), (encode(session.advertisement, context),)

    def message(self, order: Order) -> tuple[bytes, ...]:
        """Answer a message of the coordinator.

        Raises:
            SecureSumError: a lie, a message out of turn, or of an attempt that this hospital has no seat in; the seat
            is lost.
        """
        context, session = self._seated(order)
        try:
            message = decode(order.body, context)
            if isinstance(message, UnmaskRequest):  # on the disk first: what may have left counts as left
                self._memory.reveal(order.run_id, order.round, order.attempt)
            answers = tuple(encode(answer, context) for answer in session.receive(message))  # type: ignore[arg-type]
            if isinstance(message, KeyList):
                self._used |= {key for entry in message.entries for key in (entry.channel, entry.mask)}
            return answers
        except SecureSumError:
            self.leave()
            raise

    def cohort(self, order: Order) -> tuple[str, ...]:
        """Who takes part in the attempt of a train order. Raises SecureSumError where this hospital has no seat."""
        context, session = self._seated(order)
        if session.phase != "Ready":
            raise SecureSumError(
                f"'{self._name}' is not ready to mask a vector: it is {session.phase.lower()}",
                "send the others' shares first",
            )
        return context.names

    def threshold(self, order: Order) -> int:
        """Of the attempt of an order."""
        return self._seated(order)[0].threshold

    def contribute(self, order: Order, vector: NDArray[np.int64]) -> bytes:
        """The masked vector. Raises SecureSumError: it has another length, or the session ended; the seat is lost."""
        context, session = self._seated(order)
        try:
            return encode(session.contribute(vector), context)
        except SecureSumError:
            self.leave()
            raise

    def leave(self) -> None:
        """Take no further part in the attempt at hand."""
        self._seat = self._context = self._session = None

    def _seated(self, order: Order) -> tuple[Context, HospitalSession]:
        if self._context is None or self._session is None or self._seat != _seat_of(order):
            raise SecureSumError(
                f"'{self._name}' has no seat in the secure sum of round {order.round}, attempt {order.attempt}",
                "it may have been restarted; start a new attempt",
            )
        return self._context, self._session


def _seat_of(order: Order) -> tuple[str, int, int]:
    return order.run_id, order.round, order.attempt


def _context_of(order: Order) -> Context:
    header = order.header
    cohort, threshold, length = (header.get(key) for key in ("cohort", "threshold", "length"))
    try:
        if not isinstance(cohort, list) or len(cohort) > MOST_HOSPITALS:
            raise ValueError("no list of hospitals")
        named = [(name, bytes.fromhex(fingerprint)) for name, fingerprint in cohort]
        if not all(isinstance(name, str) for name, _ in named):
            raise ValueError("a name that is no text")
    except (TypeError, ValueError) as error:
        raise WireError("the order names no cohort that can be used", _SAME_VERSION) from error
    if type(threshold) is not int or type(length) is not int:
        raise WireError("the order's threshold or length is no whole number", _SAME_VERSION)
    return sum_context(order.run_id, order.round, order.attempt, named, threshold, length)
