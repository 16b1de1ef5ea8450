"""One round's sum under masks, every hospital's half and the coordinator's in one process. links -> HERE -> add_sum.

    start   keys and shares of all that are asked go round, before anybody trains
    take    a hospital's update becomes whole numbers times its weight, and those a masked vector
    close   the live list is agreed on, shares are revealed, the masks fall away from the sum

Every message travels as bytes. The integers are those of ``fixed_point``, so the sum is the one in the clear, to the
bit. A hospital that sends nothing has dropped out; fewer than the threshold stop the round before anything is unmasked.
Record counts and shared losses travel beside the vector, in the clear and not signed, as they do without masks.

Not covered: hospitals apart from each other; their identity keys live and end with the run, in this memory. Nested
ranks, as rows that one hospital alone has would stand bare in the sum.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import SecureSumError, UpdateRejectedError
from fedmed.federated.admission import beside_the_arrays
from fedmed.federated.fixed_point import LARGEST_TOTAL_WEIGHT, LARGEST_VALUE, SCALE, to_fixed
from fedmed.privacy.secure_sum.bounds import Bounds
from fedmed.privacy.secure_sum.context import SERVER, Context, Participant, default_threshold
from fedmed.privacy.secure_sum.hospital import HospitalSession
from fedmed.privacy.secure_sum.keys import Identity
from fedmed.privacy.secure_sum.message_bytes import decode, encode
from fedmed.privacy.secure_sum.messages import Message
from fedmed.privacy.secure_sum.server import Outgoing, ServerSession
from fedmed.types import Payload, RoundPlan, Shapes, SummedPayload, TrainMetrics

logger = logging.getLogger(__name__)

BITS = 64
_LARGEST = round(LARGEST_VALUE * SCALE)  # of one integer, before its weight


def threshold_of(hospitals: int, min_replies: int, chosen: int | None) -> int:
    """Fewest hospitals whose sum is opened: as chosen, or two thirds and one more; never fewer than close a round."""
    return max(chosen or default_threshold(hospitals), min_replies)


@dataclass(frozen=True, slots=True)
class MaskSetup:
    """What a run needs to sum under masks.

    Args:
        keys: hospital -> its own identity key.
        threshold: fewest hospitals whose sum is opened; None: see ``threshold_of``.
    """

    keys: Mapping[str, Identity]
    threshold: int | None = None

    @property
    def fingerprints(self) -> dict[str, bytes]:
        """What hospitals pin of each other."""
        return {name: key.fingerprint for name, key in self.keys.items()}

    @classmethod
    def drawn(cls, hospitals: tuple[str, ...], threshold: int | None = None) -> MaskSetup:
        """With new keys, from the operating system's generator."""
        return cls({name: Identity.generate() for name in hospitals}, threshold)


class MaskedRound:
    """The secure sum of one round; made before training starts, which exchanges keys and shares.

    Args:
        plan: who is asked, and how many replies are needed: a sum of fewer is not opened.
        shapes: arrays of every hospital's update.
        algorithm: its name.
        setup: keys of all hospitals of the plan, and the threshold.

    Raises:
        SecureSumError: fewer than two hospitals, more than 64, or a threshold that is none of theirs.
    """

    def __init__(self, plan: RoundPlan, shapes: Shapes, algorithm: str, setup: MaskSetup) -> None:
        self._plan, self._shapes, self._algorithm = plan, dict(sorted(shapes.items())), algorithm
        hospitals, pins = len(plan.hospitals), setup.fingerprints
        threshold = threshold_of(hospitals, plan.min_replies, setup.threshold)
        self._context = Context(
            run_id=hashlib.sha256(plan.run_id.encode()).hexdigest(), round=plan.round, attempt=0,
            participants=tuple(Participant(name, pins[name]) for name in plan.hospitals),
            threshold=threshold,
            bounds=Bounds(BITS, hospitals, _LARGEST, LARGEST_TOTAL_WEIGHT),
            length=sum(_size(shape) for shape in self._shapes.values()),
        )  # fmt: skip
        self.bytes_up = self.bytes_down = 0
        self._taken: dict[str, tuple[int, TrainMetrics | None]] = {}
        self._server = ServerSession(self._context)
        self._hospitals = {
            name: HospitalSession(self._context, name, setup.keys[name], pins, least=threshold)
            for name in plan.hospitals
        }
        for session in self._hospitals.values():
            self._up(session.advertisement)
        for _ in ("keys", "shares"):
            self._answer(self._server.advance())

    @property
    def context(self) -> Context:
        """What all agreed on."""
        return self._context

    def take(self, payload: Payload) -> None:
        """Mask one hospital's update at its own side and add it at the coordinator's.

        Raises:
            UpdateRejectedError: it cannot be summed: other arrays, a value out of bounds, more records than an equal
                part of what a sum holds, losses that are not finite. The hospital then sends nothing.
        """
        # Now, as a sum that is unmasked and then refused could be set against a later one without this hospital.
        reason = beside_the_arrays(payload, self._plan, self._algorithm, self._taken)
        if reason is not None:
            raise UpdateRejectedError(f"the update of '{payload.hospital}' is kept back: {reason}")
        if {name: array.shape for name, array in payload.arrays.items()} != self._shapes:
            raise UpdateRejectedError(f"the update of '{payload.hospital}' has other arrays than were asked for")
        vector = np.concatenate(
            [to_fixed(name, payload.arrays[name]).ravel() * payload.num_samples for name in self._shapes]
        )
        self._up(self._hospitals[payload.hospital].contribute(vector))
        self._taken[payload.hospital] = (payload.num_samples, payload.metrics)

    def close(self) -> SummedPayload:
        """Agree on who is in the sum, and unmask it.

        Raises:
            SecureSumError: too few hospitals are left, or one of them lied; its hint says whether shares have left.
        """
        for _ in ("live list", "agreements"):
            self._answer(self._server.advance())
        self._server.advance()
        found = self._server.result
        return SummedPayload(
            round=self._plan.round,
            algorithm=self._algorithm,
            sums=self._arrays(found.values),
            num_samples={name: self._taken[name][0] for name in found.hospitals},
            metrics={name: kept for name in found.hospitals if (kept := self._taken[name][1]) is not None},
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
        )

    def _arrays(self, vector: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        arrays, start = {}, 0
        for name, shape in self._shapes.items():
            end = start + _size(shape)
            arrays[name] = vector[start:end].reshape(shape)
            start = end
        return arrays

    def _up(self, message: Message) -> None:
        raw = encode(message, self._context)
        self.bytes_up += len(raw)
        self._server.receive(decode(raw, self._context))  # type: ignore[arg-type]

    def _answer(self, outgoing: Outgoing) -> None:
        """Deliver what the server says, and bring back what hospitals answer."""
        for name, message in outgoing:
            raw = encode(message, self._context)
            self.bytes_down += len(raw)
            try:
                replies = self._hospitals[name].receive(decode(raw, self._context))  # type: ignore[arg-type]
            except SecureSumError as error:
                if error.culprit == SERVER:
                    raise
                logger.warning("round %d: '%s' takes no further part: %s", self._plan.round, name, error.what)
                continue
            for reply in replies:
                self._up(reply)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
