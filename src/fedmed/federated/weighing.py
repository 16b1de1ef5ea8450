"""Let somebody look at a round's admitted updates before they are summed. admission -> HERE -> algorithm.close.

Whoever weighs gets counts, how far updates agree, and a way to try: which global state would come of these weights, or
if some updates had been zero. It never gets an update, so a weighing can be told, and repeated, in numbers.

Not covered: updates under masks, which nobody sees one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from fedmed.federated.robust import Update, inner_products
from fedmed.federated.suspicion import SMALLEST_NORM
from fedmed.types import AdapterState, Algorithm, Payload, RoundPlan, ServerState


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a round's updates count for."""

    weights: Mapping[str, int]  # hospital -> weight, at least 1; one factor common to all changes no bit
    left_out: Mapping[str, str] = field(default_factory=dict)  # hospital -> why; all that have no weight


class Outcome:
    """What would come of a round's admitted updates.

    Args:
        global_state, server_state: before the round.
        algorithm: the federated method.
        plan: of the round.
        held: hospital -> its admitted payload.
    """

    def __init__(
        self,
        global_state: AdapterState,
        server_state: ServerState,
        algorithm: Algorithm,
        plan: RoundPlan,
        held: Mapping[str, Payload],
    ) -> None:
        self._global_state, self._server_state = global_state, server_state
        self._algorithm, self._plan, self._held = algorithm, plan, held

    @property
    def records(self) -> dict[str, int]:
        """Hospital -> training records it states, sorted by name."""
        return {name: self._held[name].num_samples for name in sorted(self._held)}

    @property
    def agreement(self) -> dict[str, float]:
        """Hospital -> cosine between its update and the sum of the others', all made equally long; 0 where one is 0.

        Every hospital is one voice, whatever it says of its records and however long its update is.
        """
        names = sorted(self._held)
        products = inner_products([Update(name, self._held[name].arrays, 1) for name in names])
        norms = np.sqrt(np.diagonal(products))
        scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > SMALLEST_NORM)
        cosines = products * np.outer(scale, scale)
        found = {}
        for place, name in enumerate(names):
            others = np.arange(len(names)) != place
            length = float(np.sqrt(max(cosines[np.ix_(others, others)].sum(), 0.0)))
            found[name] = float(cosines[place, others].sum()) / length if length > 0 else 0.0
        return found

    def sum(self, weights: Mapping[str, int], silenced: Collection[str] = ()) -> Any:
        """The algorithm's accumulator with these updates in it.

        Args:
            weights: hospital -> weight, whole and at least 1; a hospital that is not named is not in the sum.
            silenced: hospitals whose update counts with its weight, as if nothing had changed there.

        Raises:
            UpdateRejectedError: the weights are too large together.
        """
        acc = self._algorithm.init(self._global_state, self._plan)
        for name in sorted(weights):
            payload = self._held[name]
            if name in silenced:
                payload = replace(payload, arrays={key: np.zeros_like(one) for key, one in payload.arrays.items()})
            acc = self._algorithm.add(acc, payload, weights[name])
        return acc

    def __call__(self, weights: Mapping[str, int], silenced: Collection[str] = ()) -> AdapterState:
        """The global state after such a round; nothing is changed by asking. Args and Raises as for ``sum``."""
        acc = self.sum(weights, silenced)
        return self._algorithm.close(self._global_state, self._server_state, acc)[0]


Weigh: TypeAlias = Callable[[Outcome], Weighed]
"""Decides what a round's updates count for."""
