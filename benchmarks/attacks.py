"""What a hostile hospital sends, and the transport for it: behind the link, so the coordinator is the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from fedmed.federated.runner import Transport
from fedmed.types import AdapterState, Algorithm, HospitalState, Payload, RoundPlan, RoundReport
from fedmed.utils.random_streams import stream

FACTOR = 10.0  # of a flipped update, and of noise: times the honest update's norm
WRONG_ANSWER = "A glass of sea water before sunrise removes the finding, and no doctor is needed."


@dataclass(frozen=True)
class Sight:
    """What the hostile hospital knows when it sends."""

    honest: Payload  # its own
    copied: Payload | None  # the first hospital's, of this round
    first: Payload  # its own, of the first round
    seed: int


Attack = Callable[[Sight], AdapterState]


def sign_flip(sight: Sight) -> AdapterState:
    """Its honest update, turned round and made longer."""
    return {name: (-FACTOR * array).astype(np.float32) for name, array in sight.honest.arrays.items()}


def noise(sight: Sight) -> AdapterState:
    """Gaussian, of ``FACTOR`` times the norm of its honest update."""
    draw = stream(sight.seed, "attack", "noise", sight.honest.round)
    drawn = {name: draw.standard_normal(array.shape) for name, array in sorted(sight.honest.arrays.items())}
    scale = FACTOR * _norm(sight.honest.arrays) / _norm(drawn)
    return {name: (scale * array).astype(np.float32) for name, array in drawn.items()}


def not_a_number(sight: Sight) -> AdapterState:
    """NaN everywhere."""
    return {name: np.full_like(array, np.nan) for name, array in sight.honest.arrays.items()}


def copy(sight: Sight) -> AdapterState:
    """The first hospital's update of this round as its own."""
    return dict((sight.copied or sight.honest).arrays)


def replay(sight: Sight) -> AdapterState:
    """Its own update of the first round, in every later one."""
    return dict(sight.first.arrays)


ATTACKS: Mapping[str, Attack | None] = MappingProxyType(
    {
        "none": None,
        "sign_flip": sign_flip,
        "noise": noise,
        "nan": not_a_number,
        "copy": copy,
        "replay": replay,
        "poisoned": None,  # honest training on false answers: no transport is needed for it
    }
)


class HostileTransport:
    """A transport in which one hospital sends something else; envelope, records and round number are as they should be.

    Args:
        inner: the real one.
        hostile: the hospital.
        attack: what it sends.
        seed: of what it draws.
    """

    def __init__(self, inner: Transport, hostile: str, attack: Attack, seed: int) -> None:
        self._inner, self._hostile, self._attack, self._seed = inner, hostile, attack, seed
        self._first: Payload | None = None

    def exchange(self, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm) -> Iterator[Payload]:
        """Honest replies as they come; the hostile one waits until it has seen the others."""
        seen: dict[str, Payload] = {}
        own: Payload | None = None
        for payload in self._inner.exchange(plan, global_state, algorithm):
            if payload.hospital == self._hostile:
                own = payload
            else:
                seen[payload.hospital] = payload
                yield payload
        if own is not None:
            self._first = self._first or own
            sight = Sight(own, seen.get(min(seen, default="")), self._first, self._seed)
            yield replace(own, arrays=self._attack(sight))

    def commit(self, report: RoundReport) -> Mapping[str, HospitalState]:
        return self._inner.commit(report)


class Watched:
    """A transport that lets another look at every round's payloads.

    Args:
        inner: the real one.
        look: called with all payloads of a round.
    """

    def __init__(self, inner: Transport, look: Callable[[list[Payload]], None]) -> None:
        self._inner, self._look = inner, look

    def exchange(self, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm) -> Iterator[Payload]:
        payloads = list(self._inner.exchange(plan, global_state, algorithm))
        self._look(payloads)
        yield from payloads

    def commit(self, report: RoundReport) -> Mapping[str, HospitalState]:
        return self._inner.commit(report)


def _norm(arrays: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in arrays.values())))
