"""One order to each of several hospitals, their signed replies back, whatever gets lost. transport -> HERE -> line.

A line is believed in nothing: it may lose, repeat, delay, mix up or change what it carries. An order without a reply is
sent again, the same but for its expiry, until the time is up; the worker answers it from its outbox, so nothing is
trained or charged twice. A reply counts once, if its hospital is on the roster, signed it, and answers this order.

Not covered: a line that keeps silent for ever about an order it lost; see ``repeat``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedmed.errors import WireError
from fedmed.network.event_log import REFUSED, EventLog
from fedmed.network.orders import LONGEST_LIFE, Order, Reply, Sign, decode_reply, digest_of, encode_order

LOOK = 0.5  # seconds between two looks at deadlines
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0  # seconds before an order that was lost is sent again
_SLACK = 120  # seconds that an order lives beyond its deadline: clocks differ


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a line brings: a reply's bytes, or the news that an order or its reply was lost."""

    hospital: str
    raw: bytes | None
    why: str = ""  # where it was lost


class Line(Protocol):
    """Carries bytes to hospitals and back, in any order, or not at all."""

    def hospitals(self) -> frozenset[str]:
        """Who can be reached now, as far as is known."""
        ...

    def send(self, hospital: str, raw: bytes, seconds: float) -> None:
        """Send an order that is of use for so many seconds; never waits for its reply."""
        ...

    def poll(self, seconds: float) -> Sequence[Arrival]:
        """What came, waiting at most ``seconds`` for the first."""
        ...


@dataclass(slots=True)
class _Open:
    """An order without a reply yet."""

    order: Order
    digest: str
    due: float  # when it is to be sent, or sent again
    pause: float  # before the next time
    said: str = ""  # the last trouble that was logged


@dataclass
class Asking:
    """Sends orders over a line.

    Args:
        line: carries the bytes.
        sign: the coordinator's.
        members: gives name -> public identity of every hospital that takes part now; asked at every reply, so that one
            revoked in the middle of a round is not heard any more.
        log: of what was refused.
        repeat: seconds after which an order without any news is sent again; None: never, as the line reports losses.
        pause: seconds before an order that was lost is sent again; doubles each time.
    """

    line: Line
    sign: Sign
    members: Callable[[], Mapping[str, bytes]]
    log: EventLog
    repeat: float | None = None
    pause: float = FIRST_PAUSE
    lost: dict[str, str] = field(default_factory=dict)  # hospital -> why its last order has no reply

    def ask(
        self,
        orders: Mapping[str, Order],
        seconds: float,
        instead: Callable[[Reply], Order | None] = lambda reply: None,
    ) -> Iterator[Reply]:
        """Yield replies as they come, one a hospital, until all are there or the time is up.

        Args:
            orders: by hospital; ``expires`` is set here.
            seconds: time for all of them.
            instead: gives another order to send where a reply says that the first could not be used; None: it counts.
        """
        end = time.monotonic() + seconds
        now = time.monotonic()
        self.lost = {}
        waiting = {name: _Open(order, self._digest(order), now, self.pause) for name, order in orders.items()}
        while waiting and (left := end - time.monotonic()) > 0:
            for name, one in waiting.items():
                if one.due <= time.monotonic():
                    one.due = float("inf") if self.repeat is None else time.monotonic() + self.repeat
                    self.line.send(name, self._encoded(one.order, left), left)
            for arrival in self.line.poll(min(LOOK, left)):
                one_waiting = waiting.get(arrival.hospital)
                if one_waiting is None:
                    continue  # late: an answer to an earlier order, or a second copy
                reply = self._read(arrival, one_waiting)
                if reply is None:
                    continue
                if (other := instead(reply)) is not None:
                    waiting[arrival.hospital] = _Open(other, self._digest(other), time.monotonic(), self.pause)
                    continue
                del waiting[arrival.hospital]
                yield reply
        for name, one in waiting.items():
            self.lost[name] = one.said or "it did not reply in time"

    def _digest(self, order: Order) -> str:
        return digest_of(self._encoded(order, 60.0))

    def _encoded(self, order: Order, left: float) -> bytes:
        expires = int(time.time() + min(left + _SLACK, LONGEST_LIFE - _SLACK))
        return encode_order(replace(order, expires=expires), self.sign)

    def _read(self, arrival: Arrival, one: _Open) -> Reply | None:
        if arrival.raw is None:
            self._again(arrival.hospital, one, arrival.why, event="lost")
            return None
        public = self.members().get(arrival.hospital)
        if public is None:
            self._again(arrival.hospital, one, "it is not, or no longer, on the roster", event=REFUSED)
            return None
        try:
            reply = decode_reply(arrival.raw, public)
        except WireError as error:
            self._again(arrival.hospital, one, error.what, event=REFUSED)
            return None
        if reply.answers != one.digest:
            return None  # late: to an order of an earlier round or attempt; this one's is still to come
        if reply.hospital != arrival.hospital:
            self._again(arrival.hospital, one, "its reply bears another hospital's name", event=REFUSED)
            return None
        return reply

    def _again(self, hospital: str, one: _Open, why: str, *, event: str) -> None:
        """Send an order once more after a pause that doubles; a trouble that lasts is logged once."""
        if why != one.said:
            self.log.write(event, hospital=hospital, round=one.order.round, order=one.order.kind, why=why)
        one.said = why
        one.due = min(one.due, time.monotonic() + one.pause)
        one.pause = min(2 * one.pause, LONGEST_PAUSE)
