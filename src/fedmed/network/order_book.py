"""Which attempt at which round went to which hospital, on disk before the order leaves. transport -> HERE -> restart.

    orders.json   {rounds: {"7": {"hospital_A": {attempt, digest, form}}}, spent: [7]}

A coordinator that is started again sends the same order under the same attempt, so the worker answers from its outbox;
an order with other content counts a new attempt. ``form`` is how the global state travelled, which the same order must
repeat. A round whose shares were asked for is spent: hospitals take part in no other sum of it, so a coordinator that
lost its result gives the round up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fedmed.errors import RunError
from fedmed.network.way_down import Form
from fedmed.types import RoundReport
from fedmed.utils.files import write_json

_KEPT = 50  # newest rounds; a hospital that was admitted longer ago starts from nothing


@dataclass(frozen=True, slots=True)
class Sent:
    """One hospital's order of one round."""

    attempt: int
    digest: str  # of its content, without the attempt
    form: Form = "whole"


class OrderBook:
    """The orders of one run.

    Args:
        path: the file; read if it is there. None: kept in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rounds: dict[int, dict[str, Sent]] = {}
        self._spent: set[int] = set()
        if path is not None and path.is_file():
            try:
                read = json.loads(path.read_text(encoding="utf-8"))
                self._rounds = {
                    int(number): {name: Sent(**sent) for name, sent in orders.items()}
                    for number, orders in read["rounds"].items()
                }
                self._spent = set(map(int, read.get("spent", ())))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RunError(f"{path} is damaged", "restore it, or start a new run") from error

    def sent(self, round: int, hospital: str) -> Sent | None:
        """What went to a hospital last in this round."""
        return self._rounds.get(round, {}).get(hospital)

    def attempt_for(self, round: int, contents: Mapping[str, str], *, anew: bool = False) -> dict[str, int]:
        """The attempt under which each hospital's order goes out now.

        Args:
            round: of the orders.
            contents: hospital -> digest of what is asked.
            anew: count a new attempt, the same for all, whatever was sent before: a secure sum never repeats one.
        """
        known = self._rounds.get(round, {})
        if anew:
            newest = max((sent.attempt for sent in known.values()), default=-1) + 1
            return dict.fromkeys(contents, newest)
        found = {}
        for name, digest in contents.items():
            sent = known.get(name)
            found[name] = 0 if sent is None else sent.attempt + (sent.digest != digest)
        return found

    def write(self, round: int, orders: Mapping[str, Sent]) -> None:
        """Remember orders; on return they are on the disk."""
        self._rounds[round] = {**self._rounds.get(round, {}), **orders}
        self._save()

    def spend(self, round: int) -> None:
        """Remember that the shares of a round's secure sum are being asked for; before they are."""
        self._spent.add(round)
        self._save()

    def spent(self, round: int) -> tuple[str, ...]:
        """Who was asked in a round that is spent; nobody: it is not."""
        return tuple(sorted(self._rounds.get(round, {}))) if round in self._spent else ()

    def _save(self) -> None:
        for number in sorted(self._rounds)[:-_KEPT]:
            del self._rounds[number]
        if self._path is not None:
            rounds = {
                str(number): {name: asdict(one) for name, one in sorted(sent.items())}
                for number, sent in sorted(self._rounds.items())
            }
            write_json(self._path, {"rounds": rounds, "spent": sorted(self._spent & set(self._rounds))})

    def admitted(self, hospital: str, history: tuple[RoundReport, ...]) -> tuple[int, int] | None:
        """Round and attempt of the last payload of a hospital that was admitted; None: of none."""
        for report in reversed(history):
            if hospital in report.admitted:
                sent = self.sent(report.round, hospital)
                return None if sent is None else (report.round, sent.attempt)
        return None
