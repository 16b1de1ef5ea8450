"""What FedEx-LoRA and FLoRA have in common: hospitals train A and B on a base that holds what was folded before, the
server keeps every change, and what is exported is complete. What they fold, each says in ``close``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from fedmed.config.schema import FederatedSection
from fedmed.errors import FederationError
from fedmed.federated.algorithms.fedavg import FedAvg, Round
from fedmed.federated.lora_products import complete, split_folded
from fedmed.federated.means import Gathered
from fedmed.types import (
    AdapterState,
    HospitalState,
    LocalJob,
    LocalPlan,
    LocalResult,
    Payload,
    RoundPlan,
    Shapes,
    SummedPayload,
)


class GatheredFactors:
    """Both halves but for ``start`` and ``close``. Global state: the adapter, and what was folded under ``folded.``."""

    name: str

    def __init__(self) -> None:
        self._fedavg = FedAvg()  # its hospital half: train A and B, send their change

    @classmethod
    def from_config(cls, config: FederatedSection) -> Self:
        """No settings of its own."""
        return cls()

    def begin(self, global_state: AdapterState, hospital_state: HospitalState, plan: LocalPlan) -> LocalJob:
        """Train A and B, or their nested part, on a base that holds what was folded."""
        adapter, folded = split_folded(global_state)
        return replace(self._fedavg.begin(adapter, hospital_state, plan), folded=folded)

    def finish(
        self, job: LocalJob, result: LocalResult, hospital_state: HospitalState
    ) -> tuple[Payload, HospitalState]:
        """Send the change of A and B. Raises AdapterMismatchError as FedAvg does."""
        payload, hospital_state = self._fedavg.finish(job, result, hospital_state)
        return replace(payload, algorithm=self.name), hospital_state

    def template(self, global_state: AdapterState, plan: LocalPlan) -> Shapes:
        """A and B at the hospital's rank."""
        return self._fedavg.template(split_folded(global_state)[0], plan)

    def init(self, global_state: AdapterState, plan: RoundPlan) -> Round:
        """Nothing gathered yet."""
        shapes = {key: array.shape for key, array in split_folded(global_state)[0].items()}
        return Round(plan, Gathered(shapes), {})

    def add(self, acc: Round, payload: Payload, weight: int) -> Round:
        """Keep the payload. Raises UpdateRejectedError as FedAvg does."""
        return self._fedavg.add(acc, payload, weight)

    def add_sum(self, acc: Round, summed: SummedPayload) -> Round:
        """Raises FederationError: stacking needs every hospital's A and B."""
        raise FederationError(f"{self.name} needs every hospital's A and B, not their sum", "use sketch, a stream")

    def export(self, global_state: AdapterState, hospital_state: HospitalState) -> AdapterState:
        """The adapter and what was folded as one standard adapter of a larger rank."""
        return complete(global_state)
