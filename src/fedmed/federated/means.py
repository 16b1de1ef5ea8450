"""How a round's payloads become one: a running weighted mean, or a robust rule over all of them. algorithm.add -> HERE.

A running mean is a stream: its size is that of one payload. A robust rule needs every payload in the clear, so it keeps
them all and cannot work under a secure sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import FederationError, QuorumError
from fedmed.federated.fixed_point import FixedPointSum
from fedmed.federated.lora_products import widened
from fedmed.federated.robust import RULES, Update, max_tolerated
from fedmed.federated.suspicion import screen
from fedmed.types import AdapterState, Shapes, SummedPayload

Mean = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Combined:
    """A round's payloads as one."""

    mean: Mean
    used: tuple[str, ...]  # hospitals, sorted
    suspected: Mapping[str, str] = field(default_factory=dict)  # hospital -> why; those not in ``used`` were left out


class Combiner(Protocol):
    """Takes payloads one by one, then gives what they come to."""

    def add(self, hospital: str, arrays: AdapterState, weight: int) -> None: ...
    def result(self, refused: int = 0) -> Combined:
        """What was added as one; ``refused``: hospitals whose replies were not admitted."""
        ...


class RunningMean:
    """The weighted mean in whole numbers; grows by a name a hospital, never by an array.

    Args:
        shapes: of a payload at the shared rank; one of a smaller rank counts as filled up with zeros.
    """

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._sum = FixedPointSum(shapes)
        self._hospitals: list[str] = []

    def add(self, hospital: str, arrays: AdapterState, weight: int) -> None:
        """Raises UpdateRejectedError on what the sum cannot hold, which then stays as it was."""
        self._sum.add({name: widened(array, self._shapes[name]) for name, array in arrays.items()}, weight)
        self._hospitals.append(hospital)

    def add_sum(self, summed: SummedPayload) -> None:
        """Take in what was summed under masks. Raises UpdateRejectedError as ``add`` does."""
        self._sum.add_sums(summed.sums, sum(summed.num_samples.values()))
        self._hospitals += summed.num_samples

    def result(self, refused: int = 0) -> Combined:
        """Raises FederationError where nothing was added."""
        return Combined(self._sum.mean(), tuple(sorted(self._hospitals)))


class Gathered:
    """Every payload, and their running mean beside them.

    Args:
        shapes: as for ``RunningMean``.
    """

    def __init__(self, shapes: Shapes) -> None:
        self._mean = RunningMean(shapes)
        self._updates: dict[str, Update] = {}

    def add(self, hospital: str, arrays: AdapterState, weight: int) -> None:
        """Raises UpdateRejectedError as ``RunningMean`` does."""
        self._mean.add(hospital, arrays, weight)
        self._updates[hospital] = Update(hospital, arrays, weight)

    def shares(self) -> list[tuple[float, AdapterState]]:
        """Each payload as it came with its share of the weight; by hospital, so that the order of arrival is gone."""
        total = sum(update.weight for update in self._updates.values())
        return [(update.weight / total, update.arrays) for _, update in sorted(self._updates.items())]

    def result(self, refused: int = 0) -> Combined:
        """Raises FederationError where nothing was added."""
        return self._mean.result()


class RobustMean:
    """One of ``robust.RULES`` over the payloads that pass ``robust.screen``.

    Args:
        shapes: of every payload.
        rule: its name.
        tolerate: how many hostile hospitals it must bear.
    """

    def __init__(self, shapes: Shapes, rule: str, tolerate: int) -> None:
        self._check = FixedPointSum(shapes)  # bounds, shapes and the total weight are the same for every rule
        self._name = rule
        self._tolerate = tolerate
        self._updates: list[Update] = []

    def add(self, hospital: str, arrays: AdapterState, weight: int) -> None:
        """Raises UpdateRejectedError on what the running mean would refuse too."""
        self._check.add(arrays, weight)
        self._updates.append(Update(hospital, arrays, weight))

    def result(self, refused: int = 0) -> Combined:
        """Screen, then combine.

        Raises:
            QuorumError: the rule cannot bear so many hostile hospitals among so few; names those left out before.
        """
        verdict = screen(self._updates)
        # The rule bears as many as it was set to while there are enough hospitals for it. Where there are not, whoever
        # was refused or left out is one fewer to bear; one that is merely absent is not.
        removed = refused + len(self._updates) - len(verdict.kept)
        possible = max_tolerated(self._name, len(verdict.kept))
        tolerate = min(self._tolerate, max(possible, self._tolerate - removed))
        try:
            mean = RULES[self._name](verdict.kept, tolerate=tolerate)
        except FederationError as error:
            reasons = "; ".join([error.what, *verdict.blamed.values()])
            raise QuorumError(reasons, error.hint) from error
        return Combined(mean, tuple(sorted(update.hospital for update in verdict.kept)), verdict.blamed)
