"""Both directions between hospitals and coordinator: encode, and keep what an encoding lost until it can be sent.

    up     change + what was lost before -> clip, noise -> encode -> message;  lost = clipped - decoded, hospital state
    down   global state - what hospitals hold -> encode -> message;            hospitals hold more by what is decoded

Below fp32, errors are fed back (Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847): what one round loses,
a later one sends. On the way down the difference to what hospitals hold contains the past error by itself. A hospital
that held last round's state gets the arrays that changed; any other gets everything, in fp32.
Not covered: entropy coding; a hospital that missed a round and asks for its difference alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedmed.config.schema import PrivacySection, WireSection
from fedmed.federated.encodings import template_of
from fedmed.federated.noise_shares import NoiseShares
from fedmed.federated.wire import decode_payload, decode_state, encode_payload, encode_state
from fedmed.privacy.update_norm import process_payload
from fedmed.types import AdapterState, HospitalState, Payload, RoundPlan, RoundReport

MOST_STEP_LOSSES = 256
"""Of one local training that are sent."""
_LOST = "lost."  # begins the names of hospital state that belongs to the link, not to the algorithm


class Uplink:
    """A hospital's side of the way up.

    Args:
        privacy: the hospital's settings; applied before anything is encoded.
        wire: the encoding.
        noise: what hides the hospital; None: nothing.
    """

    def __init__(
        self, privacy: PrivacySection, wire: WireSection | None = None, noise: NoiseShares | None = None
    ) -> None:
        self._privacy = privacy
        self._noise = noise
        self._wire = wire or WireSection()

    def send(self, payload: Payload, before: HospitalState) -> tuple[Payload, HospitalState]:
        """Send a payload through its message.

        Args:
            payload: what the algorithm wants sent.
            before: what the link kept at this hospital in earlier rounds.

        Returns:
            The payload as the coordinator reads it, and what the link keeps now.

        Raises:
            UpdateRejectedError: the update is not finite. BudgetError, LedgerError: its noise cannot be charged.
        """
        message, received, after = self.message(payload, before)
        return replace(received, message_bytes=len(message)), after

    def message(self, payload: Payload, before: HospitalState) -> tuple[bytes, Payload, HospitalState]:
        """As ``send``, for a line that carries bytes: the message comes first."""
        lossy = self._wire.up != "fp32"
        if lossy:
            owed = {name: array + before.get(_LOST + name, np.float32(0.0)) for name, array in payload.arrays.items()}
            payload = replace(payload, arrays={name: array.astype(np.float32) for name, array in owed.items()})
        payload = self.hidden(payload)
        message = encode_payload(payload, self._wire.up, top_k_share=self._wire.top_k_share)
        received = decode_payload(message, template_of(payload.arrays), top_k_share=self._wire.top_k_share)
        after = dict(before)
        if lossy:  # an array that was not sent this round keeps what it is owed
            after |= {_LOST + name: payload.arrays[name] - array for name, array in received.arrays.items()}
        return message, received, after

    def hidden(self, payload: Payload) -> Payload:
        """Clipped, and with its share of the noise where there is any: what may leave.

        Raises:
            UpdateRejectedError: the update is not finite. BudgetError, LedgerError: its noise cannot be charged.
        """
        payload = _thinned(process_payload(payload, self._privacy))
        return self._noise.hide(payload) if self._noise else payload


def apart(state: HospitalState) -> tuple[HospitalState, HospitalState]:
    """A hospital's state as the algorithm's part and the link's."""
    link = {name: array for name, array in state.items() if name.startswith(_LOST)}
    return {name: array for name, array in state.items() if name not in link}, link


def _thinned(payload: Payload) -> Payload:
    """At most ``MOST_STEP_LOSSES`` of the step losses, evenly, first and last among them: a header is short."""
    metrics = payload.metrics
    if metrics is None or len(metrics.step_losses) <= MOST_STEP_LOSSES:
        return payload
    last = len(metrics.step_losses) - 1
    places = [round(number * last / (MOST_STEP_LOSSES - 1)) for number in range(MOST_STEP_LOSSES)]
    losses = tuple(metrics.step_losses[place] for place in places)
    return replace(payload, metrics=replace(metrics, step_losses=losses))


@dataclass(frozen=True, slots=True)
class Update:
    """What goes down to a hospital that is up to date."""

    now: AdapterState  # the global state as hospitals have it afterwards
    message: bytes
    names: tuple[str, ...]  # of the arrays in it
    moved: bool  # it brings differences, rather than values


class Downlink:
    """The coordinator's side of the way down.

    Args:
        wire: the encoding.
    """

    def __init__(self, wire: WireSection | None = None) -> None:
        self._wire = wire or WireSection()

    def send(
        self,
        state: AdapterState,
        held: AdapterState | None,
        history: Sequence[RoundReport],
        plan: RoundPlan,
        algorithm: str,
    ) -> tuple[AdapterState, int]:
        """Send the global state to the hospitals of a plan.

        Args:
            state: as the server has it.
            held: as the hospitals of the round before have it; None: before the first round.
            history: of the rounds so far.
            plan: who gets it.
            algorithm: the method that made it.

        Returns:
            The global state as the hospitals have it now, and the bytes of all messages together.
        """
        update = self.update(state, held, plan.round, algorithm)
        up_to_date = set(history[-1].admitted) if history and held is not None else set()
        late = [name for name in plan.hospitals if name not in up_to_date]
        whole = len(encode_state(update.now, "fp32", round=plan.round, algorithm=algorithm)) if late else 0
        return update.now, whole * len(late) + len(update.message) * (len(plan.hospitals) - len(late))

    def update(self, state: AdapterState, held: AdapterState | None, round: int, algorithm: str) -> Update:
        """What changed, for a hospital that has ``held``."""
        known = held or {}
        changed = {
            name: array
            for name, array in state.items()
            if name not in known or known[name].shape != array.shape or not np.array_equal(known[name], array)
        }
        names, encoding, share = tuple(changed), self._wire.down, self._wire.top_k_share
        if encoding == "fp32" or not changed or any(name not in known for name in changed):
            return Update(state, encode_state(changed, "fp32", round=round, algorithm=algorithm), names, False)
        moved = {name: np.subtract(array, known[name], dtype=np.float32) for name, array in changed.items()}
        message = encode_state(moved, encoding, round=round, algorithm=algorithm, top_k_share=share)
        arrived = decode_state(message, template_of(moved), top_k_share=share).arrays
        now = state | {name: np.add(known[name], array, dtype=np.float32) for name, array in arrived.items()}
        return Update(now, message, names, True)
