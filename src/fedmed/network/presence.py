"""Who takes part in a round: hospitals on the roster that are there and answer as themselves. roster -> HERE -> plan.

A hospital that joins, leaves or is revoked between two rounds is in or out from the next one on. Before a round the
coordinator waits for all that are approved, then goes on with those that came, if they are enough: as many as
``federated.min_replies`` says, or all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fedmed.config.schema import FedMedConfig
from fedmed.errors import QuorumError
from fedmed.federated.runner import AllOrSampled
from fedmed.network.transport import NetworkTransport
from fedmed.types import RoundPlan, RoundReport

_GREETING = 120.0  # seconds in which a hospital that is there answers, on a slow machine too
_LOOK = 0.5


@dataclass
class PresentHospitals:
    """A ``RoundPolicy`` over the roster.

    Args:
        transport: greets, and knows who was greeted.
        config: settings of the run.
        run_id: of the run.
        patience: seconds to wait before a round for hospitals that are not there.
        tell: shows a line to whoever watches.
        before: called with the round's number before its plan is made.
    """

    transport: NetworkTransport
    config: FedMedConfig
    run_id: str
    patience: float = 300.0
    tell: Callable[[str], None] = lambda line: None
    before: Callable[[int], None] = lambda round: None

    def plan(self, round: int, history: Sequence[RoundReport]) -> RoundPlan:
        """Wait, and plan with those that are there.

        Raises:
            QuorumError: too few came; says who is missing and why, as far as is known.
        """
        self.before(round)
        federated = self.config.federated
        here, approved = self._gather(round)
        needed = federated.min_replies or federated.hospitals_per_round or len(approved)
        if not here or len(here) < needed:
            missing = "; ".join(f"'{name}' {self.transport.absent.get(name, 'is not connected')}"
                                for name in approved if name not in here)  # fmt: skip
            raise QuorumError(
                f"round {round} needs {max(needed, 1)} hospitals and {len(here)} are there"
                f" ({missing or 'nobody is approved'})",
                "see to these hospitals, then resume the run",
            )
        ranks = dict(zip(approved, federated.ranks or (), strict=False))
        everybody = AllOrSampled(
            hospitals=tuple(here), rounds=federated.rounds, seed=federated.seed, run_id=self.run_id,
            hospitals_per_round=federated.hospitals_per_round, min_replies=federated.min_replies,
            ranks={name: ranks[name] for name in here if name in ranks},
            tolerate=federated.tolerate if federated.robust else 0,
        )  # fmt: skip
        plan = everybody.plan(round, history)
        return replace(plan, min_replies=min(plan.min_replies, len(plan.hospitals)))

    def _gather(self, round: int) -> tuple[list[str], list[str]]:
        asking, transport = self.transport.asking, self.transport
        end, told = time.monotonic() + self.patience, False
        while True:
            approved = sorted(asking.members())
            there = [name for name in approved if name in asking.line.hospitals()]
            new = [name for name in there if name not in transport.greeted]
            left = end - time.monotonic()
            if new and left > 0:
                transport.greet(new, min(_GREETING, left))
            here = [name for name in there if name in transport.greeted]
            if (approved and here == approved) or time.monotonic() >= end:
                return here, approved
            if not told:
                absent = ", ".join(name for name in approved if name not in here) or "hospitals to be approved"
                self.tell(f"round {round}: waiting for {absent}")
                told = True
            asking.line.poll(_LOOK)
