"""A line without a network: workers of this process, and what a network does to bytes, on request. transport -> HERE.

For tests and for seeded faults; a real federation's line is Flower's. Answers are made when an order is sent and come
with the next ``poll``.

Not covered: time. A late answer comes after so many polls, not seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fedmed.network.asking import Arrival

Fate: TypeAlias = Literal["delivered", "order lost", "reply lost", "reply twice", "reply damaged", "reply late"]
"""What happens to one order and its reply; the sender learns of a loss, not of damage."""

LATE = 3  # polls


def _all_well(hospital: str, raw: bytes) -> Fate:
    return "delivered"


@dataclass
class _Underway:
    arrival: Arrival
    polls: int


class LocalLine:
    """A ``Line`` to workers in memory.

    Args:
        workers: hospital -> what answers its orders; may change while it is used: who is not in it is not there.
        fate: decides about each order.
    """

    def __init__(
        self, workers: Mapping[str, Callable[[bytes], bytes]], fate: Callable[[str, bytes], Fate] = _all_well
    ) -> None:
        self._workers, self._fate = workers, fate
        self._underway: list[_Underway] = []
        self.sent: list[tuple[str, Fate]] = []

    def hospitals(self) -> frozenset[str]:
        return frozenset(self._workers)

    def send(self, hospital: str, raw: bytes, seconds: float) -> None:
        fate = self._fate(hospital, raw)
        self.sent.append((hospital, fate))
        worker = self._workers.get(hospital)
        if worker is None or fate == "order lost":
            self._underway.append(_Underway(Arrival(hospital, None, "its node is not connected"), 0))
            return
        answer = worker(raw)
        if fate == "reply lost":
            self._underway.append(_Underway(Arrival(hospital, None, "the reply was lost"), 0))
            return
        if fate == "reply damaged":
            middle = len(answer) // 2
            answer = answer[:middle] + bytes([answer[middle] ^ 1]) + answer[middle + 1 :]
        copies = 2 if fate == "reply twice" else 1
        polls = LATE if fate == "reply late" else 0
        self._underway += [_Underway(Arrival(hospital, answer), polls) for _ in range(copies)]

    def poll(self, seconds: float) -> list[Arrival]:
        arrived = [one.arrival for one in self._underway if one.polls <= 0]
        self._underway = [_Underway(one.arrival, one.polls - 1) for one in self._underway if one.polls > 0]
        if not arrived:
            time.sleep(min(seconds, 0.01))  # nothing can come while this process waits, but an order may fall due
        return arrived
